import numpy as np
import pytest
from PIL import Image

from convnext.runs import plots


def test_curves_are_drawn_with_gaps_where_values_are_missing(tmp_path):
    lines = [
        {"step": 1, "train/loss": 2.0, "train/lr": 0.1},
        {"step": 2, "train/loss": None, "train/lr": 0.2, "val/top1": 0.5, "val_ema/top1": 0.4},
        {"step": 3, "train/loss": 1.0, "train/lr": 0.1, "val/top1": 0.7, "val_ema/top1": 0.8},
    ]
    plots.save_curves(lines, tmp_path / "curves.png", "top1")
    pixels = np.asarray(Image.open(tmp_path / "curves.png").convert("RGB"))
    assert pixels.shape[1] > pixels.shape[0] > 300
    blue = (pixels == [31, 119, 180]).all(-1)  # the first line of each panel
    thirds = np.array_split(blue, 3, axis=1)
    assert all(third.sum() > 50 for third in thirds)


def test_a_task_has_its_own_score_in_the_curves(tmp_path):
    lines = [
        {"step": 1, "train/loss": 2.0, "train/lr": 0.1, "val/loss": 1.0, "val/miou": 0.5},
        {"step": 2, "train/loss": 1.0, "train/lr": 0.2, "val/loss": 3.0, "val/miou": 0.6},
    ]
    drawn = {}
    for score in ("miou", "top1", "loss"):
        plots.save_curves(lines, tmp_path / "curves.png", score)
        drawn[score] = np.asarray(Image.open(tmp_path / "curves.png").convert("RGB"))
    assert drawn["miou"].shape == drawn["top1"].shape
    blue = {score: (pixels == [31, 119, 180]).all(-1) for score, pixels in drawn.items()}
    middle = {score: np.array_split(blue[score], 3, axis=1)[1].sum() for score in blue}
    assert middle["miou"] > 50 > middle["top1"] == 0
    halves = np.array_split(blue["loss"], 2, axis=1)
    assert all(half.sum() > 50 for half in halves)


def test_a_plot_of_shares_shows_the_end_of_each_curve():
    assert plots.share_range([[0.1, 0.5, 0.98]]) == pytest.approx((0.9, 1.002))
    assert plots.share_range([[0.1, 0.95, 0.9]])[0] == pytest.approx(0.8)
    low, _ = plots.share_range([[0.1, 0.95], [0.1, 0.6]])
    assert low == pytest.approx(0.55)
    assert plots.share_range([[0.02]]) == plots.share_range([]) == (0, 1.02)
