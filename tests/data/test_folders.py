import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convnext.data import folders
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


@pytest.mark.parametrize("nested", [True, False])
def test_one_folder_is_split_class_by_class(tmp_path, nested):
    base = tmp_path / "train" if nested else tmp_path
    for name, count in dict(a=20, b=5, c=2, d=1).items():
        for i in range(count):
            write_image(base / name / f"{i:02d}.png")
    train, val = folders.load(str(tmp_path), val_fraction=0.2)
    assert np.bincount(val.labels).tolist() == [4, 1, 1]
    assert np.bincount(train.labels).tolist() == [16, 4, 1, 1]
    assert not set(paths(train)) & set(paths(val))
    again = folders.load(str(tmp_path), val_fraction=0.2)[1]
    assert paths(again) == paths(val)
    assert paths(val)[:4] != [base / "a" / f"{i:02d}.png" for i in range(4)]  # drawn, not first


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
    refused(f"no folder {tmp_path}/no/train", folders.load, str(tmp_path / "no"))
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
    names, list_names = [], folders._image_names

    def counted(folder):
        names.append(os.path.basename(folder))
        return list_names(folder)

    monkeypatch.setattr(folders, "_image_names", counted)
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


def test_a_listing_of_a_folder_that_has_just_changed_is_not_kept(root, listed):
    """Within a tick of the clock a second change would not show."""
    age(root / "train", *(root / "train").iterdir())
    age(root / "train" / "cat", seconds=0)
    for _ in range(2):
        folders.listing(root / "train")
    assert len(listed) == 6


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no index"])
def test_a_damaged_index_is_made_again(root, listed, content):
    age(root / "train", *(root / "train").iterdir())
    folders.listing(root / "train")
    folders._cache_path(root / "train").write_bytes(content)
    assert list(folders.listing(root / "train")) == ["cat", "dog", "eel"]
    assert len(listed) == 6


def test_a_home_that_cannot_be_written_to_does_no_harm(root, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    age(root / "train", *(root / "train").iterdir())
    assert list(folders.listing(root / "train")) == ["cat", "dog", "eel"]


def test_a_source_of_a_million_files_travels_to_a_worker_in_tens_of_megabytes():
    names = np.array([b"n01440764_%05d.JPEG" % i for i in range(1_000_000)])
    labels = np.zeros(len(names), np.int32)
    assert len(pickle.dumps(folders.Files(Path("/data"), ["n01440764"], names, labels))) < 3e7


def test_files_of_the_same_content_are_found_whatever_their_names(root):
    source = folders.class_folders(root / "train")
    cat, dog, *_ = paths(source)[0], paths(source)[3]
    assert cat.read_bytes() == dog.read_bytes()
    assert folders.duplicate(source) == (cat, dog)
    for index, path in enumerate(paths(source)):
        write_image(path, value=index)
    assert folders.duplicate(source) is None  # though they have the same size
