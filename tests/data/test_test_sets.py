import shutil

import pytest

from convnext.data import imagenet, test_sets
from convnext.errors import InputError
from tests.helpers import test_set_folders

SYNSETS = imagenet.synsets("1k")
VAL_NAME = "ILSVRC2012_val_{:08d}.JPEG"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with all the test sets."""
    root = tmp_path_factory.mktemp("imagenet")
    val = test_set_folders.write(root / "val", SYNSETS, VAL_NAME)
    numbers = [str(index) for index in range(1000)]
    test_set_folders.write(root / "imagenetv2-matched-frequency-format-val", numbers)
    a = test_set_folders.write(root / "imagenet-a", imagenet.synsets("a"))
    (a / "README.txt").write_text("as published")
    test_set_folders.write(root / "imagenet-r", imagenet.synsets("r"))
    test_set_folders.write(root / "sketch", SYNSETS, "sketch_0.JPEG")
    for corruption in test_sets.ALEXNET_ERRORS:
        (root / "ImageNet-C" / corruption).mkdir(parents=True)
        for severity in range(1, 6):
            (root / "ImageNet-C" / corruption / str(severity)).symlink_to(val)
    for corruption in test_sets.C_BAR:
        (root / "ImageNet-C-Bar" / corruption).mkdir(parents=True)
        for severity in ("10.00", "2.35", "3.00", "4.50", "9.15"):
            (root / "ImageNet-C-Bar" / corruption / severity).symlink_to(val)
    return root


@pytest.mark.parametrize("name", ["val", "sketch"])
def test_a_set_of_all_classes_has_their_indices_as_labels(root, name):
    found = test_sets.load(name, root)
    parts = found.parts
    assert found.name == name and list(parts) == [""] and found.classes is None
    assert [int(parts[""][index]["label"]) for index in (0, 281, 999)] == [0, 281, 999]
    assert len(parts[""]) == 1000 and parts[""].class_names[281] == "n02123045"  # the tabby


def test_the_folder_of_a_set_may_be_given_itself(root):
    assert len(test_sets.load("a", root / "imagenet-a").parts[""]) == 200


def test_classes_of_v2_are_numbers_not_words(root):
    source = test_sets.load("v2", root).parts[""]
    # As words, "10" would come before "2".
    assert [int(source.labels[index]) for index in (2, 10, 999)] == [2, 10, 999]
    assert source.path(10).parent.name == "10"


@pytest.mark.parametrize("name", ["a", "r"])
def test_labels_of_a_and_r_are_of_their_200_classes(root, name):
    found = test_sets.load(name, root)
    parts, classes = found.parts, found.classes
    assert len(classes) == 200 and list(parts[""].labels) == list(range(200))
    folder = parts[""].path(7).parent.name
    assert SYNSETS[classes[7]] == folder


def test_real_has_the_right_classes_of_each_image_and_leaves_out_those_without(root):
    source = test_sets.load("real", root).parts[""]
    empty = [index for index in range(1000) if not imagenet.real()[index]]
    assert empty and len(source) == 1000 - len(empty)
    # The image with number 2 is in the folder of class 1, and shows classes 970 and 795.
    position = 1 - sum(index < 1 for index in empty)
    assert [x for x in source[position]["label"] if x >= 0] == [1, 970, 795]
    assert source[position]["image"].shape == (20, 24, 3)


def test_c_and_c_bar_have_each_corruption_at_five_severities(root):
    c, c_bar = (test_sets.load(name, root).parts for name in ("c", "c_bar"))
    assert len(c) == 75 and list(c)[:2] == ["gaussian_noise/1", "gaussian_noise/2"]
    assert len(c_bar) == 50
    severities = [c_bar[f"sparkles/{number}"].root.name for number in range(1, 6)]
    assert severities == ["2.35", "3.00", "4.50", "9.15", "10.00"]


def test_c_may_be_in_the_folders_of_its_archives(root, tmp_path):
    for path in (root / "ImageNet-C").iterdir():
        group = "noise" if "noise" in path.name else "blur" if "blur" in path.name else "weather"
        (tmp_path / group).mkdir(exist_ok=True)
        (tmp_path / group / path.name).symlink_to(path)
    assert len(test_sets.load("c", tmp_path).parts) == 75


def test_the_mean_corruption_error_is_relative_to_alexnets():
    results = {
        f"{name}/{severity}": {"top1": 1 - error * severity / 5}
        for name, error in test_sets.ALEXNET_ERRORS.items()
        for severity in range(1, 6)
    }
    assert test_sets.mean_corruption_error(results) == pytest.approx(0.6)  # (1 + ... + 5) / 25
    # One corruption of fifteen at AlexNet's error, the others without any.
    perfect = {part: {"top1": 1.0} for part in results}
    fog = {f"fog/{severity}": {"top1": 1 - 0.819324} for severity in range(1, 6)}
    assert test_sets.mean_corruption_error(perfect | fog) == pytest.approx(1 / 15)


def copied(root, name, tmp_path):
    return shutil.copytree(root / name, tmp_path / name)


def test_a_set_that_lacks_classes_is_refused(root, tmp_path):
    a = copied(root, "imagenet-a", tmp_path)
    shutil.rmtree(a / imagenet.synsets("a")[3])
    shutil.rmtree(a / imagenet.synsets("a")[5])
    lacks = f"imagenet-a lacks class '{imagenet.synsets('a')[3]}' and 1 more; accepted: the 200"
    with pytest.raises(InputError, match=lacks):
        test_sets.load("a", tmp_path)


def test_a_set_with_other_classes_is_refused(root, tmp_path):
    a = copied(root, "imagenet-a", tmp_path)
    test_set_folders.write(a, ["n99999999"])
    with pytest.raises(InputError, match="has the unknown class 'n99999999'; accepted: the 200"):
        test_sets.load("a", tmp_path)


def test_an_image_twice_is_refused(root, tmp_path):
    val = copied(root, "val", tmp_path)
    file = val / SYNSETS[0] / VAL_NAME.format(1)
    shutil.copy(file, val / SYNSETS[9])
    refusal = rf"{SYNSETS[9]}/ILSVRC\S+ is the same image as \S+{SYNSETS[0]}/ILSVRC"
    with pytest.raises(InputError, match=refusal):
        test_sets.load("val", tmp_path)


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("val", lambda root: (root / "val" / SYNSETS[0] / "cat.jpg").touch(), "name of an image"),
        ("c", lambda root: (root / "fog").rename(root / "mist"), "the corruption fog of"),
        (
            "c",
            lambda root: (root / "fog" / "5").unlink(),
            "fog is '1, 2, 3, 4'; accepted: 5",
        ),
        ("c", lambda root: (root / "fog" / "5").rename(root / "fog" / "x"), "4, x'; accepted: 5"),
    ],
)
def test_other_files_and_folders_are_refused(root, tmp_path, name, change, message):
    if name == "val":
        copied(root, "val", tmp_path)
    else:
        for path in (root / "ImageNet-C").iterdir():
            shutil.copytree(path, tmp_path / path.name, symlinks=True)
    change(tmp_path)
    with pytest.raises(InputError, match=message):
        test_sets.load(name, tmp_path)


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="the test set is 'imagenet'; accepted: val, real, v2"):
        test_sets.load("imagenet", tmp_path)
    with pytest.raises(InputError, match="--data_root is None; accepted: a folder with sketch"):
        test_sets.load("sketch", None)
    with pytest.raises(InputError, match="no class folders in"):
        test_sets.load("sketch", tmp_path)
