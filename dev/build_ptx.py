"""Makes the PTX of convnext/kernels/cuda from its sources, by nvcc; no GPU is needed.

    python -m dev.build_ptx [--out=FOLDER] [--nvcc=nvcc]

What is committed is made by the nvcc of RELEASE; another writes the same kernels in other words.
"""

import argparse
import lzma
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from convnext.kernels import depthwise_ptx, layer_norm_ptx, ptx

RELEASE = "13.0.88"
TYPES = {"bfloat16": "Bfloat16", "float32": "Float32"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ptx.FOLDER, help="where the PTX goes")
    parser.add_argument("--nvcc", default="nvcc", help="the compiler")
    arguments = parser.parse_args()
    if release(arguments.nvcc) is None:
        parser.error(f"--nvcc is {arguments.nvcc!r}; accepted: an nvcc, or its path")
    for name, source, macros in variants():
        path = arguments.out / f"{name}.ptx.xz"
        path.write_bytes(lzma.compress(build(source, macros, arguments.nvcc).encode(), preset=9))
        print(f"{path}: {path.stat().st_size:,} bytes")


def variants() -> Iterator[tuple[str, str, dict[str, str]]]:
    """Name, source and macros of each."""
    for dtypes in ptx.DTYPES:
        types = (TYPES[dtype] for dtype in dtypes)
        macros = dict(zip(("MAP", "BRANCH"), types, strict=True))
        yield layer_norm_ptx.file_name(*dtypes), "layer_norm.cu", macros
        for columns in depthwise_ptx.STRIPS:
            name = depthwise_ptx.file_name(*dtypes, columns)
            yield name, "depthwise.cu", macros | dict(COLUMNS=str(columns))


def build(source: str, macros: dict[str, str], nvcc: str = "nvcc") -> str:
    """The PTX of a source, for every GPU from compute capability 8.0 on."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out.ptx"
        defined = [f"-D{name}={value}" for name, value in macros.items()]
        flags = ["-ptx", "-arch=compute_80", "-std=c++17", "-O3", "-diag-suppress=177"]
        subprocess.run(
            [nvcc, *flags, "-include", "device.cuh", *defined, source, "-o", path],
            cwd=ptx.FOLDER,
            check=True,
        )
        # A driver refuses a version that is newer than its own; nothing here is newer than 7.8.
        # Comments name the compiler.
        text = re.sub(r"(?m)^\.version .*$", ".version 7.8", path.read_text())
        return re.sub(r"(?m)^//.*\n", "", text)


def release(nvcc: str = "nvcc") -> str | None:
    """Of the compiler, such as "13.0.88"; None where there is none."""
    try:
        told = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
    except FileNotFoundError:
        return None
    found = re.search(r"V([\d.]+)", told)
    return found and found[1]


if __name__ == "__main__":
    main()
