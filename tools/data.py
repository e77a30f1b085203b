"""Says what is in a folder of images, and what may be wrong with it, before anything is trained.

    python -m tools.data my_images [--page=my_images.html]

my_images is as for configs/finetune.py (docs/own_data.md): its classes and counts, what is skipped
and why, sizes, images that are turned by their EXIF data, damaged ones, and pictures that are there
twice, also encoded again, resized, cropped or mirrored, in the training and the validation images.
What was found is kept in the cache, and runs on the same images print it, too. --page writes a page
with pictures of each class.
"""

from pathlib import Path

from rich import progress
from rich.console import Console

from convnext import commands
from convnext.data import contents, sources, survey
from convnext.errors import reported
from tools.reporting import sheet

VAL_FRACTION = 0.2  # as in configs/finetune.py


def main(argv: list[str] | None = None) -> None:
    parser = commands.parser("data", __doc__)
    parser.add_argument("images", metavar="IMAGES", help="a folder of classes, or a table")
    parser.add_argument(
        "--val_fraction", type=float, default=VAL_FRACTION, help="if there are none (%(default)s)"
    )
    parser.add_argument("--val_split", metavar="NAME", help="folder, or split of a table")
    parser.add_argument("--page", type=Path, metavar="FILE", help="an HTML page with pictures")
    parser.add_argument("--jobs", type=int, metavar="N", help="threads; default: one a CPU")
    args = parser.parse_args(argv)
    with reported():
        train, val = sources.load(
            "folder",
            args.images,
            args.val_fraction,
            val_split=args.val_split,
            exif_orientation=True,
        )
        print(f"data       {len(train):,} training images, {len(val):,} validation images")
        print("\n".join(survey.lines(train, val)), flush=True)
        learned, asked = train.paths(), val.paths()
        found = _looked([*learned, *asked], args.jobs)
        print("\n".join(contents.lines(found, learned, asked)))
        if args.page:
            sheet.write(args.page, args.images, train, val, found)
            print(f"{args.page}: {args.page.stat().st_size:,} bytes")


def _looked(paths, jobs):
    """Looks into the files, behind a progress bar."""
    bar = progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        tasks = {stage: bar.add_task(stage, total=len(paths)) for stage in ("read", "compared")}
        return contents.look(paths, jobs=jobs, progress=lambda s, n: bar.advance(tasks[s], n))


if __name__ == "__main__":
    main()
