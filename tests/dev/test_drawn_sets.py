from collections import Counter

import numpy as np
import pytest

from convnext.data import folders
from dev import drawn_sets
from dev.drawing import glyphs, sets
from tests.helpers.inputs import refused


def files(root):
    return {path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("*.jpg"))}


def test_ten_images_are_the_first_of_thirty_and_validation_images_are_the_same(tmp_path):
    for out, images, jobs in (("few", 1, 1), ("many", 3, 2)):
        drawn_sets.write("letters", tmp_path / out, images=images, val_images=2, jobs=jobs)
    few, many = files(tmp_path / "few"), files(tmp_path / "many")
    assert (len(few), len(many)) == (10 + 20, 30 + 20)
    assert few.items() <= many.items()


def test_an_image_is_a_function_of_seed_split_class_and_index():
    def pixels(split="train", label="boat", index=0, seed=0):
        return drawn_sets.image("toys", split, label, index, seed=seed)[0].tobytes()

    first = pixels()
    others = [pixels("val"), pixels(label="duck"), pixels(index=1), pixels(seed=1)]
    assert pixels() == first  # whatever was drawn before
    assert len({first, *others}) == 5


@pytest.mark.parametrize("name", sets.SETS)
def test_every_set_draws_each_class_at_any_size(name):
    drawn = sets.SETS[name]
    for label in drawn.pictures:
        image, quality = drawn_sets.image(name, "train", label, 0, size=48)
        assert image.dtype == np.uint8 and image.shape[2] == 3 and image.std() > 1, label
        assert np.sqrt(image.shape[0] * image.shape[1]) == pytest.approx(48, abs=1)
        assert 80 <= quality <= 92
    assert len(drawn.pictures) == {"world": 101, "shapes": 10, "letters": 10, "scenes": 10}.get(
        name, 8
    )


def test_a_folder_is_what_training_reads(tmp_path):
    drawn_sets.main(["symbols", f"--out={tmp_path}", "--images=2", "--val_images=1", "--seed=3"])
    train, val = folders.load(tmp_path)
    assert train.class_names == val.class_names and train.class_names[0] == "eight"
    assert (len(train), len(val)) == (16, 8)
    assert train[0]["image"].shape == (64, 64, 3)


def test_no_two_sets_share_a_class():
    counts = Counter(label for drawn in sets.SETS.values() for label in drawn.pictures)
    assert counts.most_common(1)[0][1] == 1


def test_no_typeface_is_in_both_splits_or_in_two_sets(monkeypatch):
    used = []
    monkeypatch.setattr(sets.pictures, "glyph", lambda character, faces, *rest: used.append(faces))
    for name, label in (("letters", "A"), ("symbols", "two"), ("world", "K")):
        for split in ("train", "val"):
            sets.SETS[name].draw(label, split, np.random.default_rng(0))
    every = [face for faces in used for face in faces]
    assert len(used) == 6 and len(every) == len(set(every))
    assert len(used[1]) * 5 == len(used[0]) + len(used[1])  # a fifth is for validation


def test_a_typeface_is_the_same_for_ever():
    assert glyphs.face(7) == glyphs.face(7) != glyphs.face(8)


def test_what_cannot_be_drawn_is_refused_in_one_line(tmp_path):
    (tmp_path / "holiday.jpg").touch()
    refused("--out is .* which is there", drawn_sets.write, "toys", tmp_path, images=1)
    refused("SET is 'cats'", drawn_sets.write, "cats", tmp_path / "new", images=1)
    refused("--images is 0", drawn_sets.write, "toys", tmp_path / "new", images=0)
    refused("--size is 8", drawn_sets.write, "toys", tmp_path / "new", images=1, size=8)
    assert not (tmp_path / "new").exists()
