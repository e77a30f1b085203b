"""The recipe's optimizer: AdamW, its schedule, and what is decayed."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from convnext.errors import InputError


def warmup_cosine(
    steps_per_epoch: int,
    num_epochs: int,
    *,
    peak_lr: float,
    end_lr: float = 1e-6,
    warmup_epochs: int = 20,
) -> optax.Schedule:
    """The official schedule: learning rate of the update after `step` updates.

    Linear from 0 over the steps of `warmup_epochs`, both ends included, then a cosine towards
    end_lr, which is not quite reached (`cosine_scheduler` in utils.py of the official code).
    Optax's schedule of this name peaks one step later. Computed in float64, held as float32.
    """
    num_steps = num_epochs * steps_per_epoch
    warmup_steps = warmup_epochs * steps_per_epoch
    if warmup_steps > num_steps:
        raise InputError(
            f"warmup_epochs is {warmup_epochs}; accepted: at most num_epochs, which is {num_epochs}"
        )
    warmup = np.linspace(0, peak_lr, warmup_steps)
    progress = np.arange(num_steps - warmup_steps) / max(num_steps - warmup_steps, 1)
    cosine = end_lr + 0.5 * (peak_lr - end_lr) * (1 + np.cos(np.pi * progress))
    table = np.concatenate([warmup, cosine]).astype(np.float32)

    def schedule(step: int | jax.Array) -> np.float32 | jax.Array:
        return table[step] if isinstance(step, int) else jnp.asarray(table)[step]

    return schedule


def adamw(
    schedule: optax.Schedule,
    *,
    weight_decay: float = 0.05,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """AdamW as in PyTorch: the decay is scaled by the learning rate.

    clip_norm bounds the global norm of the gradients; None leaves clipping out.
    """
    return optax.chain(
        optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm),
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
        optax.add_decayed_weights(weight_decay, mask=decay_mask),
        optax.scale_by_learning_rate(schedule),
    )


def decay_mask(params: Any) -> Any:
    """True for kernels; biases, norms and gammas are not decayed (official optim_factory.py)."""
    return jax.tree.map_with_path(lambda path, _: path[-1].key == "kernel", params)
