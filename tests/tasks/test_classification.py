from functools import partial

import numpy as np
import pytest

from configs import digits
from convnext import ConvNeXt, ImageProcessor, sharding
from convnext.data import in_memory, sources
from convnext.errors import InputError
from convnext.tasks import classification
from convnext.training import losses
from convnext.weights.pretrained import Pretrained
from tests.helpers.inputs import refused


def source(labels):
    images = np.zeros((len(labels), 8, 8, 3), np.uint8)
    return in_memory.Arrays(images, np.array(labels), ["a", "b", "c"])


def test_the_first_label_is_of_an_image_that_can_be_read():
    class Damaged(in_memory.Arrays):
        def __getitem__(self, index):
            if index < 2:
                raise InputError(f"cannot read {index}")
            return super().__getitem__(index)

    images, labels = np.zeros((3, 2, 2, 3), np.uint8), np.array([5, 6, 7], np.int32)
    assert classification.first_label(Damaged(images, labels, [])) == 7
    with pytest.raises(InputError, match="cannot read 1"):
        classification.first_label(Damaged(images[:2], labels[:2], []))


def test_the_number_of_classes_is_the_datas():
    train, _ = sources.load("digits")
    checked = partial(classification.check_num_classes, train, train[0]["label"])
    assert checked(None, losses.SINGLE_LABEL) == 10
    assert checked(10, losses.SINGLE_LABEL) == 10
    with pytest.raises(InputError, match="model.num_classes is 1000; accepted: 10"):
        checked(1000, losses.SINGLE_LABEL)


def test_a_regression_has_as_many_outputs_as_a_label_has_numbers():
    train, _ = sources.load("digits")
    checked = partial(classification.check_num_classes, train)
    assert checked(np.int32(3), None, losses.REGRESSION) == 1
    assert checked(np.zeros(4, np.float32), 4, losses.REGRESSION) == 4
    with pytest.raises(InputError, match="num_classes is 10 in a regression; accepted: 1, as"):
        checked(np.int32(3), 10, losses.REGRESSION)


def sources_of(problem_type, labels, monkeypatch):
    """Those of a run, and the one that weights from anywhere are evaluated on."""
    given = source(labels)
    monkeypatch.setattr(sources, "load", lambda **_: (given, given))
    config = digits.get_config()
    config.problem_type = problem_type
    config.model.num_classes = None
    task = classification.make(config, sharding.make_mesh())
    model = ConvNeXt(depths=(1,), dims=(4,), num_classes=3)
    names = ("a", "b", "c")
    found = Pretrained(model, {}, names, ImageProcessor(size=8), problem_type, "here", "here")
    evaluated = classification.evaluation(found, given)
    return task.train_source, task.evaluation.source, evaluated.source


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_is_of_no_class_is_refused_by_its_image(label, monkeypatch):
    found = sources_of(losses.SINGLE_LABEL, np.int32([0, 1, label, 2]), monkeypatch)
    for name, each in zip(("training", "evaluation", "evaluation"), found, strict=True):
        said = f"the label of {name} image 2 is {label}; accepted: 0 to 2, of the 3 classes"
        refused(said, each.__getitem__, 2)
        assert each[1]["label"] == 1


@pytest.mark.parametrize(
    ("problem_type", "labels"),
    [
        (losses.REGRESSION, np.int32([0, 1, -7, 2])),
        (losses.MULTI_LABEL, np.eye(3, dtype=np.float32)[[0, 1, 1, 2]]),
    ],
)
def test_labels_that_are_no_classes_may_be_any_numbers(problem_type, labels, monkeypatch):
    for each in sources_of(problem_type, labels, monkeypatch):
        np.testing.assert_array_equal([each[index]["label"] for index in range(4)], labels)
