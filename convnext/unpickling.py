"""Pickles of others, read without executing anything that is in them."""

import pickle
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, BinaryIO


class RefusedError(Exception):
    """The pickle refers to what is not accepted."""


class Unpickler(pickle._Unpickler):  # the one in Python, of which instructions can be replaced
    """Makes numbers, strings, containers, and what `names` has: {(module, name): stand-in}.

    A stand-in is called with whatever the file says. The other ways in which a pickle acts on what
    is there already are closed: attributes are not set, and what would be hashed is a number or a
    string. (A tuple nested in itself often enough takes forever, or all of the stack.)
    """

    def __init__(self, stream: BinaryIO, names: Mapping[tuple[str, str], Any], encoding: str):
        super().__init__(stream, encoding=encoding)
        self._names = {("collections", "OrderedDict"): _ordered_dict, **names}

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name. Raises RefusedError for every name that is not known."""
        if (module, name) not in self._names:
            raise RefusedError(f"it refers to {module}.{name}")
        return self._names[module, name]

    def load_build(self) -> None:
        """Gives its state to an object that takes one; of others it is not used."""
        state = self.stack.pop()
        if isinstance(self.stack[-1], Stateful):
            self.stack[-1].take(state)

    def load_dict(self) -> None:
        """A dict, whose keys are plain."""
        items = self.pop_mark()
        self.append(_checked(zip(items[::2], items[1::2], strict=True)))

    def load_setitem(self) -> None:
        """One more item of a dict, and of nothing else."""
        value, key = self.stack.pop(), self.stack.pop()
        self._update([(key, value)])

    def load_setitems(self) -> None:
        """Further items of a dict, and of nothing else."""
        items = self.pop_mark()
        self._update(zip(items[::2], items[1::2], strict=True))

    def _update(self, items):
        if not isinstance(self.stack[-1], dict):
            raise ValueError(f"items of a {type(self.stack[-1]).__name__}")
        self.stack[-1].update(_checked(items))

    dispatch = {
        **pickle._Unpickler.dispatch,
        pickle.BUILD[0]: load_build,
        pickle.DICT[0]: load_dict,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
    }
    # Sets hash their elements; a bytearray is as long as it says, whatever the file has.
    for _code in (pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET, pickle.BYTEARRAY8):
        del dispatch[_code[0]]


class Stateful:
    """Something whose state follows after it has been made."""

    def take(self, state: Any) -> None:
        """Called once, with what the pickle has as its state."""
        raise NotImplementedError


def _checked(items):
    items = list(items)
    for key, _ in items:
        if not isinstance(key, str | bytes | int | float | None):
            raise ValueError(f"a key that is a {type(key).__name__}")
    return dict(items)


def _ordered_dict(items=()):
    return OrderedDict(_checked(items))
