import pytest

from convnext.data import imagenet
from convnext.errors import InputError
from convnext.evaluation import requests

SYNSETS = imagenet.synsets("1k")


@pytest.mark.parametrize(
    "found, labels, message",
    [
        ("ab", "abc", "the set lacks class 'c'; accepted: the 3 classes 'a' to 'c'"),
        ("abcd", "abc", "the set has the unknown class 'd'; accepted: the 3 classes"),
        (
            "acb",
            "abc",
            "or another order: class 1 is 'c' there and 'b' here; accepted: the classes",
        ),
        ("xyz", "abc", "other classes than W, or another order: class 0 is 'x' there and 'a' here"),
        ("xy", "abc", "the set has 2 classes and W 3; accepted: the 3 of the weights"),
        ("ab", ["LABEL_0"], "the set has 2 classes and W 1; accepted: the 1 of the weights"),
        (SYNSETS[:2] + SYNSETS[3:] + SYNSETS[2:3], SYNSETS, "another order: class 2 is 'n0149"),
        (SYNSETS, "abc", "the set has 1,000 classes and W 3; accepted"),
    ],
)
def test_classes_that_weights_do_not_have_are_named(found, labels, message):
    with pytest.raises(InputError, match=message):
        requests.check_labels(list(found), list(labels), "the set", "W")


@pytest.mark.parametrize(
    "found, labels",
    [
        ("abc", "abc"),
        ("ab", ["LABEL_0", "LABEL_1"]),  # weights without names
        (SYNSETS, imagenet.names(1000)),  # folders of synsets, labels in words
        (SYNSETS, SYNSETS),
    ],
)
def test_classes_that_weights_have_are_accepted(found, labels):
    requests.check_labels(list(found), list(labels), "the set", "W")
