"""Compares what there is for one's own images, on small drawn sets: a support vector machine,
training from scratch, a linear classifier, fine-tuning as it comes, and timm.

    python -m dev.small_sets --init_from=WEIGHTS --out=DIR [--sets shapes:30 ...] [--seeds 0 1 2]
        [--methods svm scratch linear finetune timm] [--peer_python=PYTHON]

WEIGHTS is a folder that convnext.save_pretrained wrote with format "timm". A set is a name of
dev.drawn_sets and the number of training images of each class. A seed draws the images and is that
of the run. Each result is appended to DIR/results.jsonl; what is there is not made again. The
commands are the users' own; each is printed.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from convnext.errors import InputError, reported
from convnext.runs import log
from dev import drawn_sets

SETS = ("shapes:10", "shapes:30", "shapes:100", "letters:100", "scenes:100", "textures:100")
METHODS = ("svm", "scratch", "linear", "finetune", "timm")
OTHERS = ("svm", "timm")  # not of this project: run by --peer_python
VAL_IMAGES = 60  # of each class
RATES = (3e-4, 1e-3, 3e-3)  # of which timm takes the best on the first seed, for all
# Letters have no mirror images.
GIVEN = {"letters": ["--config.augment.flip_prob=0"]}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dev.small_sets",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--init_from", type=Path, required=True, metavar="WEIGHTS")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--sets", nargs="+", default=SETS, metavar="NAME:IMAGES")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument(
        "--peer_python", default=sys.executable, help="interpreter with requirements-parity.txt"
    )
    args = parser.parse_args(argv)
    with reported():
        path = args.out / "results.jsonl"
        for name in args.sets:
            for seed in args.seeds:
                for method in args.methods:
                    if not found(path, name, seed, method):
                        result = measured(args, name, seed, method)
                        args.out.mkdir(parents=True, exist_ok=True)
                        with path.open("a") as file:
                            file.write(json.dumps(result) + "\n")
        Console().print(table(lines(path)))


def lines(path: Path) -> list[dict]:
    """The results so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def found(path: Path, name: str, seed: int, method: str) -> bool:
    """Whether there is such a result."""
    asked = (name, seed, method)
    return any((line["set"], line["seed"], line["method"]) == asked for line in lines(path))


def timms_rates(path: Path, name: str) -> Sequence[float]:
    """The rate that timm chose on an earlier seed of the set, or those of which it takes one."""
    of_set = [line for line in lines(path) if (line["set"], line["method"]) == (name, "timm")]
    return [of_set[0]["rate"]] if of_set else RATES


def measured(args: argparse.Namespace, name: str, seed: int, method: str) -> dict:
    """Draws a set, runs a method on it, and returns its top-1 and how long it took."""
    label, _, images = name.partition(":")
    root = args.out / f"{label}_{images}_{seed}"
    if not root.exists():
        drawn_sets.write(label, root, images=int(images), val_images=VAL_IMAGES, seed=seed)
    workdir = args.out / "runs" / f"{method}_{label}_{images}_{seed}"
    rates = timms_rates(args.out / "results.jsonl", name)
    command = command_of(args, method, label, root, workdir, seed, rates)
    print(shlex.join(map(str, command)), flush=True)
    begin = time.monotonic()
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"{command} failed: {done.stderr[-500:]}", "a command that runs")
    result = {"set": name, "seed": seed, "method": method, "seconds": time.monotonic() - begin}
    if method in OTHERS:
        return {**result, **json.loads(done.stdout.splitlines()[-1])}
    last = log.read(workdir / "metrics.jsonl")[-1]
    return {**result, "top1": last.get("val_ema/top1", last["val/top1"])}


def command_of(args, method, label, root, workdir, seed, rates=RATES):
    if method == "svm":
        return [args.peer_python, "-m", "dev.benchmarks.gradient_histograms", root]
    if method == "timm":
        return [args.peer_python, *of_timm(args.init_from, root, workdir, seed, label, rates)]
    given = [] if method == "linear" else GIVEN.get(label, [])
    return [sys.executable, *of_method(method, args.init_from, root, workdir, seed), *given]


def of_method(method, init_from, root, workdir, seed):
    """The arguments of one of our commands."""
    if method == "linear":
        return ["-m", "tools.linear", root, f"--model={init_from}", f"--workdir={workdir}"]
    config = {"scratch": "folder", "finetune": "finetune"}.get(method)
    start = [f"--config.init_from={init_from}"] if method == "finetune" else []
    return [
        "train.py", f"--config=configs/{config}.py", f"--config.data.root={root}", *start,
        f"--config.seed={seed}", f"--workdir={workdir}",
    ]  # fmt: skip


def of_timm(init_from, root, workdir, seed, label, rates):
    """The arguments of timm's side: with the updates, size and EMA of our fine-tuning."""
    ours = workdir.parent / workdir.name.replace("timm_", "finetune_") / "config.json"
    if not ours.is_file():
        raise InputError(f"no {ours}", "the method finetune before timm, whose length it takes")
    config = json.loads(ours.read_text())
    request = dict(
        weights=str(init_from), root=str(root), seed=seed, rates=rates,
        num_steps=config["num_steps"], batch_size=config["batch_size"],
        image_size=config["image_size"], ema_decay=config["ema_decays"][0],
        flip_prob=0.0 if label in GIVEN else 0.5,
    )  # fmt: skip
    return ["-m", "dev.benchmarks.peer_finetuning", json.dumps(request)]


def table(results: list[dict]) -> Table:
    """The mean top-1 over the seeds, its standard deviation, and the least seconds: other work of
    the computer only ever adds to them."""
    shown = Table(box=None)
    methods = [method for method in METHODS if any(r["method"] == method for r in results)]
    for column in ("set", *methods):
        shown.add_column(column)
    for name in dict.fromkeys(result["set"] for result in results):
        cells = []
        for method in methods:
            of_one = [r for r in results if (r["set"], r["method"]) == (name, method)]
            top1 = [r["top1"] for r in of_one]
            if not of_one:
                cells.append("")
                continue
            spread = f" ± {np.std(top1, ddof=1):.3f}" if len(top1) > 1 else ""
            cells.append(f"{np.mean(top1):.3f}{spread}, {min(r['seconds'] for r in of_one):.0f} s")
        shown.add_row(name, *cells)
    return shown


if __name__ == "__main__":
    main()
