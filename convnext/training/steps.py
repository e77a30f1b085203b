"""The training and evaluation steps: pure functions of arrays.

What is static is keyword-only and bound with `functools.partial`, so that the same function runs
with or without jit, mesh and config.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from convnext.errors import require
from convnext.training import losses, metrics, optimizer


@struct.dataclass
class TrainState:
    """All that a run carries from one update to the next; the rest follows from (seed, step)."""

    step: jax.Array  # int32, updates made
    params: Any
    opt_state: Any
    ema_params: dict[str, Any]  # moving averages of params, keyed by str(decay)
    skipped: jax.Array  # int32, updates left out
    skipped_in_a_row: jax.Array  # int32, of these the last ones without another between


def init(
    key: jax.Array,
    *,
    model: nn.Module,
    tx: optax.GradientTransformation,
    image_size: int,
    ema_decays: Sequence[float] = (),
) -> TrainState:
    """The state before the first update, with fresh parameters."""
    params = model.init(key, jnp.zeros((1, image_size, image_size, model.in_chans)))["params"]
    return start(params, tx=tx, ema_decays=ema_decays)


def start(
    params: Any, *, tx: optax.GradientTransformation, ema_decays: Sequence[float] = ()
) -> TrainState:
    """The state before the first update of these parameters. The averages begin as copies.

    Raises InputError for a decay that is not from 0 to below 1.
    """
    require(all(0 <= d < 1 for d in ema_decays), "ema_decays", ema_decays, "each from 0 to below 1")
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=tx.init(params),
        ema_params={str(decay): jax.tree.map(jnp.copy, params) for decay in ema_decays},
        skipped=jnp.zeros((), jnp.int32),
        skipped_in_a_row=jnp.zeros((), jnp.int32),
    )


def train_step(
    state: TrainState,
    batch: dict[str, jax.Array],
    *,
    model: nn.Module,
    tx: optax.GradientTransformation,
    normalize: Callable[[jax.Array], jax.Array],
    problem_type: str = losses.SINGLE_LABEL,
    erase: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
    mix: Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]],
    key: jax.Array,
    ema_decays: Sequence[float] = (),
    ema_warmup: bool = False,
    frozen: str | None = None,
    accumulation_steps: int = 1,
    gathered: jax.sharding.Sharding | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update. batch: image uint8 [N, H, W, 3], label int [N] or [N, K] (losses.targets).

    Returns the new state, and as scalars loss and grad_norm of the update, skipped and
    skipped_in_a_row of the new state: an update is left out where loss or grad_norm is not finite.
    `frozen` are parameters without a gradient (optimizer.frozen_mask). With accumulation_steps > 1
    the batch passes through the model in that many parts. gathered: see `gather`.
    """
    step_key = jax.random.fold_in(key, state.step)
    mix_key, dropout_key, erase_key = jax.random.split(step_key, 3)
    images = normalize(batch["image"])
    if erase is not None:
        images = erase(erase_key, images)
    images, targets = mix(mix_key, images, batch["label"])

    def loss_fn(params, images, targets, key):
        params = optimizer.stop_gradients(params, frozen)
        params = gather(params, gathered)
        logits = model.apply({"params": params}, images, train=True, rngs={"dropout": key})
        return losses.loss(logits, targets, problem_type=problem_type).mean()

    loss_and_grads = jax.value_and_grad(loss_fn)
    if accumulation_steps > 1:
        loss_and_grads = accumulate(loss_and_grads, accumulation_steps)
    loss, grads = loss_and_grads(state.params, images, targets, dropout_key)

    grad_norm = optax.tree.norm(grads)
    new_state = update(state, grads, tx=tx, ema_decays=ema_decays, ema_warmup=ema_warmup)
    new_state = made_or_skipped(jnp.isfinite(loss) & jnp.isfinite(grad_norm), new_state, state)
    return new_state, {
        "loss": loss,
        "grad_norm": grad_norm,
        "skipped": new_state.skipped,
        "skipped_in_a_row": new_state.skipped_in_a_row,
    }


def gather(params: Any, gathered: jax.sharding.Sharding | None) -> Any:
    """Parameters as they are computed with: of this sharding (sharding.replicated), where they are
    stored in parts. Else the compiler moves activations to where a parameter lies."""
    return params if gathered is None else jax.lax.with_sharding_constraint(params, gathered)


