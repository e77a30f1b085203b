from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from convnext.errors import InputError
from convnext.images.randaugment import OPERATIONS, RandAugment

TIMM = np.load(Path(__file__).parents[1] / "fixtures" / "randaugment.npz")
IMAGE = TIMM["image"]
GEOMETRIC = {"Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"}
CASES = [name for name in TIMM.files if "/" in name]


@pytest.mark.parametrize("case", CASES)
def test_each_operation_gives_what_timm_makes_of_it(case):
    op, increasing, magnitude, sign = case.split("/")
    augment = RandAugment(increasing=increasing == "True")
    image = TIMM["large" if op in GEOMETRIC else "image"]
    made = augment.apply(op, image, float(magnitude), int(sign))
    assert made.shape == image.shape and made.dtype == np.uint8
    if op == "Rotate":  # another bicubic filter
        assert np.abs(made.astype(int) - TIMM[case]).mean() < 2
        assert (made != image).any()
    else:
        np.testing.assert_array_equal(made, TIMM[case])


@pytest.mark.parametrize("sign", [1, -1])
def test_a_rotation_is_within_a_grey_level_of_pillows_on_a_photograph(sign):
    photo = Image.fromarray(load_sample_image("china.jpg")).resize((224, 224))
    fill, cubic = (124, 116, 104), Image.Resampling.BICUBIC
    expected = np.asarray(photo.rotate(27 * sign, resample=cubic, fillcolor=fill))
    made = RandAugment().apply("Rotate", np.asarray(photo), 9.0, sign)
    assert np.abs(made.astype(int) - expected).mean() < 1


def test_every_operation_is_compared():
    assert {case.split("/")[0] for case in CASES} == set(OPERATIONS) and len(OPERATIONS) == 15


def test_posterizing_to_no_bits_is_black():
    assert not RandAugment().apply("Posterize", IMAGE, 10.0, 1).any()


def test_draws_have_their_distributions():
    rng, augment = np.random.default_rng(0), RandAugment()
    drawn = [augment.draw(rng) for _ in range(10_000)]
    counts = Counter(len(ops) for ops in drawn)
    for count, share in ((0, 0.25), (1, 0.5), (2, 0.25)):
        assert counts[count] / 10_000 == pytest.approx(share, abs=0.02)
    ops, magnitudes, signs = zip(*(op for ops in drawn for op in ops), strict=True)
    for op, count in Counter(ops).items():
        assert count / len(ops) == pytest.approx(1 / 15, abs=0.01), op
    assert np.mean(magnitudes) == pytest.approx(9, abs=0.02)
    assert np.std(magnitudes) == pytest.approx(0.49, abs=0.01)  # 0.5, cut at 10
    assert np.mean(np.equal(magnitudes, 10)) == pytest.approx(0.023, abs=0.006)
    assert max(magnitudes) == 10 and np.mean(signs) == pytest.approx(0, abs=0.03)
    both = [ops[0][0] == ops[1][0] for ops in drawn if len(ops) == 2]
    assert np.mean(both) == pytest.approx(1 / 15, abs=0.02)  # with replacement


def test_what_is_drawn_is_applied_in_turn():
    seed = next(s for s in range(99) if len(RandAugment().draw(np.random.default_rng(s))) == 2)
    expected = IMAGE
    for op, magnitude, sign in RandAugment().draw(np.random.default_rng(seed)):
        expected = RandAugment().apply(op, expected, magnitude, sign)
    made = RandAugment()(IMAGE, np.random.default_rng(seed))
    np.testing.assert_array_equal(made, expected)
    assert (made != IMAGE).any()
    assert RandAugment(num_ops=0)(IMAGE, np.random.default_rng(seed)) is IMAGE


def test_an_unknown_operation_is_refused():
    with pytest.raises(InputError, match="the operation is 'Cutout'; accepted: AutoContrast, Eq"):
        RandAugment().apply("Cutout", IMAGE, 9.0, 1)
