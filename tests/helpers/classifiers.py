"""The step of a classifier, bound as its task binds it."""

from functools import partial
from operator import itemgetter
from types import SimpleNamespace

import jax.numpy as jnp

from convnext.task import Evaluation
from convnext.tasks import classification
from convnext.training import losses, steps

SINGLE = losses.SINGLE_LABEL


def init(key, *, model, tx, image_size, ema_decays=()):
    """The state before the first update, with fresh parameters."""
    variables = model.init(key, jnp.zeros((1, image_size, image_size, model.in_chans)))
    return steps.start(variables, tx=tx, ema_decays=ema_decays)


def train_step(
    state, batch, *, model, tx, normalize, mix, key, erase=lambda key, images: images,
    problem_type=SINGLE, gathered=None, **update,
):  # fmt: skip
    """steps.train_step; update: fields of steps.Update."""
    task = SimpleNamespace(
        prepare=partial(
            classification.prepare,
            augmented=itemgetter("image"),
            normalize=normalize,
            erase=erase,
            mix=mix,
        ),
        loss=partial(classification.loss, model=model, problem_type=problem_type),
        parts_in_turn=False,
    )
    update = steps.Update(tx, **update)
    return steps.train_step(state, batch, task=task, update=update, key=key, gathered=gathered)


def evaluation(model, normalize, problem_type=SINGLE):
    """How the task evaluates, but for its source."""
    measure = partial(
        classification.measure, model=model, normalize=normalize, problem_type=problem_type
    )
    return Evaluation(None, None, measure, scores=classification.scores)