def update(
    state: TrainState,
    grads: Any,
    *,
    tx: optax.GradientTransformation,
    ema_decays: Sequence[float] = (),
    ema_warmup: bool = False,
) -> TrainState:
    """The state after an update by these gradients.

    With ema_warmup the averages begin as copies and forget less and less, until they reach their
    decay: after t updates it is at most 1 - (1 + t)**(-2/3), as in timm's ModelEmaV3.
    """
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema_params = {}
    for decay in ema_decays:
        share = 1 - decay  # of the new parameters; in float32, 1 - 0.9999 would lose four digits
        if ema_warmup:
            share = jnp.maximum(share, (1 + state.step) ** (-2 / 3))
        average = state.ema_params[str(decay)]
        ema_params[str(decay)] = optax.incremental_update(params, average, share)
    return state.replace(
        step=state.step + 1, params=params, opt_state=opt_state, ema_params=ema_params
    )


def made_or_skipped(made: jax.Array, new_state: TrainState, state: TrainState) -> TrainState:
    """new_state where the update was made. Otherwise it is counted as skipped: parameters, averages
    and moments stay, while the step and the schedules, which follow it, go on."""

    def select(new, old):
        return jax.tree.map(partial(jnp.where, made), new, old)

    def is_adam(node):
        return isinstance(node, optax.ScaleByAdamState)

    return new_state.replace(
        params=select(new_state.params, state.params),
        ema_params=select(new_state.ema_params, state.ema_params),
        opt_state=jax.tree.map(
            lambda new, old: select(new, old) if is_adam(new) else new,
            new_state.opt_state, state.opt_state, is_leaf=is_adam,
        ),
        skipped=state.skipped + ~made,
        skipped_in_a_row=jnp.where(made, 0, state.skipped_in_a_row + 1),
    )  # fmt: skip


def accumulate(loss_and_grads: Callable, steps: int) -> Callable:
    """The same function, of a batch taken in `steps` parts: means over the parts.

    A part folds its index into the key. It is every steps-th row, so that each device has its
    share of every part and no row moves.
    """

    def accumulated(params, images, targets, key):
        def parts(x):
            return jnp.moveaxis(x.reshape(-1, steps, *x.shape[1:]), 1, 0)

        def add_part(total, part):
            index, images, targets = part
            value = loss_and_grads(params, images, targets, jax.random.fold_in(key, index))
            return jax.tree.map(jnp.add, total, value), None

        zeros = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
        total, _ = jax.lax.scan(add_part, zeros, (jnp.arange(steps), parts(images), parts(targets)))
        return jax.tree.map(lambda x: x / steps, total)

    return accumulated


def normalize(images: jax.Array, *, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """uint8 [N, H, W, C] -> float32; mean and std of each channel, as fractions of 255.

    Raises InputError for a std that is not positive.
    """
    require(min(std) > 0, "normalize.std", std, "above 0, of each channel")
    return (images.astype(jnp.float32) / 255 - jnp.array(mean)) / jnp.array(std)


def eval_step(
    params: Any,
    batch: dict[str, jax.Array],
    *,
    model: nn.Module,
    normalize: Callable[[jax.Array], jax.Array],
    measure: Callable = metrics.accuracy,
    gathered: jax.sharding.Sharding | None = None,
) -> Any:
    """What `measure` sums up over the examples of a batch with mask 1. gathered: see `gather`."""
    params = gather(params, gathered)
    logits = model.apply({"params": params}, normalize(batch["image"]), train=False)
    return measure(logits, batch["label"], batch["mask"])


def evaluate(
    eval_step: Callable,
    weights: dict[str, Any],
    batches: Iterable[dict[str, jax.Array]],
    stops: Callable[[], bool] = lambda: False,
) -> dict[str, Any] | None:
    """Totals over all batches for each of the weights, as float64 arrays on the host; None where
    `stops`, which is asked before each batch, says so."""
    totals = None
    for batch in batches:
        if stops():
            return None
        sums = {name: eval_step(params, batch) for name, params in weights.items()}
        sums = jax.tree.map(np.float64, jax.device_get(sums))
        totals = sums if totals is None else jax.tree.map(np.add, totals, sums)
    return totals


def collect(
    eval_step: Callable, params: Any, batches: Iterable[dict[str, jax.Array]]
) -> dict[str, np.ndarray]:
    """What eval_step, measuring metrics.outputs, says of each example with mask 1, in order; and
    its index among all of them."""
    parts = [jax.device_get(eval_step(params, batch)) for batch in batches]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    counted = joined.pop("mask") > 0
    return {name: values[counted] for name, values in joined.items()} | {
        "index": np.flatnonzero(counted)
    }


def weights(state: TrainState, ema_decays: Sequence[float]) -> dict[str, Any]:
    """What is evaluated, by the prefix of its metrics: "val" is the parameters as they are,
    "val_ema" their first average, `"val_ema_<decay>"` each further one."""
    averages = [str(decay) for decay in ema_decays]
    names = ["val_ema", *(f"val_ema_{decay}" for decay in averages[1:])]
    return {"val": state.params} | {
        name: state.ema_params[decay] for name, decay in zip(names, averages, strict=False)
    }
