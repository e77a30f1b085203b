"""The training and evaluation steps: pure functions of arrays.

What is static is keyword-only and bound with `functools.partial`, so that the same function runs
with or without jit, mesh and config.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from convnext import hosts
from convnext.errors import are_finite, require
from convnext.task import Batch, Evaluation, Task, Variables
from convnext.training import metrics, optimizer

RESULTS_BEHIND = 2  # batches whose results stay on the devices, so that nothing waits for them


@struct.dataclass
class TrainState:
    """All that a run carries from one update to the next; the rest follows from (seed, step)."""

    step: jax.Array  # int32, updates made
    params: Any
    opt_state: Any
    ema_params: dict[str, Any]  # moving averages of params, keyed by str(decay)
    skipped: jax.Array  # int32, updates skipped
    skipped_in_a_row: jax.Array  # int32, of these those since the last update that was made
    others: dict[str, Any] = struct.field(default_factory=dict)  # variables that are not parameters

    @property
    def variables(self) -> Variables:
        """The variables that the model is applied to."""
        return {"params": self.params, **self.others}


def start(
    variables: Variables, *, tx: optax.GradientTransformation, ema_decays: Sequence[float] = ()
) -> TrainState:
    """Makes the state before the first update. The averages begin as copies.

    Raises InputError for a decay that is not from 0 to below 1.
    """
    ok = are_finite(ema_decays, len(ema_decays)) and all(0 <= decay < 1 for decay in ema_decays)
    require(ok, "ema_decays", ema_decays, "each from 0 to below 1")
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=tx.init(params),
        ema_params={str(decay): jax.tree.map(jnp.copy, params) for decay in ema_decays},
        skipped=jnp.zeros((), jnp.int32),
        skipped_in_a_row=jnp.zeros((), jnp.int32),
        others={name: value for name, value in variables.items() if name != "params"},
    )


@dataclass(frozen=True)
class Update:
    """The rule by which gradients become the next state."""

    # Such as optimizer.adamw: its update is given is_finite, and keeps its moments where that is
    # False. Optax's own do not, and a gradient that is not finite would stay in their moments.
    tx: optax.GradientTransformation
    ema_decays: Sequence[float] = ()
    # The averages begin as copies and forget less and less, until they reach their decay: after t
    # updates it is at most 1 - (1 + t)**(-2/3), as in timm's ModelEmaV3.
    ema_warmup: bool = False
    frozen: str | None = None  # parameters without a gradient (optimizer.frozen_mask)
    accumulation_steps: int = 1  # parts in which a batch passes through the model

    def apply(
        self, state: TrainState, grads: Any, others: Variables, is_finite: jax.Array | bool = True
    ) -> TrainState:
        """Returns the state after an update by these gradients, with these other variables.

        Where is_finite is False it counts as skipped: parameters, other variables, averages and
        moments stay, while the step and the schedules, which follow it, go on.
        """

        def kept(new, old):
            return jax.tree.map(partial(jnp.where, is_finite), new, old)

        update = optax.with_extra_args_support(self.tx).update
        updates, opt_state = update(grads, state.opt_state, state.params, is_finite=is_finite)
        params = kept(optax.apply_updates(state.params, updates), state.params)
        ema_params = {}
        for decay in self.ema_decays:
            share = 1 - decay  # of the new parameters; in float32, 1 - 0.9999 would lose 4 digits
            if self.ema_warmup:
                share = jnp.maximum(share, (1 + state.step) ** (-2 / 3))
            average = state.ema_params[str(decay)]
            moved = kept(optax.incremental_update(params, average, share), average)
            ema_params[str(decay)] = moved
        return state.replace(
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            ema_params=ema_params,
            others=kept({**state.others, **others}, state.others),
            skipped=state.skipped + jnp.logical_not(is_finite),
            skipped_in_a_row=jnp.where(is_finite, 0, state.skipped_in_a_row + 1),
        )

    def weights(self, state: TrainState) -> dict[str, Variables]:
        """Returns what is evaluated, by the prefix of its scores: "val" is the parameters as they
        are, then come the averages in the config's order (metrics.prefixes)."""
        averages = (state.ema_params[str(decay)] for decay in self.ema_decays)
        each = ({**state.variables, "params": params} for params in (state.params, *averages))
        return dict(zip(metrics.prefixes(self.ema_decays), each, strict=True))

    @property
    def reported(self) -> str:
        """The prefix of the weights that are reported: the first average, if there is one."""
        return metrics.reported_prefix(self.ema_decays)

    def best(self, score: str) -> str:
        """The score of these weights: "top1" -> "val_ema/top1", "-loss" -> "-val_ema/loss"."""
        sign = "-" if score.startswith("-") else ""
        return f"{sign}{self.reported}/{score.removeprefix('-')}"


