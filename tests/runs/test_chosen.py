import math

import numpy as np
import pytest

from convnext.runs import checkpoint, chosen
from convnext.weights import pretrained
from tests.helpers.inputs import refused

SCORES = {
    1: {"val/top1": 0.3, "val_ema/top1": 0.2, "val_ema/loss": 1.5, "val_ema_0.5/top1": 0.4},
    2: {"val/top1": 0.1, "val_ema/top1": 0.9, "val_ema/loss": 2.5},
    3: {"val/top1": 0.7, "val_ema/top1": math.nan, "val_ema/loss": 3.5},
    4: None,
}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    with checkpoint.Checkpoints(folder, keep=4, best="val_ema/top1") as checkpoints:
        for step, scores in SCORES.items():
            checkpoints.save(step, {"params": np.arange(3.0)}, metrics=scores)
    return folder


def find(workdir, name, best="top1", **given):
    return chosen.find(workdir, name, ema_decays=(0.99, 0.5), best=best, **given)


@pytest.mark.parametrize(
    "name, given, expected",
    [
        (None, {}, "at step 4 (EMA 0.99)"),
        ("raw", {}, "at step 4 (raw weights)"),
        ("raw", {"step": 3}, "at step 3 (raw weights, val/top1 0.7000)"),
        ("ema_0.5", {"step": 1}, "at step 1 (EMA 0.5, val_ema_0.5/top1 0.4000)"),
        ("best", {}, "at step 2 (EMA 0.99, val_ema/top1 0.9000)"),
        ("best", {"best": "-loss"}, "at step 1 (EMA 0.99, val_ema/loss 1.5000)"),
        ("best_raw", {}, "at step 2 (raw weights, val/top1 0.1000)"),
        ("1", {}, "at step 1 (EMA 0.99, val_ema/top1 0.2000)"),
    ],
)
def test_a_name_means_a_checkpoint_and_what_of_it(workdir, name, given, expected):
    assert str(find(workdir, name, **given)) == expected


def test_without_an_average_the_best_is_by_the_raw_weights(workdir):
    found = chosen.find(workdir, "best", ema_decays=(), best="top1")
    assert str(found) == "at step 3 (raw weights, val/top1 0.7000)"


def test_names_that_mean_nothing_are_refused(workdir):
    names = "raw, ema, ema_0.99, ema_0.5, best, best_raw, a step"
    refused(f"is 'x'; accepted: {names}$", find, workdir, "x")
    refused("step is 1; accepted: one of the two", find, workdir, "best", step=1)
    refused("is 7; accepted: one of 1, 2, 3, 4", find, workdir, "7")
    refused("no checkpoint of .* has the score val_ema/top5", find, workdir, "best", best="top5")


def test_a_source_may_name_weights_of_a_run(workdir, tmp_path):
    assert pretrained.run_and_name(f"{workdir}@best") == (str(workdir), "best")
    for source in (workdir, f"{workdir}x@best", "facebook/convnext-tiny-224", "a@b"):
        assert pretrained.run_and_name(source) == (source, None)
    named = tmp_path / "run@best"
    named.mkdir()
    assert pretrained.run_and_name(named) == (named, None)


def test_weights_are_named_once(workdir):
    refused("weights is 'raw'; accepted: None, as .*@best names them", pretrained.load,
            f"{workdir}@best", weights="raw")  # fmt: skip


def test_tools_take_the_best_of_a_run_that_was_evaluated(workdir, tmp_path):
    assert pretrained.default_weights(workdir) == "best"
    assert pretrained.default_weights(f"{workdir}@raw") is None
    with checkpoint.Checkpoints(tmp_path, keep=2, best="val/top1") as checkpoints:
        checkpoints.save(1, {"params": np.arange(3.0)})
    assert pretrained.default_weights(tmp_path) is None
    assert pretrained.default_weights("facebook/convnext-tiny-224") is None
