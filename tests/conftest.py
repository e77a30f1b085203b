"""Eight simulated CPU devices, and one compilation cache for the suite and its subprocesses."""

import gc
import hashlib
import os
import pickle
import shutil
import tempfile
from functools import cache
from pathlib import Path

from tests.helpers.compiling import QUICK

CACHE = Path(__file__).parent.parent / ".pytest_cache" / "jax"
# In the environment, so that commands which the tests start see the same.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
os.environ["HF_HUB_OFFLINE"] = "1"  # whether or not there is a network, nobody is asked
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()  # listings of folders
os.environ["XLA_FLAGS"] = f"{QUICK} {os.environ.get('XLA_FLAGS', '')}"
# JAX has so many objects that to look at all of them takes a tenth of the suite's time.
gc.set_threshold(100_000, 10, 10)

import filelock
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src import compilation_cache

import train as train_command
from convnext import ConvNeXt
from convnext.models.convnext import abstract_params
from convnext.training import mixup
from tests.helpers.runs import small

load = compilation_cache.get_executable_and_time


def load_of_one_device(key, options, *rest):
    """Programs of several may hang, see programs.may_hang_once_loaded."""
    is_of_one = options.num_replicas * options.num_partitions == 1
    return load(key, options, *rest) if is_of_one else (None, None)


compilation_cache.get_executable_and_time = load_of_one_device


@pytest.fixture
def uniform_lambda(monkeypatch):
    """Images are mixed by Beta(1, 1) whatever alpha is. The sampler's loops take as long to compile
    as a model; test_mixup.py has them."""
    monkeypatch.setattr(mixup, "_beta", lambda key, alpha, shape: jax.random.uniform(key, shape))


@pytest.fixture(scope="session")
def tiny_model():
    """Smallest model with every kind of layer; gamma is 1 so that its blocks matter."""
    return ConvNeXt(
        depths=(1, 2), dims=(8, 16), patch_size=2, num_classes=5, layer_scale_init_value=1.0
    )


@pytest.fixture(scope="session")
def tiny_params(tiny_model):
    return jax.jit(tiny_model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]


@pytest.fixture(scope="session")
def batch():
    """16 images of uint8 [12, 12, 3] in 5 classes; the last three are padding."""
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (16, 12, 12, 3), dtype=np.uint8),
        "label": rng.integers(0, 5, 16, dtype=np.int32),
        "mask": (np.arange(16) < 13).astype(np.float32),
    }


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """once(name, make): the folder that make(folder) filled in one of the suite's processes."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def once(name, make):
        folder, done = root / name, root / f"{name}.done"
        with filelock.FileLock(root / f"{name}.lock"):
            if not done.exists():
                make(folder)
                done.touch()
        return folder

    return once


@pytest.fixture(scope="session")
def params_of(once):
    """model -> shapes of its parameters. Tracing a variant takes a second, so once for each."""

    @cache
    def shapes(model):
        def make(folder):
            folder.mkdir()
            (folder / "shapes").write_bytes(pickle.dumps(abstract_params(model)))

        folder = once(hashlib.sha256(repr(model).encode()).hexdigest(), make)
        return pickle.loads((folder / "shapes").read_bytes())

    return shapes


@pytest.fixture(scope="session")
def finished_run(once):
    """The workdir of a run of `small()` from start to end, which tests only read, and its state in
    the file beside it."""

    def make(folder):
        state = train_command.train(small(), folder / "run")
        (folder / "state").write_bytes(pickle.dumps(jax.device_get(state)))

    return once("finished", make) / "run"


@pytest.fixture(scope="module")
def finished(finished_run, tmp_path_factory):
    """A copy of that workdir, and the state that training returned."""
    workdir = shutil.copytree(finished_run, tmp_path_factory.mktemp("runs") / "finished")
    return workdir, pickle.loads((finished_run.parent / "state").read_bytes())


@pytest.fixture(scope="session")
def regression(once, finished_run):
    """The workdir of an epoch of a regression that starts from that run, at a rate of 0."""
    config = small(init_from=str(finished_run), problem_type="regression", num_epochs=1,
                   **{"model.num_classes": 1, "schedule.peak_lr": 0.0, "schedule.end_lr": 0.0,
                      "schedule.warmup_epochs": 0})  # fmt: skip
    return once("regression", lambda workdir: train_command.train(config, workdir))


def pytest_collection_modifyitems(items):
    """The files that take longest first, so that no process is left alone with one at the end."""
    longest = (
        "test_second_task.py",
        "test_train_processes.py",
        "test_train.py",
        "test_depthwise_ptx.py",
        "test_soak.py",
        "test_steps.py",
        "test_convnext.py",
        "test_mixup.py",
    )
    rank = {name: number for number, name in enumerate(longest)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))
