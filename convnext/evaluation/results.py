"""Results of evaluations: CSV with timm's columns, and JSON."""

import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from convnext.errors import InputError
from convnext.files import text

# Those of timm's validate.py and its results/*.csv, accuracies and errors in percent; then ours.
TIMM_COLUMNS = ("model", "top1", "top1_err", "top5", "top5_err", "param_count", "img_size",
                "crop_pct", "interpolation")  # fmt: skip
COLUMNS = (*TIMM_COLUMNS, "weights", "data", "views", "probe", "count", "loss", "ece", "mce")
# What a result is of; the others are what was found.
KEYS = ("model", "weights", "data", "img_size", "crop_pct", "interpolation", "views", "probe")


def row(result: Mapping[str, Any]) -> dict[str, str]:
    """A line of the CSV, for a result with the KEYS, param_count, count, and as fractions any of
    top1, top5, ece and mce, and loss: percent to three digits, parameters in millions."""
    line = {name: str(result.get(name, "")) for name in COLUMNS}
    for name in ("top1", "top5", "ece", "mce"):
        if name in result:
            line[name] = f"{100 * result[name]:.3f}"
    for name in ("top1", "top5"):
        if name in result:
            line[f"{name}_err"] = f"{100 - 100 * result[name]:.3f}"
    if "loss" in result:
        line["loss"] = f"{result['loss']:.6f}"
    line["param_count"] = f"{result['param_count'] / 1e6:.2f}"
    line["crop_pct"] = f"{result['crop_pct']:.3f}"
    return line


def check_csv(path: str | os.PathLike) -> None:
    """Raises InputError where the file has other columns, or its folder is not there."""
    read_csv(path)
    if not Path(path).parent.is_dir():
        raise InputError(f"--csv is {path}", "a file in a folder that exists")


def read_csv(path: str | os.PathLike) -> list[dict[str, str]]:
    """The lines; none where there is no file. Raises InputError for other columns."""
    path = Path(path)
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            lines, columns = list(reader), tuple(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read {path}: {error}", "a CSV of results") from error
    if columns != COLUMNS:
        raise InputError(
            f"{path} has the columns {', '.join(columns)}",
            f"a new file, or one with {', '.join(COLUMNS)}",
        )
    return lines


def write_csv(path: str | os.PathLike, results: Sequence[Mapping[str, Any]]) -> None:
    """Adds results to a file. One of the same KEYS takes the place of that from before. The file
    is whole at any time."""
    lines = {_key(line): line for line in read_csv(path)}
    for result in results:
        line = row(result)
        lines[_key(line)] = line
    rows = io.StringIO(newline="")
    writer = csv.DictWriter(rows, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines.values())
    text.replace(path, rows.getvalue())


def _key(line):
    return tuple(line[name] for name in KEYS)


def write_json(path: str | os.PathLike, results: Sequence[Mapping[str, Any]]) -> None:
    """All that was found, as a list; accuracies are fractions of 1, and what is not finite is null.
    The file is whole at any time."""
    finite = [
        {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in result.items()
        }
        for result in results
    ]
    text.replace(path, json.dumps(finite, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
