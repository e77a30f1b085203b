from pathlib import Path

import pytest

from configs import convnext_tiny
from convnext.runs import meant, workdirs

CONFIGS = Path(__file__).parents[2] / "configs"
FIELDS = tuple(workdirs.fields(convnext_tiny.get_config().to_dict()))
OF_TRAIN = ("config", "workdir", "profile_steps", "dry_run", "start_anew", "help")
OF_EVAL = ("config", "workdir", "weights", "data", "data_root", "image_size", "crop_pct",
           "batch_size", "num_workers", "dtype", "csv", "help")  # fmt: skip


@pytest.mark.parametrize(
    "given, found",
    [
        ("folder", ["folder"]),
        ("configs/folder", ["folder"]),
        ("configs/foldr.py", ["folder"]),
        ("configs/Digits.py", ["digits"]),
        ("tiny", ["convnext_tiny"]),
        ("configs/convnext_v2.py", ["convnextv2"]),
        ("convnext_bsae.py", ["convnext_base"]),
        ("configs/nothing_alike.py", []),
        ("", []),
    ],
)
def test_a_config_file_is_found_by_a_part_of_its_name_or_one_that_is_like_it(given, found):
    files = [CONFIGS / f"{name}.py" for name in found]
    assert meant.config_files(Path(given), CONFIGS)[: len(found) or None] == files


@pytest.mark.parametrize(
    "name, found",
    [
        ("data.root", "data.root"),
        ("data_root", "data.root"),
        ("data-root", "data.root"),
        ("root", "data.root"),
        ("lr", "schedule.peak_lr"),
        ("config.lr", "schedule.peak_lr"),
        ("config.optimizer.lr", "schedule.peak_lr"),
        ("config.schedule.weight_decay", "optimizer.weight_decay"),
        ("batch_size", "batch_size"),
        ("epochs", "num_epochs"),
        ("config.model.dimz", "model.dims"),
        ("wd", "optimizer.weight_decay"),
        ("size", "image_size"),
        ("workers", "num_workers"),
        ("pretrained", "init_from"),
        ("model", "init_from"),
        ("seed", "seed"),
        ("fp16", "model.dtype"),
        ("num_epoch", "num_epochs"),
    ],
)
def test_a_field_is_found_by_its_last_name_by_that_of_others_or_one_like_it(name, found):
    assert meant.flags(name, OF_TRAIN, FIELDS)[0] == f"config.{found}"


def test_fields_that_have_a_name_in_common_are_all_told():
    probs = ["augment.randaugment.prob", "erase.prob", "mix.prob"]
    assert sorted(meant.flags("prob", OF_TRAIN, FIELDS)) == [f"config.{name}" for name in probs]


@pytest.mark.parametrize(
    "name, found",
    [
        ("dryrun", "dry_run"), ("output_dir", "workdir"), ("work-dir", "workdir"), ("h", "help"),
    ],
)  # fmt: skip
def test_flags_of_the_command_are_found_too(name, found):
    assert meant.flags(name, OF_TRAIN, FIELDS)[0] == found


@pytest.mark.parametrize(
    "name, found",
    [
        ("model", "weights"), ("size", "image_size"), ("batch", "batch_size"),
        ("data.root", "data_root"), ("dataset", "data"), ("workers", "num_workers"),
        ("data_dir", "data_root"), ("amp", "dtype"), ("lr", "config.schedule.peak_lr"),
    ],
)  # fmt: skip
def test_flags_of_the_command_come_before_fields(name, found):
    assert meant.flags(name, OF_EVAL, FIELDS)[0] == found


def test_nothing_is_told_of_what_is_like_nothing():
    assert meant.flags("zzzzzz", OF_TRAIN, FIELDS) == []
    assert meant.flags("lr", OF_EVAL, ()) == []
    assert meant.flags("root", OF_EVAL, ())[0] == "data_root"


def test_every_name_here_is_one():
    here = {name for names in meant.ELSEWHERE.values() for name in names}
    for name in here:
        assert meant.flags(name, (*OF_TRAIN, *OF_EVAL), FIELDS), name
        assert name in (*OF_TRAIN, *OF_EVAL) or any(
            field.replace(".", "_").endswith(name.replace(".", "_")) for field in FIELDS
        )
