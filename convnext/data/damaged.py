"""The images that a run skips because they cannot be read."""

from collections.abc import Callable

import jax
import numpy as np

from convnext import hosts
from convnext.data.sources import Source
from convnext.errors import InputError


class BadImages:
    """The watch over the images of a source that cannot be read, in any process of the run.

    limit: how many may be skipped (max_bad_images). report: is given what is wrong with an image,
    once. messages: what was reported before, also about other sources; what is reported is added.
    """

    def __init__(
        self, source: Source, limit: int, report: Callable[[str], None], messages: set[str]
    ):
        self.source, self.limit, self.report, self.messages = source, limit, report, messages
        self._indices: set[int] = set()
        # A process that raised at its own bad image would leave the others waiting for its batch.
        # So each looks at the images of all, and all at the same batch: they stop together. One
        # process alone has nobody to agree with and looks at once.
        self._unseen = hosts.Behind(0 if jax.process_count() == 1 else hosts.STEPS_BEHIND)

    def look(self, bad: np.ndarray) -> None:
        """Takes the indices [n] of a batch, -1 for an image that could be read; to be called by all
        processes. Raises InputError where more than `limit` images cannot be read."""
        if self.limit == 0:  # the first one has ended the run
            return
        for rows in self._unseen.put(hosts.all_rows(bad)):
            self._take(rows)

    def look_at_the_last(self) -> None:
        """Looks at what is left, after the last batch. Raises as `look` does."""
        for rows in self._unseen.drain():
            self._take(rows)

    def _take(self, rows):
        new = sorted(set(np.asarray(rows).tolist()) - {-1} - self._indices)
        for index in new:
            self._indices.add(index)
            message = _damage(self.source, index)
            self.messages.add(message)
            self.report(message)
        if new and len(self.messages) > self.limit:
            raise InputError(
                f"{len(self.messages)} images cannot be read, the last of them {new[-1]}",
                f"max_bad_images, which is {self.limit}",
            )


def _damage(source, index):
    try:
        np.asarray(source[index]["image"])  # which may be decoded only now
    except InputError as error:
        return str(error)
    return f"image {index} could not be read at first, but can be now"
