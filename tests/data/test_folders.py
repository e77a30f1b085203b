import hashlib
import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convnext.data import folders, listing
from convnext.errors import InputError
from tests.helpers.inputs import refused


def write_image(path, value=0, size=(6, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 10, 20)).save(path)


def paths(files):
    return [files.path(i) for i in range(len(files))]


@pytest.fixture
def root(tmp_path):
    """train: 3 cats, 2 dogs, 1 eel; val: 1 cat, 1 dog."""
    for name, count in dict(cat=3, dog=2, eel=1).items():
        for i in range(count):
            write_image(tmp_path / "train" / name / f"{i}.png", value=i)
    write_image(tmp_path / "val" / "cat" / "a.JPEG")
    write_image(tmp_path / "val" / "dog" / "b.webp")
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    return tmp_path


def test_a_folder_of_classes_is_read_in_alphabetical_order(root):
    train, val = folders.load(str(root))
    assert list(train.class_names) == list(val.class_names) == ["cat", "dog", "eel"]
    assert [int(train[i]["label"]) for i in range(len(train))] == [0, 0, 0, 1, 1, 2]
    assert [int(val[i]["label"]) for i in range(len(val))] == [0, 1]
    image = train[2]["image"]
    assert image.shape == (4, 6, 3) and (image == [2, 10, 20]).all()


def write_classes(root, **counts):
    """As many different images of each class."""
    for number, (name, count) in enumerate(counts.items()):
        for i in range(count):
            pixels = np.random.default_rng((number, i)).integers(256, size=(4, 6, 3))
            (root / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i:03d}.png")


def relative(files):
    return {str(path.relative_to(files.root)) for path in paths(files)}


@pytest.mark.parametrize("nested", [True, False])
def test_one_folder_is_split_by_a_hash_of_class_and_name(tmp_path, nested):
    base = tmp_path / "train" if nested else tmp_path
    write_classes(base, a=200, b=5, d=1)
    train, val = folders.load(str(tmp_path), val_fraction=0.2)
    shares = {
        name: int(hashlib.sha256(name.encode()).hexdigest()[:12], 16) / 2**48
        for name in relative(train) | relative(val)
    }
    assert len(shares) == 206
    assert {name for name in relative(val) if name[0] == "a"} == {
        name for name, share in shares.items() if name[0] == "a" and share < 0.2
    }
    assert 25 < np.count_nonzero(val.labels == 0) < 55
    assert np.bincount(train.labels)[2] == 1  # one image is trained on
    assert not relative(train) & relative(val)


def test_an_image_or_a_class_more_moves_no_other(tmp_path):
    write_classes(tmp_path, b=30, c=40)
    before = [relative(part) for part in folders.load(str(tmp_path), val_fraction=0.3)]
    write_classes(tmp_path, b=45)
    write_image(tmp_path / "aa" / "0.png", value=1)
    write_image(tmp_path / "aa" / "1.png", value=2)
    after = [relative(part) for part in folders.load(str(tmp_path), val_fraction=0.3)]
    for earlier, later in zip(before, after, strict=True):
        assert earlier < later


def test_a_class_that_the_hash_leaves_out_gives_its_lowest_and_says_so(tmp_path):
    write_classes(tmp_path, a=60, b=2)
    train, val = folders.load(str(tmp_path), val_fraction=0.001)
    hashes = {
        name: hashlib.sha256(name.encode()).digest() for name in relative(train) | relative(val)
    }
    for name in "ab":
        members = [member for member in hashes if member.startswith(f"{name}/")]
        assert min(members, key=hashes.get) in relative(val)
    assert len(val) == 2
    assert train.notes == ("the hash gives no validation image of a, b; the lowest is taken",)
    train, val = folders.load(str(tmp_path), val_fraction=0.999)
    for name in "ab":
        members = [member for member in hashes if member.startswith(f"{name}/")]
        assert max(members, key=hashes.get) in relative(train)
    assert train.notes == ("the hash gives no training image of a, b; the highest is kept",)


def test_equal_files_go_where_the_first_of_them_goes(tmp_path):
    write_classes(tmp_path, a=30, b=30)
    for i in range(0, 30, 2):
        copied = (tmp_path / "a" / f"{i:03d}.png").read_bytes()
        (tmp_path / "a" / f"copy {i:03d}.png").write_bytes(copied)
        (tmp_path / "b" / f"copy {i:03d}.png").write_bytes(copied)
    for part in folders.load(str(tmp_path), val_fraction=0.5):
        names = relative(part)
        for i in range(0, 30, 2):
            assert (f"a/{i:03d}.png" in names) == (f"b/copy {i:03d}.png" in names)
            assert (f"a/{i:03d}.png" in names) == (f"a/copy {i:03d}.png" in names)


