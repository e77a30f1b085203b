"""The request that eval.py is given, and the test sets, weights and processors that it asks for."""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax

from convnext import hosts, sharding, tasks
from convnext.data import duplicates, folders, imagenet, sources, tables, test_sets
from convnext.data.test_sets import ImageSet
from convnext.errors import InputError, require
from convnext.evaluation import evaluate, probing
from convnext.images.processor import FILTERS, ImageProcessor
from convnext.runs import checkpoint, chosen, plan, workdirs
from convnext.task import Task
from convnext.tasks import scoring
from convnext.training import losses
from convnext.weights import pretrained
from convnext.weights.pretrained import Pretrained

Config = Mapping[str, Any]  # of a run, and an empty one where there is no run
# A copy of the data may lie elsewhere on each host, and each decodes as it can.
OWN = ("data_root", "num_workers", "allow_duplicates")


@dataclass(frozen=True)
class Request:
    """The flags of the command line; None and () stand for what the run or the weights say."""

    weights: Sequence[str] = ("ema",)
    data: Sequence[str] = ()
    data_root: str | None = None
    image_size: Sequence[str] = ()
    crop_pct: Sequence[str] = ()
    crop_mode: str | None = None
    interpolation: str | None = None
    flip: bool = False
    crops: int = 1
    probe: str | None = None
    batch_size: int | None = None
    num_workers: int | None = None
    dtype: str | None = None
    allow_duplicates: bool = False

    def compared(self) -> dict[str, Any]:
        """Returns what all processes must have been asked alike, by the names of the flags."""
        return {f"--{k}": v for k, v in vars(self).items() if k not in OWN}


@dataclass(frozen=True)
class Answer:
    """An evaluation that is about to be made: what it is of, and the function that makes it."""

    heading: str
    key: Mapping[str, Any]  # what its results are of, see results.KEYS
    result: Callable[[], evaluate.Result]


def recorded(config: Config | None, workdir: Path | None) -> Config:
    """Returns the config; without one that with which the run in workdir was made; or an empty one.

    Raises InputError where the two differ in what the weights decide.
    """
    made_with = _made_with(workdir) if workdir else {}
    if config is None:
        return made_with
    config = workdirs.with_decided(config, workdir)
    for name in ("model", "image_size", "preprocess", "normalize") if made_with else ():
        given, before = _plain(config.get(name)), _plain(made_with.get(name))
        accepted = f"{before!r}, with which {workdir} was made; or --{name} of eval.py"
        # A field that the run did not have is new, and has its default.
        before = {**given, **before} if isinstance(before, dict) else before
        require(given == before, f"config.{name}", given, accepted)
    return config


def _made_with(workdir):
    """The config of the run in a folder; an empty one where there is none."""
    path = workdir / "config.json"
    return tasks.restored(path) if path.is_file() else {}


def _plain(value):
    return json.loads(json.dumps(value.to_dict() if hasattr(value, "to_dict") else value))


def of_run(
    request: Request, config: Config, workdir: Path, make: Callable[..., Task]
) -> Iterator[Answer]:
    """Yields the evaluations of the weights of a run, each as the run made it in training.

    Raises InputError where something else is asked of it.
    """
    for name, value in vars(request).items():
        plain = name in ("weights", "batch_size", "num_workers") or value == getattr(Request, name)
        require(plain, f"--{name}", value, f"no such flag for a run of the task {config['task']}")
    mesh = sharding.make_mesh()
    task = make(config, mesh)
    config = task.config
    sources.require_same(val=task.evaluation.source)
    hosts.require_same(lambda: {**request.compared(), "config": _plain(config)})
    abstract = jax.eval_shape(task.init, jax.random.key(0))
    weights, of = {}, {}
    for name in request.weights:
        found = chosen.find(workdir, name, ema_decays=config["ema_decays"], best=task.best)
        of[name], place = found, sharding.replicated(mesh)
        weights[name] = checkpoint.restore_variables(
            workdir, found.step, abstract, place, ema_decay=found.ema_decay
        )

    @cache
    def totals():  # of all weights in one pass, when the first result is asked for
        return scoring.totals(task.evaluation, weights, **options(request, config))

    def result(name):
        return evaluate.Result({"": task.evaluation.scores(totals()[name])})

    params = plan.parameter_count(abstract["params"])
    for name, found in of.items():
        key = dict(model=str(workdir), weights=name, data="val", param_count=params)
        yield Answer(f"{name}: the run {workdir} {found}", key, partial(result, name))


def options(request: Request, config: Config) -> dict[str, int]:
    """Returns how batches are made: as was asked for, else as in the run."""
    default = dict(batch_size=64, num_workers=0, max_bad_images=0)
    of_run = {name: config.get(name, value) for name, value in default.items()}
    asked = dict(batch_size=request.batch_size, num_workers=request.num_workers)
    return of_run | {name: value for name, value in asked.items() if value is not None}


