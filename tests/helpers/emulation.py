"""Kernels of convnext/kernels/cuda on the CPU, by a C++ compiler in place of nvcc."""

import math
import shutil
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest

from convnext.kernels import ptx
from dev import build_ptx

needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="needs g++ in place of nvcc")
HERE = Path(__file__).parents[1] / "kernels"


def build(path, source, macros, *flags):
    """A program that runs the kernels of a source."""
    defined = [f"-D{name}={value}" for name, value in macros.items()]
    given = ["-include", HERE / f"emulation_{Path(source).stem}.hpp", f'-DSOURCE="{source}"']
    compiler = ["g++", "-std=c++20", "-Wno-unknown-pragmas", f"-I{ptx.FOLDER}"]
    arguments = [*flags, *defined, *given, HERE / "emulation.cpp", "-o", path]
    subprocess.run([*compiler, *arguments], check=True)
    return path


def run(program, entry, sizes, grid, block, operands, out):
    """What the entry writes, of the shapes and dtypes of `out`."""
    wanted, structure = jax.tree.flatten(out)
    data = [np.ascontiguousarray(operand).tobytes() for operand in operands]
    made = [math.prod(each.shape) * np.dtype(each.dtype).itemsize for each in wanted]
    named = [f"{name}={value}" for name, value in sizes.items()]
    numbers = map(str, [*grid, *block, len(data), *map(len, data), *made])
    ran = subprocess.run(
        [program, entry, *named, "-", *numbers], input=b"".join(data), capture_output=True
    )
    assert ran.returncode == 0, ran.stderr.decode()
    parts = np.split(np.frombuffer(ran.stdout, np.uint8), np.cumsum(made)[:-1])
    arrays = (p.view(each.dtype).reshape(each.shape) for p, each in zip(parts, wanted, strict=True))
    return structure.unflatten(arrays)


def emulate(monkeypatch, folder, *flags):
    """From here on the kernels are compiled when they are launched, and run here."""
    programs = {}
    variants = {name: (source, macros) for name, source, macros in build_ptx.variants()}

    def launch(entry, text, operands, out, grid, block):
        name, sizes = text
        if name not in programs:
            programs[name] = build(folder / name, *variants[name], *flags)
        return run(programs[name], entry, sizes, grid, block, operands, out)

    monkeypatch.setattr(ptx, "launch", launch)
    monkeypatch.setattr(ptx, "text", lambda name, entry, **sizes: (name, sizes))
    monkeypatch.setattr(ptx, "per_device", lambda function, *_, **factors: function)
