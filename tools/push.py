"""Shares a run on the Hugging Face Hub: its weights, with a model card written from the run.

    python -m tools.push RUN USER/NAME [--format=transformers|timm] [--weights=best] [--private]
        [--dry_run] [--out=DIR] [--with_images]

The card has the scores on the validation images, the confusions, the curves, the classes, the
recipe, and the licence and name of the weights that the run started from. --dry_run writes all that
would be uploaded into DIR, RUN/hub by default, and uploads nothing. Log in by `hf auth login`.
"""

import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub as hub
import jinja2
import numpy as np

from convnext import commands, save_pretrained
from convnext.data import sources
from convnext.errors import InputError, printable, reported, require
from convnext.files import text
from convnext.runs import checkpoint, chosen, environment, programs
from convnext.runs.plan import parameter_count
from convnext.tasks import classification, scoring
from convnext.training import losses, metrics
from convnext.weights import pretrained, published, save
from convnext.weights.pretrained import Pretrained
from tools.reporting import predictions, runs, tables
from tools.reporting.runs import Run

FORMATS = ("transformers", "timm")
TITLES = {"top1": "top-1", "top5": "top-5", "loss": "loss", "ece": "calibration error",
          "mae": "mean absolute error"}  # fmt: skip
METRICS = {"top1": "accuracy", "mae": "mae"}  # the Hub's names
PROBLEMS = {
    losses.SINGLE_LABEL: "Image classification",
    losses.MULTI_LABEL: "Image classification with several labels",
    losses.REGRESSION: "A regression on images",
}
LISTED = 200  # classes


def main(argv: list[str] | None = None) -> None:
    parser = commands.parser("push", __doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="the workdir of a run")
    parser.add_argument("repository", metavar="USER/NAME", help="of the Hub; made if need be")
    parser.add_argument("--format", default="transformers", choices=FORMATS)
    parser.add_argument("--weights", help="best (default), best_raw, ema, raw or a step")
    parser.add_argument("--data_root", help="where the validation images lie now")
    parser.add_argument("--private", action="store_true", help="where the repository is new")
    parser.add_argument("--dry_run", action="store_true", help="write a folder, upload nothing")
    parser.add_argument("--out", type=Path, metavar="DIR", help="of --dry_run; default: RUN/hub")
    parser.add_argument(
        "--with_images", action="store_true", help="the report of the run, with its images, too"
    )
    args = parser.parse_args(argv)
    with reported(), programs.kept():
        is_repository = re.fullmatch(r"[\w.-]+/[\w.-]+", args.repository)
        require(is_repository, "USER/NAME", args.repository, "such as jane/flowers")
        require(args.dry_run or not args.out, "--out", args.out, "with --dry_run")
        options = dict(weights=args.weights, data_root=args.data_root, with_images=args.with_images)
        if args.dry_run:
            out = args.out or args.run / "hub"
            write(out, args.run, args.repository, args.format, **options)
            print(f"nothing was uploaded; {out} has what would be")
            return
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), args.run, args.repository, args.format, **options)
            print(save.upload(folder, args.repository, private=args.private))


def write(
    folder: Path,
    workdir: Path,
    repository: str,
    form: str,
    *,
    weights: str | None = None,
    data_root: str | None = None,
    with_images: bool = False,
) -> None:
    """Writes all that is uploaded into a folder, and says what that is. Raises InputError where
    the run or its report cannot be read."""
    run = runs.read(workdir)
    report = workdir / "report.html"
    accepted = f"a run with a {report}, of tools.report"
    require(report.is_file() or not with_images, "--with_images", with_images, accepted)
    weights = weights or pretrained.default_weights(workdir)
    found = pretrained.load(workdir, weights=weights)
    print(f"weights    {found.origin}", flush=True)
    scores, matrix = _evaluated(run, found, weights, data_root)
    folder.mkdir(parents=True, exist_ok=True)
    save_pretrained(
        folder,
        found.model,
        found.params,
        format=form,
        labels=found.labels,
        processor=found.processor,
        problem_type=found.problem_type,
    )
    for path, is_asked in ((workdir / "curves.png", True), (report, with_images)):
        (folder / path.name).unlink(missing_ok=True)  # of an earlier dry run
        if is_asked and path.is_file():
            shutil.copy(path, folder)
    text.replace(folder / "README.md", str(card(run, found, repository, form, scores, matrix)))
    for path in sorted(folder.iterdir()):
        print(f"  {path.stat().st_size:>12,} bytes  {path.name}")


