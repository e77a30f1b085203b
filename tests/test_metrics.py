import json
import math
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from convnext import losses, metrics
from convnext.errors import InputError

LOGITS = np.array(
    [
        [9, 1, 2, 3, 4, 5, 6],  # label 0: first
        [9, 1, 2, 3, 4, 5, 6],  # label 3: fifth
        [9, 1, 2, 3, 4, 5, 6],  # label 2: sixth
        [0, 0, 0, 0, 0, 0, 9],  # padding
    ],
    np.float32,
)
LABELS = np.array([0, 3, 2, 6])
MASK = np.array([1, 1, 1, 0], np.float32)


def test_sums_are_over_the_unmasked_examples():
    sums = metrics.accuracy(LOGITS, LABELS, MASK)
    log_sum = math.log(sum(math.exp(x) for x in LOGITS[0]))
    assert float(sums["loss"]) == pytest.approx(3 * log_sum - 9 - 3 - 2, rel=1e-6)
    assert (sums["top1"], sums["top5"], sums["count"]) == (1, 2, 3)


def test_a_padded_row_may_be_anything():
    logits = np.where(MASK[:, None] > 0, LOGITS, np.nan)
    padded, clean = (metrics.accuracy(x, LABELS, MASK) for x in (logits, LOGITS))
    assert padded == clean


def test_with_few_classes_top5_is_all():
    sums = metrics.accuracy(LOGITS[:, :3], np.array([0, 1, 2, 0]), MASK)
    assert (sums["top1"], sums["top5"]) == (1, 3)


def test_several_labels_count_where_the_highest_logit_is_one_of_them():
    labels = np.zeros((4, 7), np.float32)
    labels[0, [0, 1]] = labels[1, [1, 3]] = labels[2, 2] = 1
    sums = metrics.accuracy(LOGITS, labels, MASK, problem_type=losses.MULTI_LABEL)
    assert (sums["top1"], sums["top5"], sums["count"]) == (1, 2, 3)


def test_a_regression_has_a_mean_absolute_error():
    logits, labels = np.float32([[1], [5], [2], [9]]), np.array([2, 3, 2, 0])
    sums = metrics.accuracy(logits, labels, MASK, problem_type=losses.REGRESSION)
    assert sums == {"loss": 5, "mae": 3, "count": 3}
    assert metrics.means(sums) == {"loss": 5 / 3, "mae": 1, "count": 3}


def test_the_confusion_matrix_has_labels_in_rows():
    matrix = metrics.confusion(jnp.asarray(LOGITS), LABELS, MASK)
    expected = np.zeros((7, 7))
    expected[[0, 3, 2], 0] = 1
    np.testing.assert_array_equal(matrix, expected)


def open_log(workdir, start_step=0, every_steps=2, **keywords):
    return metrics.Log(workdir, start_step=start_step, num_steps=6, batch_size=4,
                       config={"seed": 0}, every_steps=every_steps, **keywords)  # fmt: skip


def train(log, steps, evaluate_at=()):
    for step in steps:
        log.step(step, {"loss": jnp.float32(1 / step)})
        if step in evaluate_at:
            log.add({"val/top1": step / 10})


def without_timing(lines):
    return [{k: v for k, v in line.items() if "per_second" not in k} for line in lines]


def test_one_line_for_each_step_that_is_due_or_evaluated(tmp_path):
    with open_log(tmp_path) as log:
        train(log, range(1, 7), evaluate_at=(3, 6))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    third, sixth = (float(np.float32(1 / n)) for n in (3, 6))
    assert without_timing(lines) == [
        {"step": 2, "train/loss": 0.5},
        {"step": 3, "train/loss": third, "val/top1": 0.3},
        {"step": 4, "train/loss": 0.25},
        {"step": 6, "train/loss": sixth, "val/top1": 0.6},
    ]
    assert all(line["train/images_per_second"] > 0 for line in lines if line["step"] in (2, 4, 6))
    assert json.loads((tmp_path / "config.json").read_text()) == {"seed": 0}
    assert list((tmp_path / "tensorboard").iterdir())


def test_lines_past_the_checkpoint_are_cut_off_and_written_again(tmp_path):
    with open_log(tmp_path) as log:
        train(log, range(1, 7), evaluate_at=(3, 6))
    straight = metrics.read(tmp_path / "metrics.jsonl")
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "train/lo')  # cut short by a kill
    with open_log(tmp_path, start_step=3) as log:
        assert [line["step"] for line in metrics.read(tmp_path / "metrics.jsonl")] == [2, 3]
        train(log, range(4, 7), evaluate_at=(6,))
    assert without_timing(metrics.read(tmp_path / "metrics.jsonl")) == without_timing(straight)


def test_a_value_that_is_not_finite_is_null(tmp_path):
    with open_log(tmp_path, every_steps=1) as log:
        log.step(1, {"loss": jnp.float32(np.nan)})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "train/loss": null}\n'


def test_without_a_terminal_the_log_is_plain_lines(tmp_path, capsys):
    with open_log(tmp_path, every_steps=3) as log:
        log.print("hello [not markup]")
        train(log, range(1, 4))
    first, second = capsys.readouterr().out.splitlines()
    assert first == "hello [not markup]"
    assert second.startswith("step 3/6 train/images_per_second ")
    assert second.endswith(" train/loss 0.33333")


def test_wandb_that_is_not_installed_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match="log.wandb_project is set, but wandb cannot be imported"):
        open_log(tmp_path / "run", wandb_project="x")
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_goes_on_under_its_wandb_id(tmp_path, monkeypatch):
    runs = []

    class Run(dict):
        def log(self, values, step):
            self.setdefault("steps", []).append(step)

        def finish(self):
            self["finished"] = True

    class Wandb:
        @staticmethod
        def init(**keywords):
            runs.append(Run(keywords))
            return runs[-1]

    monkeypatch.setitem(sys.modules, "wandb", Wandb)
    for start in (0, 2):
        with open_log(tmp_path, start_step=start, wandb_project="digits") as log:
            train(log, range(start + 1, start + 3))
    assert [run["steps"] for run in runs] == [[2], [4]]
    assert runs[0]["id"] == runs[1]["id"] and runs[0]["project"] == "digits"
    assert runs[0]["config"] == {"seed": 0} and runs[1]["finished"]
