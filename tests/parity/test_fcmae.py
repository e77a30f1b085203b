"""Masked pre-training equals sparse convolutions on coordinates: loss, prediction, gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax.traverse_util import flatten_dict, unflatten_dict

from convnext.models import fcmae
from convnext.models.fcmae import FCMAE
from convnext.tasks.fcmae import decay_mask
from convnext.training import optimizer
from convnext.weights import fcmae as names
from dev.benchmarks.dense_fcmae import DenseFCMAE
from tests.helpers import autoencoder
from tests.helpers.wide import in_float64
from tests.parity import sparse


@pytest.fixture(scope="module")
def state():
    values = {key: torch.from_numpy(value) for key, value in autoencoder.state().items()}
    return {key: value.requires_grad_() for key, value in values.items()}


@pytest.fixture(scope="module")
def images():
    return torch.from_numpy(autoencoder.images()).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def masks():
    return autoencoder.masks()


def expected(images, masks, state, **options):
    """Loss, prediction of the masked patches in their order, and gradients in our names."""
    is_masked = torch.from_numpy(np.array(masks.is_masked)).reshape(3, 3, 3)
    loss, predicted = sparse.forward(images, is_masked, state, autoencoder.DEPTHS, **options)
    grads = torch.autograd.grad(loss, list(state.values()))
    order = np.asarray(masks.order)[:, masks.num_visible :]
    predicted = np.take_along_axis(predicted.detach().numpy(), order[:, :, None], axis=1)
    grads = {key: grad.numpy() for key, grad in zip(state, grads, strict=True)}
    return loss.item(), predicted, names.to_ours(grads)


def found(images, masks, state, kind=FCMAE, run=None, **options):
    """The same of ours. run: computes a function of the parameters."""
    model = kind(autoencoder.DEPTHS, autoencoder.DIMS, **autoencoder.FIELDS)
    ours = names.to_ours({key: value.detach().numpy() for key, value in state.items()})
    params = unflatten_dict(jax.tree.map(np.float32, ours), sep="/")
    pixels = jnp.asarray(images.permute(0, 2, 3, 1).numpy())

    def loss(params, pixels):
        predicted = model.apply({"params": params}, pixels, masks, train=True)
        target = fcmae.targets(pixels, masks, 32, **options)
        return fcmae.losses(predicted, target).mean(), predicted

    with jax.default_matmul_precision("highest"):
        run = run or (lambda function, *args: jax.jit(function)(*args))
        function = jax.value_and_grad(loss, has_aux=True)
        (value, predicted), grads = run(function, params, pixels)
    return value.item(), predicted, flatten_dict(grads, sep="/")


def apart(a, b):
    """How far the losses, the predictions and the worst gradients are from each other, relative to
    the largest value."""
    (loss, predicted, grads), (loss_b, predicted_b, grads_b) = a, b
    assert grads.keys() == grads_b.keys()

    def relative(x, y):
        return float(np.abs(np.asarray(x) - y).max() / np.abs(y).max())

    worst = max(relative(grads[key], grads_b[key]) for key in grads)
    return abs(loss / loss_b - 1), relative(predicted, predicted_b), worst


@pytest.mark.parametrize("norm_pix", [True, False])
@pytest.mark.parametrize("kind", [FCMAE, DenseFCMAE])
def test_it_computes_what_sparse_convolutions_do(images, masks, state, kind, norm_pix):
    here = found(images, masks, state, kind, norm_pix=norm_pix)
    there = expected(images, masks, state, norm_pix=norm_pix)
    loss, predicted, grads = apart(here, there)
    assert loss < 1e-6 and predicted < 2e-6 and grads < 1e-5, (loss, predicted, grads)


class OnlyPixels(DenseFCMAE):
    """Masks the image alone."""

    def _encoded(self, images, masks, train):
        patches = fcmae.patched(images, 32)
        seen = jnp.where(masks.is_masked[..., None, None, None], 0, patches)
        x = self._maps(fcmae.unpatched(seen, masks.grid), train)[-1]
        return masks.visible(x.reshape(len(images), -1, self.dims[-1]))


class OnlyTheStem(DenseFCMAE):
    """Masks what comes out of the stem alone."""

    def _encoded(self, images, masks, train):
        def masked(computed, args, keywords, context):
            x = computed(*args, **keywords)
            is_stem = context.module.name == "stem_norm" and context.method_name == "__call__"
            return self.places(masks, 32, 8).spread(x) if is_stem else x

        with nn.intercept_methods(masked):
            x = self._maps(images, train)[-1]
        return masks.visible(x.reshape(len(images), -1, self.dims[-1]))


class WithoutGrn(DenseFCMAE):
    """GRN sums over every position."""

    class places(DenseFCMAE.places):  # noqa: N801
        valid = None

        def spread(self, x):
            return jnp.where(super().valid, x, 0)


@pytest.mark.parametrize("kind", [OnlyPixels, OnlyTheStem, WithoutGrn])
def test_what_masks_less_is_another_thing(images, masks, state, kind):
    loss, predicted, grads = apart(
        found(images, masks, state, kind), expected(images, masks, state)
    )
    assert loss > 1e-4 and predicted > 0.01 and grads > 0.1, (loss, predicted, grads)


def test_grn_of_the_batch_is_another_thing(images, masks, state):
    """As MinkowskiEngine has it; the paper's, and that of fine-tuning, is of the image."""
    of_batch = expected(images, masks, state, of_batch=True)
    loss, predicted, grads = apart(expected(images, masks, state), of_batch)
    assert loss > 1e-4 and predicted > 0.01 and grads > 0.1, (loss, predicted, grads)


