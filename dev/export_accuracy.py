"""Compares what a model and its exported graphs answer on validation images.

    python -m dev.export_accuracy SOURCE GRAPH... --data=folder --data_root=IMAGES

GRAPH is a folder of tools.export, or an .onnx file in it. Prints the top-1 of each, and the share
of the images for which its first answer is another than that of the model: where both see them as
the export prepares them, so that only the graph differs, and where each does as it comes.
"""

import argparse
from dataclasses import replace

import numpy as np
from rich.console import Console
from rich.table import Table

from convnext.data import sources
from convnext.errors import reported
from convnext.tasks import scoring
from convnext.weights import pretrained


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dev.export_accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("source", metavar="SOURCE")
    parser.add_argument("graphs", nargs="+", metavar="GRAPH")
    parser.add_argument("--data", required=True, help="a name that config.data takes")
    parser.add_argument("--data_root")
    args = parser.parse_args(argv)
    shown = Table("", "top-1", "changed by the graph", "changed as it comes", box=None)
    with reported():
        _, source = sources.load(args.data, args.data_root)
        weights = pretrained.default_weights(args.source)
        found = pretrained.load(args.source, weights=weights)
        here, labels = answers(found, source)
        shown.add_row(args.source, f"{np.mean(here == labels):.4f}")
        for graph in args.graphs:
            exported = pretrained.load_runnable(graph)
            there, _ = answers(exported, source)
            alike, _ = answers(replace(found, processor=exported.processor), source)
            changed = (f"{np.mean(there != each):.4f}" for each in (alike, here))
            shown.add_row(graph, f"{np.mean(there == labels):.4f}", *changed)
        Console(width=150).print(shown)


def answers(found: pretrained.Pretrained, source: sources.Source) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first answer for each image, and its label."""

    def measure(logits, batch):
        return {"answer": logits.argmax(axis=-1), "label": batch["label"]}

    evaluation = scoring.rows(found, source, measure)
    totals = scoring.totals(
        evaluation, {"": {"params": found.params}}, batch_size=32, show="validation images"
    )
    rows = evaluation.scores(totals[""])
    return rows["answer"], rows["label"]


if __name__ == "__main__":
    main()
