import io
import pickle
from collections import OrderedDict

import pytest

from convnext import unpickling


def unpickled(value, protocol=2):
    data = value if isinstance(value, bytes) else pickle.dumps(value, protocol)
    return unpickling.Unpickler(io.BytesIO(data), {}, encoding="bytes").load()


@pytest.mark.parametrize("protocol", range(5))
def test_numbers_strings_and_containers_are_as_they_were(protocol):
    value = {"a": [1, 2.5, None, True], 3: (b"x", "y"), "o": OrderedDict(z=1, a=2), "big": 1 << 99}
    value["o"]["again"] = value["a"]
    assert unpickled({**value, 3: ()}, protocol) == {**value, 3: ()}


# A tuple that holds itself twice, 60 times over: its hash takes forever.
ENDLESS = b")" + b"q\0h\0\x86" * 60


@pytest.mark.parametrize(
    "data",
    [
        b"}" + ENDLESS + b"K\1s.",
        b"}(" + ENDLESS + b"K\1u.",
        b"(" + ENDLESS + b"K\1d.",
        b"ccollections\nOrderedDict\n]" + ENDLESS + b"K\1\x86a\x85R.",
        b"ccollections\nOrderedDict\n)R" + ENDLESS + b"K\1s.",
    ],
    ids=["item", "items", "dict", "ordered", "item of ordered"],
)
def test_a_key_is_a_number_or_a_string(data):
    with pytest.raises(ValueError, match="a key that is a tuple"):
        unpickled(b"\x80\2" + data)


@pytest.mark.parametrize(
    "value", [{1, 2}, frozenset([1]), bytearray(3)], ids=["set", "frozen", "b"]
)
@pytest.mark.parametrize("protocol", [2, 5])
def test_what_hashes_or_reserves_is_refused(value, protocol):
    with pytest.raises((KeyError, unpickling.RefusedError)):
        unpickled(value, protocol)


def test_other_names_are_refused():
    with pytest.raises(unpickling.RefusedError, match="it refers to builtins.print"):
        unpickled(print, 4)
    stack_global = b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R."
    with pytest.raises(unpickling.RefusedError, match=r"it refers to os\.system"):
        unpickled(stack_global)
