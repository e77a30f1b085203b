import io
import pickle
from collections import OrderedDict

import pytest

from convnext.files import pickles


def unpickled(value, protocol=2):
    data = value if isinstance(value, bytes) else pickle.dumps(value, protocol)
    return pickles.Unpickler(io.BytesIO(data), {}, encoding="bytes").load()


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
        b"ccollections\nOrderedDict\n)R" + ENDLESS + b"K\1s.",
    ],
    ids=["item", "items", "dict", "item of ordered"],
)
def test_a_key_is_a_number_or_a_string(data):
    with pytest.raises(ValueError, match="a key that is a tuple"):
        unpickled(b"\x80\2" + data)


@pytest.mark.parametrize(
    "key, kind",
    [(10**5000, "int"), (2**60, "int"), (-1, "int"), (0.5, "float"), (None, "NoneType"),
     ("x" * 1001, "str"), (b"x" * 1001, "bytes")],
    ids=["digits", "bits", "negative", "float", "none", "long", "long bytes"],
)  # fmt: skip
def test_a_key_is_small(key, kind):
    """Large numbers can have one hash, and long strings are compared letter by letter."""
    with pytest.raises(ValueError, match=f"a key that is a {kind}, or too large"):
        unpickled({key: 1}, 4)


@pytest.mark.parametrize(
    "value", [{1, 2}, frozenset([1]), bytearray(3)], ids=["set", "frozen", "b"]
)
def test_what_hashes_or_reserves_is_refused(value):
    for protocol, message in ((2, "it refers to"), (5, "an instruction that is not accepted")):
        with pytest.raises(pickles.RefusedError, match=message):
            unpickled(value, protocol)


@pytest.mark.parametrize(
    "data",
    [b"Ptext\n.", b"\x82\1.", b"(iargparse\nNamespace\n.", b"(K\1o.", b"\x97.", b")\x98."],
    ids=["text reference", "extension", "instance", "object", "buffer", "read-only"],
)
def test_other_instructions_are_refused(data):
    with pytest.raises(pickles.RefusedError, match="an instruction that is not accepted"):
        unpickled(data)


def test_a_pickle_has_a_limited_number_of_instructions(monkeypatch):
    monkeypatch.setattr(pickles, "MAX_INSTRUCTIONS", 6)
    assert unpickled(b"\x80\2" + b"(" + b"N" * 2 + b"t.") == (None, None)
    with pytest.raises(pickles.RefusedError, match="it has more than 6 instructions"):
        unpickled(b"\x80\2" + b"(" + b"N" * 3 + b"t.")


@pytest.mark.parametrize(
    "arguments",
    [b"(" + b"N" * 9 + b"t", b"]", b"X\3\0\0\0abc", b"K\1"],
    ids=["nine", "list", "text", "number"],
)
@pytest.mark.parametrize("instruction", [b"R", b"\x81"], ids=["reduce", "newobj"])
def test_a_call_takes_a_few_arguments(arguments, instruction):
    """Else one list, or string, is gone through by each of many calls."""
    with pytest.raises(ValueError, match="a call with other than a tuple of up to 8 arguments"):
        unpickled(b"ccollections\nOrderedDict\n" + arguments + instruction + b".")


def test_an_ordered_dict_copies_no_list():
    with pytest.raises(TypeError, match="takes 0 positional arguments but 1 was given"):
        unpickled(b"ccollections\nOrderedDict\n(]tR.")


def test_items_are_added_to_lists_alone():
    for data in (b")K\1a.", b"}(K\1e.", b"X\1\0\0\0a(K\1e."):
        with pytest.raises(ValueError, match="items of a (tuple|dict|str)"):
            unpickled(data)


def test_objects_are_kept_under_small_numbers():
    assert unpickled(b"Np7\n0g7\n.") is None
    for number in (2**32, 2**61 - 1, -1):
        with pytest.raises(ValueError, match="a number of more than 32 bits"):
            unpickled(b"Np%d\n." % number)


def test_other_names_are_refused():
    with pytest.raises(pickles.RefusedError, match="it refers to builtins.print"):
        unpickled(print, 4)
    stack_global = b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R."
    with pytest.raises(pickles.RefusedError, match=r"it refers to os\.system"):
        unpickled(stack_global)
