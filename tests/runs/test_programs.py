import jax
import pytest

from convnext.files import cache
from convnext.runs import programs


@pytest.fixture
def no_place():
    """No folder is named for the programs."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.usefixtures("no_place")
def test_programs_of_one_device_are_kept_in_the_cache_of_the_user(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert programs.place() is None
    with programs.kept():
        assert programs.place() == str(cache.place("programs"))
        assert jax.config.jax_compilation_cache_max_size == 2_000_000_000
    assert programs.place() is None and jax.config.jax_compilation_cache_max_size == -1


def test_a_folder_that_is_named_is_the_place(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    place = programs.place()  # tests/conftest.py says where
    assert place is not None
    with programs.kept():
        assert programs.place() == place


def test_programs_of_several_cpu_devices_are_not_kept():
    with programs.kept():
        assert programs.place() is None
    assert programs.place() is not None
