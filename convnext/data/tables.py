"""Image files that are named in a table with their labels: CSV or JSON Lines, one line a file."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convnext.data import folders, listing
from convnext.errors import InputError

SUFFIXES = (".csv", ".jsonl")
FILE = ("file", "file_name", "filename", "path", "image")  # names of the column of files
SPLIT = "split"
BETWEEN = "|"  # labels of one image in a CSV
# What a column of labels is called says what they are (losses.PROBLEM_TYPES; None: one class).
LABEL, LABELS, VALUE = "label", "labels", "value"
PROBLEM_TYPES = {LABEL: None, LABELS: "multi_label_classification", VALUE: "regression"}
ACCEPTED = "a first line such as file,label or file,labels or file,value; and split, if you like"


def load(
    path: Path,
    val_fraction: float | None = None,
    train_split: str | None = None,
    val_split: str | None = None,
) -> tuple[folders.Files, folders.Files]:
    """Returns the training and validation images that a table names.

    Columns, or in JSON Lines keys: `file`, a path from the table's folder on; one of `label`, the
    name of a class; `labels`, several of them, with | between them in a CSV and a list in JSON
    Lines; or `value` and further columns that begin with it, numbers to predict; and `split`, such
    as train or val. Where no line has a split, folders.split makes one.

    Raises InputError, with the number of the line, for what cannot be used.
    """
    rows = list(read(path))
    if not rows:
        raise InputError(f"{path} names no files", ACCEPTED)
    source = files(path, rows)
    splits = [str(row.get(SPLIT) or "").strip() for _, row in rows]
    if not any(splits) or (train_split and train_split == val_split):
        if val_fraction is None:
            raise InputError(
                f"{path} has no column {SPLIT}", "one with train and val, or data.val_fraction"
            )
        return folders.split(source, val_fraction)
    val_split = val_split or next((s for s in folders.VAL if s in splits), folders.VAL[0])
    indices = {}
    for name in (train_split or folders.TRAIN, val_split):
        indices[name] = np.flatnonzero([each == name for each in splits])
        if not len(indices[name]):
            given = ", ".join(sorted({each or "nothing" for each in splits}))
            raise InputError(f"the {SPLIT}s in {path} are {given}", f"{name}, for some lines")
    train, val = indices.values()
    unused = len(rows) - len(train) - len(val)
    notes = [f"{unused:,} lines of other splits are not used"] if unused else []
    return source.part(train, notes), source.part(val)


def whole(path: Path) -> folders.Files:
    """Returns all images that a table names, whatever their split."""
    return files(path, list(read(path)))


def read(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yields the number and the fields of each line that is not empty."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() == ".csv":
                reader = csv.DictReader(file, strict=True)
                for row in reader:
                    long = None in row
                    if long or None in row.values():
                        raise InputError(
                            f"line {reader.line_num} of {path} has "
                            f"{'more' if long else 'fewer'} fields than the first",
                            "as many as the first line has",
                        )
                    yield reader.line_num, row
            else:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        row = json.loads(line)
                        if not isinstance(row, dict):
                            raise InputError(f"line {number} of {path} is no object", ACCEPTED)
                        yield number, row
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read {path}: {reason}", "CSV, or JSON Lines, in UTF-8") from error


def files(path: Path, rows: Sequence[tuple[int, Mapping[str, Any]]]) -> folders.Files:
    """Makes the source of these lines, in their order."""
    columns = list(rows[0][1])
    column = next((name for name in FILE if name in columns), None)
    kinds = [name for name in (LABEL, LABELS, VALUE) if any(_is_of(name, c) for c in columns)]
    if column is None or len(kinds) != 1:
        raise InputError(f"{path} has the columns {', '.join(map(str, columns))}", ACCEPTED)
    kind = kinds[0]
    names = _names(path, column, rows)
    values = [name for name in columns if _is_of(kind, name)]
    labels = [_label(path, number, kind, row, values) for number, row in rows]
    if kind == VALUE:
        class_names, array = values, np.array(labels, np.float32)
    else:
        each = labels if kind == LABELS else [[label] for label in labels]
        class_names = sorted({label for several in each for label in several})
        places = {name: place for place, name in enumerate(class_names)}
        array = np.zeros((len(rows), len(class_names)), np.float32)
        for row, several in zip(array, each, strict=True):
            row[[places[label] for label in several]] = 1
        if kind == LABEL:
            array = array.argmax(axis=1).astype(np.int32)
    source = folders.Files(path.parent, class_names, names, array, folder=".")
    source.problem_type = PROBLEM_TYPES[kind]
    return source


def _is_of(kind, column):
    is_value = kind == VALUE and str(column).startswith(f"{VALUE}_")
    return column == kind or is_value


def _names(path, column, rows):
    lines: dict[str, int] = {}
    for number, row in rows:
        name = row.get(column)
        if not isinstance(name, str) or not name:
            raise InputError(f"{column} is {name!r} in line {number} of {path}", "a path")
        if name in lines:
            raise InputError(f"lines {lines[name]} and {number} of {path} name {name}", "one line")
        if not (path.parent / name).is_file():
            raise InputError(
                f"line {number} of {path} names {name}, which is not there",
                f"paths from {path.parent} on",
            )
        if not name.lower().endswith(listing.IMAGE_SUFFIXES):
            raise InputError(f"line {number} of {path} names {name}", listing.accepted_files())
        lines[name] = number
    return np.array([str(name).encode() for name in lines], "S")


def _label(path, number, kind, row, columns):
    given = [row.get(name) for name in columns]
    try:
        match kind:
            case "value":
                numbers = [float(value) for value in given]
                if all(map(np.isfinite, numbers)):
                    return numbers
            case "labels":
                several = given[0]
                if isinstance(several, str):
                    several = several.split(BETWEEN) if several.strip() else []
                several = [_class(label) for label in several]
                if all(several):
                    return several
            case _:
                if label := _class(given[0]):
                    return label
    except (TypeError, ValueError):
        pass
    shown = given if len(given) > 1 else given[0]
    accepted = {VALUE: "finite numbers", LABELS: "names of classes", LABEL: "the name of a class"}
    raise InputError(f"{columns[0]} is {shown!r} in line {number} of {path}", accepted[kind])


def _class(label):
    """The name of a class; "" for what is none. JSON Lines may have numbers for names."""
    is_name = isinstance(label, str | int) and not isinstance(label, bool)
    return str(label).strip() if is_name else ""