def test_too_few_images_to_split_are_refused(tmp_path):
    for i in range(3):
        write_image(tmp_path / "a" / f"{i}.png")
    refused("the 3 images in .* are not enough", folders.load, str(tmp_path), 0.5)


@pytest.mark.parametrize("name", ["val", "valid", "validation", "test", "Valid"])
def test_every_usual_name_of_a_validation_folder_is_known(tmp_path, name):
    write_classes(tmp_path / "train", a=3, b=3)
    write_classes(tmp_path / name, a=2, b=1)
    train, val = folders.load(str(tmp_path), val_fraction=0.2)
    assert (len(train), len(val), val.root) == (6, 3, tmp_path / name)
    told = (f"validates on {name}, as there is no other folder for it",) if name == "test" else ()
    assert train.notes == told


def test_a_folder_that_is_not_used_is_named(tmp_path):
    for name in ("train", "val", "test"):
        write_classes(tmp_path / name, a=3, b=3)
    train, val = folders.load(str(tmp_path))
    assert val.root == tmp_path / "val"
    assert train.notes == ("test is not used; --config.data.val_split=test validates on it",)
    _, val = folders.load(str(tmp_path), val_split="test")
    assert val.root == tmp_path / "test"


def test_no_share_of_train_is_taken_where_another_folder_is_there(tmp_path):
    write_classes(tmp_path / "train", a=30, b=30)
    write_classes(tmp_path / "holdout", a=3, b=3)
    refused(
        "has no folder val, valid, validation or test beside train, but holdout; accepted: "
        "--config.data.val_split=holdout, or --config.data.val_split=train",
        folders.load, str(tmp_path), 0.2,
    )  # fmt: skip
    _, val = folders.load(str(tmp_path), 0.2, val_split="holdout")
    assert val.root == tmp_path / "holdout"
    train, val = folders.load(str(tmp_path), 0.2, val_split="train")
    assert val.root == tmp_path / "train" and len(train) + len(val) == 60
    refused("data.val_split is 'other'", folders.load, str(tmp_path), 0.2, val_split="other")


def test_validation_classes_alone_are_no_classes_of_one_folder(tmp_path):
    write_classes(tmp_path / "test", a=3, b=3)
    refused("has a folder test of classes, and no folder train", folders.load, str(tmp_path), 0.2)


def test_what_is_no_image_is_counted_by_its_type(root):
    for name in ("b.HEIC.txt", "c.txt", "d", ".hidden.jpg", "Thumbs.db"):
        (root / "train" / "cat" / name).write_text("")
    write_image(root / "train" / "loose.png")
    (root / "train" / ".git").mkdir()
    train, val = folders.load(str(root))
    assert train.skipped == {
        ".txt": 3, "without a suffix": 1, ".db": 1, "hidden": 2, "in no class folder": 1
    }  # fmt: skip
    assert val.skipped == {} and len(train) == 6
    for path in (root / "train" / "eel").iterdir():
        path.rename(path.with_suffix(".raw"))
    refused(f"no images in {root}/train/eel, skipped: 1 .raw", folders.load, str(root))


def test_folders_in_a_class_belong_to_it(root):
    write_image(root / "train" / "cat" / "2024" / "may" / "x.png", value=9)
    train, _ = folders.load(str(root))
    assert root / "train" / "cat" / "2024" / "may" / "x.png" in paths(train)
    assert np.bincount(train.labels).tolist() == [4, 2, 1]
    assert train[3]["image"][0, 0, 0] == 9


@pytest.mark.parametrize("suffix", ["bmp", "tif", "tiff", "gif", "jfif", "ppm", "avif", "jp2"])
def test_every_format_that_is_decoded_is_listed(tmp_path, suffix):
    write_image(tmp_path / "a" / f"x.{suffix.upper()}")
    assert folders.class_folders(tmp_path)[0]["image"].shape == (4, 6, 3)


def test_a_folder_that_cannot_be_listed_is_named(root, monkeypatch):
    scandir = os.scandir

    def failing(path):
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    refused(f"cannot list the folder {root}/train/dog: Permission", folders.load, str(root))


def test_a_val_folder_counts_more_than_val_fraction(root):
    _, val = folders.load(str(root), val_fraction=0.5)
    assert len(val) == 2


