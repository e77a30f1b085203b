"""Evaluates weights on test sets, as the paper does.

    python eval.py --config=configs/digits.py [--workdir=runs/digits] [--weights=raw,ema]
    python eval.py --weights=facebook/convnext-tiny-224 --data=val,real,v2,a,r,sketch,c \
        --data_root=/data [--image_size=224,288] [--crop_pct=0.875,1] [--csv=results.csv]

A run (--config or --workdir) is evaluated on its own validation images, unless --data says others.
"""

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict

from convnext import hosts
from convnext.data import folders, imagenet, sources, test_sets
from convnext.errors import InputError, require
from convnext.evaluation import evaluate, probing, results
from convnext.images.processor import FILTERS, ImageProcessor
from convnext.runs import cli, plan, profiling
from convnext.training import losses
from convnext.weights import pretrained

WEIGHTS = flags.DEFINE_list(
    "weights", ["ema"], "Any of: raw, ema, ema_<decay> or the step of a checkpoint, of the run; a "
    "file or folder of weights; a workdir; a Hugging Face id. ema is the first average."
)  # fmt: skip
DATA = flags.DEFINE_list(
    "data", None, f"Test sets of ImageNet: {', '.join(test_sets.FOLDERS)}; 'folder', of "
    "--data_root/<class>; or a name that config.data takes. Default: what the run validates on."
)  # fmt: skip
DATA_ROOT = flags.DEFINE_string("data_root", None, "Of --data; or a folder with several of them.")
IMAGE_SIZE = flags.DEFINE_list("image_size", None, "Pixels; default: as the weights say.")
CROP_PCT = flags.DEFINE_list("crop_pct", None, "Side of the crop; default: as the weights say.")
CROP_MODE = flags.DEFINE_enum("crop_mode", None, ["center", "squash"], "Default: likewise.")
INTERPOLATION = flags.DEFINE_enum("interpolation", None, FILTERS, "Default: likewise.")
FLIP = flags.DEFINE_boolean("flip", False, "The mean of each image and its mirror image.")
CROPS = flags.DEFINE_enum("crops", "1", ["1", "5"], "5: the mean of the centre and the corners.")
PROBE = flags.DEFINE_enum(
    "probe", None, probing.PROBES, "Features in place of the head: nearest neighbours, or a linear "
    "classifier, learned from the images to train on."
)  # fmt: skip
BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Images at a time; default: the run's, 64.")
NUM_WORKERS = flags.DEFINE_integer("num_workers", None, "To decode; default: the run's, 0.")
DTYPE = flags.DEFINE_enum("dtype", None, ["float32", "bfloat16"], "Default: the run's, float32.")
ALLOW_DUPLICATES = flags.DEFINE_boolean("allow_duplicates", False, "In --data=folder.")
CSV = flags.DEFINE_string("csv", None, "File with timm's columns, to which results are added.")
JSON = flags.DEFINE_string("json", None, "File of all results, with the accuracy of each class.")
# All processes must have the same; --data_root may be a copy on each host.
SAME = (WEIGHTS, DATA, IMAGE_SIZE, CROP_PCT, CROP_MODE, INTERPOLATION, FLIP, CROPS, PROBE,
        BATCH_SIZE, DTYPE)  # fmt: skip


@dataclass(frozen=True)
class TestSet:
    """A test set, and what it was named."""

    name: str
    parts: Mapping[str, sources.Source]  # see test_sets.TestSet
    classes: tuple[int, ...] | None = None
    train: sources.Source | None = None  # what a probe learns from

    __test__ = False  # for pytest


