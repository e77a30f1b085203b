import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convnext import sharding
from convnext.errors import InputError
from convnext.training import losses, mixup

N, K, SIZE = 12, 5, 16
OPTIONS = ("num_classes", "mixup_alpha", "cutmix_alpha", "prob", "switch_prob", "label_smoothing",
           "group_size", "mode")  # fmt: skip
jitted = jax.jit(mixup.mix, static_argnames=OPTIONS)


def mix(seed, images, labels, **options):
    return jax.device_get(jitted(jax.random.key(seed), images, labels, **options))


@pytest.fixture(scope="module")
def images():
    """Image i is i everywhere, so a mixed pixel says what went into it."""
    values = np.arange(N, dtype=np.float32)
    return np.broadcast_to(values[:, None, None, None], (N, SIZE, SIZE, 3))


LABELS = np.arange(N, dtype=np.int32) % K


def mixed_shares(mixed, group_size):
    """Share of each pixel that is its own image's [N, H, W]; NaN where the partner is the same."""
    own = np.arange(N, dtype=np.float64)
    partner = own.reshape(-1, group_size)[:, ::-1].reshape(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (np.asarray(mixed)[..., 0] - partner[:, None, None]) / (own - partner)[:, None, None]


def target_shares(targets, group_size, label_smoothing=0.0):
    """Least-squares share of the own label in each target [N]."""
    hot = np.asarray(losses.targets(LABELS, num_classes=K, label_smoothing=label_smoothing))
    partner = hot.reshape(-1, group_size, K)[:, ::-1].reshape(N, K)
    difference = hot - partner
    with np.errstate(invalid="ignore"):
        return ((np.asarray(targets) - partner) * difference).sum(1) / (difference**2).sum(1)


@pytest.mark.usefixtures("uniform_lambda")
@pytest.mark.parametrize("seed", range(5))
def test_mixup_blends_each_group_with_its_reverse_and_the_targets_alike(images, seed):
    mixed, targets = mix(seed, images, LABELS, num_classes=K, cutmix_alpha=0.0, group_size=4)
    shares = mixed_shares(mixed, 4).reshape(3, 4, SIZE, SIZE)
    lam = shares[:, 0, 0, 0]
    assert len(set(lam.round(4))) == 3  # each group drew for itself
    np.testing.assert_allclose(shares, np.broadcast_to(lam[:, None, None, None], shares.shape),
                               atol=1e-5)  # fmt: skip
    np.testing.assert_allclose(target_shares(targets, 4, 0.1), np.repeat(lam, 4), atol=1e-5)


@pytest.mark.usefixtures("uniform_lambda")
@pytest.mark.parametrize("seed", range(5))
def test_cutmix_pastes_one_box_and_counts_its_pixels(images, seed):
    mixed, targets = mix(
        seed, images, LABELS, num_classes=K, mixup_alpha=0.0, group_size=4,
        label_smoothing=0.0,
    )  # fmt: skip
    shares = mixed_shares(mixed, 4).reshape(3, 4, SIZE, SIZE)
    assert set(np.unique(shares)) <= {0.0, 1.0}
    for group in shares:
        assert (group == group[0]).all()
        rows, columns = (group[0] == 0).any(1), (group[0] == 0).any(0)
        assert ((group[0] == 0) == rows[:, None] & columns).all()  # a rectangle
        assert (np.abs(np.diff(rows.astype(int))).sum() <= 2) and rows.sum() <= SIZE
    np.testing.assert_allclose(
        target_shares(targets, 4), np.repeat(shares[:, 0].mean((1, 2)), 4), atol=1e-6
    )


@pytest.mark.usefixtures("uniform_lambda")
@pytest.mark.parametrize("kind", ["mixup", "cutmix", "both"])
@pytest.mark.parametrize("mode", ["pair", "elem"])
def test_pairs_or_images_draw_for_themselves(images, mode, kind):
    alphas = dict(mixup_alpha=float(kind != "cutmix"), cutmix_alpha=float(kind != "mixup"))
    mixed, targets = mix(0, images, LABELS, num_classes=K, group_size=6, mode=mode, **alphas)
    shares = mixed_shares(mixed, 6)
    counted = shares.mean((1, 2))
    known = ~np.isnan(target_shares(targets, 6))  # partners of different labels
    assert known.sum() >= 8
    np.testing.assert_allclose(target_shares(targets, 6, 0.1)[known], counted[known], atol=1e-5)
    for group in shares.reshape(2, 6, SIZE, SIZE):
        drawn = {(np.round(image, 4) + 0.0).tobytes() for image in group}  # no -0.0
        assert 1 < len(drawn) <= 3 if mode == "pair" else len(drawn) > 3  # boxes may be empty
        if mode == "pair":  # the partner has the same shares, pixel by pixel
            np.testing.assert_allclose(group, group[::-1], atol=1e-5)
    is_cutmix = np.array([np.isin(np.round(image, 4), [0, 1]).all() for image in shares])
    assert {"mixup": not is_cutmix.any(), "cutmix": is_cutmix.all(),
            "both": 0 < is_cutmix.sum() < N}[kind]  # fmt: skip


def test_a_mode_that_is_not_known_or_does_not_fit_is_refused(images):
    with pytest.raises(InputError, match="mix.mode is 'all'; accepted: batch, pair, elem"):
        mixup.mix(jax.random.key(0), images, LABELS, num_classes=K, mode="all")
    with pytest.raises(InputError, match="mix.group_size is 3; accepted: even numbers, for pairs"):
        mixup.mix(jax.random.key(0), images, LABELS, num_classes=K, mode="pair", group_size=3)


@pytest.mark.slow
def test_lambda_and_the_choice_of_kind_have_their_distributions():
    labels = np.arange(8000, dtype=np.int32) % 2
    images = np.broadcast_to(labels[:, None, None, None].astype(np.float32), (8000, 8, 8, 1))
    _, targets = mix(
        0, images, labels, num_classes=2, mixup_alpha=0.8, cutmix_alpha=0.0,
        label_smoothing=0.0, group_size=2,
    )  # fmt: skip
    lam = np.asarray(targets)[::2, 0]
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2a + 1)); 4,000 draws.
    assert abs(lam.mean() - 0.5) < 0.02
    assert abs(lam.var() - 1 / (4 * 2.6)) < 0.004
    mixed, _ = mix(1, images, labels, num_classes=2, group_size=2)
    first = np.asarray(mixed)[::2, :, :, 0]
    is_cutmix = np.isin(first, [0.0, 1.0]).all((1, 2))
    assert abs(is_cutmix.mean() - 0.5) < 0.04
    unmixed, _ = mix(2, images, labels, num_classes=2, group_size=2, prob=0.3)
    assert abs((np.asarray(unmixed)[::2] == 0).all((1, 2, 3)).mean() - 0.7) < 0.08


