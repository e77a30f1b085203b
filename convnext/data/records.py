"""Data sets in shards of ArrayRecord, which `python -m tools.prepare` writes.

ROOT/dataset.json names the classes and the shards of each split. A record is a MessagePack map of
"image", the bytes of the file, "class" and "name".
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grain
import msgpack
import numpy as np

from convnext.data import decode
from convnext.errors import InputError

INDEX = "dataset.json"


class Records:
    """Images of ArrayRecord files, decoded when they are asked for."""

    def __init__(self, paths: Sequence[Path], class_names: Sequence[str]):
        self.class_names = class_names
        self._records = grain.sources.ArrayRecordDataSource([str(path) for path in paths])
        self._labels = {name: np.int32(label) for label, name in enumerate(class_names)}

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        record = msgpack.unpackb(self._records[index])
        image = decode.decode_file(record["image"], record["name"])
        return {"image": image, "label": self._labels[record["class"]]}


def pack(image: bytes, class_name: str, name: str) -> bytes:
    """A record of the bytes of an image file."""
    return msgpack.packb({"image": image, "class": class_name, "name": name})


def load(root: str | None) -> tuple[Records, Records | None]:
    """The splits "train" and "val", None where there is none. Raises InputError where they are not
    whole."""
    accepted = "accepted: --config.data.root=DIR, of python -m tools.prepare --out=DIR"
    if not root:
        raise InputError(f"data.root is not set; {accepted}")
    index = read_index(Path(root))
    if index is None:
        raise InputError(f"no {INDEX} in {root}; {accepted}")
    if not index["complete"]:
        raise InputError(
            f"{root} is not complete; accepted: the same tools.prepare again, to its end"
        )
    train, val = (
        [Path(root) / shard["file"] for shard in index["splits"].get(split, ())]
        for split in ("train", "val")
    )
    missing = [path for path in train + val if not path.is_file()]
    if missing:
        raise InputError(f"no shard {missing[0]}; accepted: all files that {INDEX} names")
    if not train:
        raise InputError(f"{root} has no split to train on; {accepted}")
    classes = index["classes"]
    return Records(train, classes), Records(val, classes) if val else None


def read_index(root: Path) -> dict[str, Any] | None:
    """What dataset.json says; None where there is none."""
    path = root / INDEX
    return json.loads(path.read_text()) if path.is_file() else None


def write_index(root: Path, index: Mapping[str, Any]) -> None:
    temporary = root / f"{INDEX}.tmp"
    temporary.write_text(json.dumps(index, indent=1) + "\n")
    temporary.replace(root / INDEX)
