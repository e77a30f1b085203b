"""Writes a data set of images into shards of ArrayRecord, for --config.data.name=arrayrecord.

    python -m tools.prepare --source=FOLDER_OR_TAR --out=DIR

The source is one of

    a folder of train/<class>/*.jpg (or png, webp) and val/<class>/*.jpg, or of <class>/*.jpg
    a folder of ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar, ILSVRC2012_devkit_t12.tar.gz
    a tar archive: one of these, of such folders, or of a <class>.tar for each class

Every image is decoded once to check it. Damaged images are reported and skipped. Run the same
command again to resume after the last whole shard.
"""

import hashlib
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path, PurePath

from rich import progress

from convnext import commands
from convnext.data import archives, arrayrecord, folders
from convnext.errors import InputError, reported, require
from convnext.files import open_files
from convnext.images import decode


def main(argv: list[str] | None = None) -> None:
    parser = commands.parser("prepare", __doc__)
    parser.add_argument("--source", type=Path, required=True, metavar="FOLDER_OR_TAR")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--val_fraction", type=float, help="of each class, if there is no val")
    parser.add_argument("--images_per_shard", type=int, default=8192, metavar="N")
    workers = "processes that check the images; 0: this one"
    parser.add_argument(
        "--num_workers", type=int, default=os.cpu_count(), metavar="N", help=workers
    )
    with reported():
        prepare(**vars(parser.parse_args(argv)))


def prepare(
    source: Path,
    out: Path,
    *,
    val_fraction: float | None = None,
    images_per_shard: int = 8192,
    num_workers: int = 0,
) -> None:
    """Writes the shards, and dataset.json after each. Raises InputError if the source cannot be
    read or has a class in val alone, or if out holds another source, by its path or the names of
    its images."""
    require(images_per_shard > 0, "--images_per_shard", images_per_shard, "1 and more")
    require(num_workers >= 0, "--num_workers", num_workers, "0 and more")
    given = {
        "source": str(source.resolve()),
        "val_fraction": val_fraction,
        "images_per_shard": images_per_shard,
    }
    new = {
        **given,
        "complete": False,
        "read": 0,
        "names": "",
        "classes": [],
        "train_classes": [],
        "splits": {},
        "damaged": [],
    }
    entries = _entries(source, val_fraction)
    index = {**new, **(arrayrecord.read_index(out) or {})}
    for name, value in given.items():
        require(index[name] == value, f"--{name}", value, f"{index[name]!r}, as {out} has")
    if not index["complete"]:
        out.mkdir(parents=True, exist_ok=True)
        _write(entries, out, index, num_workers)
    for split, shards in index["splits"].items():
        images = sum(shard["images"] for shard in shards)
        print(f"{split}: {images:,} images in {len(shards):,} shards")
    print(f"{len(index['classes']):,} classes; {len(index['damaged']):,} damaged images skipped")


def _entries(source: Path, val_fraction: float | None) -> Iterator[archives.Entry]:
    if source.is_file():
        return archives.tar_entries(source)
    require(source.is_dir(), "--source", str(source), "a folder, or a tar archive")
    tars = [source / name for name in (archives.IMAGENET_TRAIN, archives.IMAGENET_VAL)]
    if tars[0].is_file():
        return _tar_entries([path for path in tars if path.is_file()])
    train_root, val_root, _ = folders.parts(source)
    if val_fraction is None and val_root is None:
        return _folder_entries({"train": folders.class_folders(train_root)})
    return _folder_entries(
        dict(zip(("train", "val"), folders.load(source, val_fraction), strict=True))
    )


def _tar_entries(paths):
    sizes = [path.stat().st_size for path in paths]
    for path, size, before in zip(paths, sizes, (0, *sizes[:-1]), strict=True):
        for entry in archives.tar_entries(path):
            yield entry._replace(done=(before + entry.done * size) / sum(sizes))


def _folder_entries(splits):
    total = sum(len(files) for files in splits.values())
    done = 0
    for split, files in splits.items():
        for index in range(len(files)):
            path = files.path(index)
            class_name = files.class_names[files.labels[index]]
            yield archives.Entry(split, class_name, str(path), path.read_bytes, done / total)
            done += 1


