import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from dev import small_sets
from tests.helpers.inputs import refused

RESULTS = [
    {"set": "shapes:30", "seed": seed, "method": method, "top1": top1, "seconds": 10.0 + seed}
    for method, scores in dict(linear=(0.5, 0.6, 0.7), finetune=(0.8, 0.8, 0.8)).items()
    for seed, top1 in enumerate(scores)
]


def test_a_cell_is_the_mean_over_the_seeds_with_its_deviation():
    table = small_sets.table([*RESULTS, {**RESULTS[0], "set": "letters:100"}])
    assert [column.header for column in table.columns] == ["set", "linear", "finetune"]
    cells = [list(column.cells) for column in table.columns]
    assert cells[0] == ["shapes:30", "letters:100"]
    assert cells[1] == ["0.600 ± 0.100, 10 s", "0.500, 10 s"]
    assert cells[2] == ["0.800 ± 0.000, 10 s", ""]


def test_what_was_measured_is_not_measured_again(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in RESULTS))
    assert small_sets.found(path, "shapes:30", 2, "linear")
    assert not small_sets.found(path, "shapes:30", 2, "timm")
    assert not small_sets.found(path, "shapes:30", 3, "linear")
    assert not small_sets.found(tmp_path / "none", "shapes:30", 2, "linear")


@pytest.mark.parametrize("label, flip_prob", [("shapes", 0.5), ("letters", 0.0)])
def test_timm_gets_the_length_of_our_run(tmp_path, label, flip_prob):
    """And letters are mirrored by nobody."""
    workdir = tmp_path / "runs" / "timm_x"
    arguments = (Path("weights"), tmp_path, workdir, 1, label, [3e-4])
    refused("no .*finetune_x/config.json; accepted: the method finetune", small_sets.of_timm,
            *arguments)  # fmt: skip
    ours = workdir.parent / "finetune_x"
    ours.mkdir(parents=True)
    config = dict(num_steps=300, batch_size=16, image_size=64, ema_decays=[0.93], seed=1)
    (ours / "config.json").write_text(json.dumps(config))
    request = json.loads(small_sets.of_timm(*arguments)[-1])
    assert {name: request[name] for name in ("num_steps", "batch_size", "image_size")} == {
        name: config[name] for name in ("num_steps", "batch_size", "image_size")
    }
    assert (request["ema_decay"], request["flip_prob"]) == (0.93, flip_prob)
    assert request["rates"] == [3e-4]


def test_timm_chooses_its_rate_once_a_set(tmp_path):
    path = tmp_path / "results.jsonl"
    assert small_sets.timms_rates(path, "shapes:30") == small_sets.RATES
    timm = {**RESULTS[0], "method": "timm", "rate": 1e-3}
    path.write_text("".join(json.dumps(line) + "\n" for line in [*RESULTS, timm]))
    assert small_sets.timms_rates(path, "shapes:30") == [1e-3]
    assert small_sets.timms_rates(path, "shapes:10") == small_sets.RATES


def test_what_is_not_of_this_project_is_run_by_its_own_interpreter(tmp_path):
    args = SimpleNamespace(init_from=tmp_path / "weights", peer_python="other")
    place = ("shapes", tmp_path, tmp_path / "run", 0)
    command = small_sets.command_of(args, "svm", *place)
    assert command == ["other", "-m", "dev.benchmarks.gradient_histograms", tmp_path]
    for method in ("scratch", "linear", "finetune"):
        assert small_sets.command_of(args, method, *place)[0] == sys.executable


@pytest.mark.slow
def test_a_command_that_fails_is_named(tmp_path):
    args = SimpleNamespace(out=tmp_path, init_from=tmp_path / "none", peer_python="python")
    refused("tools.linear.* failed: .*no file or folder|failed", small_sets.measured, args,
            "symbols:2", 0, "linear")  # fmt: skip
