import json
import platform
import sys

import jax
import jax.numpy as jnp
import numba
import numpy as np
import PIL
import pytest

import convnext
from convnext import hosts
from convnext.data.epochs import Epochs
from convnext.errors import InputError
from convnext.runs import log as logs
from tests.helpers.inputs import refused


def open_log(workdir, start_step=0, every_steps=2, **keywords):
    epochs = Epochs(12, batch_size=4, num_epochs=2)  # 6 steps
    return logs.Log(
        workdir, start_step, epochs, {"seed": 0}, "val/top1", every_steps=every_steps, **keywords
    )


def train(log, steps, evaluate_at=()):
    for step in steps:
        log.step(step, {"loss": jnp.float32(1 / step)})
        if step in evaluate_at:
            log.add({"val/top1": step / 10})


def without_timing(lines):
    timings = ("second", "wait")
    return [{k: v for k, v in line.items() if not any(t in k for t in timings)} for line in lines]


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


def test_a_run_says_what_it_was_last_started_on(tmp_path, monkeypatch, capsys):
    open_log(tmp_path).__exit__()
    said = json.loads((tmp_path / "environment.json").read_text())
    assert said["jax"] == jax.__version__ and said["python"] == platform.python_version()
    assert (said["convnext-jax"], said["numba"]) == (convnext.__version__, numba.__version__)
    assert (said["device_kind"], said["device_count"], said["process_count"]) == ("cpu", 8, 1)

    monkeypatch.setattr(jax, "device_count", lambda: 16)
    said["pillow"] = "1.0"
    (tmp_path / "environment.json").write_text(json.dumps(said))
    capsys.readouterr()
    open_log(tmp_path, start_step=2).__exit__()
    assert capsys.readouterr().out == (
        "changed since the last start, and so may be pixels: "
        f"pillow is {PIL.__version__} and was 1.0\n"
    )
    said = json.loads((tmp_path / "environment.json").read_text())
    assert said["device_count"] == 16


def test_a_line_is_written_when_the_next_one_is_due(tmp_path):
    written = lambda: [line["step"] for line in logs.read(tmp_path / "metrics.jsonl")]  # noqa: E731
    with open_log(tmp_path) as log:
        train(log, range(1, 4))
        assert written() == []
        train(log, [4])
        assert written() == [2]
    assert written() == [2, 4]


def test_only_a_host_far_ahead_of_its_devices_waits(tmp_path):
    waited = []

    class Value:
        def __init__(self, step):
            self.step = step

        def block_until_ready(self):
            waited.append(self.step)

        def __float__(self):
            return 0.0

    with open_log(tmp_path, every_steps=100) as log:
        for step in range(1, hosts.STEPS_BEHIND + 4):
            log.step(step, {"loss": Value(step)})
    assert waited == [1, 2, 3]


def test_what_is_done_beside_training_is_logged_and_not_counted(tmp_path, monkeypatch):
    now = [0.0]  # of the one clock that nobody sets
    monkeypatch.setattr(logs.time, "monotonic", lambda: now[0])
    with open_log(tmp_path) as log:
        for step in range(1, 7):
            now[0] += 2
            log.step(step, {"loss": jnp.float32(1)})
            if step == 3:
                with log.paused("evaluation"):
                    now[0] += 100
                log.add({"val/top1": 0.5})
                with log.paused("checkpoint"):
                    now[0] += 10
    lines = {line["step"]: line for line in logs.read(tmp_path / "metrics.jsonl")}
    assert [lines[step]["train/images_per_second"] for step in (2, 4, 6)] == [2, 2, 2]
    assert lines[3]["seconds/evaluation"] == 100 and lines[4]["seconds/checkpoint"] == 10
    assert "seconds/evaluation" not in lines[4]


