import errno
import fcntl
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from convnext.data.epochs import Epochs
from convnext.errors import InputError
from convnext.runs import workdirs
from convnext.runs.log import Log
from tests.helpers.inputs import refused
from tests.helpers.processes import together

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys
from pathlib import Path
from convnext.runs import workdirs
with workdirs.locked(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def lock(workdir):
    with workdirs.locked(workdir):
        pass


def test_a_second_run_in_a_workdir_is_refused_until_the_first_is_killed(tmp_path):
    workdir = tmp_path / "new"
    with subprocess.Popen([sys.executable, "-c", HOLDER, workdir], cwd=ROOT, text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:  # fmt: skip
        assert holder.stdout.readline() == "locked\n"
        refused("another run is at work in .*new; accepted: another --workdir", lock, workdir)
        refused("another run is at work", lock, workdir)  # and not let go of
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    lock(workdir)
    lock(workdir)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_where_there_are_no_locks_a_run_continues_and_says_so(tmp_path, monkeypatch, number):
    """No file takes the place of a lock: it would outlive its holder, and a run be refused."""

    def flock(file, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    said = []
    with workdirs.locked(tmp_path, said.append), workdirs.locked(tmp_path, said.append):
        pass
    assert said == 2 * [
        f"{tmp_path} cannot be locked ({os.strerror(number)}): the run continues, and nothing "
        "keeps a second one out of it"
    ]


def write_config(workdir, config):
    Log(workdir, 0, Epochs(1, 1, num_epochs=1), config, "val/top1", every_steps=1)


BEFORE = {"seed": 0, "model": {"dims": (8, 16), "remat": False}, "log": {"every_steps": 5},
          "data": {"root": "a", "name": "folder"}, "gone": 1}  # fmt: skip


def test_what_a_run_may_resume_with_is_reported(tmp_path):
    write_config(tmp_path, BEFORE)
    after = {"seed": 0, "model": {"dims": (8, 16), "remat": True}, "log": {"every_steps": 7},
             "data": {"root": "b", "name": "folder"}, "new": 2}  # fmt: skip
    said = []
    workdirs.check_config(tmp_path, after, [], said.append)
    assert said == [
        "changed since the run began: model.remat is True and was False",
        "changed since the run began: log.every_steps is 7 and was 5",
        "changed since the run began: data.root is 'b' and was 'a'",
        "gone since the run began: gone, which was 1",
        "new since the run began: new, which is 2",
    ]
    workdirs.check_config(tmp_path / "nowhere", after, [], said.append)
    workdirs.check_config(tmp_path, BEFORE, [], said.append)
    assert len(said) == 5


def test_what_makes_another_run_of_it_is_refused(tmp_path):
    write_config(tmp_path, BEFORE)
    after = {**BEFORE, "seed": 1, "model": {"dims": (8, 24), "remat": True}}
    message = (
        r"seed is 1 and was 0, model.dims is \[8, 24\] and was \[8, 16\]; accepted: the values"
    )
    refused(message, workdirs.check_config, tmp_path, after, [])


def test_a_run_from_before_images_were_augmented_on_the_device_had_them_on_the_host(tmp_path):
    write_config(tmp_path, BEFORE)
    workdirs.check_config(tmp_path, {**BEFORE, "augment_on": "host"}, [], report=pytest.fail)
    refused("augment_on is 'device' and was 'host'; accepted: ", workdirs.check_config, tmp_path,
            {**BEFORE, "augment_on": "device"}, [])  # fmt: skip


def test_other_classes_are_refused(tmp_path):
    (tmp_path / "classes.json").write_text('["cat", "dog"]')
    workdirs.check_config(tmp_path, {}, ("cat", "dog"))
    refused("of other data: class 1 is 'cow' and was 'dog'; accepted: the classes of ",
            workdirs.check_config, tmp_path, {}, ("cat", "cow", "dog"))  # fmt: skip
    refused("class 2 is 'owl' and was None", workdirs.check_config, tmp_path, {},
            ("cat", "dog", "owl"))  # fmt: skip


def test_of_data_that_is_not_at_hand_classes_and_sizes_are_not_compared(tmp_path):
    write_config(tmp_path, {"seed": 0, "train_size": 10, "val_size": 3})
    (tmp_path / "classes.json").write_text('["cat", "dog"]')
    after = {"seed": 0, "train_size": 12, "val_size": 4}
    given = tmp_path, after, ("0", "1")
    workdirs.check_config(*given, pytest.fail, stand_in=True)
    refused("class 0 is '0' and was 'cat'; accepted: ", workdirs.check_config, *given)
    after["seed"] = 1
    refused("of another recipe: seed is 1 and was 0; accepted: ", workdirs.check_config, *given,
            stand_in=True)  # fmt: skip


def test_where_a_task_has_no_classes_the_recipe_tells_the_runs_apart(tmp_path):
    write_config(tmp_path, {"task": "classification"})
    (tmp_path / "classes.json").write_text('["cat", "dog"]')
    message = "of another recipe: task is 'maps' and was 'classification'; accepted: the values"
    refused(message, workdirs.check_config, tmp_path, {"task": "maps"}, None)
    (tmp_path / "config.json").unlink()
    workdirs.check_config(tmp_path, {"task": "maps"}, None)


@pytest.mark.parametrize("name", ["config.json", "classes.json"])
def test_a_damaged_file_is_named(tmp_path, name):
    for text, message in {
        "{": r"cannot read \S+/NAME: Expecting property .*; accepted: what the run wrote, or no ",
        "\xff": r"cannot read \S+/NAME: .*decode",
        "3": r"/NAME holds a value of type int, not (dict|list); accepted: what the run wrote",
    }.items():
        (tmp_path / name).write_text(text, encoding="latin-1")
        refused(message.replace("NAME", name), workdirs.check_config, tmp_path, BEFORE, ["cat"])
    (tmp_path / name).unlink()
    workdirs.check_config(tmp_path, BEFORE, ["cat"])


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").touch()
    refused("--workdir is .*Not a directory.*; accepted: a folder", lock, tmp_path / "file" / "run")


def test_a_workdir_is_seen_by_all_processes(monkeypatch, tmp_path):
    workdir = tmp_path / "run"
    assert together(monkeypatch, *[partial(lock, workdir)] * 3) == [None] * 3
    assert not list(workdir.glob(".*"))


def look(monkeypatch, *workdirs_, sleep):
    """Each process at its own; whether they see each other."""
    seconds = iter(range(1000))
    functions = [
        partial(workdirs._require_seen, workdir, now=lambda: next(seconds), sleep=sleep)
        for workdir in workdirs_
    ]
    return together(monkeypatch, *functions)


def test_the_process_that_does_not_see_the_workdir_is_named_in_all(monkeypatch, tmp_path):
    here, there, slept = tmp_path / "here", tmp_path / "there", []
    here.mkdir()
    said = look(monkeypatch, here, here, there, sleep=slept.append)
    for error, workdir in zip(said, (here, here, there), strict=True):
        assert isinstance(error, InputError)
        assert str(error) == (
            f"--workdir is {workdir}: process 2: what process 0 wrote is not in {there}; "
            "accepted: a folder that all processes see and can write"
        )
    assert 10 < len(slept) <= workdirs.SEEN_WITHIN and not list(here.iterdir())


def test_a_workdir_that_is_seen_late_is_waited_for(monkeypatch, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    said = look(monkeypatch, here, there, sleep=lambda seconds: there.symlink_to(here))
    assert said == [None, None]


def test_a_process_that_cannot_write_is_named_in_all(monkeypatch, tmp_path):
    def refuse(**given):
        raise PermissionError(f"not allowed in {given['dir']}")

    monkeypatch.setattr(workdirs.tempfile, "TemporaryFile", refuse)
    said = look(monkeypatch, tmp_path, tmp_path, sleep=pytest.fail)
    for error in said:
        assert isinstance(error, InputError)
        assert f"process 0: not allowed in {tmp_path}; accepted: a folder" in str(error)
