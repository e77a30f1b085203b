"""The one command for a GPU: its budget, its failures, and that no wrong kernel is recorded."""

import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convnext.kernels import depthwise_ptx, layer_norm_ptx
from dev import gpu_check, soak
from dev.gpu_checks import Check, kernels, models, runs
from tests.helpers import emulation


@pytest.fixture
def check(tmp_path):
    return Check(tmp_path, 100, rehearse=False)


def cells(check):
    """What was appended, without the name of the part."""
    lines = (check.out / "gpu.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "part"} for line in lines]


def test_a_part_that_fails_or_has_no_time_left_is_named_and_the_next_one_runs(
    check, monkeypatch, capsys
):
    def broken(check):
        raise RuntimeError("no\nkernel")

    monkeypatch.setattr(gpu_check, "PARTS", {
        "long": (broken, 1000), "broken": (broken, 1),
        "sound": (lambda check: check.add("sound", ms=[1.0, 2.0, 3.0], name="x"), 1),
    })  # fmt: skip
    gpu_check.run(check, ["long", "broken", "sound"])
    rows = [row for row in check.rows if row["part"] != "seconds"]
    assert rows[0]["skipped"].endswith("s are left, of 1000") and check.failed
    assert rows[1:] == [
        {"part": "broken", "failed": "RuntimeError: no kernel"},
        {"part": "sound", "ms": [1.0, 2.0, 3.0], "name": "x"},
    ]
    assert [json.loads(line) for line in (check.out / "gpu.jsonl").open()] == check.rows
    assert "| ms | name |\n| --- | --- |\n| 1 / 2 / 3 | x |\n" in capsys.readouterr().out
    assert (check.out / "tables.md").read_text() == check.tables()


def test_the_exit_status_says_whether_all_was_sound(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "PARTS", {"facts": (lambda check: check.fail("facts", "x"), 0)})
    with pytest.raises(SystemExit) as ended:
        gpu_check.main([f"--out={tmp_path}", "--parts", "facts"])
    assert ended.value.code == 1
    with pytest.raises(SystemExit, match="--deadline is 0.0; accepted: more than 0"):
        gpu_check.main([f"--out={tmp_path}", "--deadline=0"])


def test_a_part_that_does_not_end_is_cut_off_with_its_tables(tmp_path, monkeypatch, capsys):
    ended = []
    monkeypatch.setattr(gpu_check, "GRACE", 0)
    monkeypatch.setattr(gpu_check.os, "_exit", ended.append)

    def stuck(check):
        while not ended:
            time.sleep(0.001)

    monkeypatch.setattr(gpu_check, "PARTS", {"stuck": (stuck, 0)})
    with pytest.raises(SystemExit):
        gpu_check.main([f"--out={tmp_path}", "--parts", "stuck", "--deadline=0.05"])
    assert ended == [1] and "the deadline passed within a part" in capsys.readouterr().out
    assert "stuck" in (tmp_path / "tables.md").read_text()


@pytest.fixture
def emulated(check, monkeypatch, tmp_path):
    """A check whose programs run here, operation by operation."""
    emulation.emulate(monkeypatch, tmp_path)
    monkeypatch.setattr(check, "compiled", lambda function, *_, **options: function)
    monkeypatch.setattr(kernels, "SHAPES", [(1, 3, 8, 8)])
    monkeypatch.setattr(kernels.ptx, "DTYPES", (("float32", "bfloat16"),))
    return check


@pytest.mark.slow
@emulation.needs_compiler
def test_kernels_are_held_against_float64_and_themselves(emulated):
    kernels.correct(emulated)
    assert emulated.is_correct and not emulated.failed
    found = cells(emulated)
    assert [cell["kernel"] for cell in found] == [
        "forward", "input gradient", "input gradient plus", "sums", "norm's gradient",
        "scaled norm's gradient", "scaled norm's sums",
    ]  # fmt: skip
    for cell in found:
        assert cell["ok"] and cell["same_bits"] and cell["error"] < kernels.LIMITS["bfloat16"]
    assert found[3]["error"] < kernels.LIMITS["float32"] > found[6]["error"]


@pytest.mark.slow
@emulation.needs_compiler
@pytest.mark.parametrize("wrong", ["a value", "the last bit, the second time"])
def test_a_kernel_that_is_wrong_or_differs_fails(emulated, monkeypatch, wrong):
    forward, times = depthwise_ptx.forward, []

    def changed(*inputs):
        times.append(1)
        y = np.array(forward(*inputs))
        if wrong == "a value" or len(times) == 2:
            y[0, 0, 0, 0] = (
                100 if wrong == "a value" else np.nextafter(y[0, 0, 0, 0], y.dtype.type(9))
            )
        return y

    monkeypatch.setattr(depthwise_ptx, "forward", changed)
    kernels.correct(emulated)
    (failed,) = (cell for cell in cells(emulated) if "failed" in cell)
    assert failed["kernel"] == "forward" and emulated.failed and not emulated.is_correct
    assert failed["failed"].endswith(f"same bits: {wrong == 'a value'}")


@pytest.mark.parametrize("is_correct", [False, True])
def test_timings_are_written_where_the_kernels_are_known_to_be_right(
    check, monkeypatch, is_correct
):
    monkeypatch.setattr(kernels, "STAGES", {"tiny": (1, (8, 16)), "base": (1, (8,))})
    monkeypatch.setattr(kernels, "_milliseconds", lambda check, shape: [
        ("forward", "lax", 0.25), ("forward", "ptx", 0.25), ("norm's gradient", "ptx", 0.25),
    ])  # fmt: skip
    check.is_correct = is_correct
    kernels.layers(check)
    assert [cell["us"] for cell in cells(check)] == [250.0] * 9
    path = check.out / "timings.json"
    assert path.exists() == is_correct
    if is_correct:
        timings = json.loads(path.read_text())
        assert "cpu" in timings and timings["cuda"]["rows"] == [
            {"pixels": side**2, "direction": "forward", "ms": {"lax": 0.25, "ptx": 0.25}}
            for side in (56, 28)
        ]


def test_a_call_is_timed_among_more_inputs_than_a_cache_holds(check, monkeypatch):
    seen = []

    def timed(program, copies, seconds):
        seen.append(program(copies))
        return [6.0]

    def broken(x):
        raise RuntimeError("no kernel")

    x = jnp.arange(4.0)
    monkeypatch.setattr(kernels, "milliseconds", timed)
    monkeypatch.setattr(kernels, "CACHED", 4 * 50 * 4)
    monkeypatch.setattr(kernels, "_implementations", lambda shape: [
        ("forward", "lax", lambda x: x, (x,), {}), ("forward", "ptx", broken, (x,), {}),
    ])  # fmt: skip
    (lax, (*ptx, error)) = kernels._milliseconds(check, (50,))
    assert lax == ("forward", "lax", 6.0 / 5) and ptx == ["forward", "ptx"]
    assert str(error) == "no kernel"
    (results,) = seen
    assert len(results) == 5 and not np.array_equal(results[0], results[1])


class Torch:
    """In place of a peer: a compiled one takes 3 ms, another 8."""

    def measure(self):
        return {"compile": [3.0, 3.0], "bf16-compile": [8.0]}

    def close(self):
        self.closed = True


def test_a_model_stands_beside_the_best_of_torch(check, monkeypatch):
    torch, made = Torch(), []
    monkeypatch.setattr(
        models.profiles, "profile", lambda check, name, run, text: made.append(name)
    )
    monkeypatch.setattr(models, "_peer", lambda *_: torch)
    monkeypatch.setattr(models, "milliseconds", lambda run, seconds: [1.0, 2.0, 4.0])

    def program(model, mode, images, labels):
        if model.kernels == "lax":
            raise MemoryError("none left")
        made.append((mode, images.shape, model.dtype, model.residual_dtype))
        plan = jax.jit(jnp.sin).lower(1.0).compile()
        return None, plan, 7.0

    monkeypatch.setattr(models.models, "program", program)
    models.part("tiny", "training", 256)(check)
    assert made.pop() == "tiny_training_profile"
    assert {each[:2] for each in made} == {("training", (256, 224, 224, 3))}
    assert {each[2:] for each in made} == {("bfloat16", "bfloat16"), ("bfloat16", jnp.float32)}
    by_model = {}
    for cell in cells(check):
        by_model.setdefault(cell.pop("model"), {}).update(cell)
    assert by_model["XLA's kernels"] == {"failed": "MemoryError: none left"} and torch.closed
    assert by_model["sums in float32"]["images/s"] == 128000
    assert by_model["sums in float32"]["of the best torch"] == 1.5
    assert by_model["torch bf16-compile"]["of the best torch"] == 3 / 8
    assert by_model["torch compile"] == {
        "ms": [3, 3, 3], "images/s": pytest.approx(256 / 3e-3), "of the best torch": 1,
    }  # fmt: skip


def test_a_peer_that_does_not_start_leaves_our_times(check, monkeypatch):
    def absent(*_):
        raise RuntimeError("no GPU for torch")

    plan = jax.jit(jnp.sin).lower(1.0).compile()
    monkeypatch.setattr(models, "_peer", absent)
    monkeypatch.setattr(models, "milliseconds", lambda run, seconds: [2.0])
    monkeypatch.setattr(models.models, "program", lambda *_: (None, plan, 7.0))
    models.part("tiny", "inference", 256)(check)
    failed, *rows, profile = cells(check)
    assert failed == {"model": "torch", "failed": "RuntimeError: no GPU for torch"}
    assert "failed" in profile and check.rows[-1]["part"] == "tiny_inference_profile"
    assert [row["images/s"] for row in rows if "ms" in row] == 3 * [128000]
    assert not any("of the best torch" in row for row in rows)


def test_float32_has_an_error_and_a_time_for_each_precision(check, monkeypatch):
    check.rehearse = True
    monkeypatch.setattr(models.models, "program", lambda model, *_: (lambda: 0, None, 0.0))
    models.precision(check)
    assert [cell["precision"] for cell in cells(check)] == ["default", "high", "highest"]
    assert all(cell["logits"] < 1e-6 for cell in cells(check))  # of this CPU beside itself


@pytest.mark.parametrize("same", [True, False])
def test_a_run_on_the_digits_ends_as_one_left_alone_or_fails(check, monkeypatch, same):
    asked = []

    def soaked(folder, flags, faults, rng, moment, platform):
        asked.append((faults, platform))
        return same, {"kills": 2}

    monkeypatch.setattr(soak, "soak", soaked)
    runs.digits(check)
    assert asked == [(["kill", "kill in a save"], "cpu")]
    assert cells(check)[0] == {"platform": "cpu", "identical": same, "kills": 2}
    assert check.failed == (not same)


def test_a_rehearsal_lowers_the_kernels_and_says_what_is_not_compiled(check):
    check.rehearse = True
    check._absent = None  # a GPU for which nothing compiles
    x = jnp.ones((4, 96), jnp.bfloat16)
    said = check.compiled(lambda x: layer_norm_ptx.standardize_gradient(x, x, 1e-6), x)
    assert said == "lowered; not compiled: no CUDA plugin"
    with pytest.raises(TypeError):
        check.compiled(lambda x: x @ x.shape, x)