def of_classifier(request: Request, config: Config, workdir: Path | None) -> Iterator[Answer]:
    """Yields the evaluations of each classifier on each test set with each image processor.

    Raises InputError where the weights do not fit a test set.
    """
    image_sets = [image_set(request, name, config) for name in request.data or [None]]
    runs = {str(workdir): config} if config else {}
    for weights in request.weights:
        if found := _made_with(Path(weights).expanduser()):
            runs[weights] = found
    for name, images in zip(request.data, image_sets, strict=False):
        if name == "folder":
            _require_unseen(images, runs)
    hosts.require_same(
        lambda: {
            **request.compared(),
            "config": _plain(config),
            "data": [fingerprints(each, request.probe) for each in image_sets],
        }
    )
    for weights in request.weights:
        found, names = load(request, weights, workdir)
        for images in image_sets:
            check(request, found, images)
            for processor, asked in processors(request, found.processor):
                prepared = replace(found, processor=processor)
                yield Answer(
                    heading(request, weights, prepared, images, asked),
                    dict(
                        **names,
                        data=images.name,
                        img_size=processor.size,
                        crop_pct=processor.crop_pct,
                        interpolation=FILTERS[processor.resample],
                        views=request.crops * (1 + request.flip),
                        probe=request.probe or "",
                        param_count=plan.parameter_count(found.params),
                    ),
                    partial(_result, request, prepared, images, options(request, config)),
                )


def _result(request, found, images, options):
    if request.probe:
        return evaluate.probe(found, images.train, images.parts[""], name=request.probe, **options)
    return evaluate.evaluate(
        found,
        images.parts,
        classes=images.classes,
        crops=request.crops,
        flip=request.flip,
        show=None if jax.process_index() else images.name,
        **options,
    )


def image_set(request: Request, name: str | None, config: Config) -> ImageSet:
    """Finds what one of request.data names; where it names nothing, what the run validates on, in
    request.data_root if it lies there now."""
    root = request.data_root
    if name is None:
        train, val = sources.load_of_run(config["data"], root)
        _compare(config, train, val)
        return ImageSet(config["data"]["name"], {"": val}, train=train)
    if name in test_sets.FOLDERS:
        learns = request.probe and name == "val"
        train = folders.class_folders(Path(root) / "train") if learns else None
        return replace(test_sets.load(name, root), train=train)
    if name != "folder":
        train, val = sources.load(name, root)
        return ImageSet(name, {"": val}, train=train)
    require(root, "--data_root", root, "a folder of --data_root/<class>/*.jpg, or a table")
    path, train = Path(root).expanduser(), None
    if path.suffix.lower() in tables.SUFFIXES:
        source = tables.whole(path)
    else:
        train_root, val_root, _ = folders.parts(path)
        source = folders.class_folders(val_root or train_root)
        train = folders.class_folders(train_root) if val_root else None
    if config.get("data", {}).get("exif_orientation"):
        source, train = sources.upright(source), train and sources.upright(train)
    same = [] if request.allow_duplicates else duplicates.exact(source.paths())[0]
    if same:
        first, second, *_ = map(source.path, same[0])
        raise InputError(
            f"{second} has the content of {first}", "each image once, or --allow_duplicates"
        )
    return ImageSet(root, {"": source}, train=train)


def _compare(config, train, val):
    """Says where the images are no longer those of the run."""
    now = {"train_size": len(train), "val_size": len(val)}
    now |= {"train_hash": sources.files_hash(train), "val_hash": sources.files_hash(val)}
    changed = [name for name in now if config.get(name, now[name]) != now[name]]
    if changed:
        told = ", ".join(f"{name} is {now[name]!r} and was {config[name]!r}" for name in changed)
        print(f"the images are no longer those of the run: {told}")


def _require_unseen(images, runs):
    """Raises InputError where a run was trained on images of the set: those of its own folder that
    it does not validate on."""
    files = [part for part in images.parts.values() if isinstance(part, folders.Files)]
    for name, config in runs.items() if files else ():
        if config.get("data", {}).get("name") != "folder":
            continue
        try:
            train, val = sources.load(**config["data"])
        except InputError:  # the folder is gone, and so are its images
            continue
        own = train.root.resolve()
        near = [part for part in files if _within(own, part.root) or _within(part.root, own)]
        asked = {path.resolve() for part in near for path in part.paths()}
        seen = len(asked & {path.resolve() for path in train.paths()}) if asked else 0
        if seen:
            raise InputError(
                f"{name} was trained on {seen:,} of the {len(asked):,} images of {images.name}",
                f"other images, or --workdir={name} without --data for the {len(val):,} that it "
                "validates on",
            )


