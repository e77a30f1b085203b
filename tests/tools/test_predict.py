import csv
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convnext import Classifier
from convnext.images import addresses
from tests.helpers.inputs import refused
from tests.helpers.sites import serving
from tools import named_images, predict

MODEL = Path(__file__).parent.parent / "fixtures" / "pretrained" / "transformers_ConvNext"


@pytest.fixture
def folder(tmp_path):
    """Three images in two folders, one of which is damaged, and what is no image."""
    rng = np.random.default_rng(0)
    inner = tmp_path / "inner"
    inner.mkdir()
    for path, side in ((tmp_path / "a.png", 40), (inner / "b.png", 64)):
        Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).save(path)
    (inner / "c.png").write_bytes((inner / "b.png").read_bytes()[:300])
    (tmp_path / "notes.txt").touch()
    return tmp_path


@pytest.fixture
def site(folder):
    with serving(folder) as address:
        yield address


def predicted(capsys, *arguments, model=MODEL, fails=False):
    """What the command prints, of both streams."""
    arguments = [*map(str, arguments), f"--model={model}", "--image_size=32"]
    if fails:
        with pytest.raises(SystemExit) as ended:
            predict.main(arguments)
        print(ended.value, file=sys.stderr)
    else:
        predict.main(arguments)
    printed = capsys.readouterr()
    return printed.out.splitlines(), printed.err.splitlines()


def test_a_folder_is_predicted_but_for_what_cannot_be_read(folder, capsys):
    lines, said = predicted(capsys, folder, "--json", fails=True)
    names = [str(folder / "a.png"), str(folder / "inner" / "b.png")]
    expected = Classifier.from_pretrained(MODEL)(names, size=32)
    assert [json.loads(line) for line in lines] == [
        {"image": name, "classes": classes} for name, classes in zip(names, expected, strict=True)
    ]
    assert said[0] == "skipped    1 .txt"
    assert said[1] == f"weights    {MODEL} (transformers)"
    assert said[2].startswith(f"cannot read the image {folder}/inner/c.png: ")
    assert said[3] == "error: 1 of 3 images could not be read, see above"


def test_images_are_of_one_batch_size(folder, capsys, monkeypatch):
    shapes = []
    call = Classifier._logits

    def logits(self, pixels, batch_size):
        shapes.append((len(pixels), batch_size))
        return call(self, pixels, batch_size)

    monkeypatch.setattr(Classifier, "_logits", logits)
    lines, _ = predicted(capsys, *[folder / "a.png"] * 5, "--batch_size=2", "--top_k=1")
    assert shapes == [(2, 2)] * 3
    assert len(lines) == 10 and len(set(lines)) == 2


def test_a_pattern_stands_for_what_matches(folder, capsys):
    lines, _ = predicted(capsys, folder / "**" / "[ab].png", "--csv", "--top_k=2")
    header, first, second = csv.reader(lines)
    assert header == ["image", "label", "score", "label_2", "score_2"]
    assert [first[0], second[0]] == [str(folder / "a.png"), str(folder / "inner" / "b.png")]
    assert float(first[2]) > float(first[4]) > 0
    refused("nothing matches .*x.png; accepted: a pattern", named_images.find, [f"{folder}/*x.png"])
    (folder / "[ab].png").write_bytes((folder / "a.png").read_bytes())  # a name, not a pattern
    assert named_images.find([f"{folder}/[ab].png"])[0] == [f"{folder}/[ab].png"]


def test_results_may_go_to_a_file(folder, capsys, tmp_path):
    lines, _ = predicted(capsys, folder / "a.png", "--csv", f"--out={tmp_path}/out.csv")
    assert lines == []
    assert [row[0] for row in csv.reader((tmp_path / "out.csv").open())] == [
        "image", str(folder / "a.png")
    ]  # fmt: skip
    _, said = predicted(capsys, folder / "a.png", f"--out={tmp_path}/no/out", fails=True)
    assert said[-1] == (
        f"error: --out is {tmp_path}/no/out, which cannot be written: No such file or directory; "
        "accepted: a file"
    )


def test_an_address_is_an_image(folder, site, capsys):
    for address in (f"{site}/a.png", f"{site}/moved"):
        here, _ = predicted(capsys, folder / "a.png")
        there, _ = predicted(capsys, address)
        assert there == [address, *here[1:]]


@pytest.mark.parametrize(
    "path, message",
    [
        ("none.png", "cannot read .*/none.png: Not Found; accepted: an address that answers"),
        (
            "escape",
            "cannot read .*/escape: its redirection is 'ftp://a/b.png'; accepted: http",
        ),
        ("a.png", "the size of .*/a.png is 'more'; accepted: an image of at most 100 bytes"),
        ("notes.txt", "cannot read the image .*/notes.txt: it is of none of the formats"),
    ],
)
def test_an_address_that_is_no_image_is_said(site, path, message, monkeypatch):
    monkeypatch.setattr(addresses, "MAX_BYTES", 100)
    bad = []
    assert list(named_images.read([f"{site}/{path}"], bad)) == []
    assert re.match(message, str(bad[0]))


def test_a_folder_without_images_is_said(tmp_path):
    (tmp_path / "a.txt").touch()
    refused("no images in .*, skipped: 1 .txt; accepted: files ending in .jpg", named_images.find,
            [str(tmp_path)])  # fmt: skip
