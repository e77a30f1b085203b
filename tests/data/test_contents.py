import numpy as np
import pytest
from PIL import Image, ImageOps

from convnext.data import contents, duplicates
from dev import shapes


def drawn(index, kind=("red", "star")):
    return shapes.draw(*kind, np.random.default_rng((index, 7))).resize((192, 144))


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Six training and three validation images: one of these is a mirrored one of those, encoded
    again, one the same file, and one is damaged."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    train = [tmp_path / f"train{index}.jpg" for index in range(6)]
    for index, path in enumerate(train):
        drawn(index).save(path, quality=92)
    val = [tmp_path / f"val{index}.jpg" for index in range(3)]
    ImageOps.mirror(drawn(1)).save(val[0], quality=70)
    val[1].write_bytes(train[2].read_bytes())
    val[2].write_bytes(train[3].read_bytes()[:2000])
    drawn(4).resize((160, 120)).save(train[4])
    exif = Image.Exif()
    exif[0x0112] = 6
    drawn(5).save(train[5], exif=exif)
    return train, val


def test_pictures_that_are_there_twice_are_told_but_for_equal_files(places):
    train, val = places
    found = contents.look([*train, *val])
    assert [(pair.first, pair.second, pair.mirrored) for pair in found.pairs] == [(1, 6, True)]
    assert list(found.unreadable) == [8] and "val2.jpg: " in found.unreadable[8]
    assert found.turned == 1 and len(found.sizes) == 9 and found.sizes[5] == (144, 192)
    assert contents.lines(found, train, val) == [
        "sizes      160 x 120 to 192 x 144 pixels, 192 x 144 in the median",
        "turned     1 images by their EXIF data",
        f"damaged    {found.unreadable[8]}",
        "near       1 pairs of nearly the same picture across the parts:",
        f"             {val[0]} and {train[1]} ({found.pairs[0].similarity:.2f}, mirrored)",
    ]


def test_what_was_found_is_kept_until_a_file_changes(places, monkeypatch):
    paths = [*places[0], *places[1]]
    assert contents.recall(paths) is None
    found = contents.look(paths)
    assert contents.recall(paths) == found

    def again(*_, **__):
        raise AssertionError

    monkeypatch.setattr(duplicates, "near", again)
    assert contents.look(paths) == found
    drawn(9).save(paths[0])
    assert contents.recall(paths) is None


@pytest.mark.parametrize("kept", ["", "{}", '{"count": 1}', "[1]"])
def test_a_damaged_cache_is_made_again(places, kept):
    paths = places[0]
    found = contents.look(paths)
    contents._cache_place(paths).write_text(kept)
    assert contents.recall(paths) is None and contents.look(paths) == found


def test_a_home_that_cannot_be_written_to_does_no_harm(places, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert contents.look(places[0]).count == 6


def test_many_pairs_and_damages_are_summed_up(places):
    train = places[0]
    pairs = [duplicates.Pair(0, second, 0.9, False) for second in range(1, 6)] * 2
    found = contents.Contents(6, [(1, 1)], 0, pairs, {i: f"image {i}" for i in range(6)})
    said = contents.lines(found, train, [])
    assert said[0] == "sizes      1 x 1 pixels, all of them"
    assert said[1:7] == [*(f"damaged    image {i}" for i in range(5)), "damaged    1 more"]
    assert said[7] == "near       10 pairs of nearly the same picture within a part:"
    assert said[-1] == "             and 5 more"
