"""Test sets of ImageNet, as their authors publish them.

Each is a folder of class folders. They differ in the folders' names, in the classes, and in what
counts as right.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convnext.data import folders, imagenet, listing, sources
from convnext.errors import InputError, require

# Errors of AlexNet on ImageNet-C over the five severities, of hendrycks/robustness
# (https://arxiv.org/abs/1903.12261). A corruption's error is divided by AlexNet's.
ALEXNET_ERRORS = {
    "gaussian_noise": 0.886428, "shot_noise": 0.894468, "impulse_noise": 0.922640,
    "defocus_blur": 0.819880, "glass_blur": 0.826268, "motion_blur": 0.785948,
    "zoom_blur": 0.798360, "snow": 0.866816, "frost": 0.826572, "fog": 0.819324,
    "brightness": 0.564592, "contrast": 0.853204, "elastic_transform": 0.646056,
    "pixelate": 0.717840, "jpeg_compression": 0.606500,
}  # fmt: skip
# Corruptions of ImageNet-C-bar (https://arxiv.org/abs/2102.11273;
# facebookresearch/augmentation-corruption).
C_BAR = (
    "blue_noise_sample", "brownish_noise", "caustic_refraction", "checkerboard_cutout",
    "cocentric_sine_waves", "inverse_sparkles", "perlin_noise", "plasma_noise",
    "single_frequency_greyscale", "sparkles",
)  # fmt: skip
GROUPS = ("noise", "blur", "weather", "digital")  # archives of ImageNet-C, and folders if kept
SEVERITIES = 5

# Folders that the archives unpack into, and other common names of them.
FOLDERS = {
    "val": ("val", "imagenet/val"),
    "real": ("val", "imagenet/val"),
    "v2": ("imagenetv2-matched-frequency-format-val", "imagenetv2-matched-frequency"),
    "v2_threshold": ("imagenetv2-threshold0.7-format-val", "imagenetv2-threshold0.7"),
    "v2_top": ("imagenetv2-top-images-format-val", "imagenetv2-top-images"),
    "a": ("imagenet-a",),
    "r": ("imagenet-r",),
    "sketch": ("sketch", "imagenet-sketch"),
    "c": ("ImageNet-C", "imagenet-c"),
    "c_bar": ("ImageNet-C-Bar", "imagenet-c-bar", "imagenet_c_bar"),
}


@dataclass(frozen=True)
class ImageSet:
    """Evaluation images and their name.

    parts: sources by name. C and C-bar have one for each corruption and severity, such as "fog/3".
    The others have one, named "".
    """

    name: str
    parts: Mapping[str, sources.Source]
    classes: tuple[int, ...] | None = None  # classes of the head that can be right; None: all
    train: sources.Source | None = None  # training images of a probe


def load(name: str, root: str | os.PathLike | None) -> ImageSet:
    """Returns a test set of FOLDERS. root is the test set's folder, or a folder that holds it.

    The class folders of "v2" and the like are numbers, all others are synsets. Labels are indices
    of ImageNet-1k's classes, those of "a" and "r" of their own 200. Labels of "real" are [1 + L]:
    the original, then all that are right, padded with -1. Images without a right label are skipped.

    Raises InputError if the set is missing, has other classes, or has an image twice.
    """
    require(name in FOLDERS, "the test set", name, ", ".join(FOLDERS))
    require(root, "--data_root", root, f"a folder with {' or '.join(FOLDERS[name])} in it")
    paths = (Path(root) / folder for folder in FOLDERS[name])
    path = next((path for path in paths if path.is_dir()), Path(root))
    require(path.is_dir(), "--data_root", root, "a folder")
    match name:
        case "c":
            return ImageSet(name, _corruptions(path, tuple(ALEXNET_ERRORS)))
        case "c_bar":
            return ImageSet(name, _corruptions(path, C_BAR))
        case "a" | "r":
            source = _files(path, imagenet.synsets(name))
            return ImageSet(name, {"": source}, tuple(imagenet.classes_of(name)))
        case "v2" | "v2_threshold" | "v2_top":
            source = _files(path, [str(index) for index in range(1000)])
        case "sketch":
            source = _files(path, imagenet.synsets("1k"))
        case _:
            source = _files(path, imagenet.synsets("1k"), image_number)
    return ImageSet(name, {"": Reassessed(source) if name == "real" else source})


def _files(root, class_names, number=None):
    """Returns the images in root/<class>/, once it is checked that these are the classes.
    `number`, of a file's name, identifies an image that must occur once."""
    listed = listing.listing(root).images
    sources.check_classes(list(listed), class_names, str(root))
    source = folders.files(root, class_names, listed)
    if number is not None:
        numbers = [number(name) for name in source.names]
        known, first = np.unique(numbers, return_index=True)
        if len(known) < len(numbers):
            again = min(set(range(len(numbers))) - set(first.tolist()))
            before = numbers.index(numbers[again])
            raise InputError(
                f"{source.path(again)} is the same image as {source.path(before)}",
                "each image once",
            )
    return source


