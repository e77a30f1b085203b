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
    workdir: str | os.PathLike, *, keep: int, best_metric: str
) -> ocp.training.Checkpointer:
    """The checkpoints of a run: its latest `keep`, and the one with the highest best_metric.

    A context manager: a save goes on in the background, and leaving without closing loses it.
    """
    policies = ocp.training.preservation_policies

    def best(metrics: Mapping[str, float]) -> float:
        value = metrics.get(best_metric, math.nan)
        return -math.inf if math.isnan(value) else value

    return ocp.training.Checkpointer(
        _folder(workdir),
        save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
        preservation_policy=policies.AnyPreservationPolicy(
            [
                policies.LatestN(keep),
                # reverse=False keeps the largest.
                policies.BestN(
                    get_metric_fn=best, reverse=False, n=1, keep_checkpoints_without_metrics=False
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
    """The latest state, in the shapes of abstract_state and with the given shardings.

    Leaves that are ocp.PLACEHOLDER are not read and come back as they are. Raises InputError
    where the checkpoint is another model's.
    """

    def target(leaf, sharding):
        if leaf is ocp.PLACEHOLDER:
            return leaf
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    with ocp.training.Checkpointer(_folder(workdir)) as checkpoints:
        step = checkpoints.latest.step
        _check_same_model(checkpoints, abstract_state, step)
        targets = jax.tree.map(
            target, abstract_state, state_sharding, is_leaf=lambda leaf: leaf is ocp.PLACEHOLDER
        )
        return checkpoints.load(step, targets)


def _check_same_model(checkpoints, abstract_state, step):
    """Orbax's own error does not name the parameter."""

    def shapes(tree):
        leaves = jax.tree.leaves_with_path(tree, is_leaf=lambda leaf: leaf is ocp.PLACEHOLDER)
        return {_path_name(path): getattr(leaf, "shape", None) for path, leaf in leaves}

    theirs, ours = shapes(checkpoints.metadata(step).metadata), shapes(abstract_state)
    for name in [*ours, *theirs]:
        there, here = theirs.get(name, "missing"), ours.get(name, "missing")
        if here is not None and there != here:
            raise InputError(
                f"{checkpoints.directory} holds another model: {name} is {there} there and {here} "
                "here; accepted: the config that it was trained with, or a new workdir"
            )


def _path_name(path):
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)