def ema_by_name(ema_decays: Sequence[float]) -> dict[str, float]:
    """Names the averages as eval.py and from_pretrained are asked for them: "ema" is the first,
    `"ema_<decay>"` each."""
    first = {"ema": ema_decays[0]} if ema_decays else {}
    return first | {f"ema_{decay}": decay for decay in ema_decays}


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    task: Task,
    update: Update,
    key: jax.Array,
    gathered: jax.sharding.Sharding | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Makes one update of a batch of task.train_source. gathered: see `gather`.

    Returns the new state and scalars: loss and grad_norm of the update, skipped and
    skipped_in_a_row of the new state, and what the task's loss logs. An update is skipped where
    loss or grad_norm is not finite.
    """
    mix_key, loss_key, erase_key = jax.random.split(jax.random.fold_in(key, state.step), 3)
    batch = task.prepare(jnp.stack([mix_key, erase_key]), batch)

    def loss_fn(params, others, batch, key):
        params = optimizer.stop_gradients(params, update.frozen)
        return task.loss(gather({"params": params, **others}, gathered), batch, key)

    parts = accumulate(
        jax.value_and_grad(loss_fn, has_aux=True), update.accumulation_steps, task.parts_in_turn
    )
    (loss, (others, values)), grads = parts(state.params, state.others, batch, loss_key)

    grad_norm = optax.tree.norm(grads)
    is_finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    new_state = update.apply(state, grads, others, is_finite)
    return new_state, {
        "loss": loss,
        "grad_norm": grad_norm,
        "skipped": new_state.skipped,
        "skipped_in_a_row": new_state.skipped_in_a_row,
        **values,
    }


def gather(variables: Any, gathered: jax.sharding.Sharding | None) -> Any:
    """Lays variables out as they are computed with: by this sharding (sharding.replicated), where
    they are stored in parts. Else the compiler moves activations to where a parameter lies."""
    if gathered is None:
        return variables
    return jax.lax.with_sharding_constraint(variables, gathered)


def accumulate(loss_and_grads: Callable, steps: int, in_turn: bool = False) -> Callable:
    """Makes a function of a batch that is taken in `steps` parts, and returns means over them.

    A part folds its index into the key. It is every steps-th row, so that each device has its
    share of every part and no row moves. in_turn: see Task.parts_in_turn.
    """
    if steps == 1:
        return loss_and_grads

    def accumulated(params, others, batch, key):
        def parts(x):
            return jnp.moveaxis(x.reshape(-1, steps, *x.shape[1:]), 1, 0)

        def mean(total):
            is_float = jnp.issubdtype(total.dtype, jnp.floating)
            return total / steps if is_float else total // steps

        def part_of(others, index, batch):
            return loss_and_grads(params, others, batch, jax.random.fold_in(key, index))

        def add_part(carry, part):
            total, others = carry
            result = part_of(others, *part)
            if in_turn:
                others = {**others, **result[0][1][0]}
            return (jax.tree.map(jnp.add, total, result), others), None

        batches = jax.tree.map(parts, batch)
        shapes = jax.eval_shape(part_of, others, 0, jax.tree.map(lambda x: x[0], batches))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        (total, last), _ = jax.lax.scan(add_part, (zeros, others), (jnp.arange(steps), batches))
        (loss, (others, values)), grads = jax.tree.map(mean, total)
        return (loss, ({name: last[name] for name in others} if in_turn else others, values)), grads

    return accumulated


def normalize(images: jax.Array, *, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """Turns uint8 [N, H, W, C] into float32; mean and std of each channel are fractions of 255.

    Raises InputError where there is not one of each for a channel, or a std is not positive.
    """
    channels = images.shape[-1]
    accepted = f"{channels} numbers, as there are channels"
    require(are_finite(mean, channels), "normalize.mean", mean, accepted)
    ok = are_finite(std, channels) and min(std) > 0
    require(ok, "normalize.std", std, f"{accepted}, above 0")
    return (images.astype(jnp.float32) / 255 - jnp.array(mean)) / jnp.array(std)


def eval_step(
    variables: Variables,
    batch: Batch,
    *,
    measure: Callable[[Variables, Batch], Any],
    gathered: jax.sharding.Sharding | None = None,
) -> Any:
    """Measures the examples of a batch with mask 1 (Evaluation.measure). gathered: see `gather`."""
    return measure(gather(variables, gathered), batch)


def evaluate(
    eval_step: Callable[[Variables, Batch], Any],
    evaluation: Evaluation,
    weights: dict[str, Variables],
    batches: Iterable[Batch],
    stops: Callable[[], bool] = lambda: False,
) -> dict[str, Any] | None:
    """Combines the results of all batches for each of the weights, on the host; None where `stops`,
    which is asked before each batch, says so."""
    totals = dict.fromkeys(weights)
    waiting = hosts.Behind(RESULTS_BEHIND)

    def combine(results):
        for each in results:
            for name, result in jax.device_get(each).items():
                totals[name] = evaluation.combine(totals[name], result)

    for batch in batches:
        if stops():
            return None
        results = {name: eval_step(variables, batch) for name, variables in weights.items()}
        combine(waiting.put(results))
    combine(waiting.drain())
    return totals


def scores(evaluation: Evaluation, totals: dict[str, Any]) -> dict[str, float]:
    """Names the scores of each of the weights: {"val/loss": 0.7, "val_ema/loss": 0.6, ...}."""
    return {
        f"{prefix}/{name}": value
        for prefix, total in totals.items()
        for name, value in evaluation.scores(total).items()
    }
