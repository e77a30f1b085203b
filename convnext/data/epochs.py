"""The order in which a run reads its examples, its length, and when something is due in it."""

from collections.abc import Callable

import numpy as np

from convnext.errors import require


class Epochs:
    """The batches of a run, by the updates made before: which examples, in which order.

    The order is a function of (seed, epoch, groups); each epoch is shuffled anew. A run of
    num_epochs has floor(num_examples / batch_size) batches in each, and drops what is left over. A
    run of num_steps, where it is not None, reads one endless stream of epochs and drops nothing.

    groups, int [num_examples]: a batch has examples of one group, so that they can have one shape.
    Each group is read as above, and its batches are mixed with those of the others. So a run of
    num_epochs never reads a group that is smaller than a batch.

    Raises InputError where there is not one batch, or a length is below 1.
    """

    def __init__(
        self,
        num_examples: int,
        batch_size: int,
        *,
        num_epochs: int,
        num_steps: int | None = None,
        seed: int = 0,
        groups: np.ndarray | None = None,
    ):
        is_stream = num_steps is not None
        require(num_examples > 0, "the number of training images", num_examples, "1 and more")
        require(num_epochs > 0, "num_epochs", num_epochs, "1 and more")
        require(not is_stream or num_steps > 0, "num_steps", num_steps, "1 and more, or None")
        # A key of JAX has the lowest 32 bits of it.
        require(0 <= seed < 2**32, "seed", seed, f"0 to {2**32 - 1}")
        counts, most = np.array([num_examples]), "the number of training images"
        if groups is not None:
            require(len(groups) == num_examples, "the length of groups", len(groups), num_examples)
            _, groups, counts = np.unique(groups, return_inverse=True, return_counts=True)
            most += " in the largest group"
        accepted = "1 and more" if is_stream else f"1 to {counts.max()}, {most}"
        ok = batch_size > 0 and (is_stream or batch_size <= counts.max())
        require(ok, "batch_size", batch_size, accepted)

        self.num_examples, self.batch_size, self.seed = num_examples, batch_size, seed
        self.num_epochs = num_epochs
        self.groups = groups  # from 0 on
        self._counts = counts
        # Examples of each group that an epoch reads.
        self._sizes = counts if is_stream else counts // batch_size * batch_size
        self.steps_per_epoch = max(int(self._before(1).sum()), 1)
        self.batches_per_epoch = self._sizes.sum() / batch_size  # of a stream not a whole number
        self.num_steps = num_steps if is_stream else self.steps_per_epoch * num_epochs
        # Those that were asked for last. A batch of a stream may reach into the next epoch.
        self._num_orders = 2 if (self._sizes % batch_size).any() else 1
        self._orders: dict[int, list[np.ndarray]] = {}
        self._plans: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self.num_steps

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns epoch [batch_size] and index [batch_size] of the examples of the batch that
        follows `step` updates."""
        if not 0 <= step < self.num_steps:
            raise IndexError(step)
        group, number = (0, step) if self.groups is None else self._group(step)
        places = number * self.batch_size + np.arange(self.batch_size)
        epochs, places = np.divmod(places, self._sizes[group])
        indices = np.empty(self.batch_size, np.int32)
        for epoch in np.unique(epochs).tolist():
            rows = epochs == epoch
            indices[rows] = self._order(epoch)[group][places[rows]]
        return epochs, indices

    def every(self, name: str, epochs: int, steps: int | None = None) -> Callable[[int], bool]:
        """Makes the answer to whether something is due after an update: every so many steps, or
        where that is None epochs, and after the last one. name: of the config's fields, "eval"."""
        require(epochs > 0, f"{name}_every_epochs", epochs, "1 and more")
        require(steps is None or steps > 0, f"{name}_every_steps", steps, "1 and more, or None")
        interval = epochs * self.steps_per_epoch if steps is None else steps
        return lambda step: step % interval == 0 or step == self.num_steps

    def _before(self, epoch):
        """Batches of each group before an epoch."""
        return self._sizes * epoch // self.batch_size

    def _group(self, step):
        """The group of a batch, and its number among the batches of that group."""
        epoch = step * self.batch_size // self._sizes.sum()  # or one of the next
        while self._before(epoch + 1).sum() <= step:
            epoch += 1
        before = self._before(epoch)
        if epoch not in self._plans:
            # No example has this number. One that had would be augmented by the same draws.
            rng = np.random.default_rng((self.seed, epoch, self.num_examples))
            batches = self._before(epoch + 1) - before
            self._plans = {epoch: rng.permutation(np.repeat(np.arange(len(batches)), batches))}
        plan, place = self._plans[epoch], step - before.sum()
        group = plan[place]
        return group, before[group] + np.count_nonzero(plan[:place] == group)

    def _order(self, epoch):
        """Shuffled indices of the examples of each group."""
        if epoch not in self._orders:
            if len(self._orders) == self._num_orders:
                del self._orders[min(self._orders)]
            rng = np.random.default_rng((self.seed, epoch))
            order = rng.permutation(np.arange(self.num_examples, dtype=np.int32))
            if self.groups is not None:
                order = order[np.argsort(self.groups[order], kind="stable")]
            self._orders[epoch] = np.split(order, np.cumsum(self._counts)[:-1])
        return self._orders[epoch]
