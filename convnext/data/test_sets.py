"""The named test sets of ImageNet, as their authors publish them.

Each is a folder of class folders; what differs is their names, which classes there are, and what
counts as right.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from convnext.data import folders, imagenet, sources
from convnext.errors import InputError, require

# Errors of AlexNet on ImageNet-C over the five severities, of hendrycks/robustness
# (https://arxiv.org/abs/1903.12261): a corruption's error counts in proportion to it.
ALEXNET_ERRORS = {
    "gaussian_noise": 0.886428, "shot_noise": 0.894468, "impulse_noise": 0.922640,
    "defocus_blur": 0.819880, "glass_blur": 0.826268, "motion_blur": 0.785948,
    "zoom_blur": 0.798360, "snow": 0.866816, "frost": 0.826572, "fog": 0.819324,
    "brightness": 0.564592, "contrast": 0.853204, "elastic_transform": 0.646056,
    "pixelate": 0.717840, "jpeg_compression": 0.606500,
}  # fmt: skip
# Of ImageNet-C-bar (https://arxiv.org/abs/2102.11273; facebookresearch/augmentation-corruption).
C_BAR = (
    "blue_noise_sample", "brownish_noise", "caustic_refraction", "checkerboard_cutout",
    "cocentric_sine_waves", "inverse_sparkles", "perlin_noise", "plasma_noise",
    "single_frequency_greyscale", "sparkles",
)  # fmt: skip
GROUPS = ("noise", "blur", "weather", "digital")  # archives of ImageNet-C, and folders if kept
SEVERITIES = 5

# The folders into which the archives unpack; what else they are called.
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


class TestSet(NamedTuple):
    """Sources by the name of the part, of which C and C-bar have one for each corruption and
    severity, "fog/3"; the others one, ""."""

    parts: dict[str, sources.Source]
    classes: tuple[int, ...] | None  # of the head's, the ones that can be right; None: all

    __test__ = False  # for pytest


def load(name: str, root: str | os.PathLike | None) -> TestSet:
    """The test set of FOLDERS in root, a folder that holds its folder, or is it.

    The class folders of "v2" and the like are numbers, of all others synsets. Labels are indices of
    ImageNet-1k's classes, of "a" and "r" of their own 200. Labels of "real" are [1 + L]: the
    original, then all that are right, filled up with -1; images without a right one are left out.

    Raises InputError where the set is not there, has other classes, or an image twice.
    """
    require(name in FOLDERS, "the test set", name, ", ".join(FOLDERS))
    require(root, "--data_root", root, f"a folder with {' or '.join(FOLDERS[name])} in it")
    found = [path for path in (Path(root) / folder for folder in FOLDERS[name]) if path.is_dir()]
    path = found[0] if found else Path(root)
    require(path.is_dir(), "--data_root", root, "a folder")
    match name:
        case "c":
            return TestSet(_corruptions(path, tuple(ALEXNET_ERRORS)), None)
        case "c_bar":
            return TestSet(_corruptions(path, C_BAR), None)
        case "a" | "r":
            source = _files(path, imagenet.synsets(name))
            return TestSet({"": source}, tuple(imagenet.classes_of(name)))
        case "v2" | "v2_threshold" | "v2_top":
            return TestSet({"": _files(path, [str(index) for index in range(1000)])}, None)
        case "sketch":
            return TestSet({"": _files(path, imagenet.synsets("1k"))}, None)
    source = _files(path, imagenet.synsets("1k"), image_number)
    return TestSet({"": Reassessed(source) if name == "real" else source}, None)


def _files(root, class_names, number=None):
    """Of root/<class>/, where these classes are. `number` of a file's name is of one image."""
    listed = folders.listing(root)
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
    """Of ILSVRC2012_val_00000293.JPEG 293. Raises InputError for other names."""
    text = os.fsdecode(name)
    match = re.fullmatch(r"ILSVRC2012_val_(\d{8})\.\w+", text)
    ok = match and 1 <= int(match[1]) <= len(imagenet.real())
    require(ok, "the name of an image", text, "ILSVRC2012_val_00000001.JPEG to ..._00050000.JPEG")
    return int(match[1])


def _corruptions(root, names):
    """{"fog/3": source, ...}: five severities of each, in the order of their numbers."""
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
    """The images of the validation set with their labels of ReaL; see `load`."""

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
    """mCE, as a fraction, of {"fog/3": {"top1": 0.6}, ...} on ImageNet-C: the mean over the
    corruptions of the error over all severities, as a share of AlexNet's."""
    shares = []
    for name, of_alexnet in ALEXNET_ERRORS.items():
        severities = range(1, SEVERITIES + 1)
        errors = [1 - results[f"{name}/{severity}"]["top1"] for severity in severities]
        shares.append(np.mean(errors) / of_alexnet)
    return float(np.mean(shares))
