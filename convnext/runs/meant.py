"""What was meant by a name that there is not: of a config file, a run, a flag or a field."""

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path

# Names in other projects, and those here, of which the first that there is was meant.
ELSEWHERE: dict[tuple[str, ...], tuple[str, ...]] = {
    ("lr", "learning_rate", "base_lr", "max_lr", "blr"): ("peak_lr",),
    ("min_lr", "final_lr"): ("end_lr",),
    ("warmup",): ("warmup_epochs",),
    ("scheduler", "sched", "lr_schedule"): ("schedule.kind",),
    ("epochs", "max_epochs", "n_epochs"): ("num_epochs",),
    ("steps", "max_steps", "iters", "iterations"): ("num_steps",),
    ("batch", "bs"): ("batch_size",),
    ("accum_iter", "update_freq", "grad_accum_steps", "gradient_accumulation_steps"): (
        "accumulation_steps",
    ),
    ("wd", "decay"): ("weight_decay",),
    ("clip", "clip_grad", "grad_clip", "max_norm"): ("clip_norm",),
    ("size", "img_size", "input_size", "resolution"): ("image_size",),
    ("workers", "j"): ("num_workers",),
    ("model", "from", "pretrained", "weights", "checkpoint", "finetune"): ("weights", "init_from"),
    ("data", "root", "data_path", "data_dir", "train_dir"): ("data_root",),
    ("dataset",): ("data", "data.name"),
    ("classes", "nb_classes", "num_labels"): ("num_classes",),
    ("drop_path", "stochastic_depth"): ("drop_path_rate",),
    ("mixup",): ("mixup_alpha",),
    ("cutmix",): ("cutmix_alpha",),
    ("smoothing",): ("label_smoothing",),
    ("reprob", "random_erasing"): ("erase.prob",),
    ("aa", "rand_augment", "randaugment"): ("randaugment.magnitude",),
    ("ema", "ema_decay", "model_ema", "model_ema_decay"): ("ema_decays",),
    ("amp", "precision", "fp16", "bf16"): ("dtype",),
    ("freeze",): ("frozen",),
    ("wandb",): ("wandb_project",),
    ("log_interval", "print_freq"): ("log.every_steps",),
    ("out", "output", "output_dir", "out_dir", "save_dir", "log_dir"): ("workdir",),
    ("h",): ("help",),
}
MOST = 3  # names that are told


def config_files(path: Path, folder: Path) -> list[Path]:
    """Returns the config files in a folder whose name has that of a path in it, or is like it."""
    files = {file.stem: file for file in sorted(folder.glob("*.py"))}
    name = path.name.removesuffix(".py").lower()
    if name in files:
        return [files[name]]
    found = [stem for stem in files if name and name in stem]
    return [files[stem] for stem in (found or difflib.get_close_matches(name, files, MOST))[:MOST]]


def runs(workdir: Path) -> list[Path]:
    """Returns the workdirs of runs, beside one that is none, whose names are like its name."""
    names = sorted(path.parent.name for path in workdir.parent.glob("*/config.json"))
    near = difflib.get_close_matches(workdir.name, names, MOST)
    return [workdir.parent / name for name in near]


def flags(name: str, own: Sequence[str], fields: Iterable[str]) -> list[str]:
    """Returns the flags that were meant by one that there is not, without dashes, the likeliest
    first: those of the command, or `"config.<field>"` by the field's full name.

    Fields that have the name, or the last part of it; what it is called here; what is like it.
    """
    of_command = {_plain(flag): flag for flag in own}
    full = of_command | {_plain(field): f"config.{field}" for field in fields} | of_command
    name = _plain(name.removeprefix("config."))
    last = name.rpartition(".")[2]
    found = _called(name, full) or _called(last, full)
    for names, here in () if found else ELSEWHERE.items():
        if last in names:
            found = next(filter(None, (_called(each, full) for each in here)), [])
    if not found:
        lasts = {key.rpartition(".")[2]: key for key in reversed(full)}
        near = difflib.get_close_matches(last, lasts, MOST)
        found = [lasts[each] for each in near] or difflib.get_close_matches(name, full, MOST)
    return [full[each] for each in found[:MOST]]


def _plain(name):
    return name.lower().replace("-", "_")


def _called(name, full):
    """The full names that are the name, with "_" for a dot, too, or else end with it."""
    same = [key for key in full if key == name or key.replace(".", "_") == name.replace(".", "_")]
    return same or [key for key in full if key.endswith(f".{name}")]