def image_number(name: bytes) -> int:
    """Returns 293 for ILSVRC2012_val_00000293.JPEG. Raises InputError for other names."""
    text = os.fsdecode(name)
    match = re.fullmatch(r"ILSVRC2012_val_(\d{8})\.\w+", text)
    ok = match and 1 <= int(match[1]) <= len(imagenet.real())
    require(ok, "the name of an image", text, "ILSVRC2012_val_00000001.JPEG to ..._00050000.JPEG")
    return int(match[1])


def _corruptions(root, names):
    """Returns {"fog/3": source, ...}: five severities of each corruption, in numeric order."""
    parts = {}
    for name in names:
        places = [root / name, *(root / group / name for group in GROUPS)]
        place = next((path for path in places if path.is_dir()), None)
        require(place, f"the corruption {name} of {root}", "missing", f"a folder {places[0]}")
        folders_in = [entry.name for entry in place.iterdir() if entry.is_dir()]
        try:
            severities = sorted(folders_in, key=float)
        except ValueError:
            severities = []
        accepted = f"{SEVERITIES}, each named by its number"
        ok = len(severities) == SEVERITIES
        require(ok, f"the severities in {place}", ", ".join(sorted(folders_in)), accepted)
        synsets = imagenet.synsets("1k")
        for number, severity in enumerate(severities, 1):
            parts[f"{name}/{number}"] = _files(place / severity, synsets, image_number)
    return parts


class Reassessed(sources.Part):
    """Images of the validation set with their labels of ReaL (see `load`)."""

    def __init__(self, files: folders.Files):
        right = [imagenet.real()[image_number(name) - 1] for name in files.names]
        counted = np.flatnonzero([len(classes) > 0 for classes in right])
        require(len(counted), "the number of images with a label of ReaL", 0, "1 and more")
        super().__init__(files, counted)
        self.labels = np.full((len(counted), 1 + max(map(len, right))), -1, np.int32)
        for row, index in enumerate(counted):
            self.labels[row, 0] = files.labels[index]
            self.labels[row, 1 : 1 + len(right[index])] = right[index]

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {**super().__getitem__(index), "label": self.labels[index]}


def mean_corruption_error(results: Mapping[str, Mapping[str, float]]) -> float:
    """Returns the mCE, as a fraction, of {"fog/3": {"top1": 0.6}, ...} on ImageNet-C: the mean over
    the corruptions of the mean error over the severities, divided by AlexNet's."""
    shares = []
    for name, alexnet_error in ALEXNET_ERRORS.items():
        severities = range(1, SEVERITIES + 1)
        errors = [1 - results[f"{name}/{severity}"]["top1"] for severity in severities]
        shares.append(np.mean(errors) / alexnet_error)
    return float(np.mean(shares))
