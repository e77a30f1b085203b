import os
import subprocess
from multiprocessing import shared_memory as python
from pathlib import Path

import pytest

from convnext.data import shared_memory
from tests.helpers.inputs import refused

pytestmark = pytest.mark.skipif(shared_memory.owner() is None, reason="needs Linux's /proc")


@pytest.fixture(scope="module")
def dead():
    """The number of a process that is no more."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_what_is_asked_for_must_be_free(monkeypatch, tmp_path):
    disk = os.statvfs(tmp_path)
    free = disk.f_bavail * disk.f_frsize
    monkeypatch.setattr(os, "statvfs", lambda path: disk)
    shared_memory.check(free, 2)
    refused(r"8 workers take up to [\d,]+ MB of shared memory, and /dev/shm has [\d,]+ MB; "
            r"accepted: more of it \(docker run --shm-size.*emptyDir",
            shared_memory.check, free + 1, 8)  # fmt: skip


def test_where_shared_memory_is_no_folder_nothing_is_asked(monkeypatch):
    monkeypatch.setattr(shared_memory, "FOLDER", Path("/nowhere"))
    shared_memory.check(1 << 60, 2)


def test_segments_are_named_after_their_owner(monkeypatch):
    monkeypatch.setattr(python, "_make_filename", python._make_filename)  # and set back
    shared_memory.name_after("convnext-1-2")
    segments = [python.SharedMemory(create=True, size=4096) for _ in range(2)]
    names = [segment.name for segment in segments]
    for segment in segments:
        segment.close()
        segment.unlink()
    assert len(set(names)) == 2 and all(name.startswith("convnext-1-2-") for name in names)


def test_what_processes_that_are_no_more_have_left_is_removed_and_nothing_else(tmp_path, dead):
    folders = tmp_path / "shm", tmp_path / "tmp"
    mine = shared_memory.owner()
    namespace = mine.split("-")[1]
    left = f"convnext-{namespace}-{dead}-"
    kept = [
        f"{mine}-0123456789abcdef",  # of this process
        f"convnext-{namespace}-1-0123456789abcdef",  # of another one that lives
        f"convnext-{int(namespace) + 1}-{dead}-0123456789abcdef",  # of another namespace
        f"psm_{dead}",
        f"convnext-{dead}-0123456789abcdef",
    ]
    for folder in folders:
        folder.mkdir()
        for name in (*kept, left + "0123456789abcdef", left + "k_9x"):
            (folder / name).write_bytes(bytes(100))
        (folder / (left + "folder")).mkdir()
        (folder / (left + "link")).symlink_to(folder / kept[0])
    assert shared_memory.remove_left_over(folders) == (4, 400)
    for folder in folders:
        found = {path.name for path in folder.iterdir()}
        assert found == {*kept, left + "folder", left + "link"}
    assert shared_memory.remove_left_over([*folders, tmp_path / "none"]) == (0, 0)


def test_what_another_user_has_left_is_not_touched(tmp_path, dead, monkeypatch):
    path = tmp_path / f"convnext-{shared_memory.owner().split('-')[1]}-{dead}-0123456789abcdef"
    path.touch()
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    assert shared_memory.remove_left_over([tmp_path]) == (0, 0)
    assert path.exists()


def test_without_proc_nothing_has_an_owner(monkeypatch):
    def missing():
        raise FileNotFoundError

    monkeypatch.setattr(shared_memory, "_namespace", missing)
    assert shared_memory.owner() is None
