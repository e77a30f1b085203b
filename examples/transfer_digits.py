"""Transfer to a new question from a few labels, with weights that know the digits.

    python train.py --config=configs/digits.py
    python -m examples.transfer_digits --model=runs/digits

The question is whether a digit is odd, and two images of each digit are labelled with the answer.
On these 20 a model is trained three ways: from scratch; only its head, on the weights' features (a
linear probe); and all of it, starting from the weights (fine-tuning). The validation images are by
other people.
"""

import argparse

import jax
import numpy as np
import optax

from convnext.data import sources
from convnext.errors import reported, require
from convnext.training import optimizer
from convnext.weights import pretrained


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.transfer_digits")
    parser.add_argument("--model", default="runs/digits", metavar="SOURCE", help="any weights")
    parser.add_argument("--labels", type=int, default=2, help="of each digit, 1 to 100 (2)")
    parser.add_argument("--num_steps", type=int, default=100, help="updates, 1 and more (100)")
    args = parser.parse_args(argv)
    with reported():
        require(1 <= args.labels <= 100, "--labels", args.labels, "1 to 100")
        require(args.num_steps >= 1, "--num_steps", args.num_steps, "1 and more")
        source = pretrained.load(args.model, num_classes=2)  # with a new head
    model = source.model

    train, val = sources.load("digits")
    chosen = [np.flatnonzero(train.labels == digit)[: args.labels] for digit in range(10)]
    images, val_images = (
        source.processor.preprocess(part)
        for part in (train.images[np.concatenate(chosen)], val.images)
    )
    is_odd, val_is_odd = train.labels[np.concatenate(chosen)] % 2, val.labels % 2
    scratch = jax.jit(model.init)(jax.random.key(0), images[:1])["params"]
    apply = jax.jit(model.apply)
    print(f"odd or even, from {len(images)} labels, on {len(val_images)} other images:")
    for name, params, peak_lr, frozen in (
        ("from scratch", scratch, 2e-3, None),
        ("linear probe", source.params, 3e-2, "^(?!head/)"),
        ("fine-tuning", source.params, 5e-4, None),
    ):
        options = dict(num_steps=args.num_steps, peak_lr=peak_lr, frozen=frozen)
        params = fit(model, params, images, is_odd, **options)
        predictions = apply({"params": params}, val_images).argmax(axis=-1)
        print(f"  {name:12}  {np.mean(predictions == val_is_odd):.3f}")


def fit(model, params, images, labels, *, num_steps, peak_lr, frozen):
    """Returns the parameters after num_steps updates, each on all images."""
    schedule = optimizer.schedule(num_steps, 1, peak_lr=peak_lr)
    tx = optimizer.adamw(schedule, frozen=frozen)

    def loss(params):
        logits = model.apply({"params": params}, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @jax.jit
    def update(params, opt_state):
        updates, opt_state = tx.update(jax.grad(loss)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    opt_state = tx.init(params)
    for _ in range(num_steps):
        params, opt_state = update(params, opt_state)
    return params


if __name__ == "__main__":
    main()