def test_the_share_of_the_time_that_was_spent_waiting_for_data_is_logged(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(logs.time, "monotonic", lambda: now[0])

    def batches():
        for seconds in (50, 1, 1, 3, 0, 0):  # the first is not counted, nor is an evaluation
            now[0] += seconds
            yield seconds

    with open_log(tmp_path) as log:
        for step, _ in enumerate(log.timed(batches()), 1):
            now[0] += 1
            log.step(step, {"loss": jnp.float32(1)})
            if step == 3:
                with log.paused("evaluation"):
                    now[0] += 100
    lines = {line["step"]: line for line in logs.read(tmp_path / "metrics.jsonl")}
    fractions = [lines[step]["data/wait_fraction"] for step in (2, 4, 6)]
    assert fractions == [1 / 2, 4 / 6, 0]


def test_images_that_are_left_out_are_counted_once_and_named(tmp_path, capsys):
    with open_log(tmp_path) as log:
        train(log, (1, 2))
        log.bad_image("cannot read a.jpg")
        train(log, (3, 4))
        log.bad_image("cannot read a.jpg")
        log.bad_image("cannot read b.jpg")
        log.add({"val/top1": 0.5})
        train(log, (5, 6))
    lines = logs.read(tmp_path / "metrics.jsonl")
    assert [line.get("data/bad_images") for line in lines] == [None, 2.0, 2.0]
    assert capsys.readouterr().out.count("skipped: cannot read a.jpg\n") == 1


def test_lines_past_the_checkpoint_are_cut_off_and_written_again(tmp_path):
    with open_log(tmp_path) as log:
        train(log, range(1, 7), evaluate_at=(3, 6))
    straight = logs.read(tmp_path / "metrics.jsonl")
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "train/lo')  # cut short by a kill
    with open_log(tmp_path, start_step=3) as log:
        assert [line["step"] for line in logs.read(tmp_path / "metrics.jsonl")] == [2, 3]
        train(log, range(4, 7), evaluate_at=(6,))
    assert without_timing(logs.read(tmp_path / "metrics.jsonl")) == without_timing(straight)


def test_an_evaluation_is_added_to_the_line_of_the_step_that_a_run_goes_on_from(tmp_path):
    for name, every_steps in (("due", 3), ("undue", 2)):
        straight, stopped = tmp_path / name / "straight", tmp_path / name / "stopped"
        with open_log(straight, every_steps=every_steps) as log:
            train(log, range(1, 7), evaluate_at=(3,))
        with open_log(stopped, every_steps=every_steps) as log:
            train(log, range(1, 4))
            log.add({"val/loss": np.nan})
            log.to_disk()
        with open_log(stopped, start_step=3, every_steps=every_steps) as log:
            log.add({"val/loss": 0.5})
        with open_log(stopped, start_step=3, every_steps=every_steps) as log:
            log.add({"val/loss": np.nan, "val/top1": 0.3})
            train(log, range(4, 7))
        lines = logs.read(stopped / "metrics.jsonl")
        assert lines[every_steps == 2].pop("val/loss") is None
        assert without_timing(lines) == without_timing(logs.read(straight / "metrics.jsonl"))


def test_what_the_line_of_the_step_that_a_run_goes_on_from_has_is_not_printed_again(
    tmp_path, capsys
):
    with open_log(tmp_path, every_steps=1) as log:
        train(log, (1, 2), evaluate_at=(2,))
    capsys.readouterr()
    with open_log(tmp_path, start_step=2) as log:
        log.add({"val/top1": 0.2, "val/loss": 0.5})
    assert capsys.readouterr().out == ""
    with open_log(tmp_path, start_step=2) as log:
        log.add({"val/top1": 0.1})
    _, row = capsys.readouterr().out.splitlines()
    assert row.split() == ["0.67", "2", "0.1000", "0.2000"]


def test_a_run_that_begins_again_keeps_what_was_there(tmp_path):
    before = {"metrics.jsonl": '{"step": 7}\n', "config.json": "{}", "classes.json": "[]",
              "bad_images.json": '{"cannot read a.jpg": 3}', "wandb_id": "x"}  # fmt: skip
    for name, text in before.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard" / "events").touch()
    (tmp_path / "wandb_id.1").touch()
    with open_log(tmp_path) as log:
        train(log, (1, 2))
    assert {name: (tmp_path / f"{name}.2").read_text() for name in before} == before
    assert [path.name for path in (tmp_path / "tensorboard.2").iterdir()] == ["events"]
    assert [line["step"] for line in logs.read(tmp_path / "metrics.jsonl")] == [2]

    (tmp_path / "metrics.jsonl").write_text("")
    names = {path.name for path in tmp_path.iterdir()}
    open_log(tmp_path).__exit__()  # it had the same config, and no lines
    assert {path.name for path in tmp_path.iterdir()} == names


@pytest.mark.parametrize("line", [b'{"step": 2, "tra', b"\0" * 8, b"\xff", b"[]", b'{"loss": 1}'])
def test_a_damaged_line_is_named_and_nothing_is_touched(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 3}\n')
    refused(r"line 2 of \S+/metrics.jsonl is b'.*'; accepted: a JSON object with a step, or none",
            open_log, tmp_path, 3)  # fmt: skip
    assert list(tmp_path.iterdir()) == [path]


def test_a_damaged_list_of_bad_images_is_named(tmp_path):
    (tmp_path / "bad_images.json").write_text('{"a": ')
    refused(r"cannot read \S+/bad_images.json: Expecting value", open_log, tmp_path)


def test_a_value_that_is_not_finite_is_null(tmp_path):
    with open_log(tmp_path, every_steps=1) as log:
        log.step(1, {"loss": jnp.float32(np.nan)})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "train/loss": null}\n'


def test_without_a_terminal_the_log_is_plain_lines(tmp_path, capsys):
    with open_log(tmp_path, every_steps=3) as log:
        log.print("hello [not markup]")
        train(log, range(1, 4))
    first, header, row = capsys.readouterr().out.splitlines()
    assert first == "hello [not markup]"
    assert header.split() == ["epoch", "step", "loss", "top-1", "best", "rate", "images/s", "left"]
    epoch, step, loss, _, left = row.split()
    assert (epoch, step, loss, left) == ("1.00", "3", "0.3333", "0:00:00")
    assert len(header) == len(row) <= 120


