import subprocess
from pathlib import Path

import pytest

from convnext.runs import environment

ROOT = Path(__file__).parent.parent.parent


def git(folder, *arguments):
    options = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(
        ["git", *options, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def clone(tmp_path):
    folder = tmp_path / "clone"
    folder.mkdir()
    git(folder, "init", "--quiet")
    git(folder, "commit", "--quiet", "--allow-empty", "--message=first")
    return folder


def test_the_commit_is_that_of_git(clone, tmp_path):
    head = git(clone, "rev-parse", "HEAD")
    assert environment.commit(clone) == head
    git(clone, "pack-refs", "--all")
    assert environment.commit(clone) == head
    git(clone, "worktree", "add", "--quiet", "-b", "other", str(tmp_path / "tree"))
    git(tmp_path / "tree", "commit", "--quiet", "--allow-empty", "--message=second")
    other = git(tmp_path / "tree", "rev-parse", "HEAD")
    assert environment.commit(tmp_path / "tree") == other != head
    git(clone, "checkout", "--quiet", "--detach", other)
    assert environment.commit(clone) == other


def test_without_a_clone_there_is_no_commit(tmp_path):
    assert environment.commit(tmp_path) is None
    (tmp_path / ".git").mkdir()
    assert environment.commit(tmp_path) is None


def test_only_what_makes_pixels_and_was_noted_is_compared():
    before = {"pillow": "1", "numba": "2", "jax": "3"}
    now = {"pillow": "4", "numba": "2", "jax": "5", "simplejpeg": "6"}
    assert environment.other_pixels(before, now) == ["pillow is 4 and was 1"]