def test_set(name: str | None, root: str | None, run: Mapping[str, Any], probes: bool) -> TestSet:
    """What --data names; where it names nothing, what the run validates on."""
    if name is None:
        train, val = sources.load(**run["data"])
        return TestSet(run["data"]["name"], {"": val}, train=train)
    if name in test_sets.FOLDERS:
        train = folders.of_classes(Path(root) / "train") if probes and name == "val" else None
        return TestSet(name, *test_sets.load(name, root), train=train)
    if name != "folder":
        train, val = sources.load(name, root)
        return TestSet(name, {"": val}, train=train)
    require(root, "--data_root", root, "a folder of --data_root/<class>/*.jpg")
    val_root = Path(root) / "val"
    source = folders.of_classes(val_root if val_root.is_dir() else Path(root))
    same = None if ALLOW_DUPLICATES.value else folders.duplicate(source)
    if same:
        raise InputError(
            f"{same[1]} has the content of {same[0]}", "each image once, or --allow_duplicates"
        )
    has_train = val_root.is_dir() and (Path(root) / "train").is_dir()
    return TestSet(
        root, {"": source}, train=folders.of_classes(Path(root) / "train") if has_train else None
    )


def recorded(config: ConfigDict | None, workdir: Path | None) -> Mapping[str, Any]:
    """The config; or that which the run in workdir was made with; or none.

    Raises InputError where the two differ in what the weights decide.
    """
    path = workdir and workdir / "config.json"
    made_with = json.loads(path.read_text()) if path and path.is_file() else {}
    if config is None:
        return made_with
    given = json.loads(json.dumps(config.to_dict()))
    for name in ("model", "image_size", "preprocess", "normalize") if made_with else ():
        accepted = f"{made_with[name]!r}, with which {workdir} was made; or --{name} of eval.py"
        # A field that the run did not have is new, and has its default.
        before = {**given[name], **made_with[name]} if name == "model" else made_with[name]
        require(given[name] == before, f"config.{name}", given[name], accepted)
    return given


def load(name: str, workdir: Path | None) -> tuple[pretrained.Pretrained, dict[str, str]]:
    """Of one of --weights; and how its results are named."""
    is_of_run = name in ("raw", "ema") or name.startswith("ema_") or name.isdecimal()
    if not is_of_run:
        model = name.removeprefix("timm/")
        return pretrained.load(name, dtype=DTYPE.value), dict(model=model, weights="")
    require(workdir, "--workdir", workdir, f"the run that --weights={name} is of, or --config")
    if not (workdir / "checkpoints").is_dir():
        raise InputError(f"no checkpoint in {workdir}", "the workdir of a training run")
    step = dict(step=int(name)) if name.isdecimal() else dict(weights=name)
    found = pretrained.load(workdir, dtype=DTYPE.value, **step)
    return found, dict(model=str(workdir), weights=name)


def processors(processor: ImageProcessor) -> Iterator[tuple[ImageProcessor, list[str]]]:
    """That of the weights, with what the flags say instead; and the names of these."""
    said = dict(
        size=_numbers("image_size", IMAGE_SIZE.value, int),
        crop_pct=_numbers("crop_pct", CROP_PCT.value, float),
        crop_mode=CROP_MODE.value and [CROP_MODE.value],
        resample=INTERPOLATION.value and [FILTERS.index(INTERPOLATION.value)],
    )
    said = {name: values for name, values in said.items() if values}
    for values in itertools.product(*said.values()):
        yield replace(processor, **dict(zip(said, values, strict=True))), list(said)


def _numbers(name, texts, kind):
    try:
        return [kind(text) for text in texts or ()]
    except ValueError as error:
        accepted = f"numbers, such as --{name}={'224,288' if kind is int else '0.875,1'}"
        raise InputError(f"--{name} is {','.join(texts)!r}", f"{accepted}") from error


