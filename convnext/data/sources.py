"""Where examples come from.

A source has `class_names`, a length, and at each index an example: image uint8 [H, W, 3] of any
size, label int32. `load` gives the two of a data set, to train and to validate on.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from convnext import losses
from convnext.data import decode
from convnext.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
ACCEPTED = (
    "accepted: --config.data.root=ROOT with ROOT/train/<class>/*.jpg (or png, webp) and "
    "ROOT/val/<class>/*.jpg, or ROOT/<class>/*.jpg and --config.data.val_fraction"
)


class Source(Protocol):
    class_names: Sequence[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, np.ndarray]: ...


def load(
    name: str, root: str | None = None, val_fraction: float | None = None
) -> tuple[Source, Source]:
    """The sources to train and to validate on.

    name "digits": the handwritten digits that ship with scikit-learn.
    name "folder": root/train/<class>/ and root/val/<class>/. Where root has no val folder,
    val_fraction of each class in root/train, or in root itself, is kept for validation.

    Raises InputError where there is nothing to read.
    """
    match name:
        case "digits":
            return digits()
        case "folder":
            return folder(root, val_fraction)
        case _:
            raise InputError(f"data.name is {name!r}; accepted: digits, folder")


def check_num_classes(source: Source, num_classes: int | None, problem_type: str) -> int:
    """The number of classes of the data; of a regression, of the numbers in a label.

    Raises InputError where the config says another one; None takes what the data has.
    """
    if problem_type == losses.REGRESSION:
        outputs = np.size(source[0]["label"])
        if num_classes not in (None, outputs):
            raise InputError(
                f"model.num_classes is {num_classes} in a regression; accepted: {outputs}, as many "
                "as a label has numbers"
            )
        return outputs
    found = len(source.class_names)
    if num_classes not in (None, found):
        raise InputError(f"model.num_classes is {num_classes}; accepted: {found}, as the data has")
    return found


def digits() -> tuple[Source, Source]:
    """1,797 digits of 8x8 pixels, by 43 people, in the order in which they were written.

    The first 1,437 to train on, the last 360 to validate on: other hands, so harder than a
    random split. UCI, "Optical Recognition of Handwritten Digits",
    https://doi.org/10.24432/C50P49.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    images = np.round(data.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(images[..., None], 3, axis=-1)
    labels = data.target.astype(np.int32)
    names = [str(name) for name in data.target_names]
    split = 1437
    return Arrays(images[:split], labels[:split], names), Arrays(
        images[split:], labels[split:], names
    )


class Arrays:
    """Images [N, H, W, 3] and labels [N] in memory."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, class_names: Sequence[str]):
        self.images, self.labels, self.class_names = images, labels, class_names

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {"image": self.images[index], "label": self.labels[index]}


def folder(root: str | None, val_fraction: float | None = None) -> tuple[Source, Source]:
    """One folder a class, in alphabetical order; see `load`."""
    if not root:
        raise InputError(f"data.root is not set; {ACCEPTED}")
    if val_fraction is not None and not 0 < val_fraction < 1:
        raise InputError(
            f"data.val_fraction is {val_fraction}; accepted: a number between 0 and 1, both "
            "excluded"
        )
    train_root, val_root = Path(root) / "train", Path(root) / "val"
    if val_root.is_dir() or val_fraction is None:
        train, val = _list_images(train_root), _list_images(val_root)
    else:
        one_root = train_root if train_root.is_dir() else Path(root)
        train, val = _split(_list_images(one_root), val_fraction)
    unknown = sorted(val.keys() - train.keys())
    if unknown:
        raise InputError(
            f"class {unknown[0]!r} is in {val_root} but not in {train_root}; accepted: validation "
            "classes that are also trained on"
        )
    names = sorted(train)
    return Files(train, names), Files(val, names)


class Files:
    """Image files by class, decoded when they are asked for."""

    def __init__(self, paths_by_class: dict[str, list[str]], class_names: Sequence[str]):
        self.class_names = class_names
        self.paths = [path for name in class_names for path in paths_by_class.get(name, ())]
        counts = [len(paths_by_class.get(name, ())) for name in class_names]
        self.labels = np.repeat(np.arange(len(class_names), dtype=np.int32), counts)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {"image": read_image(self.paths[index]), "label": self.labels[index]}


def read_image(path: str) -> np.ndarray:
    """uint8 [H, W, 3]. Raises InputError, with the path, where the file is no whole image."""
    try:
        with Image.open(path) as image:
            return np.asarray(decode.frame_to_rgb(image))
    # What Pillow raises for damaged files depends on the format.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"cannot read the image {path}: {error}") from error


def _list_images(root):
    """{class: sorted paths} of the folders in root."""
    if not root.is_dir():
        raise InputError(f"no folder {root}; {ACCEPTED}")
    classes = {}
    for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
        if entry.is_dir() and not entry.name.startswith("."):
            files = [f.path for f in os.scandir(entry.path) if _is_image(f.name)]
            if not files:
                raise InputError(
                    f"no images in {entry.path}; accepted: files ending in "
                    f"{', '.join(IMAGE_SUFFIXES)}"
                )
            classes[entry.name] = sorted(files)
    if not classes:
        raise InputError(f"no class folders in {root}; {ACCEPTED}")
    return classes


def _is_image(name):
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def _split(paths_by_class, val_fraction):
    """The same share of each class for validation, at least one image where there are two."""
    train, val = {}, {}
    for index, (name, paths) in enumerate(paths_by_class.items()):
        order = np.random.default_rng(index).permutation(len(paths))
        count = min(max(round(len(paths) * val_fraction), 1), len(paths) - 1)
        val[name] = sorted(paths[i] for i in order[:count])
        train[name] = sorted(paths[i] for i in order[count:])
    return train, {name: paths for name, paths in val.items() if paths}
