"""The commands in tools/, as a user runs them."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

from convnext import VARIANTS, Classifier, ImageProcessor, save_pretrained
from convnext.weights import pretrained
from tools import convert, predict, variants

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests" / "fixtures" / "pretrained"


TOOLS = {path.stem for path in (ROOT / "tools").glob("*.py") if "argparse" in path.read_text()}


def run(monkeypatch, capsys, tool, *arguments):
    """Exit status (a message where it failed) and what was printed."""
    monkeypatch.setattr(sys, "argv", ["tool", *map(str, arguments)])
    try:
        tool.main()
        status = 0
    except SystemExit as stop:
        status = stop.code
    return status, capsys.readouterr().out


# GMACs of convolutions and linear layers at 224 and 384 pixels, computed from the official code.
GMACS = {
    "tiny": ("4.456", "13.092"), "small": ("8.684", "25.518"), "base": ("15.355", "45.122"),
    "large": ("34.361", "100.978"), "xlarge": ("60.921", "179.029"),
    "isotropic_small": ("4.286", None), "isotropic_base": ("16.896", None),
    "isotropic_large": ("59.699", None),
}  # fmt: skip


@pytest.fixture(scope="module")
def table(params_of):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(variants, "abstract_params", params_of)
        return variants.rows()


def test_the_table_has_every_variant_computed_and_published(table):
    rows = {row[0]: row for row in table}
    assert rows.keys() == VARIANTS.keys() == variants.PUBLISHED.keys()
    for name, (at_224, at_384) in GMACS.items():
        assert rows[name][4] == at_224 and at_384 in (None, rows[name][5])
    for name, row in rows.items():
        if row[6]:  # published figures are rounded, and some of them count more
            assert float(row[4]) == pytest.approx(float(row[6]), rel=0.02), name
        if row[7]:
            assert float(row[5]) == pytest.approx(float(row[7]), rel=0.005), name
    assert rows["v2_huge"][:4] == ("v2_huge", "3,3,27,3", "352,704,1408,2816", "660,289,640")
    assert rows["tiny"][6:] == ("4.5", "13.1", "224: 82.1; 22k 224: 82.9, 384: 84.1")


def test_the_table_is_printed_whole(table, monkeypatch, capsys):
    monkeypatch.setattr(variants, "rows", lambda: table)
    status, printed = run(monkeypatch, capsys, variants)
    lines = printed.splitlines()
    assert status == 0 and len(lines) == 1 + len(VARIANTS)
    assert "88,591,464" in printed and "…" not in printed


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    paths = [tmp_path / "a.png", tmp_path / "b.jpg"]
    for path, size in zip(paths, [(90, 70), (64, 128)], strict=True):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return paths


def test_predict_prints_what_the_classifier_says(monkeypatch, capsys, images):
    source = FOLDER / "transformers_ConvNext"
    flags = (f"--model={source}", "--image_size=64", "--top_k=2")
    status, printed = run(monkeypatch, capsys, predict, *images, *flags, "--json")
    expected = Classifier.from_pretrained(source)([*images], top_k=2, size=64)
    assert status == 0
    assert [json.loads(line) for line in printed.splitlines()] == [
        {"image": str(path), "classes": classes}
        for path, classes in zip(images, expected, strict=True)
    ]
    status, printed = run(monkeypatch, capsys, predict, *images, *flags)
    assert printed.splitlines()[0] == str(images[0])
    best = expected[0][0]
    assert printed.splitlines()[1].split() == [f"{best['score']:.4f}", best["label"]]


def test_predict_prints_no_commands_of_a_terminal(monkeypatch, capsys, images):
    def classify(images, **_):
        return [[{"label": "\x1b]0;x\x07 猫\n", "score": 0.5}]] * len(images)

    monkeypatch.setattr(predict.Classifier, "of", lambda _: classify)
    monkeypatch.setattr(predict.pretrained, "load", lambda *_, **__: SimpleNamespace(origin="x"))
    status, printed = run(monkeypatch, capsys, predict, images[0], "--model=x")
    assert (status, printed) == (0, f"{images[0]}\n    0.5000  \\x1b]0;x\\x07 猫\\n\n")


def test_convert_goes_through_every_format_and_back(monkeypatch, capsys, tmp_path):
    source = FOLDER / "official_v1.pth"
    first = pretrained.load(source)
    for name in ("timm", "transformers", "torchvision", "official"):
        out = tmp_path / name
        status, printed = run(monkeypatch, capsys, convert, source, out, f"--format={name}")
        origin = pretrained.load(source).origin
        assert (status, printed) == (0, f"{out} holds {origin} in the format of {name}\n")
        source = out
    last = pretrained.load(source)
    assert last.model == first.model and last.labels == first.labels
    jax.tree.map(np.testing.assert_array_equal, first.params, last.params)


def test_convert_carries_all_that_belongs_to_a_model(monkeypatch, capsys, tmp_path):
    found = pretrained.load(FOLDER / "official_v1.pth")
    processor = ImageProcessor(size=96, crop_rounding="floor")
    save_pretrained(
        tmp_path / "in", found.model, found.params, format="timm", labels="äbcde",
        processor=processor, problem_type="regression",
    )  # fmt: skip
    run(monkeypatch, capsys, convert, tmp_path / "in", tmp_path / "out", "--format=transformers")
    again = pretrained.load(tmp_path / "out")
    assert (again.labels, again.processor) == (tuple("äbcde"), processor)
    assert again.problem_type == "regression"
    run(monkeypatch, capsys, convert, FOLDER / "official_v1.pth", tmp_path / "raw",
        "--format=official", "--weights=raw", "--num_classes=0")  # fmt: skip
    raw = pretrained.load(FOLDER / "official_v1.pth", weights="raw", num_classes=0)
    jax.tree.map(
        np.testing.assert_array_equal, pretrained.load(tmp_path / "raw").params, raw.params
    )


def test_mistakes_end_in_one_line(monkeypatch, capsys, tmp_path, images):
    status, _ = run(monkeypatch, capsys, convert, FOLDER / "official_v2.pt", tmp_path / "out",
                    "--format=torchvision")  # fmt: skip
    problem = "the format torchvision has no models with GRN"
    assert status == f"error: {problem}; accepted: another format"
    assert not (tmp_path / "out").exists()
    status, _ = run(monkeypatch, capsys, predict, tmp_path / "c.png", f"--model={FOLDER}/none.pth")
    assert status.startswith("error: no file or folder") and "\n" not in status
    (tmp_path / "empty.png").touch()
    status, _ = run(monkeypatch, capsys, predict, tmp_path / "empty.png",
                    f"--model={FOLDER / 'official_v1.pth'}", "--image_size=64")  # fmt: skip
    assert status.startswith("error: ") and "empty.png" in status and "\n" not in status


@pytest.mark.parametrize("name", sorted(TOOLS))
def test_the_help_of_a_tool_names_the_command(name, monkeypatch, capsys):
    tool = importlib.import_module(f"tools.{name}")
    status, printed = run(monkeypatch, capsys, tool, "--help")
    assert status == 0 and printed.startswith(f"usage: python -m tools.{name} ")


def test_a_tool_is_a_command():
    result = subprocess.run(
        [sys.executable, "-m", "tools.convert", "--help"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    told = " ".join(result.stdout.split())
    assert "transformers, timm, official, torchvision, tensorflow, keras" in told
