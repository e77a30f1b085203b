import numpy as np
import pytest

from convnext import hosts
from convnext.data import damaged
from convnext.errors import InputError
from tests.helpers.inputs import refused


class Source:
    """Images of which some cannot be read."""

    def __init__(self, *broken, damaged=()):
        self.broken, self.damaged = broken, damaged

    def __getitem__(self, index):
        if index in self.broken:
            raise InputError(f"cannot read {index}.jpg", "whole ones")
        return {"image": Pixels(index in self.damaged)}


class Pixels:
    """That are decoded when they are asked for."""

    def __init__(self, is_damaged):
        self.is_damaged = is_damaged

    def __array__(self, dtype=None, copy=None):
        if self.is_damaged:
            raise InputError("cannot decode it", "whole ones")
        return np.zeros((1, 1, 3), np.uint8)


def message(index):
    return f"cannot read {index}.jpg; accepted: whole ones"


def bad(*indices):
    return np.array([*indices, -1], np.int32)


def test_what_is_wrong_is_known_from_the_pixels_too():
    reported = []
    damaged.BadImages(Source(damaged=(4,)), 2, reported.append, set()).look(bad(4, 5))
    assert reported == [
        "cannot decode it; accepted: whole ones",
        "image 5 could not be read at first, but can be now",
    ]


def test_a_process_alone_looks_at_once():
    reported, messages = [], {message(7)}
    images = damaged.BadImages(Source(3, 5, 7), 3, reported.append, messages)
    images.look(bad())
    assert reported == []
    images.look(bad(5, 3))
    images.look(bad(3))
    assert reported == [message(3), message(5)]
    assert messages == {message(3), message(5), message(7)}  # with what was met before
    images.look(bad(7))
    refused("4 images cannot be read, the last of them 9; accepted: max_bad_images, which is 3",
            images.look, bad(9))  # fmt: skip
    assert reported[-1] == "image 9 could not be read at first, but can be now"


def test_several_processes_look_at_the_images_of_all_some_batches_later(monkeypatch):
    monkeypatch.setattr("jax.process_count", lambda: 2)
    monkeypatch.setattr(hosts, "all_rows", lambda rows: np.append(rows, 3))  # and of the other one
    reported, messages = [], set()
    images = damaged.BadImages(Source(3, 5), 1, reported.append, messages)
    images.look(bad())
    for _ in range(hosts.STEPS_BEHIND - 1):
        images.look(bad(5))
        assert reported == []
    images.look(bad(5))
    assert reported == [message(3)]
    refused("2 images cannot be read, the last of them 5", images.look, bad())
    assert reported == [message(3), message(5)]


def test_at_the_end_no_batch_is_left(monkeypatch):
    monkeypatch.setattr("jax.process_count", lambda: 2)
    monkeypatch.setattr(hosts, "all_rows", lambda rows: rows)
    reported = []
    images = damaged.BadImages(Source(3, 5), 2, reported.append, set())
    images.look(bad(3))
    images.look(bad(5))
    images.look_at_the_last()
    assert reported == [message(3), message(5)]


def test_where_none_may_be_skipped_nothing_is_exchanged(monkeypatch):
    monkeypatch.setattr(hosts, "all_rows", lambda rows: pytest.fail("exchanged"))
    damaged.BadImages(Source(), 0, pytest.fail, set()).look(bad())
