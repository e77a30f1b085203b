import numpy as np
import pytest

from convnext.data import folders
from dev import shapes
from tests.helpers.inputs import refused

# Of the whole: pi r**2, the regular polygons' n / 2 sin(2 pi / n) r**2, the bar's 2 x 0.5 r**2; the
# radius is uniform in 0.25 to 0.45 of the height, and lines of other colours take nothing away.
AREAS = {"circle": 16 / 2 * np.sin(np.pi / 8), "triangle": 1.299, "square": 2.0, "bar": 1.0}


@pytest.mark.parametrize("shape", AREAS)
def test_a_shape_has_its_area_and_its_color(shape):
    radii = np.random.default_rng(0).uniform(0.25, 0.45, 100_000) * shapes.SHAPE[0]
    expected = AREAS[shape] * np.mean(radii**2)
    found = []
    for seed in range(60):
        image = np.asarray(shapes.draw("red", shape, np.random.default_rng(seed))).astype(int)
        red = (image[..., 0] - image[..., 1] > 90) & (image[..., 0] - image[..., 2] > 90)
        found.append(red.sum())
    assert np.mean(found) == pytest.approx(expected, rel=0.2)  # with a red line, and at random


def test_the_folder_has_twenty_classes_and_a_fifth_of_each_to_validate_on(tmp_path):
    shapes.main([f"--out={tmp_path}", "--images=6"])
    train, val = folders.load(tmp_path)
    assert len(train.class_names) == 20 and train.class_names[0] == "blue_bar"
    assert (len(train), len(val)) == (80, 40)  # of 6, the first and the last
    assert train[0]["image"].shape == (96, 128, 3)


def test_the_same_seed_draws_the_same_files(tmp_path):
    for out, seed in (("a", 0), ("b", 0), ("c", 1)):
        shapes.write(tmp_path / out, images=5, seed=seed)
    file = "train/red_star/0001.jpg"
    a, b, c = ((tmp_path / out / file).read_bytes() for out in "abc")
    assert a == b != c


def test_nothing_is_drawn_over(tmp_path):
    (tmp_path / "holiday.jpg").touch()
    refused("--out is .* which is there", shapes.write, tmp_path, images=5)
    refused("--images is 4", shapes.write, tmp_path / "new", images=4)
    assert not (tmp_path / "new").exists()
