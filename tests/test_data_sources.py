import numpy as np
import pytest
from PIL import Image

from convnext import losses
from convnext.data import sources
from convnext.errors import InputError


def write_image(path, value=0, size=(6, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 10, 20)).save(path)


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


def test_the_digits_are_split_by_writer():
    train, val = sources.load("digits")
    assert (len(train), len(val)) == (1437, 360)
    assert list(train.class_names) == [str(i) for i in range(10)]
    example = train[0]
    assert example["image"].shape == (8, 8, 3) and example["image"].dtype == np.uint8
    assert (example["image"].max(), example["label"]) == (239, 0)  # 15 of 16, a zero
    labels = [int(val[i]["label"]) for i in range(360)]
    assert np.bincount(labels).tolist() == [35, 36, 35, 37, 37, 37, 37, 36, 33, 37]


def test_a_folder_of_classes_is_read_in_alphabetical_order(root):
    train, val = sources.load("folder", str(root))
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
    train, val = sources.load("folder", str(tmp_path), val_fraction=0.2)
    assert np.bincount(val.labels).tolist() == [4, 1, 1]
    assert np.bincount(train.labels).tolist() == [16, 4, 1, 1]
    assert not set(train.paths) & set(val.paths)
    again = sources.load("folder", str(tmp_path), val_fraction=0.2)[1]
    assert again.paths == val.paths
    assert val.paths[:4] != [str(base / "a" / f"{i:02d}.png") for i in range(4)]  # drawn, not first


def test_a_val_folder_counts_more_than_val_fraction(root):
    _, val = sources.load("folder", str(root), val_fraction=0.5)
    assert len(val) == 2


def test_a_grey_image_is_read_as_rgb(tmp_path):
    Image.new("L", (5, 5), 7).save(tmp_path / "grey.png")
    assert (sources.read_image(str(tmp_path / "grey.png")) == np.full((5, 5, 3), 7)).all()


def refused(message, *args, **keywords):
    with pytest.raises(InputError, match=message) as caught:
        sources.load(*args, **keywords)
    assert "accepted: " in str(caught.value) and "\n" not in str(caught.value)


def test_an_unknown_source_is_refused():
    refused("data.name is 'imagenet'; accepted: digits, folder", "imagenet")


def test_a_missing_or_empty_folder_is_refused(tmp_path):
    refused("data.root is not set", "folder")
    refused(f"no folder {tmp_path}/no/train", "folder", str(tmp_path / "no"))
    (tmp_path / "train").mkdir()
    refused(f"no class folders in {tmp_path}/train", "folder", str(tmp_path))
    (tmp_path / "train" / "cat").mkdir()
    refused(f"no images in {tmp_path}/train/cat", "folder", str(tmp_path))
    write_image(tmp_path / "train" / "cat" / "1.png")
    refused(f"no folder {tmp_path}/val", "folder", str(tmp_path))
    refused("data.val_fraction is 1.5", "folder", str(tmp_path), val_fraction=1.5)


def test_a_validation_class_that_is_not_trained_on_is_refused(root):
    write_image(root / "val" / "fox" / "1.png")
    refused(f"class 'fox' is in {root}/val but not in {root}/train", "folder", str(root))


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_an_unreadable_image_is_named(root, content):
    path = root / "train" / "cat" / "0.png"
    path.write_bytes(path.read_bytes()[:-30] if content is None else content)
    train, _ = sources.load("folder", str(root))
    with pytest.raises(InputError, match=f"cannot read the image {path}: "):
        train[0]


def test_the_number_of_classes_is_the_datas():
    train, _ = sources.load("digits")
    assert sources.check_num_classes(train, None, losses.SINGLE_LABEL) == 10
    assert sources.check_num_classes(train, 10, losses.SINGLE_LABEL) == 10
    with pytest.raises(InputError, match="model.num_classes is 1000; accepted: 10"):
        sources.check_num_classes(train, 1000, losses.SINGLE_LABEL)


def test_a_regression_has_as_many_outputs_as_a_label_has_numbers():
    train, _ = sources.load("digits")
    assert sources.check_num_classes(train, None, losses.REGRESSION) == 1
    with pytest.raises(InputError, match="num_classes is 10 in a regression; accepted: 1, as"):
        sources.check_num_classes(train, 10, losses.REGRESSION)
