"""Results of evaluations, as CSV with timm's columns and as JSON."""

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from convnext.errors import InputError
from convnext.files import text

# Columns of timm's validate.py and its results/*.csv, accuracies and errors in percent; then ours.
TIMM_COLUMNS = (
    "model", "top1", "top1_err", "top5", "top5_err", "param_count", "img_size", "crop_pct",
    "interpolation",
)  # fmt: skip
COLUMNS = (*TIMM_COLUMNS, "weights", "data", "views", "probe", "count", "loss", "ece", "mce")
# Columns that identify a result. The others are its values.
KEYS = ("model", "weights", "data", "img_size", "crop_pct", "interpolation", "views", "probe")


def row(result: Mapping[str, Any]) -> dict[str, str]:
    """Returns a line of the CSV: percent to three digits, parameters in millions. result has the
    KEYS, param_count, count, and any of loss and, as fractions, top1, top5, ece and mce."""
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
    """Raises InputError if the file has other columns, or its folder does not exist."""
    read_csv(path)
    if not Path(path).parent.is_dir():
        raise InputError(f"--csv is {path}", "a file in a folder that exists")


def read_csv(path: str | os.PathLike) -> list[dict[str, str]]:
    """Reads the lines; none if there is no file. Raises InputError for other columns."""
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
        given = f"the columns {', '.join(columns)}" if columns else "no columns"
        raise InputError(f"{path} has {given}", f"a new file, or one with {', '.join(COLUMNS)}")
    return lines


def write_csv(path: str | os.PathLike, results: Sequence[Mapping[str, Any]]) -> None:
    """Adds results to a file. A result replaces an earlier one with the same KEYS. The file is
    whole at any time."""
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
    """Writes all results as a list. Accuracies are fractions of 1, and values that are not finite
    are null. The file is whole at any time."""
    finite = [
        {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in result.items()
        }
        for result in results
    ]
    text.replace(path, text.of_json(finite))