def _write(entries, out, index, num_workers):
    bar = progress.Progress(
        progress.TextColumn("{task.fields[read]:,} images"),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
    )
    shard = None
    with bar:
        task = bar.add_task("", total=1.0, read=index["read"])
        _skip_written(entries, index, out)
        for entry, data, damage in _checked(entries, num_workers):
            if shard and (shard.split != entry.split or shard.images == index["images_per_shard"]):
                shard.close(index)
                shard = None
            shard = shard or _Shard(out, entry.split, index)
            if damage:
                bar.console.print(f"skipped: {damage}", highlight=False, markup=False)
            shard.add(entry, data, damage)
            bar.update(task, completed=entry.done, read=index["read"] + shard.read)
        if shard:
            shard.close(index)
        bar.update(task, completed=1.0)
    require(index["splits"], "--source", index["source"], "a folder or archive with images")
    unknown = sorted({*index["classes"]} - {*index["train_classes"]})
    if unknown:
        raise InputError(
            f"class {unknown[0]!r} is in val but not in train of {index['source']}",
            "validation classes that are also trained on",
        )
    index["complete"] = True
    arrayrecord.write_index(out, index)


def _skip_written(entries, index, out):
    """Skips the entries that out already has. Raises InputError if their names have changed."""
    names = ""
    for entry in islice(entries, index["read"]):
        names = _with_name(names, entry)
    if names != index["names"]:
        raise InputError(
            f"{index['source']} begins with other images than those that {out} has of it",
            "the source as it was, or another --out",
        )


def _with_name(names, entry):
    """Returns the hash of the names of all images so far and of this one's."""
    name = "\0".join((names, entry.split, entry.class_name, PurePath(entry.name).name))
    return hashlib.sha256(os.fsencode(name)).hexdigest()


def _writer():
    """The class of ArrayRecord's writer, which has no wheel for Windows."""
    try:
        from array_record.python.array_record_module import ArrayRecordWriter
    except ImportError as error:
        raise InputError(f"array_record cannot be imported ({error})", "Linux or macOS") from error
    return ArrayRecordWriter


class _Shard:
    """Shard that is being written. The file gets its name when it is whole."""

    def __init__(self, out: Path, split: str, index: dict):
        self.split, self.out, self.names = split, out, index["names"]
        number = len(index["splits"].get(split, ()))
        self.images = self.read = 0
        self.damaged: list[str] = []
        self.classes: set[str] = set()
        self.file = f"{split}-{number:05d}.array_record"
        self.unfinished = out / f"{self.file}.tmp"
        # One record a chunk, as records are read in any order; images are compressed already.
        self.writer = _writer()(str(self.unfinished), "group_size:1,uncompressed")

    def add(self, entry: archives.Entry, data: bytes, damage: str | None) -> None:
        self.read += 1
        self.names = _with_name(self.names, entry)
        self.classes.add(entry.class_name)
        if damage:
            self.damaged.append(damage)
        else:
            self.writer.write(arrayrecord.pack(data, entry.class_name, entry.name))
            self.images += 1

    def close(self, index: dict) -> None:
        """Gives the file its name, and then adds it to dataset.json."""
        self.writer.close()
        if self.images:
            self.unfinished.replace(self.out / self.file)
            shard = {"file": self.file, "images": self.images}
            index["splits"].setdefault(self.split, []).append(shard)
        else:
            self.unfinished.unlink()
        index["read"] += self.read
        index["names"] = self.names
        index["damaged"] += self.damaged
        for key in ("classes", "train_classes") if self.split == "train" else ("classes",):
            index[key] = sorted({*index[key], *self.classes})
        arrayrecord.write_index(self.out, index)


def _checked(entries, num_workers):
    """Yields entries in order, with their bytes and what is wrong with these, or None. Holds few
    at a time."""
    if num_workers == 0:
        for entry in entries:
            data, damage = _read(entry)
            yield entry, data, damage or _damage(data, entry.name)
        return
    with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool:
        window = deque()
        for entry in entries:
            data, damage = _read(entry)
            window.append((entry, data, damage, pool.submit(_damage, data, entry.name)))
            if len(window) > 4 * num_workers:
                first, data, damage, checked = window.popleft()
                yield first, data, damage or checked.result()
        for entry, data, damage, checked in window:
            yield entry, data, damage or checked.result()


def _read(entry):
    """Returns the entry's bytes, and the reason if there are none."""
    try:
        return entry.read(), None
    except InputError as error:
        return b"", error.problem
    except OSError as error:  # decoding no bytes reports the image as damaged
        open_files.check_error(error)
        return b"", None


def _damage(data, name):
    try:
        decode.decode_file(data, name)
    except InputError as error:
        return error.problem
    return None


if __name__ == "__main__":
    main()
