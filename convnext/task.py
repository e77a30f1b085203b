"""A task: everything that differs between kinds of training. The loop, the step and eval.py know
nothing else of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import flax.linen as nn
import jax
import numpy as np

Batch = dict[str, jax.Array]  # arrays [N, ...]
Variables = Mapping[str, Any]  # "params", and where a model has others, such as "batch_stats"


class Source(Protocol):
    """Examples by number: dicts with "image", and what their task needs."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Raises InputError, with a name, where the example cannot be read."""
        ...


def add(total: Any | None, result: Any) -> Any:
    """Adds leaf by leaf: floats in float64, counts in int64."""
    wide = jax.tree.map(_wide, result)
    return wide if total is None else jax.tree.map(np.add, total, wide)


def _wide(array):
    return np.asarray(array, np.float64 if np.asarray(array).dtype.kind == "f" else np.int64)


def append(total: list[Any] | None, result: Any) -> list[Any]:
    """Keeps the results of all batches, for an evaluation of rows that do not add up."""
    total = [] if total is None else total
    total.append(result)
    return total


def joined(total: list[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Joins rows {name: [N, ...], "mask", "index"}: those of mask 1, in the order of index."""
    rows = {name: np.concatenate([each[name] for each in total]) for name in total[0]}
    order = np.argsort(rows["index"], kind="stable")
    order = order[rows.pop("mask")[order] > 0]
    return {name: values[order] for name, values in rows.items()}


@dataclass(frozen=True)
class Evaluation:
    """How weights are scored on a source."""

    source: Source
    transform: Callable[[dict[str, Any]], dict[str, Any]]  # on the host; one shape in each group
    # On the devices: what a batch adds to the result. Its "mask" [N] is 1 for the examples that
    # count; its "index" int32 [N] is their number in the source, which keys whatever is random, so
    # that neither the batch size nor the number of processes changes a score.
    measure: Callable[[Variables, Batch], Any]
    # On the host: the total so far, None at first, and the arrays of one batch.
    combine: Callable[[Any | None, Any], Any] = add
    scores: Callable[[Any], dict[str, float]] = dict  # of the total
    report: Callable[[Any], str] | None = None  # printed at the end of a run, of the total
    groups: np.ndarray | None = None  # int [examples]; a batch has one group, and so one shape


@dataclass(frozen=True)
class Task:
    """A model and its data, as functions: no method, no state, nothing to inherit from."""

    config: Mapping[str, Any]  # with every placeholder decided: the loop reads no other
    model: nn.Module
    init: Callable[[jax.Array], Variables]  # of a key
    pretrained: Callable[[str, jax.Array], Variables]  # of config.init_from, and a key for the rest
    train_source: Source
    # On the host; None: examples are as they come.
    train_transform: Callable[[dict[str, Any], np.random.Generator], dict[str, Any]] | None
    # An example as it then is, blank: by it the plan knows shapes and memory.
    example: Mapping[str, np.ndarray]
    # On the devices: what is drawn for a whole batch, from two keys. Then the loss of a part of it,
    # a mean over its examples, from a third: (loss [], (changed variables, scalars to log)).
    prepare: Callable[[jax.Array, Batch], Batch]
    loss: Callable[[Variables, Batch, jax.Array], tuple[jax.Array, tuple[dict, dict]]]
    evaluation: Evaluation
    best: str  # the score that chooses the best checkpoint: "top1"; "-loss" for the lowest
    describe: Callable[[Any], list[str]]  # of the parameters: lines of the plan about the model
    draws: Callable[[], list[str]] = list  # lines of the dry run: what `prepare` draws
    train_groups: np.ndarray | None = None  # int [examples]; a batch has one group
    # What a user does next with the run of a {workdir}, as the end of the run says.
    commands: Sequence[str] = ("python eval.py --workdir={workdir}",)
    class_names: Sequence[str] | None = None  # kept in classes.json; a run may not change them
    record: Mapping[str, Any] = field(default_factory=dict)  # kept in config.json, likewise
    # Bytes of one example that a step keeps for the backward pass; None: not known.
    activations: Callable[[], int] | None = None
    is_stand_in: bool = False  # the data is not at hand: only a dry run takes this
    # With accumulation the parts of a batch change the other variables one after the other, as
    # PyTorch's BatchNorm does; else each begins with those of before, and their mean is kept.
    parts_in_turn: bool = False
    rules: Mapping[str, Callable] = field(default_factory=dict)  # further keywords of the optimizer
