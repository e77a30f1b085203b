"""The classical side of `python -m dev.small_sets`, started by it: a support vector machine on
histograms of gradients, by scikit-learn and scikit-image.

    python -m dev.benchmarks.gradient_histograms ROOT

ROOT has train/<class>/ and val/<class>/. Prints a JSON object: the top-1 on the validation images.
"""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
from skimage.feature import hog
from sklearn.svm import SVC

SIDE = 64  # pixels to which an image is resized
PENALTY = 10.0
# Of Dalal and Triggs (CVPR 2005).
HISTOGRAMS = dict(
    orientations=9, pixels_per_cell=(8, 8), cells_per_block=(2, 2), block_norm="L2-Hys"
)


def main(root: str) -> None:
    (learned, labels), (asked, expected) = (read(Path(root) / split) for split in ("train", "val"))
    machine = SVC(C=PENALTY).fit(learned, labels)
    print(json.dumps({"top1": machine.score(asked, expected)}))


def read(folder: Path) -> tuple[np.ndarray, list[str]]:
    """The features, float32 [N, 1764], and the class of each image."""
    paths = sorted(folder.glob("*/*.jpg"))
    features = np.stack([features_of(path) for path in paths]).astype(np.float32)
    return features, [path.parent.name for path in paths]


def features_of(path: Path) -> np.ndarray:
    grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    return hog(cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA), **HISTOGRAMS)


if __name__ == "__main__":
    main(sys.argv[1])
