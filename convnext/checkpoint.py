"""Save and restore a run's state, through Orbax."""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from convnext.errors import InputError


def open_checkpoints(
    workdir: str | os.PathLike, *, keep: int, best_metric: str, lowest: bool = False
) -> ocp.training.Checkpointer:
    """The checkpoints of a run: its latest `keep`, and the one with the highest best_metric, or the
    lowest.

    A context manager: a save goes on in the background, and leaving without closing loses it.
    """
    policies = ocp.training.preservation_policies

    def best(metrics: Mapping[str, float]) -> float:
        value = metrics.get(best_metric, math.nan)
        worst = math.inf if lowest else -math.inf
        return worst if math.isnan(value) else value

    return ocp.training.Checkpointer(
        _folder(workdir),
        save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
        preservation_policy=policies.AnyPreservationPolicy(
            [
                policies.LatestN(keep),
                # reverse=False keeps the largest, True the smallest.
                policies.BestN(
                    get_metric_fn=best, reverse=lowest, n=1, keep_checkpoints_without_metrics=False
                ),
            ]
        ),
        cleanup_tmp_directories=True,
    )


def _folder(workdir):
    return Path(workdir).absolute() / "checkpoints"  # Orbax refuses relative paths


def latest_step(workdir: str | os.PathLike) -> int:
    """Updates made at the latest checkpoint; 0 where there is none."""
    folder = _folder(workdir)
    if not folder.is_dir():
        return 0
    with ocp.training.Checkpointer(folder) as checkpoints:
        return checkpoints.latest.step if checkpoints.latest else 0


def restore(workdir: str | os.PathLike, abstract_state: Any, state_sharding: Any) -> Any:
    """The latest state, with the shapes of abstract_state and the given shardings.

    Raises InputError where there is no checkpoint, or it is another model's.
    """
    return _load(workdir, abstract_state, state_sharding, ())


def restore_params(
    workdir: str | os.PathLike,
    abstract_params: Any,
    sharding: jax.sharding.Sharding,
    ema_decay: float | None = None,
) -> Any:
    """The parameters of the latest state, or their average of that decay, and nothing else of it.

    Raises InputError where there is no checkpoint, or it is another model's.
    """
    path = ("params",) if ema_decay is None else ("ema_params", str(ema_decay))
    sharding = jax.tree.map(lambda _: sharding, abstract_params)
    return _load(workdir, abstract_params, sharding, path)


def _load(workdir, abstract, sharding, path):
    """What lies at `path` in the latest state."""
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    if not latest_step(workdir):
        raise InputError(f"no checkpoint in {workdir}; accepted: the workdir of a training run")
    with ocp.training.Checkpointer(_folder(workdir), context=context) as checkpoints:
        step = checkpoints.latest.step
        stored = checkpoints.metadata(step).metadata
        target = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, sharding
        )
        # Orbax's own error names neither the parameter nor the shapes.
        theirs = _shapes(stored)
        wrapped = target
        for name in reversed(path):
            wrapped = {name: wrapped}
        ours, root = _shapes(wrapped), "/".join([*path, ""])
        extra = [name for name in theirs if name.startswith(root) and name not in ours]
        for name in [*ours, *sorted(extra, key=lambda name: not name.startswith("params/"))]:
            there, here = theirs.get(name, "missing"), ours.get(name, "missing")
            if there != here:
                raise InputError(
                    f"{workdir} holds another model: {name} is {there} there and {here} here; "
                    "accepted: the config that it was trained with, or a new workdir"
                )
        loaded = checkpoints.load(step, wrapped)
    for name in path:
        loaded = loaded[name]
    return loaded


def _shapes(tree):
    """{"params/head/bias": (1000,), ...}"""
    return {
        "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path): (
            tuple(leaf.shape)
        )
        for path, leaf in jax.tree.leaves_with_path(tree)
    }