def test_the_end_says_the_best_score_and_what_comes_next(tmp_path, capsys):
    with open_log(tmp_path) as log:
        train(log, range(1, 5), evaluate_at=(2, 4))
    with open_log(tmp_path, start_step=4) as log:
        train(log, (5, 6))
        log.add({"val/top1": 0.25})
        log.finished(["a --workdir={workdir}", "b"])
    assert capsys.readouterr().out.splitlines()[-4:] == [
        "best       val/top1 0.4000 at step 4, 0.2500 at the last",
        f"weights    {tmp_path}/checkpoints",
        f"next       a --workdir={tmp_path}",
        "           b",
    ]


def test_wandb_that_is_not_installed_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match="log.wandb_project is set, but wandb cannot be imported"):
        open_log(tmp_path / "run", wandb_project="x")
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_goes_on_under_its_wandb_id(tmp_path, monkeypatch):
    runs = []

    class Run(dict):
        def define_metric(self, name, step_metric=None):
            self.setdefault("axes", {})[name] = step_metric

        def log(self, values):
            self.setdefault("lines", []).append(values)

        def finish(self):
            self["finished"] = True

    class Wandb:
        @staticmethod
        def init(**keywords):
            runs.append(Run(keywords))
            return runs[-1]

    monkeypatch.setitem(sys.modules, "wandb", Wandb)
    # Killed after lines that are past its checkpoint, and before it has written them again.
    for start, end in ((0, 4), (2, 3), (2, 6)):
        with open_log(tmp_path, start_step=start, wandb_project="digits") as log:
            if end == 6:
                log.add({"val/top1": 0.5})
            train(log, range(start + 1, end + 1))
    sent = [without_timing(run.get("lines", [])) for run in runs]
    assert sent[0] == [{"step": 2, "train/loss": 0.5}, {"step": 4, "train/loss": 0.25}]
    sixth = float(np.float32(1 / 6))
    assert sent[1:] == [[], [{"step": 2, "val/top1": 0.5}, {"step": 6, "train/loss": sixth}]]
    assert runs[0]["axes"] == runs[2]["axes"] == {"step": None, "*": "step"}
    assert runs[0]["id"] == runs[1]["id"] == runs[2]["id"] and runs[0]["project"] == "digits"
    assert runs[0]["config"] == {"seed": 0} and runs[1]["finished"]

    with open_log(tmp_path, wandb_project="digits") as log:  # it begins again
        train(log, (1, 2))
    assert runs[3]["id"] != runs[2]["id"] and len(runs[3]["lines"]) == 1


def test_every_process_knows_which_images_were_left_out_before(tmp_path, monkeypatch):
    (tmp_path / "bad_images.json").write_text('{"a": 2, "b": 4}')
    for process in (1, 0):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        with open_log(tmp_path, start_step=3) as log:
            assert log.bad_images == {"a": 2}
        kept = json.loads((tmp_path / "bad_images.json").read_text())
        assert kept == ({"a": 2, "b": 4} if process else {"a": 2})


def test_a_process_other_than_0_writes_and_prints_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with open_log(tmp_path, wandb_project="digits") as log:
        log.print("hello")
        for step in log.timed(range(1, 7)):
            train(log, [step], evaluate_at=(3,))
            log.bad_image("cannot read a.jpg")
        with log.paused("checkpoint"):
            log.to_disk()
        log.save("classes.json", [])
        log.save_curves()
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr().out == ""
    assert log.bad_images == {"cannot read a.jpg": 1}


def batches_of(log, steps, bad):
    """Fetching that of a step meets the bad images of it."""
    for step in steps:
        for name in bad.get(step, ()):
            log.bad_image(name)
        yield step


def run_with_bad_images(workdir, start_step, end):
    with open_log(workdir, start_step=start_step, every_steps=1) as log:
        for step in log.timed(batches_of(log, range(start_step + 1, end + 1), {2: "a", 4: "bc"})):
            train(log, [step])
            if step == 3:
                log.bad_image("of an evaluation")


def test_images_that_were_left_out_are_counted_across_a_restart(tmp_path):
    run_with_bad_images(tmp_path / "straight", 0, 6)
    expected = [
        line.get("data/bad_images") for line in logs.read(tmp_path / "straight/metrics.jsonl")
    ]
    assert expected == [None, 1, 1, 4, 4, 4]
    for start_step in (3, 4):
        workdir = tmp_path / f"from_{start_step}"
        run_with_bad_images(workdir, 0, 5)  # the fifth is lost
        run_with_bad_images(workdir, start_step, 6)
        lines = logs.read(workdir / "metrics.jsonl")
        assert [line.get("data/bad_images") for line in lines] == expected
        met = json.loads((workdir / "bad_images.json").read_text())
        assert met == {"a": 2, "of an evaluation": 3, "b": 4, "c": 4}
