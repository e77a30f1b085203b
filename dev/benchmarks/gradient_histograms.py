"""The classical side of `python -m dev.small_sets`, started by it: a support vector machine on
histograms of gradients.

    python -m dev.benchmarks.gradient_histograms ROOT

ROOT has train/<class>/ and val/<class>/. Prints a JSON object: the penalty C, chosen by
cross-validation on the training images, and the top-1 on the validation images.
"""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
from skimage.feature import hog
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

SIDE = 64  # pixels to which an image is resized
PENALTIES = (1, 10, 100)
# Of Dalal and Triggs (CVPR 2005).
HISTOGRAMS = dict(
    orientations=9, pixels_per_cell=(8, 8), cells_per_block=(2, 2), block_norm="L2-Hys"
)


def main(root: str) -> None:
    (x, labels), (asked, expected) = (read(Path(root) / split) for split in ("train", "val"))
    machine = make_pipeline(StandardScaler(), SVC())
    found = GridSearchCV(machine, {"svc__C": PENALTIES}, cv=3).fit(x, labels)
    top1 = float(found.score(asked, expected))
    print(json.dumps({"C": found.best_params_["svc__C"], "top1": top1}))


def read(folder: Path) -> tuple[np.ndarray, list[str]]:
    """The features, float32 [N, 1764], and the class of each image."""
    paths = sorted(folder.glob("*/*.jpg"))
    return np.stack([features(path) for path in paths]), [path.parent.name for path in paths]


def features(path: Path) -> np.ndarray:
    grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    return hog(cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA), **HISTOGRAMS)


if __name__ == "__main__":
    main(sys.argv[1])