def test_a_grey_image_is_read_as_rgb(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("L", (5, 5), 7).save(tmp_path / "a" / "grey.png")
    image = folders.class_folders(tmp_path)[0]["image"]
    assert (image == np.full((5, 5, 3), 7)).all()


def test_a_missing_or_empty_folder_is_refused(tmp_path):
    refused("data.root is not set", folders.load, None)
    refused(f"no folder {tmp_path}/no", folders.load, str(tmp_path / "no"))
    (tmp_path / "train").mkdir()
    refused(f"no class folders in {tmp_path}/train", folders.load, str(tmp_path))
    (tmp_path / "train" / "cat").mkdir()
    refused(f"no images in {tmp_path}/train/cat", folders.load, str(tmp_path))
    write_image(tmp_path / "train" / "cat" / "1.png")
    refused(f"no folder {tmp_path}/val", folders.load, str(tmp_path))


def test_a_validation_class_that_is_not_trained_on_is_refused(root):
    write_image(root / "val" / "fox" / "1.png")
    refused(f"class 'fox' is in {root}/val but not in {root}/train", folders.load, str(root))


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_an_unreadable_image_is_named(root, content):
    path = root / "train" / "cat" / "0.png"
    path.write_bytes(path.read_bytes()[:-30] if content is None else content)
    train, _ = folders.load(str(root))
    with pytest.raises(InputError, match=f"cannot read the image {path}: "):
        train[0]


def test_a_file_that_is_gone_is_named(root):
    train, _ = folders.load(str(root))
    (root / "train" / "cat" / "0.png").unlink()
    refused(f"cannot read the image {root}/train/cat/0.png: No such file", train.__getitem__, 0)


@pytest.fixture
def listed(monkeypatch):
    """The folders whose files are listed, in turn."""
    names, list_names = [], listing.walk

    def counted(folder):
        names.append(os.path.basename(folder))
        return list_names(folder)

    monkeypatch.setattr(listing, "walk", counted)
    return names


def age(*changed, seconds=10):
    for path in changed:
        os.utime(path, (time.time() - seconds,) * 2)


def test_folders_are_listed_once_and_again_when_one_has_changed(root, listed):
    parts = [path for part in ("train", "val") for path in (root / part, *(root / part).iterdir())]
    age(*parts)
    first = paths(folders.load(str(root))[0])
    assert listed == ["cat", "dog", "eel", "cat", "dog"]
    assert paths(folders.load(str(root))[0]) == first
    assert len(listed) == 5
    write_image(root / "train" / "dog" / "é.png")
    age(root / "train" / "dog", seconds=5)
    train, _ = folders.load(str(root))
    assert listed[5:] == ["cat", "dog", "eel"] and len(train) == 7
    assert paths(train)[-2] == root / "train" / "dog" / "é.png"


def test_a_folder_in_a_class_that_has_changed_is_listed_again(root, listed):
    inner = root / "train" / "cat" / "inner"
    write_image(inner / "x.png")
    age(inner, root / "train", *(root / "train").iterdir())
    assert len(folders.class_folders(root / "train")) == 7
    assert len(folders.class_folders(root / "train")) == 7 and len(listed) == 3
    write_image(inner / "y.png")
    assert len(folders.class_folders(root / "train")) == 8 and len(listed) == 6


def test_a_listing_of_a_folder_that_has_just_changed_is_not_kept(root, listed):
    """Within a tick of the clock a second change would not show."""
    age(root / "train", *(root / "train").iterdir())
    age(root / "train" / "cat", seconds=0)
    for _ in range(2):
        listing.listing(root / "train")
    assert len(listed) == 6


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no index"])
def test_a_damaged_index_is_made_again(root, listed, content):
    age(root / "train", *(root / "train").iterdir())
    listing.listing(root / "train")
    listing._cache_path(root / "train").write_bytes(content)
    assert list(listing.listing(root / "train").images) == ["cat", "dog", "eel"]
    assert len(listed) == 6


def test_a_home_that_cannot_be_written_to_does_no_harm(root, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    age(root / "train", *(root / "train").iterdir())
    assert list(listing.listing(root / "train").images) == ["cat", "dog", "eel"]


def test_a_source_of_a_million_files_travels_to_a_worker_in_tens_of_megabytes():
    names = np.array([b"n01440764_%05d.JPEG" % i for i in range(1_000_000)])
    labels = np.zeros(len(names), np.int32)
    assert len(pickle.dumps(folders.Files(Path("/data"), ["n01440764"], names, labels))) < 3e7
