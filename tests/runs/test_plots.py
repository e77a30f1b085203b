import numpy as np
from PIL import Image

from convnext.runs import plots


def test_small_tables_are_whole():
    matrix = np.array([[5.0, 0.0], [12.0, 30.0]])
    assert plots.confusion_table(matrix, ["a", "long"]) == (
        "        a long\n   a    5    .\nlong   12   30"
    )


def test_large_tables_are_the_most_frequent_mistakes():
    matrix = np.diag(np.full(30, 50.0))
    matrix[3, 7], matrix[9, 2] = 4, 6
    names = [f"c{i}" for i in range(30)]
    assert plots.confusion_table(matrix, names) == (
        "     6 of c9 taken for c2\n     4 of c3 taken for c7"
    )


def test_names_of_classes_are_no_commands_of_a_terminal():
    names = ["\x1b[2J", *"bcdefghijklmnopqrstu"]
    for count in (2, 21):
        table = plots.confusion_table(np.ones((count, count)), names[:count])
        assert "\x1b" not in table and r"\x1b[2J" in table


def test_curves_are_drawn_with_gaps_where_values_are_missing(tmp_path):
    lines = [
        {"step": 1, "train/loss": 2.0, "train/lr": 0.1},
        {"step": 2, "train/loss": None, "train/lr": 0.2, "val/top1": 0.5, "val_ema/top1": 0.4},
        {"step": 3, "train/loss": 1.0, "train/lr": 0.1, "val/top1": 0.7, "val_ema/top1": 0.8},
    ]
    plots.save_curves(lines, tmp_path / "curves.png")
    pixels = np.asarray(Image.open(tmp_path / "curves.png").convert("RGB"))
    assert pixels.shape[1] > pixels.shape[0] > 300
    blue = (pixels == [31, 119, 180]).all(-1)  # the first line of each panel
    thirds = np.array_split(blue, 3, axis=1)
    assert all(third.sum() > 50 for third in thirds)
