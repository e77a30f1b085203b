"""Whether the kernels compute the definition, and how fast they are."""

import json
import math
import shutil
import subprocess
import sys
from datetime import date
from functools import partial
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from convnext.kernels import depthwise, depthwise_ptx, layer_norm_ptx, pointwise, ptx
from dev.benchmarks.layers import depthwise_inputs
from dev.benchmarks.measure import milliseconds, spread
from dev.gpu_checks import Check

EPS = 1e-6
# Maps of each width of strip, of channels that fill no warp, and smaller than the kernel.
SHAPES = [(2, 56, 56, 96), (4, 28, 28, 192), (8, 7, 7, 768), (2, 24, 24, 128), (1, 12, 20, 40),
          (3, 9, 11, 48), (1, 1, 5, 64)]  # fmt: skip
# Errors by the norm: of float32 sums, and of a result that is rounded to bfloat16.
LIMITS = {"float32": 1e-5, "bfloat16": 1e-2}
STAGES = {"tiny": (256, (96, 192, 384, 768)), "base": (128, (128, 256, 512, 1024))}
CACHED = 400e6  # bytes of inputs that no cache holds


def facts(check: Check) -> None:
    """The GPU, the versions, what it copies and multiplies at best, and what compiles for it."""
    versions = {name: metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax")}
    query = "--query-gpu=name,driver_version,clocks.sm,clocks.mem,memory.total,power.limit"
    smi = shutil.which("nvidia-smi")
    told = smi and subprocess.run([smi, query, "--format=csv,noheader"], capture_output=True)
    check.add("facts", name="device", value=told.stdout.decode().strip() if told else "no GPU")
    check.add("facts", name="versions", value=" ".join(f"{k} {v}" for k, v in versions.items()))
    check.add("facts", name="date", value=f"{date.today()}, Python {sys.version.split()[0]}")
    side, words = (64, 2**10) if check.rehearse else (8192, 2**29)
    matrix = jax.random.normal(jax.random.key(0), (side, side), jnp.bfloat16)
    numbers = jax.random.bits(jax.random.key(0), (words,), "uint32")
    for name, function, x, work in (
        ("products TFLOP/s", lambda x: x @ x, matrix, 2 * side**3),
        ("copy TB/s", lambda x: x + 1, numbers, 8 * words),
    ):
        program = check.compiled(function, x)
        if isinstance(program, str):
            check.add("facts", name=name, value=program)
        else:
            ms = spread(milliseconds(program, x, seconds=0.3))[1]
            check.add("facts", name=name, value=work / ms * 1e-9)
    if not check.rehearse:
        from jax._src.lib import xla_client  # the only place that has it

        target = xla_client.get_topology_for_devices(jax.devices()).target_config
        (check.out / "target_config.txtpb").write_text(str(target))


def correct(check: Check) -> None:
    """Each kernel against float64, and twice against itself."""
    cases = [
        (dict(kernel=name, shape="x".join(map(str, shape)), dtypes="/".join(dtypes)), *case)
        for shape in (SHAPES[-1:] if check.rehearse else SHAPES)
        for dtypes in ptx.DTYPES
        for name, *case in _cases(shape, *dtypes)
    ]
    programs = check.compiled_at_once([(function, inputs, {}) for _, function, inputs, _ in cases])
    wrong = 0
    for (cell, _, inputs, exact), program in zip(cases, programs, strict=True):
        if isinstance(program, str):
            check.add("correct", **cell, ok=program)
            continue
        try:
            if isinstance(program, Exception):
                raise program
            first, second = (np.asarray(program(*inputs)) for _ in range(2))
        except Exception as error:
            wrong += 1
            check.fail("correct", error, **cell)
            continue
        error, same = _error(first, exact()), bool((first == second).all())
        ok = error < LIMITS[first.dtype.name] and same
        check.add("correct", **cell, error=error, same_bits=same, ok=ok)
        if not ok:
            wrong += 1
            check.fail("correct", f"error {error:.2g}, same bits: {same}", **cell)
    check.is_correct = wrong == 0


def _error(found, exact):
    return float(np.linalg.norm(found.astype(np.float64) - exact) / np.linalg.norm(exact))


def _cases(shape, map_dtype, branch_dtype):
    """Name, function, inputs, and what they give in float64."""
    rng = np.random.default_rng(0)
    wide = [rng.normal(size=size) for size in (shape, shape, shape, (7, 7, 1, shape[-1]))]
    dtypes = (map_dtype, map_dtype, branch_dtype, branch_dtype)
    x, addend, g, kernel = map(jnp.asarray, wide, dtypes)
    bias = jnp.asarray(rng.normal(size=shape[-1]), jnp.float32)
    x64, addend64, g64, kernel64, bias64 = (
        np.asarray(each.astype(jnp.float32), np.float64) for each in (x, addend, g, kernel, bias)
    )
    dx = partial(convolved, g64, kernel64[::-1, ::-1])
    yield (
        "forward",
        depthwise_ptx.forward,
        (x, kernel, bias),
        (lambda: convolved(x64, kernel64) + bias64),
    )
    yield "input gradient", depthwise_ptx.input_gradient, (g, kernel), dx
    yield (
        "input gradient plus",
        depthwise_ptx.input_gradient,
        (g, kernel, addend),
        (lambda: dx() + addend64),
    )
    yield (
        "sums",
        lambda x, g: depthwise_ptx.sums(x, g).sum(0),
        (x, g),
        (lambda: np.vstack([taps(x64, g64), g64.sum((0, 1, 2))])),
    )
    if layer_norm_ptx.takes(x, g.dtype):
        norm = partial(layer_norm_ptx.standardize_gradient, eps=EPS)
        yield "norm's gradient", norm, (x, g), lambda: standardize_gradient(x64, g64)
    if layer_norm_ptx.takes(x, g.dtype, layer_norm_ptx.CHUNKS_WITH_SUMS):
        of_scaled = partial(layer_norm_ptx.gradients, eps=EPS)
        inputs = x, g, bias  # as its scale
        scaled = partial(standardize_gradient, x64, g64 * bias64)
        yield "scaled norm's gradient", lambda *inputs: of_scaled(*inputs)[0], inputs, scaled
        sums = partial(norm_sums, x64, g64)
        yield "scaled norm's sums", lambda *inputs: jnp.stack(of_scaled(*inputs)[1:]), inputs, sums


def _windows(x):
    """The pixels that lie under each tap of the kernel."""
    height, width = x.shape[1:3]
    padded = np.pad(x, ((0, 0), (3, 3), (3, 3), (0, 0)))
    for i in range(7):
        for j in range(7):
            yield padded[:, i : i + height, j : j + width]


def convolved(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    taps = kernel.reshape(49, -1)
    return sum(window * tap for window, tap in zip(_windows(x), taps, strict=True))


def taps(x: np.ndarray, g: np.ndarray) -> np.ndarray:
    """The gradient of the kernel, [49, C]."""
    return np.stack([(window * g).sum((0, 1, 2)) for window in _windows(x)])


def _standardized(x):
    centred = x - x.mean(-1, keepdims=True)
    std = np.sqrt((centred**2).mean(-1, keepdims=True) + EPS)
    return centred / std, std


def norm_sums(x: np.ndarray, g: np.ndarray) -> np.ndarray:
    """The gradients of scale and bias, [2, C]."""
    return np.stack([(g * _standardized(x)[0]).sum((0, 1, 2)), g.sum((0, 1, 2))])


def standardize_gradient(x: np.ndarray, g: np.ndarray) -> np.ndarray:
    normal, std = _standardized(x)
    return (g - g.mean(-1, keepdims=True) - normal * (g * normal).mean(-1, keepdims=True)) / std


def layers(check: Check) -> None:
    """The depthwise convolution and LayerNorm's gradient, each implementation on maps of T and B.

    Writes timings.json, by which the model chooses, where `correct` found no kernel wrong before.
    It is to be copied to convnext/kernels/.
    """
    rows: dict[tuple[int, str], dict[str, float]] = {}
    for variant, (batch, dims) in STAGES.items():
        for i, channels in enumerate(dims[-1:] if check.rehearse else dims):
            side = 1 if check.rehearse else 56 >> i
            shape = (2 if check.rehearse else batch, side, side, channels)
            for direction, name, ms in _milliseconds(check, shape):
                cell = dict(variant=variant, shape="x".join(map(str, shape)), direction=direction)
                if isinstance(ms, Exception):
                    check.fail("layers", ms, **cell, implementation=name)
                elif isinstance(ms, str):
                    check.add("layers", **cell, implementation=name, us=ms)
                else:
                    check.add("layers", **cell, implementation=name, us=ms * 1e3)
                    if variant == "tiny" and direction in depthwise.DIRECTIONS:
                        rows.setdefault((side**2, direction), {})[name] = round(ms, 4)
    if rows and check.is_correct:
        _write_timings(check, rows)


def _implementations(shape):
    rng = np.random.default_rng(0)
    x, g = (jnp.asarray(rng.normal(size=shape), jnp.bfloat16) for _ in range(2))
    kernel = jnp.asarray(rng.normal(size=(7, 7, 1, shape[-1])), jnp.bfloat16)
    for direction, inputs in depthwise_inputs(x, g, kernel).items():
        for name, functions in depthwise.IMPLEMENTATIONS.items():
            yield direction, name, functions[direction], inputs, {}
    scale = jnp.ones(shape[-1:])
    for name, kernels, options in (
        ("ptx", "auto", {}),
        ("lax", "lax", {}),
        ("lax, tiles tuned", "lax", {"xla_gpu_experimental_enable_fusion_autotuner": True}),
    ):
        standardize = partial(pointwise.standardize, eps=EPS, dtype=x.dtype, kernels=kernels)
        norm = partial(pointwise.layer_norm, eps=EPS, kernels=kernels)
        yield "norm's gradient", name, partial(_gradients, standardize), (g, x), options
        inputs = g, x, scale, scale
        yield "scaled norm's gradients", name, partial(_gradients, norm), inputs, options


def _gradients(function, g, *inputs):
    return jax.vjp(function, *inputs)[1](g)


def _milliseconds(check, shape):
    """Direction, implementation, and milliseconds of one call, among as many in one program as have
    more inputs than the cache holds; what `Check.compiled` says where there are none."""
    count = 1 if check.rehearse else max(3, int(CACHED / math.prod(shape) / 4) + 1)
    found, programs = [], []
    for direction, name, function, inputs, options in _implementations(shape):
        copies = [jax.tree.map(lambda x, i=i: jnp.roll(x, i), inputs) for i in range(count)]
        found.append((direction, name))
        programs.append((partial(_each, function), (copies,), options))
    compiled = check.compiled_at_once(programs)
    for (direction, name), program, (_, copies, _) in zip(found, compiled, programs, strict=True):
        if isinstance(program, str | Exception):
            yield direction, name, program
        else:
            yield direction, name, spread(milliseconds(program, *copies, seconds=0.2))[1] / count


def _each(function, copies):
    return [function(*inputs) for inputs in copies]


def _write_timings(check, rows):
    timings = json.loads(Path(depthwise.__file__).with_name("timings.json").read_text())
    timings["cuda"] = {
        "device": jax.devices()[0].device_kind,
        "date": str(date.today()),
        "jax": jax.__version__,
        "dtype": "bfloat16",
        "batch_size": STAGES["tiny"][0],
        "variant": "tiny",
        "rows": [
            {"pixels": pixels, "direction": direction, "ms": ms}
            for (pixels, direction), ms in rows.items()
        ],
    }
    (check.out / "timings.json").write_text(json.dumps(timings, indent=1) + "\n")
