"""Whole models beside PyTorch, and what float32 is on a GPU."""

import importlib.util
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np

from convnext.models.convnext import VARIANTS, ConvNeXt
from dev.benchmarks import models
from dev.benchmarks.measure import Peer, milliseconds, spread
from dev.gpu_checks import Check, profiles

# Sums along the blocks in float32 stand beside PyTorch's autocast, which has them so, and those in
# bfloat16 beside a model that is all in it.
OURS = {
    "sums in bfloat16": dict(residual_dtype="bfloat16"),
    "sums in float32": {},
    "XLA's kernels": dict(residual_dtype="bfloat16", kernels="lax"),
}
THEIRS = {
    "training": ("compile", "bf16-compile"),
    "inference": ("compile", "bf16-compile", "bf16-graphs"),
}
ROUNDS, SECONDS = 3, 1.0
TINY = dict(depths=(1,), dims=(8,))


def part(variant: str, mode: str, batch: int) -> Callable[[Check], None]:
    """A model in bfloat16, beside torch.compile in turns."""
    return lambda check: _beside(check, variant, mode, batch)


def _beside(check, variant, mode, batch):
    fields, name = VARIANTS[variant], f"{variant}_{mode}"
    size = 224
    if check.rehearse:
        fields, batch, size = {**fields, **TINY}, 2, 16
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    labels = rng.integers(0, 1000, batch, dtype=np.int32)
    made = dict(drop_path_rate=0.1, dtype="bfloat16")
    ours = {
        each: ConvNeXt(**fields, **made, **options)
        for each, options in list(OURS.items())[: 1 if check.rehearse else None]
    }
    times: dict[str, list[float]] = {}
    # PyTorch compiles in its process at the same time.
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(_peer, check, name, ours["sums in bfloat16"], mode, batch, size)
        programs = {
            each: pool.submit(models.program, model, mode, images, labels)
            for each, model in ours.items()
        }
    peer, runs, text = None, {}, None
    try:
        peer = asked.result()
    except Exception as error:
        check.fail(name, error, model="torch")
    for each, program in programs.items():
        try:
            runs[each], compiled, seconds = program.result()
            text = text or compiled.as_text()
            plan = compiled.memory_analysis()
            planned = (plan.argument_size_in_bytes + plan.temp_size_in_bytes) / 1e9
            check.add(name, model=each, **{"compile s": seconds, "planned GB": planned})
        except Exception as error:
            check.fail(name, error, model=each)
    for _ in range(1 if check.rehearse else ROUNDS):
        for each, run in runs.items():
            seconds = 0.0 if check.rehearse else SECONDS
            times.setdefault(each, []).extend(milliseconds(run, seconds=seconds))
        for each, of_each in (peer.measure() if peer else {}).items():
            times.setdefault(f"torch {each}", []).extend(of_each)
    if peer:
        peer.close()
    medians = {each: spread(of_each)[1] for each, of_each in times.items()}
    best = min((ms for each, ms in medians.items() if each not in ours), default=None)
    for each, ms in medians.items():
        row = {"ms": spread(times[each]), "images/s": batch / ms * 1e3}
        check.add(name, model=each, **row, **({"of the best torch": best / ms} if best else {}))
    if runs:
        try:
            profiles.profile(check, f"{name}_profile", next(iter(runs.values())), text)
        except Exception as error:  # of the profiler, or of the memory that it takes
            check.fail(f"{name}_profile", error)


def _peer(check, name, model, mode, batch, size):
    missing = [each for each in ("torch", "timm") if importlib.util.find_spec(each) is None]
    if missing:
        check.add(name, model="torch", skipped=f"no {missing[0]}")
        return None
    return Peer(
        sys.executable,
        "peer",
        project="timm",
        mode=mode,
        dtype="bfloat16",
        batch_size=batch,
        image_size=size,
        fields=models.peer_fields(model),
        variants=("eager",) if check.rehearse else THEIRS[mode],
    )


def precision(check: Check) -> None:
    """The error of ConvNeXt-T's float32 logits, and the time of its float32 training step."""
    fields = TINY if check.rehearse else VARIANTS["tiny"]
    size, batch = (16, 2) if check.rehearse else (224, 64)
    model = ConvNeXt(**fields)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(8, size, size, 3)).astype(np.float32)
    cpu = jax.devices("cpu")[0]
    with jax.default_device(cpu):
        params = jax.jit(model.init)(jax.random.key(0), images[:1])["params"]
        params = jax.tree.map(lambda x: 5 * x if x.ndim > 1 else x, jax.device_get(params))
        exact = np.asarray(jax.jit(model.apply)({"params": params}, images))
    pixels = rng.integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    labels = rng.integers(0, 1000, batch, dtype=np.int32)
    for name in ("default", "high", "highest"):
        with jax.default_matmul_precision(name):
            found = np.asarray(jax.jit(model.apply)({"params": params}, jnp.asarray(images)))
        error = float(np.linalg.norm(found - exact) / np.linalg.norm(exact))
        trained = model.clone(drop_path_rate=0.1, train_precision=name)
        run, _, _ = models.program(trained, "training", pixels, labels)
        ms = spread(milliseconds(run, seconds=0.0 if check.rehearse else SECONDS))
        rate = {"training images/s": batch / ms[1] * 1e3}
        check.add("precision", precision=name, logits=error, **{"training ms": ms}, **rate)
