"""Assembles the PTX of convnext/kernels/cuda, and counts registers and instructions; needs no GPU.

    python -m dev.assemble_ptx [--target=sm_90] [--ptxas=ptxas] [--nvdisasm=nvdisasm]

Sizes are those of ConvNeXt-T's first stage at batch 256. A loop's instructions are those of its
body, once; a depthwise kernel's loop has 7 rows. pip has nvidia-cuda-nvcc and nvidia-cuda-nvdisasm.
"""

import argparse
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from convnext.errors import reported, require
from convnext.kernels import layer_norm_ptx, ptx
from dev import build_ptx
from dev.benchmarks.measure import Cells

SHAPE = dict(N=256, H=56, W=56, C=96)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="sm_90", help="the GPU's compute capability")
    parser.add_argument("--ptxas", default="ptxas", help="the assembler")
    parser.add_argument("--nvdisasm", default="nvdisasm", help="the disassembler")
    arguments = parser.parse_args()
    with reported():
        tools = {"--ptxas": arguments.ptxas, "--nvdisasm": arguments.nvdisasm}
        for flag, tool in tools.items():
            found = build_ptx.release(tool) is not None
            require(found, flag, tool, f"{flag[2:]} of a CUDA toolkit, or its path")
        cells = Cells(None, target=arguments.target)
        for file, entry, sizes in entries():
            text = ptx.text(file, entry, **sizes)
            said, assembly = assemble(text, arguments.target, *tools.values())
            cells.add(kernel=f"{file} {entry}", **counts(said, assembly))


def entries() -> Iterator[tuple[str, str, Mapping[str, int]]]:
    """The file, the name and the sizes of each."""
    for file, _, _ in build_ptx.variants():
        for entry in re.findall(r"\.visible \.entry (\w+)", ptx.read(file)):
            yield file, entry, SHAPE if file.startswith("depthwise") else _rows(entry)


def _rows(entry):
    """Rows that fill as many chunks as the entry of layer_norm.cu has, in all threads."""
    chunks = int(entry.rpartition("_")[2])
    lanes = layer_norm_ptx.LANES[0 if chunks < 6 else -1]
    return dict(ROWS=2**18, LANES=lanes, C=lanes * chunks * layer_norm_ptx.AT_ONCE, EPS=0)


def assemble(text: str, target: str, ptxas: str, nvdisasm: str) -> tuple[str, str]:
    """What the assembler says of a kernel, and the assembled code."""
    with tempfile.TemporaryDirectory() as folder:
        source, binary = Path(folder) / "kernel.ptx", Path(folder) / "kernel.cubin"
        source.write_text(text)
        made = [ptxas, f"-arch={target}", "-v", source, "-o", binary]
        said = subprocess.run(made, check=True, capture_output=True, text=True).stderr
        shown = subprocess.run([nvdisasm, "-c", binary], check=True, capture_output=True, text=True)
    return said, shown.stdout


def counts(said: str, assembly: str) -> dict[str, object]:
    """Of the kernel, and of that of its loops which has the most multiply-adds."""
    names = {
        "registers": r"Used (\d+) registers",
        "spilled bytes": r"(\d+) bytes spill stores",
        "shared bytes": r"(\d+) bytes smem",
    }
    found = {name: re.search(pattern, said) for name, pattern in names.items()}
    row = {name: int(match[1]) if match else 0 for name, match in found.items()}
    operations, labels, loops = [], {}, []
    for line in assembly.splitlines():
        if label := re.match(r"\s*(\.L\w+):", line):
            labels[label[1]] = len(operations)
        elif code := re.match(r"\s*/\*[\da-f]{4,}\*/\s+\{?\s*(?:@!?U?P\w+ +)?([A-Z]\w*)(.*)", line):
            operations.append(code[1])
            target = re.search(r"`\((\.L\w+)\)", code[2])
            if code[1] == "BRA" and target and target[1] in labels:  # backwards
                loops.append(Counter(operations[labels[target[1]] :]))
    loop = max(loops, key=lambda loop: loop["FFMA"], default=Counter())
    loop = loop if loop["FFMA"] else Counter()
    row |= {"instructions": len(operations), "in the loop": loop.total()}
    return row | {"multiply-adds": loop["FFMA"], "spills in the loop": loop["LDL"] + loop["STL"]}


if __name__ == "__main__":
    main()
