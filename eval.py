"""Evaluates weights on test sets, as the paper does.

    python eval.py --config=configs/digits.py [--workdir=runs/digits] [--weights=raw,ema]
    python eval.py --weights=facebook/convnext-tiny-224 --data=val,real,v2,a,r,sketch,c \
        --data_root=/data [--image_size=224,288] [--crop_pct=0.875,1] [--csv=results.csv]

A run (--config or --workdir) is evaluated on its own validation images, unless --data names others.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict

from convnext import tasks
from convnext.data import test_sets
from convnext.errors import InputError, require
from convnext.evaluation import probing, requests, results
from convnext.images.processor import FILTERS
from convnext.runs import cli, meant
from convnext.task import Task

WEIGHTS = flags.DEFINE_list(
    "weights",
    ["ema"],
    "Any of: raw, ema, ema_<decay> or the step of a checkpoint, of the run; a file or folder of "
    "weights; a workdir; a Hugging Face id. ema is the first average.",
)
DATA = flags.DEFINE_list(
    "data",
    [],
    f"Test sets of ImageNet: {', '.join(test_sets.FOLDERS)}; 'folder', of --data_root/<class>; or "
    "a name that config.data takes. Default: what the run validates on.",
)
DATA_ROOT = flags.DEFINE_string(
    "data_root",
    None,
    "Folder of the --data, or of several of them; without --data where that of the run lies now.",
)
IMAGE_SIZE = flags.DEFINE_list("image_size", [], "Pixels; default: that of the weights.")
CROP_PCT = flags.DEFINE_list("crop_pct", [], "Side of the crop; default: that of the weights.")
CROP_MODE = flags.DEFINE_enum(
    "crop_mode", None, ["center", "squash"], "Default: that of the weights."
)
INTERPOLATION = flags.DEFINE_enum("interpolation", None, FILTERS, "Default: that of the weights.")
FLIP = flags.DEFINE_boolean("flip", False, "The mean of each image and its mirror image.")
CROPS = flags.DEFINE_enum("crops", "1", ["1", "5"], "5: the mean of the centre and the corners.")
PROBE = flags.DEFINE_enum(
    "probe",
    None,
    probing.PROBES,
    "Features in place of the head: nearest neighbours, or a linear classifier, learned from the "
    "training images.",
)
BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Images at a time; default: the run's, 64.")
NUM_WORKERS = flags.DEFINE_integer(
    "num_workers", None, "Processes that decode; default: the run's, 0."
)
DTYPE = flags.DEFINE_enum("dtype", None, ["float32", "bfloat16"], "Default: the run's, float32.")
ALLOW_DUPLICATES = flags.DEFINE_boolean(
    "allow_duplicates", False, "Take equal images of --data=folder."
)
CSV = flags.DEFINE_string("csv", None, "File with timm's columns, to which results are added.")
JSON = flags.DEFINE_string("json", None, "File of all results, with the accuracy of each class.")


def answer(
    request: requests.Request,
    config: ConfigDict | None,
    workdir: Path | None,
    *,
    csv: str | None = None,
    json: str | None = None,
    make: Callable[..., Task] = tasks.make,
) -> None:
    """Makes the evaluations of the request, prints them, and writes them to the files."""
    config = requests.recorded(config, workdir)
    if workdir and not (config or request.data):
        near = " or ".join(f"--workdir={run}" for run in meant.runs(workdir))
        raise InputError(f"no run in {workdir}", near or "the workdir of a training run")
    accepted = "test sets to evaluate on, or a run by --config or --workdir"
    require(config or request.data, "--data", list(request.data) or None, accepted)
    is_classifier = config.get("task", "classification") == "classification"
    require(is_classifier or not csv, "--csv", csv, f"--json, for the task {config.get('task')}")
    if csv:
        results.check_csv(csv)
    if is_classifier:
        answers = requests.of_classifier(request, config, workdir)
    else:
        answers = requests.of_run(request, config, workdir, make)

    rows: list[dict[str, Any]] = []
    for each in answers:
        print(each.heading, flush=True)
        result = each.result()
        mean = result.mean
        if each.key["data"] == "c":
            mean["mce"] = test_sets.mean_corruption_error(result.parts)
        rows.append({**each.key, **mean})
        if len(result.parts) > 1:
            data = each.key["data"]
            rows += [
                {**each.key, "data": f"{data}/{part}", **scores}
                for part, scores in result.parts.items()
            ]
        show(mean, result.parts)
        # After each: an evaluation that is interrupted keeps what was done.
        if jax.process_index() == 0:
            if csv:
                results.write_csv(csv, rows)
            if json:
                results.write_json(json, rows)


def show(mean: Mapping[str, Any], parts: Mapping[str, Mapping[str, Any]]) -> None:
    """Prints the scores, and where there are several parts the accuracy on each."""
    for name, value in mean.items():
        if name != "class_accuracy":
            print(f"{name:5} {value!r}")
    for part, scores in parts.items() if len(parts) > 1 else ():
        print(f"  {part:32} top1 {scores['top1']:.5f}")


def main(config: ConfigDict | None, workdir: Path | None) -> None:
    request = requests.Request(
        weights=WEIGHTS.value,
        data=tuple(DATA.value),
        data_root=DATA_ROOT.value,
        image_size=tuple(IMAGE_SIZE.value),
        crop_pct=tuple(CROP_PCT.value),
        crop_mode=CROP_MODE.value,
        interpolation=INTERPOLATION.value,
        flip=FLIP.value,
        crops=int(CROPS.value),
        probe=PROBE.value,
        batch_size=BATCH_SIZE.value,
        num_workers=NUM_WORKERS.value,
        dtype=DTYPE.value,
        allow_duplicates=ALLOW_DUPLICATES.value,
    )
    answer(request, config, workdir, csv=CSV.value, json=JSON.value)


if __name__ == "__main__":
    cli.run(main, needs_config=False)