def main(config: ConfigDict | None, workdir: Path | None) -> None:
    run = recorded(config, workdir)
    accepted = "test sets to evaluate on, or a run by --config or --workdir"
    require(run or DATA.value, "--data", DATA.value, accepted)
    if CSV.value:
        results.check_csv(CSV.value)
    options = dict(
        batch_size=BATCH_SIZE.value or run.get("batch_size", 64),
        num_workers=run.get("num_workers", 0) if NUM_WORKERS.value is None else NUM_WORKERS.value,
        max_bad_images=run.get("max_bad_images", 0),
    )
    asked = [
        test_set(name, DATA_ROOT.value, run, PROBE.value is not None)
        for name in DATA.value or [None]
    ]
    hosts.require_same(
        lambda: dict(
            {f"--{flag.name}": flag.value for flag in SAME},
            config=run, data=[fingerprints(each) for each in asked],
        )
    )  # fmt: skip
    if workdir:
        profiling.cache_compiled_programs(workdir)

    rows: list[dict[str, Any]] = []
    for weights in WEIGHTS.value:
        found, names = load(weights, workdir)
        for each in asked:
            check(found, each)
            for processor, said in processors(found.processor):
                prepared = replace(found, processor=processor)
                key = names | dict(
                    img_size=processor.size, crop_pct=processor.crop_pct,
                    interpolation=FILTERS[processor.resample],
                    views=int(CROPS.value) * (1 + FLIP.value), probe=PROBE.value or "",
                    param_count=plan.parameter_count(found.params),
                )  # fmt: skip
                print(heading(weights, prepared, each, said), flush=True)
                if PROBE.value:
                    made = evaluate.probe(
                        prepared, each.train, each.parts[""], name=PROBE.value, **options
                    )
                    made = {"": made}
                else:
                    made = evaluate.evaluate(
                        prepared, each.parts, classes=each.classes, crops=int(CROPS.value),
                        flip=FLIP.value, quiet=jax.process_index() > 0, **options,
                    )  # fmt: skip
                if each.name == "c":
                    made[""]["mce"] = test_sets.mean_corruption_error(made)
                for part, result in made.items():
                    data = f"{each.name}/{part}" if part else each.name
                    rows.append({**key, "data": data, **result})
                show(made)
                # After each: an evaluation that is interrupted keeps what was done.
                if jax.process_index() == 0:
                    if CSV.value:
                        results.write_csv(CSV.value, rows)
                    if JSON.value:
                        results.write_json(JSON.value, rows)


def fingerprints(each: TestSet) -> dict[str, dict[str, Any]]:
    """{"val": ..., "train": ...} of the parts of a test set, and of what a probe learns from."""
    parts = {f"val/{part}" if part else "val": source for part, source in each.parts.items()}
    if PROBE.value and each.train is not None:
        parts["train"] = each.train
    return {name: sources.fingerprint(source) for name, source in parts.items()}


def check(found: pretrained.Pretrained, each: TestSet) -> None:
    """Raises InputError where the weights do not fit the test set."""
    class_names = next(iter(each.parts.values())).class_names
    if PROBE.value:
        require(each.train, f"what to learn from, of {each.name}", None, "data with a train part")
        sources.check_classes(class_names, each.train.class_names, each.name)
    elif not found.model.num_classes:
        raise InputError(
            f"{found.origin} has no head",
            f"the weights of a classifier, or --probe={' or '.join(probing.PROBES)}",
        )
    elif found.problem_type != losses.REGRESSION:
        if each.name in test_sets.FOLDERS:
            class_names = imagenet.synsets("1k")
        sources.check_labels(class_names, found.labels, each.name, found.origin)


def heading(weights: str, found: pretrained.Pretrained, each: TestSet, said: list[str]) -> str:
    processor = found.processor
    views = [f"{CROPS.value} crops"] * (CROPS.value != "1") + ["mirrored"] * FLIP.value
    whence = f"as {found.processor_origin} says"
    if said:
        whence = f"{', '.join(said)} as asked for, the rest {whence}"
    pixels = [f"{processor.size} px", f"crop_pct {processor.crop_pct:g}",
              FILTERS[processor.resample], *views]  # fmt: skip
    return f"{weights}: {found.origin}, on {each.name}\n{', '.join(pixels)}; {whence}"


def show(made: Mapping[str, Mapping[str, Any]]) -> None:
    """The first result in full, of parts the accuracy."""
    (_, result), *parts = made.items()
    for name, value in result.items():
        if name != "class_accuracy":
            print(f"{name:5} {value!r}")
    for part, of_part in parts:
        print(f"  {part:32} top1 {of_part['top1']:.5f}")


if __name__ == "__main__":
    cli.run(main, needs_config=False)