def test_names_go_both_ways(state):
    theirs = {key: value.detach().numpy() for key, value in state.items()}
    back = names.from_ours(names.to_ours(theirs))
    assert back.keys() == theirs.keys()
    for key, value in theirs.items():
        np.testing.assert_array_equal(back[key], value, key)


def test_in_float64_it_is_the_same_to_the_last_digits(images, masks, state):
    """The program of float32, of which each operation is of float64."""
    rounded = {key: value.detach().float().double() for key, value in state.items()}
    rounded = {key: value.requires_grad_() for key, value in rounded.items()}
    images = images.float().double()
    here = found(images, masks, rounded, run=in_float64)
    loss, predicted, grads = apart(here, expected(images, masks, rounded))
    assert max(loss, predicted, grads) < 1e-12, (loss, predicted, grads)


def test_ten_updates_are_those_of_adamw_in_pytorch(images, masks, state):
    """GRN and the mask token are decayed, as main_pretrain.py of the official code does by timm's
    add_weight_decay: all but vectors and biases."""
    theirs = {key: value.detach().clone().requires_grad_() for key, value in state.items()}
    is_plain = {key: value.ndim == 1 or key.endswith(".bias") for key, value in theirs.items()}
    groups = [
        {"params": [value for key, value in theirs.items() if is_plain[key] == plain],
         "weight_decay": 0.0 if plain else 0.05}
        for plain in (False, True)
    ]  # fmt: skip
    torch_optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8)
    is_masked = torch.from_numpy(np.array(masks.is_masked)).reshape(3, 3, 3)
    for _ in range(10):
        torch_optimizer.zero_grad()
        sparse.forward(images, is_masked, theirs, autoencoder.DEPTHS)[0].backward()
        torch_optimizer.step()

    ours = names.to_ours({key: value.detach().numpy() for key, value in state.items()})
    params = unflatten_dict(jax.tree.map(jnp.float32, ours), sep="/")
    pixels = jnp.float32(images.permute(0, 2, 3, 1).numpy())
    tx = optimizer.adamw(lambda _: 1e-3, weight_decay=0.05, b2=0.95, decay_mask=decay_mask)

    def loss(params):
        predicted = autoencoder.MODEL.apply({"params": params}, pixels, masks, train=True)
        return fcmae.losses(predicted, fcmae.targets(pixels, masks, 32)).mean()

    @jax.jit
    def step(params, opt_state):
        updates, opt_state = tx.update(jax.grad(loss)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    opt_state = tx.init(params)
    with jax.default_matmul_precision("highest"):
        for _ in range(10):
            params, opt_state = step(params, opt_state)
    found = flatten_dict(params, sep="/")
    expected = names.to_ours({key: value.detach().numpy() for key, value in theirs.items()})
    for key, value in expected.items():
        moved = np.abs(value - ours[key]).max()
        assert moved > 1e-3, key
        # Where a gradient is 0 but for rounding, Adam's direction is that of the rounding.
        apart = np.abs(np.asarray(found[key]) - value)
        assert np.quantile(apart, 0.95) < 2e-3 * moved, (key, apart.max(), moved)