def _within(path, folder):
    return path.resolve().is_relative_to(folder.resolve())


def fingerprints(images: ImageSet, probe: str | None) -> dict[str, dict[str, Any]]:
    """Identifies the parts of a test set, and what a probe learns from."""
    parts = {f"val/{part}" if part else "val": source for part, source in images.parts.items()}
    if probe and images.train is not None:
        parts["train"] = images.train
    return {name: sources.fingerprint(source) for name, source in parts.items()}


def load(request: Request, name: str, workdir: Path | None) -> tuple[Pretrained, dict[str, str]]:
    """Loads one of request.weights; also returns how its results are named."""
    is_of_run = chosen.may_name(name)
    if not is_of_run:
        load = pretrained.load if request.probe else pretrained.load_runnable
        found = load(name, dtype=request.dtype)
        return found, dict(model=name.removeprefix("timm/"), weights="")
    require(workdir, "--workdir", workdir, f"the run that --weights={name} is of, or --config")
    if not (workdir / "checkpoints").is_dir():
        raise InputError(f"no checkpoint in {workdir}", "the workdir of a training run")
    found = pretrained.load(workdir, dtype=request.dtype, weights=name)
    return found, dict(model=str(workdir), weights=name)


def processors(
    request: Request, processor: ImageProcessor
) -> Iterator[tuple[ImageProcessor, list[str]]]:
    """Yields every image processor that was asked for, with the names of the fields that differ
    from that of the weights."""
    resample = request.interpolation and [FILTERS.index(request.interpolation)]
    asked = dict(
        size=_numbers("image_size", request.image_size, int),
        crop_pct=_numbers("crop_pct", request.crop_pct, float),
        crop_mode=request.crop_mode and [request.crop_mode],
        resample=resample,
    )
    asked = {name: values for name, values in asked.items() if values}
    for values in itertools.product(*asked.values()):
        yield replace(processor, **dict(zip(asked, values, strict=True))), list(asked)


def _numbers(name, texts, kind):
    try:
        return [kind(text) for text in texts]
    except ValueError as error:
        accepted = f"numbers, such as --{name}={'224,288' if kind is int else '0.875,1'}"
        raise InputError(f"--{name} is {','.join(texts)!r}", accepted) from error


def check(request: Request, found: Pretrained, images: ImageSet) -> None:
    """Raises InputError where the weights do not fit the test set."""
    class_names = next(iter(images.parts.values())).class_names
    if request.probe:
        missing = f"what to learn from, of {images.name}"
        require(images.train, missing, None, "data with a train part")
        sources.check_classes(class_names, images.train.class_names, images.name)
    elif not found.model.num_classes:
        raise InputError(
            f"{found.origin} has no head",
            f"the weights of a classifier, or --probe={' or '.join(probing.PROBES)}",
        )
    elif found.problem_type != losses.REGRESSION:
        if images.name in test_sets.FOLDERS:
            class_names = imagenet.synsets("1k")
        check_labels(class_names, found.labels, images.name, found.origin)


def heading(
    request: Request, weights: str, found: Pretrained, images: ImageSet, asked: Sequence[str]
) -> str:
    """The lines above a result: weights, test set, and how images are prepared."""
    processor = found.processor
    views = [f"{request.crops} crops"] * (request.crops != 1) + ["mirrored"] * request.flip
    whence = f"as {found.processor_origin} says"
    if asked:
        whence = f"{', '.join(asked)} as asked for, the rest {whence}"
    filter_name = FILTERS[processor.resample]
    pixels = [f"{processor.size} px", f"crop_pct {processor.crop_pct:g}", filter_name, *views]
    return f"{weights}: {found.origin}, on {images.name}\n{', '.join(pixels)}; {whence}"


def check_labels(found: Sequence[str], labels: Sequence[str], where: str, origin: str) -> None:
    """Compares the classes of a source with the labels of the weights of `origin`. Raises
    InputError where they are not the same in the same order, as far as they have names."""
    unnamed = all(label == f"LABEL_{i}" for i, label in enumerate(labels))
    synsets = tuple(found) == imagenet.synsets("1k") and not {*labels} & {*found}
    if not (unnamed or synsets) and {*found} & {*labels}:
        sources.check_classes(found, labels, where)
    if len(found) != len(labels):
        raise InputError(
            f"{where} has {len(found):,} classes and {origin} {len(labels):,}",
            f"the {len(labels):,} of the weights",
        )
    if unnamed or synsets:
        return
    for index, (ours, theirs) in enumerate(zip(found, labels, strict=True)):
        if ours != theirs:
            raise InputError(
                f"{where} has other classes than {origin}, or another order: class {index} is "
                f"{ours!r} there and {theirs!r} here",
                "the classes of the weights, in their order",
            )
