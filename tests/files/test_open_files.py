import errno
import os
import resource

import pytest
from PIL import Image

from convnext.data import arrayrecord, batches, folders
from convnext.errors import RunError
from convnext.files import open_files
from convnext.runs import cli
from tests.helpers.inputs import noise, refused
from tools import prepare


@pytest.fixture
def few():
    """The soft limit is 512; after few() this process can open no more files."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    def few():
        os.close(free := os.open(os.devnull, os.O_RDONLY))
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))

    resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
    yield few
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def images(tmp_path):
    for name in "ab":
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(3):
            path = tmp_path / "images" / name / f"{i}.png"
            Image.fromarray(noise(4, 4, 3, seed=i)).save(path)
    return tmp_path / "images"


def test_a_command_opens_as_many_files_as_the_system_allows(few, monkeypatch):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft < hard
    monkeypatch.setattr(cli.app, "run", lambda main, flags_parser: None)
    cli.run(lambda config, workdir: None)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)


def test_a_limit_that_the_system_does_not_take_is_left_as_it_is(monkeypatch):
    def refuse(*_):
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, resource.RLIM_INFINITY))
    open_files.raise_limit()


def test_more_shards_than_can_be_open_are_refused_as_they_are_loaded(images, tmp_path, monkeypatch):
    prepare.prepare(images, tmp_path / "out", val_fraction=0.3, images_per_shard=1)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (105, 105))
    refused("out has 6 shards, which are open at once, and a process may open 105 files; "
            "accepted: ulimit -n 106 or more", arrayrecord.load, str(tmp_path / "out"))  # fmt: skip
    monkeypatch.setattr(resource, "getrlimit", lambda _: (106, 106))
    assert sum(map(len, arrayrecord.load(str(tmp_path / "out")))) == 6


def test_too_many_open_files_are_no_image_to_be_left_out(images, tmp_path, few):
    prepare.prepare(images, tmp_path / "out", images_per_shard=1)
    recorded, _ = arrayrecord.load(str(tmp_path / "out"))
    files = folders.class_folders(images)
    few()
    for source in (files, recorded):
        with pytest.raises(RunError, match="too many open files: .*; accepted: .* ulimit -n"):
            batches._readable(source.__getitem__, range(len(source)), 0, max_bad_images=3)


def test_other_errors_are_left_to_the_caller():
    open_files.check_error(OSError(errno.ENOENT, os.strerror(errno.ENOENT)))
    open_files.check_error(RuntimeError("hash mismatch"))
