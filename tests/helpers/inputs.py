"""Images to give to a function, and what it must say of those it refuses."""

import numpy as np
import pytest

from convnext.errors import InputError


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def refused(message, function, *args, **keywords):
    """The message of the InputError: one line that says what is accepted."""
    with pytest.raises(InputError, match=message) as caught:
        function(*args, **keywords)
    assert "accepted: " in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)
