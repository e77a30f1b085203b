"""Data sets of encoded images, as TensorFlow Datasets or Hugging Face's datasets prepares them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convnext.errors import InputError
from convnext.files import open_files
from convnext.images import decode

# Other accepted values of data.root for these names (see sources.load).
NAMES = "digits, folder, arrayrecord, parquet, or a data set of TensorFlow Datasets"
PUBLISHED = {
    "cifar10": "cifar-10-python.tar.gz",
    "cifar100": "cifar-100-python.tar.gz",
    "oxford_flowers102": "a folder with imagelabels.mat",
}


class Encoded:
    """Rows with the bytes of an image file and the index of a class."""

    decode = staticmethod(decode.decode_file)
    upright = False  # whether images are turned as their EXIF data say

    def __init__(self, rows: Any, class_names: Sequence[str], *, image: str, label: str, name: str):
        self.rows, self.class_names = rows, class_names
        self.image, self.label, self.name = image, label, name

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        try:
            row = self.rows[int(index)]
        except (RuntimeError, ValueError, OSError) as error:
            open_files.check_error(error)
            raise
        data = row[self.image]
        if isinstance(data, dict):  # Hugging Face's
            path, data = data["path"], data["bytes"]
            if data is None:
                raise InputError(
                    f"{index} of {self.name} is the name of a file, {path}",
                    "images that are in the data, as push_to_hub writes them",
                )
        image = self.decode(data, f"{index} of {self.name}", upright=self.upright)
        label = row[self.label]
        if label is None:
            raise InputError(f"{index} of {self.name} has no label", "images with one")
        return {"image": image, "label": np.int32(label)}


def tfds(
    name: str,
    root: str | None,
    train_split: str | None,
    val_split: str | None,
    val_fraction: float | None = None,
) -> tuple[Encoded, Encoded | None]:
    """Reads a data set that TensorFlow Datasets prepared as ArrayRecord, without TensorFlow.

    name: such as "imagenet2012" or "imagenet2012:5.1.0". It is looked for in root, and then where
    TFDS keeps data sets. Splits are in its notation, such as "train[:90%]". None stands for
    "train", and for the first of "validation" and "test" that exists and has labels.

    Returns the training and the validation images; the latter are None if there is no such split.
    Raises InputError if there is one but none has labels, unless val_fraction is set.
    """
    import tensorflow_datasets

    folder = name.partition(":")[0].partition("/")[0]
    data_dir = root if root and (Path(root) / folder).is_dir() else None
    try:
        builder = tensorflow_datasets.builder(name, data_dir=data_dir, try_gcs=False)
    except tensorflow_datasets.core.DatasetNotFoundError as error:
        there = f", and there is none in data.root, {root!r}" if root else ""
        raise InputError(f"data.name is {name!r}{there}", NAMES) from error
    except (AssertionError, TypeError, ValueError) as error:  # no such version or config, no name
        reason = str(error).partition("\n")[0]
        raise InputError(f"data.name is {name!r}: {reason}", NAMES) from error
    prepared = "prepared by download_and_prepare(file_format='array_record')"
    if not builder.info.splits:
        there = f"of it in data.root, {root!r}, and nothing " if root and not data_dir else ""
        published = f"{PUBLISHED[name]}, or " if name in PUBLISHED else ""
        raise InputError(
            f"data.name is {name!r}, but there is nothing {there}in {builder.data_dir}",
            f"{published}a data set that is {prepared}, in data.root",
        )
    features = builder.info.features
    image = _only(features, tensorflow_datasets.features.Image, "images", name)
    label = _only(features, tensorflow_datasets.features.ClassLabel, "classes", name)
    decoders = {image: tensorflow_datasets.decode.SkipDecoding()}

    def source(split, field="data.val_split"):
        try:
            rows = builder.as_data_source(split, decoders=decoders)
        except NotImplementedError as error:
            problem = f"{builder.data_dir} is {builder.info.file_format}"
            raise InputError(problem, f"a data set that is {prepared}") from error
        except ValueError as error:
            accepted = f"{', '.join(builder.info.splits)}, and parts and sums of them"
            raise InputError(f"{field} is {split!r}", accepted) from error
        return Encoded(
            rows, features[label].names, image=image, label=label, name=f"{name}/{split}"
        )

    train = _labelled(source(train_split or "train", "data.train_split"))
    if val_split:
        val = _labelled(source(val_split))
    else:
        val = _val_split(name, builder.info.splits, source, val_fraction)
    infos = [builder.info.splits[each.rows.split] for each in (train, val) if each]
    open_files.check(sum(len(info.file_instructions) for info in infos), name)
    return train, val


def parquet(
    root: str | None,
    train_split: str | None,
    val_split: str | None,
    val_fraction: float | None = None,
) -> tuple[Encoded, Encoded | None]:
    """Reads a folder of Parquet files as the Hugging Face Hub has them, such as
    root/data/train-00000-of-00010.parquet. Needs the package datasets. For splits see `tfds`."""
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            f"data.name is 'parquet', but datasets cannot be imported ({error})",
            "pip install datasets",
        ) from error
    if not root or not Path(root).is_dir():
        raise InputError(f"data.root is {root!r}", "a folder of Parquet files")
    try:
        splits = datasets.load_dataset(root)
    except (ValueError, OSError) as error:  # from datasets, for a folder without data
        raise InputError(f"data.root is {root!r}: {error}", "a folder of Parquet files") from error

    def source(split, field="data.val_split"):
        if split not in splits:
            raise InputError(f"{field} is {split!r}", ", ".join(splits))
        rows = splits[split]
        image = _only(rows.features, datasets.Image, "images", root)
        label = _only(rows.features, datasets.ClassLabel, "classes", root)
        names = rows.features[label].names
        rows = rows.select_columns([image, label]).cast_column(image, datasets.Image(decode=False))
        return Encoded(rows, names, image=image, label=label, name=f"{root}/{split}")

    train = _labelled(source(train_split or "train", "data.train_split"))
    if val_split:
        val = _labelled(source(val_split))
    else:
        val = _val_split("parquet", splits, source, val_fraction)
    for each in (train, val) if val else (train,):
        _check_column(each)
    return train, val


def _val_split(name, splits, source, val_fraction):
    """Returns the first split with one of the usual names that has labels, or None."""
    candidates = [split for split in ("validation", "val", "test") if split in splits]
    for split in candidates:
        if _is_labelled(val := source(split)):
            return val
    if candidates and val_fraction is None:
        raise InputError(
            f"{name} has no validation images: its {' and '.join(candidates)} has no labels",
            "--config.data.val_fraction, or --config.data.val_split with the name of a split with "
            "labels",
        )
    return None


def _labelled(source):
    if not _is_labelled(source):
        raise InputError(
            f"{source.name} has no labels: that of its first image is {_first_label(source)}",
            f"a split with labels, 0 to {len(source.class_names) - 1}",
        )
    return source


def _is_labelled(source):
    """Returns whether a split has labels, by the first one. TFDS and Hugging Face put -1 or None
    where there are none."""
    return len(source) == 0 or _first_label(source) not in (None, -1)


def _first_label(source):
    return source.rows[0][source.label]


def _check_column(source):
    """Checks every label of a Parquet data set, which is cheap, as they lie apart from the
    images."""
    labels = source.rows.data.column(source.label).to_numpy()  # with NaN for None
    count = len(source.class_names)
    wrong = np.flatnonzero(~((labels >= 0) & (labels < count)))
    if wrong.size:
        label = source.rows[int(wrong[0])][source.label]
        raise InputError(
            f"the label of image {wrong[0]} of {source.name} is {label}",
            f"0 to {count - 1}, of the {count} classes",
        )


def _only(features, kind, what, name):
    """Returns the name of the only feature of a kind."""
    keys = [key for key, feature in features.items() if isinstance(feature, kind)]
    if len(keys) != 1:
        raise InputError(
            f"{name} has {len(keys)} features that are {what}", "a data set with one such feature"
        )
    return keys[0]
