"""Writes a page about a run: its recipe, curves, scores, mistakes and calibration.

    python -m tools.report --workdir=RUN [--out=RUN/report.html] [--compare RUN RUN ...]

The page is one file, without scripts and without anything loaded from elsewhere. The scores are
those of the newest checkpoint on the run's validation images, so an unfinished run can have a page,
too. --compare adds the curves and scores that other runs logged. Beside the page lie the prediction
of each image, and the images whose label is likely wrong, as CSV.
"""

import argparse
import csv
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path

from convnext import commands
from convnext.errors import InputError, reported, require
from convnext.files import text
from convnext.runs import programs
from tools.reporting import doubts, figures, page, predictions, runs, tables


def main(argv: list[str] | None = None) -> None:
    parser = commands.parser("report", __doc__)
    parser.add_argument("--workdir", type=Path, required=True, metavar="RUN")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: RUN/report.html")
    others, size = "workdirs of other runs", "images, over all devices (128)"
    parser.add_argument("--compare", type=Path, nargs="+", default=(), metavar="RUN", help=others)
    parser.add_argument("--data_root", help="default: the run's")
    parser.add_argument("--batch_size", type=int, default=128, metavar="N", help=size)
    parser.add_argument("--num_workers", type=int, metavar="N", help="default: the run's")
    parser.add_argument(
        "--wrong_labels", action=argparse.BooleanOptionalAction, default=True,
        help="look for likely wrong labels, which needs the features of all images (yes)",
    )  # fmt: skip
    with reported(), programs.kept():
        report(**vars(parser.parse_args(argv)))


def report(
    workdir: Path,
    *,
    out: Path | None = None,
    compare: Sequence[Path] = (),
    data_root: str | None = None,
    batch_size: int = 128,
    num_workers: int | None = None,
    wrong_labels: bool = True,
) -> None:
    """Writes the page, and tables of the predictions and of likely wrong labels beside it.

    Raises InputError if a folder is no run or a run of another problem, if the run has no
    checkpoint, if its data is missing, or if out cannot be written."""
    out = workdir / "report.html" if out is None else out
    most = figures.NUM_COLOURS - 1
    require(len(compare) <= most, "the number of --compare", len(compare), f"0 to {most}")
    require(num_workers is None or num_workers >= 0, "--num_workers", num_workers, "0 and more")
    run, *others = [runs.read(folder) for folder in (workdir, *compare)]
    for other in others:
        given, accepted = other.problem_type, f"{run.problem_type}, as of {workdir}"
        is_same = given == run.problem_type
        require(is_same, f"the problem of {other.workdir}", given, accepted)
    _check_writable(out)
    options = dict(
        batch_size=batch_size,
        num_workers=run.config["num_workers"] if num_workers is None else num_workers,
        max_bad_images=run.config["max_bad_images"],
    )
    findings = predictions.find(run, data_root, **options)
    doubted = doubts.find(run, data_root, **options) if wrong_labels else doubts.Doubts()
    text.replace(out, page.render(run, findings, others, doubted))
    print(f"{out}: {out.stat().st_size:,} bytes, of step {findings.step} of {workdir}")
    if findings.labels is not None:
        _write(out.with_name(f"{out.stem}_predictions.csv"), tables.predicted(findings))
    if doubted.why_not:
        print(f"likely wrong labels: not looked for, {doubted.why_not}")
    else:
        names = findings.class_names
        _write(out.with_name(f"{out.stem}_wrong_labels.csv"), tables.doubted(doubted, names))


def _write(path, rows):
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    text.replace(path, file.getvalue())
    print(f"{path}: {len(rows) - 1:,} images")


def _check_writable(out):
    try:
        if out.is_dir():
            raise IsADirectoryError(f"{out} is a folder")
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise InputError(
            f"--out is {out}, which cannot be written: {error.strerror or error}",
            "a file in a folder that is there",
        ) from error


if __name__ == "__main__":
    main()
