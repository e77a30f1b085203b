import numpy as np
import pytest

from convnext.data import imagenet


@pytest.mark.parametrize(
    "num_classes, first, last",
    [
        (1000, "tench, Tinca tinca", "toilet tissue, toilet paper, bathroom tissue"),
        (11821, "benthos", None),
        (21841, "organism, being", None),
    ],
)
def test_the_published_heads_have_their_names_in_order(num_classes, first, last):
    names = imagenet.names(num_classes)
    assert len(names) == num_classes
    assert names[0] == first and last in (None, names[-1])
    assert all(names)


def test_some_well_known_classes_have_their_numbers():
    names = imagenet.names(1000)
    assert names[281] == "tabby, tabby cat"
    assert names[207] == "golden retriever"
    assert names[850] == "teddy, teddy bear"


@pytest.mark.parametrize("num_classes", [None, 0, 999, 21843])
def test_other_numbers_have_no_names(num_classes):
    assert imagenet.names(num_classes) is None


def test_rows_of_1k_in_22k_are_the_same_classes_but_the_teddy():
    rows = imagenet.rows_of_1k_in_22k()
    assert len(set(rows)) == 1000
    ours, theirs = np.array(imagenet.names(1000)), np.array(imagenet.names(21841))[rows]
    assert list(np.flatnonzero(ours != theirs)) == [850]
    assert theirs[850] == "doll, dolly"


def test_the_classes_of_a_and_r_are_those_of_their_authors():
    a, r, names = imagenet.classes_of("a"), imagenet.classes_of("r"), imagenet.names(1000)
    assert len(a) == len(r) == 200 and a == sorted(a) and r == sorted(r)
    # The first and last of https://github.com/hendrycks/natural-adv-examples and imagenet-r.
    assert (names[a[0]], names[a[-1]]) == ("stingray", "acorn")
    assert (names[r[0]], names[r[-1]]) == ("goldfish, Carassius auratus", "acorn")
    assert imagenet.synsets("a")[0] == imagenet.synsets("1k")[a[0]] == "n01498041"


def test_real_has_the_right_classes_of_50000_images():
    real = imagenet.real()
    assert len(real) == 50_000
    assert sum(not classes for classes in real) == 3163  # the paper counts 46,837 images
    assert real[1] == (970, 795)  # ILSVRC2012_val_00000002
