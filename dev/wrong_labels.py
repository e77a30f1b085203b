"""Measures how well the report finds wrong labels: exchanges some, and looks for them.

    python -m dev.wrong_labels FOLDER... --model=SOURCE [--share=0.05] [--seeds 0 1 2]

FOLDER has images of each class, all of them labelled rightly, such as those of dev.drawn_sets.
Prints, as means over the seeds: the top-1 of the classifiers on images that they did not learn, the
images found, the share of these whose label was exchanged (precision), and the share of the
exchanged labels that were found (recall).
"""

import argparse

import numpy as np
from rich.console import Console
from rich.table import Table

from convnext.data import sources
from convnext.errors import reported
from convnext.tasks import linear, scoring
from convnext.weights import pretrained


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dev.wrong_labels",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("folders", nargs="+", metavar="FOLDER")
    parser.add_argument("--model", required=True, metavar="SOURCE")
    parser.add_argument("--share", type=float, default=0.05, help="of the labels (%(default)s)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    args = parser.parse_args(argv)
    shown = Table("folder", "images", "top-1", "found", "precision", "recall", box=None)
    with reported():
        found = pretrained.load(args.model)
        for folder in args.folders:
            features, labels = _features(found, folder)
            each = [measured(features, labels, args.share, seed) for seed in args.seeds]
            top1, count, precision, recall = np.mean(each, axis=0)
            values = f"{top1:.3f}", f"{count:.0f}", f"{precision:.2f}", f"{recall:.2f}"
            shown.add_row(folder, str(len(labels)), *values)
        Console().print(shown)


def _features(found, folder):
    parts = sources.load("folder", folder, 0.2)
    options = dict(of_head=True, batch_size=32, show="features")
    rows = [scoring.features(found, part, **options) for part in parts]
    return [np.concatenate([each[name] for each in rows]) for name in ("features", "label")]


def measured(
    features: np.ndarray, labels: np.ndarray, share: float, seed: int
) -> tuple[float, int, float, float]:
    """Returns top-1, images found, precision and recall with a share of the labels exchanged."""
    rng, classes = np.random.default_rng(seed), int(labels.max()) + 1
    wrong = rng.permutation(len(labels))[: round(share * len(labels))]
    given = labels.copy()
    given[wrong] = (labels[wrong] + rng.integers(1, classes, len(wrong))) % classes
    probabilities = linear.held_out(features, given, classes)
    found = linear.doubtful(probabilities, given)
    hits = len(np.intersect1d(found, wrong))
    top1 = float((probabilities.argmax(axis=1) == labels).mean())
    return top1, len(found), hits / max(len(found), 1), hits / max(len(wrong), 1)


if __name__ == "__main__":
    main()
