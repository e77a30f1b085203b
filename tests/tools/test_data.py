import re

import numpy as np
import pytest
from PIL import Image

from dev import shapes
from tools import data


@pytest.fixture
def images(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "photos"
    for name in ("red_star", "blue_bar"):
        for part, count in (("train", 5), ("val", 2)):
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                rng = np.random.default_rng((index, part == "val", *name.encode()))
                image = shapes.draw(*name.split("_"), rng)
                image.save(root / part / name / f"{index}.jpg")
    Image.open(root / "train" / "red_star" / "0.jpg").save(root / "val" / "red_star" / "9.png")
    (root / "train" / "red_star" / "notes.txt").write_text("no image")
    (root / "train" / "blue_bar" / "broken.jpg").write_bytes(b"\xff\xd8")
    return root


def test_it_says_what_is_there_and_what_may_be_wrong(images, capsys):
    data.main([str(images)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "data       11 training images, 5 validation images",
        "classes    blue_bar 6 + 2, red_star 5 + 3",
        "skipped    1 .txt",
    ]
    said = "\n".join(lines[3:])
    assert "damaged    cannot read the image" in said and "broken.jpg" in said
    assert re.search(r"near +1 pairs of nearly the same picture across the parts:\n", said)
    assert re.search(r"val/red_star/9.png and .*train/red_star/0.jpg \(1.00\)", said)


def test_a_page_has_pictures_of_each_class_and_of_pairs(images, tmp_path, capsys):
    page = tmp_path / "page.html"
    data.main([str(images), f"--page={page}"])
    text = page.read_text(encoding="utf-8")
    assert text.count("<img ") == 5 + 5 + 2 + 3 + 2 and text.count("damaged</span>") == 1
    assert "6 training images" in text and "one to train on and one to validate on" in text
    assert f"{page}: {page.stat().st_size:,} bytes" in capsys.readouterr().out


def test_names_of_files_are_no_markup(images, tmp_path):
    first = images / "train" / "red_star" / "0.jpg"
    first.rename(first.with_name("<b>&.jpg"))
    page = tmp_path / "page.html"
    data.main([str(images), f"--page={page}"])
    assert "<b>" not in page.read_text(encoding="utf-8")


def test_a_folder_that_is_not_there_ends_in_one_line(tmp_path):
    with pytest.raises(SystemExit, match=f"error: no folder {tmp_path}/none; accepted: "):
        data.main([str(tmp_path / "none")])


def test_a_page_that_cannot_be_written_is_named(images, tmp_path):
    with pytest.raises(SystemExit, match="error: --page is .*: No such file or directory"):
        data.main([str(images), f"--page={tmp_path / 'none' / 'page.html'}"])