def _evaluated(run: Run, found: Pretrained, weights: str | None, data_root: str | None):
    """The scores on the validation images, and the confusions in words. Where the images are not
    at hand, the scores that the run had of these weights."""
    try:
        _, source = sources.load_of_run(run.config["data"], data_root, str(run.workdir))
    except InputError as error:
        print(f"no confusions, and the scores that the run had: {error}")
        of = chosen.find(
            run.workdir,
            weights,
            ema_decays=run.config["ema_decays"],
            best=metrics.best_score(run.problem_type),
        )
        had = checkpoint.scores(run.workdir).get(of.step, {})
        names = {name: f"{of.prefix}/{name}" for name in TITLES}
        return {name: had[full] for name, full in names.items() if full in had}, None
    options = {name: run.config[name] for name in ("batch_size", "num_workers", "max_bad_images")}
    evaluation, variables = classification.evaluation(found, source), {"params": found.params}
    totals = scoring.totals(evaluation, {"": variables}, show="scores", **options)
    scores = evaluation.scores(totals[""])
    matrix = None
    if run.problem_type == losses.SINGLE_LABEL:
        rows = predictions.of_each(found, source, show="confusions", **options)
        counts = np.zeros((len(found.labels),) * 2, int)
        np.add.at(counts, (rows["label"], rows["prediction"]), 1)
        matrix = metrics.confusion_table(counts, found.labels)
    return {name: scores[name] for name in TITLES if name in scores}, matrix


def card(
    run: Run,
    found: Pretrained,
    repository: str,
    form: str,
    scores: Mapping[str, float],
    matrix: str | None,
) -> hub.ModelCard:
    """The model card of a run. Of what it started from it has the id of the Hub, no path."""
    name = repository.partition("/")[2]
    started = run.config.get("init_from")
    base = _base_model(started)
    dataset = _dataset(run.config["data"])
    results = [
        hub.EvalResult(
            task_type="image-classification",
            dataset_type="imagefolder" if run.config["data"]["name"] == "folder" else dataset,
            dataset_name=dataset,
            dataset_split="validation",
            metric_type=metric,
            metric_name=TITLES[score],
            metric_value=scores[score],
        )
        for score, metric in METRICS.items()
        if score in scores
    ]
    licence = found.licence if found.licence != "not stated" else None
    data = hub.ModelCardData(
        license=licence,
        library_name=form,
        pipeline_tag="image-classification",
        tags=["convnext"],
        base_model=base,
        model_name=name,
        eval_results=results or None,
    )
    names = [printable(label) for label in found.labels]
    more = f", and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
    template = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    ).get_template("card.md.jinja")  # fmt: skip
    packages = environment.PACKAGES
    body = template.render(
        name=name,
        problem=PROBLEMS[run.problem_type],
        depths=tables.text(found.model.depths),
        dims=tables.text(found.model.dims),
        parameters=f"{parameter_count(found.params):,}",
        pixels=found.processor.size,
        base_model=base,
        started=started,
        licence=licence,
        val_size=f"{run.config['val_size']:,}",
        train_size=f"{run.config['train_size']:,}",
        dataset=dataset,
        weights=found.origin.removeprefix(f"the run {run.workdir} "),
        scores=[(TITLES[score], f"{value:.4f}") for score, value in scores.items()],
        curves=(run.workdir / "curves.png").is_file(),
        matrix=matrix,
        classes=", ".join(names[:LISTED]) + more,
        format=form,
        repository=repository,
        updates=f"{run.num_steps:,}",
        batch_size=run.config["batch_size"],
        rate=f"{run.config['schedule']['peak_lr']:.4g}",
        recipe=[row for rows in tables.recipe(run).values() for row in rows if row[1] != started],
        environment=[(p, v) for p, v in (run.environment or {}).items() if p in packages and v],
    )
    return hub.ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}")


def _base_model(started: str | None) -> str | None:
    """The id of the Hub that a run started from; None where it was a file or a folder."""
    if not started:
        return None
    if known := published.find(started):
        return known.id
    is_id = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", started) and not Path(started).exists()
    return started if is_id else None


def _dataset(data: Mapping[str, Any]) -> str:
    """The name of a data set: of files, that of their folder."""
    of_files = data["name"] in sources.ON_DISK and data["root"]
    return Path(data["root"]).name if of_files else data["name"]


if __name__ == "__main__":
    main()
