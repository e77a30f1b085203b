"""Data sets in ArrayRecord shards, as `python -m tools.prepare` writes them.

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

from convnext.errors import InputError, require
from convnext.files import open_files, text
from convnext.images import decode

INDEX = "dataset.json"
WHOLE = "what python -m tools.prepare wrote"


class Records:
    """Images in ArrayRecord files, each decoded when it is asked for.

    shards: those of a split, as in dataset.json. A damaged record raises InputError with the shard
    and the place in it.
    """

    decode = staticmethod(decode.decode_file)
    upright = False  # whether images are turned as their EXIF data say

    def __init__(self, root: Path, shards: Sequence[Mapping[str, Any]], class_names: Sequence[str]):
        self.class_names = class_names
        self._paths = [root / shard["file"] for shard in shards]
        self._ends = np.cumsum([shard["images"] for shard in shards])
        self._labels = {name: np.int32(label) for label, name in enumerate(class_names)}
        try:
            self._records = grain.sources.ArrayRecordDataSource(list(map(str, self._paths)))
        except (RuntimeError, ValueError, OSError) as error:
            open_files.check_error(error)
            raise InputError(f"cannot read the shards in {root}: {error}", WHOLE) from error
        given, expected = len(self._records), sum(shard["images"] for shard in shards)
        require(given == expected, f"the number of images in {root}", given, f"{expected}: {WHOLE}")

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        try:
            record = msgpack.unpackb(self._records[index])
        except (RuntimeError, ValueError) as error:  # ArrayRecord's, for a wrong hash; msgpack's
            open_files.check_error(error)
            raise InputError(f"cannot read {self._place(index)}: {error}", WHOLE) from error
        if not _is_record(record) or record["class"] not in self._labels:
            raise InputError(f"{self._place(index)} is no image of a class", WHOLE)
        image = self.decode(record["image"], record["name"], upright=self.upright)
        return {"image": image, "label": self._labels[record["class"]]}

    def _place(self, index):
        shard = int(np.searchsorted(self._ends, index, side="right"))
        first = self._ends[shard - 1] if shard else 0
        return f"record {index - first} of {self._paths[shard]}"


def _is_record(value):
    kinds = {"image": bytes, "class": str, "name": str}
    return (
        isinstance(value, dict)
        and value.keys() == kinds.keys()
        and all(isinstance(value[key], kind) for key, kind in kinds.items())
    )


def pack(image: bytes, class_name: str, name: str) -> bytes:
    """Returns the record of an image file."""
    return msgpack.packb({"image": image, "class": class_name, "name": name})


def load(root: str | None) -> tuple[Records, Records | None]:
    """Returns the splits "train" and "val"; the second is None if there is none. Raises InputError
    if they are not whole."""
    accepted = "--config.data.root=DIR, of python -m tools.prepare --out=DIR"
    if not root:
        raise InputError("data.root is not set", accepted)
    index = read_index(Path(root))
    if index is None:
        raise InputError(f"no {INDEX} in {root}", accepted)
    if not index["complete"]:
        raise InputError(f"{root} is not complete", "the same tools.prepare again, to its end")
    splits = [index["splits"].get(split, []) for split in ("train", "val")]
    for shard in splits[0] + splits[1]:
        if not (path := Path(root) / shard["file"]).is_file():
            raise InputError(f"no shard {path}", f"all files that {INDEX} names")
    if not splits[0]:
        raise InputError(f"{root} has no training split", accepted)
    open_files.check(len(splits[0] + splits[1]), root)
    train, val = (
        Records(Path(root), shards, index["classes"]) if shards else None for shards in splits
    )
    return train, val


def read_index(root: Path) -> dict[str, Any] | None:
    """Reads dataset.json; None if there is none. Raises InputError if tools.prepare does not write
    such a file."""
    path = root / INDEX
    if not path.is_file():
        return None
    try:
        index = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read {path}: {error}", WHOLE) from error
    if not _is_index(index):
        raise InputError(f"{path} does not name classes and shards", WHOLE)
    return index


def _is_index(index):
    def is_shard(shard):
        return (
            isinstance(shard, dict)
            and isinstance(name := shard.get("file"), str)
            and name == Path(name).name
            # array_record takes a name that ends in "[0:9]" as a part of a file.
            and name.endswith(".array_record")
            and type(shard.get("images")) is int
            and shard["images"] > 0
        )

    def is_list_of(kind, values):
        return isinstance(values, list) and all(isinstance(value, kind) for value in values)

    return (
        isinstance(index, dict)
        and {"source", "val_fraction", "images_per_shard"} <= index.keys()
        and isinstance(index.get("complete"), bool)
        and type(index.get("read")) is int
        and is_list_of(str, index.get("damaged"))
        and isinstance(index.get("names", ""), str)
        and is_list_of(str, index.get("train_classes", []))
        and is_list_of(str, classes := index.get("classes"))
        and len(set(classes)) == len(classes)
        and isinstance(splits := index.get("splits"), dict)
        and all(isinstance(shards, list) for shards in splits.values())
        and all(is_shard(shard) for shards in splits.values() for shard in shards)
    )


def write_index(root: Path, index: Mapping[str, Any]) -> None:
    """Replaces dataset.json as a whole."""
    text.replace(root / INDEX, json.dumps(index, indent=1) + "\n")
