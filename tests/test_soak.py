import numpy as np

from tools import soak

FLAGS = ["--config.num_epochs=20", "--config.batch_size=256", "--config.model.depths=(1,)",
         "--config.model.dims=(8,)", "--config.schedule.warmup_epochs=1",
         "--config.eval_every_epochs=10", "--config.log.every_steps=5"]  # fmt: skip


def test_a_run_that_is_killed_and_damaged_ends_as_one_left_alone(tmp_path, capsys):
    faults = ["kill in a save", "damage", "kill"]
    same = soak.soak(tmp_path, FLAGS, faults, np.random.default_rng(0), moment=(0.0, 0.3))
    printed = capsys.readouterr().out
    assert same and "identical: yes" in printed
    assert "kills: 3" in printed and "resumes above step 0: 3" in printed
    assert "damaged checkpoints set aside: 1" in printed
    metrics = tmp_path / "soaked" / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"train/loss": ', '"train/loss": 1', 1))
    assert not soak.same(tmp_path / "straight", tmp_path / "soaked")
