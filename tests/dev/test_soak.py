import numpy as np
import pytest

from dev import soak

FLAGS = ["--config.num_epochs=8", "--config.batch_size=256", "--config.model.depths=(1,)",
         "--config.model.dims=(8,)", "--config.schedule.warmup_epochs=1",
         "--config.eval_every_epochs=4", "--config.log.every_steps=5"]  # fmt: skip


@pytest.mark.slow
def test_a_run_that_is_killed_and_damaged_ends_as_one_left_alone(tmp_path, capsys):
    faults = ["kill in a save", "damage", "kill at the start"]
    same, counts = soak.soak(tmp_path, FLAGS, faults, np.random.default_rng(0), moment=(0.0, 0.3))
    printed = capsys.readouterr().out
    assert same and "identical: yes" in printed and "kills: 3\n" in printed
    assert counts["kills"] == 3 and counts["kills before the run went on"] == 1
    assert counts["kills that landed in a save"] >= 1
    assert counts["resumes above step 0 after a kill"] == 2
    assert counts["damaged checkpoints moved"] == 1
    assert soak.too_few_of(counts) == [
        "fewer than 20 kills: 3", "fewer than 15 resumes above step 0 after a kill: 2",
        "fewer than 3 kills that landed in a save: "
        f"{counts['kills that landed in a save']}",
        "fewer than 2 damaged checkpoints moved: 1",
    ]  # fmt: skip
    metrics = tmp_path / "soaked" / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"train/loss": ', '"train/loss": 1', 1))
    assert not soak.same(tmp_path / "straight", tmp_path / "soaked")