def test_a_box_is_even_and_clipped_at_the_border():
    lam = jnp.linspace(0, 1, 400)
    boxes = np.asarray(mixup._boxes(jax.random.key(0), lam, 9, 16))
    for share, box in zip(np.asarray(lam), boxes, strict=True):
        for size, inside in ((9, box.any(1)), (16, box.any(0))):
            cut = 2 * (int(size * np.sqrt(np.float32(1 - share))) // 2)
            touches = inside[0] or inside[-1]
            assert inside.sum() == cut or (touches and inside.sum() < cut) or not box.any()


def test_a_box_lies_anywhere_its_rows_whatever_its_columns():
    """The last row and column of a box of two pixels by two are those of its centre."""
    lam = jnp.full(8000, 1 - (2 / 16) ** 2)
    boxes = np.asarray(mixup._boxes(jax.random.key(0), lam, 16, 16))
    last = [15 - boxes.any(axis)[:, ::-1].argmax(axis=1) for axis in (2, 1)]
    for centre in last:
        share = np.bincount(centre, minlength=16) / 8000
        np.testing.assert_allclose(share, 1 / 16, atol=0.011)  # 4 standard errors
    assert abs(np.corrcoef(*last)[0, 1]) < 0.045


@pytest.fixture
def certain(monkeypatch):
    """Beta(alpha, alpha) is always alpha."""
    monkeypatch.setattr(mixup, "_beta", lambda key, alpha, shape: jnp.full(shape, alpha))
    jitted.clear_cache()
    yield
    jitted.clear_cache()


@pytest.mark.usefixtures("certain")
@pytest.mark.parametrize("switch_prob, own", [(0.0, 0.25), (1.0, 0.75)])
def test_each_kind_has_its_own_alpha(images, switch_prob, own):
    mixed, _ = mix(
        0, images, LABELS, num_classes=K, group_size=2, switch_prob=switch_prob,
        mixup_alpha=0.25, cutmix_alpha=0.75,
    )  # fmt: skip
    shares = mixed_shares(mixed, 2).mean((1, 2))
    # A box of a quarter of the image, which may be clipped.
    assert (shares >= own - 1e-6).all() and shares.min() == pytest.approx(own)


@pytest.mark.usefixtures("certain")
def test_groups_that_are_not_mixed_keep_images_and_targets(images):
    alphas = dict(mixup_alpha=0.25, cutmix_alpha=0.75)
    mixed, targets = mix(0, images, LABELS, num_classes=K, group_size=2,
                               prob=0.0, **alphas)  # fmt: skip
    np.testing.assert_array_equal(mixed, images)
    smoothed = losses.targets(LABELS, num_classes=K, label_smoothing=0.1)
    np.testing.assert_allclose(targets, smoothed, rtol=1e-6)


def test_both_alphas_zero_leave_the_images_and_smooth_the_targets(images):
    key = jax.random.key(0)
    mixed, targets = mixup.mix(key, images, LABELS, num_classes=K, mixup_alpha=0.0,
                               cutmix_alpha=0.0)  # fmt: skip
    assert mixed is images
    expected = np.full((N, K), 0.02)
    expected[np.arange(N), LABELS] = 0.92  # 1 - s + s / K, official LabelSmoothing
    np.testing.assert_allclose(targets, expected, rtol=1e-6)


@pytest.mark.usefixtures("uniform_lambda")
def test_a_group_larger_than_the_batch_is_the_batch(images):
    large = mix(0, images, LABELS, num_classes=K, group_size=128)
    exact = mix(0, images, LABELS, num_classes=K, group_size=N)
    jax.tree.map(np.testing.assert_array_equal, large, exact)


def test_a_group_that_does_not_divide_the_batch_is_refused(images):
    with pytest.raises(InputError, match="mix.group_size is 5; accepted: divisors of the batch"):
        mix(0, images, LABELS, num_classes=K, group_size=5)


@pytest.mark.usefixtures("uniform_lambda")
def test_each_device_goes_on_with_its_own_rows_where_groups_do_not_fit_them():
    mesh = sharding.make_mesh()
    by_batch = sharding.batch_sharding(mesh)

    def layer(images, labels, weights):
        mixed, _ = mixup.mix(jax.random.key(7), images, labels, num_classes=K, group_size=16,
                             mesh=mesh)  # fmt: skip
        return (mixed.reshape(48, -1) @ weights).sum()

    shapes = ((48, 6, 6, 3), jnp.float32), ((48,), jnp.int32), ((108, 5000), jnp.float32)
    arguments = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
    compiled = jax.jit(layer, in_shardings=(by_batch, by_batch, None)).lower(*arguments).compile()
    of_a_device = 2 * 6 * 108 * 5000
    assert compiled.cost_analysis()["flops"] == pytest.approx(of_a_device, rel=0.1)
