"""The distributions in dist/, of `make package`: installed and used away from this repository."""

import json
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import convnext
from convnext.__main__ import TRAIN_EXTRA
from convnext.commands import TOOLS

ROOT = Path(__file__).parents[2]
NAME = f"convnext_jax-{convnext.__version__}"
WHEEL = ROOT / "dist" / f"{NAME}-py3-none-any.whl"
SDIST = ROOT / "dist" / f"{NAME}.tar.gz"

USE = """
import json, pathlib, sys
import jax, jax.numpy as jnp
import convnext
from convnext.data import imagenet
from convnext.kernels import depthwise

assert pathlib.Path(convnext.__file__).is_relative_to(sys.prefix), convnext.__file__
assert len(convnext.VARIANTS) == 23
model = convnext.ConvNeXt(depths=(1, 1), dims=(8, 16), num_classes=5)
images = jnp.zeros((2, 32, 32, 3))
params = model.init(jax.random.key(0), images)["params"]
assert model.apply({"params": params}, images).shape == (2, 5)
convnext.save_pretrained("out", model, params, format="transformers")
pixels = convnext.ImageProcessor(size=32).preprocess([images[0]])
classifier = convnext.Classifier.from_pretrained("out")
assert len(classifier(images[0], top_k=3)[0]) == 3
assert imagenet.names(1000)[0].startswith("tench")
assert depthwise.TIMINGS
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the wheel, and what it depends on from this one."""
    root = tmp_path_factory.mktemp("venv")
    venv.create(root, with_pip=False, symlinks=True)
    paths = sysconfig.get_paths("venv", vars={"base": str(root), "platbase": str(root)})
    here = sysconfig.get_paths()["purelib"]
    (Path(paths["purelib"]) / "dependencies.pth").write_text(f"{here}\n")
    python = root / "bin" / "python"
    command = [python, "-I", "-m", "pip", "install", "--quiet", "--no-index", WHEEL]
    subprocess.run(command, check=True, cwd=root)
    return python


def convnext_of(python, *arguments, cwd, status=0):
    command = [python.with_name("convnext"), *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    return done


def test_the_wheel_runs_where_the_repository_is_not(python, tmp_path):
    subprocess.run([python, "-I", "-c", USE], check=True, cwd=tmp_path)


@pytest.mark.parametrize("command", ["train", "eval", *TOOLS])
def test_the_command_of_the_wheel_says_how_one_types_it(command, python, tmp_path):
    said = convnext_of(python, command, "--help", cwd=tmp_path).stdout
    assert f"convnext {command} " in said
    assert "python -m" not in said and "python train.py" not in said, said


def test_the_wheel_trains_and_evaluates_by_the_names_of_recipes(python, tmp_path):
    small = ("--config.num_epochs=1", "--config.num_workers=2", "--config.eval_every_epochs=1")
    trained = convnext_of(python, "train", "--config=digits", *small, cwd=tmp_path)
    said = trained.stdout
    assert "resource_tracker" not in trained.stderr  # batches that are left in shared memory
    assert "  convnext predict IMAGE --model=runs/digits\n" in said
    scores = json.loads((tmp_path / "runs/digits/metrics.jsonl").read_text().splitlines()[-1])
    said = convnext_of(python, "eval", "--workdir=runs/digits", cwd=tmp_path).stdout
    assert f"top1  {scores['val_ema/top1']!r}\n" in said
    failed = convnext_of(python, "train", "--config=digitz", cwd=tmp_path, status=1)
    assert failed.stderr == "error: no config file digitz; accepted: --config=digits\n"


def test_without_the_training_extra_one_line_says_what_installs_it(python, tmp_path):
    blocked = f"import sys; sys.modules.update(dict.fromkeys({sorted(TRAIN_EXTRA)}))"
    run = "; import convnext.__main__ as command; command.main()"
    for command in "train", "report":
        done = subprocess.run(
            [python, "-I", "-c", blocked + run, command, "--help"],
            cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip
        needs = f"error: convnext {command} needs "
        assert done.stderr.startswith(needs) and done.returncode == 1, done.stderr
        assert done.stderr.endswith('; accepted: after pip install "convnext-jax[train]"\n')
    for command in "predict", "convert", "variants":
        done = [python, "-I", "-c", blocked + run, command, "--help"]
        subprocess.run(done, cwd=tmp_path, check=True)
    subprocess.run([python, "-I", "-c", f"{blocked}\n{USE}"], check=True, cwd=tmp_path)


def test_a_type_checker_knows_what_the_package_exports(python, tmp_path):
    consumer = tmp_path / "consumer.py"
    consumer.write_text((Path(__file__).parent / "consumer.py").read_text())
    command = [sys.executable, "-m", "mypy", "--strict", f"--python-executable={python}"]
    found = subprocess.run([*command, consumer], cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


def test_the_wheel_has_the_package_and_its_licence_and_nothing_else():
    info = f"{NAME}.dist-info"
    metadata = (
        "METADATA", "WHEEL", "top_level.txt", "RECORD", "entry_points.txt", "licenses/LICENSE"
    )  # fmt: skip
    scripts = (
        name for what in ("train.py", "eval.py", "configs", "tools") for name in tracked(what)
    )
    expected = {*tracked("convnext"), *(f"convnext/scripts/{name}" for name in scripts)}
    expected |= {f"{info}/{name}" for name in metadata}
    assert set(zipfile.ZipFile(WHEEL).namelist()) == expected


def test_the_source_distribution_is_the_whole_repository():
    with tarfile.open(SDIST) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert set(tracked(".")) <= names


def tracked(folder: str) -> list[str]:
    """Of the repository's files, without what is not committed."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", folder]
    return subprocess.check_output(command, cwd=ROOT, text=True).splitlines()
