"""Reads pickles of others without executing anything that is in them."""

import pickle
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, BinaryIO

# Published checkpoints have some 50,000, and the largest file of CIFAR's archives 300,000.
MAX_INSTRUCTIONS = 2**20
MAX_ARGUMENTS = 8  # of a call; that of a tensor has seven
MAX_KEY = 1000  # characters
# Instructions that are run as Python's unpickler does. All others are replaced or refused.
PLAIN_INSTRUCTIONS = (
    "PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP", "BINGET", "LONG_BINGET",
    "BINPUT", "LONG_BINPUT", "MEMOIZE", "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT",
    "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "UNICODE", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8", "EMPTY_LIST", "LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1",
    "TUPLE2", "TUPLE3", "EMPTY_DICT", "GLOBAL", "STACK_GLOBAL", "BINPERSID",
)  # fmt: skip


class RefusedError(Exception):
    """Pickle that refers to something that is not accepted, or is too long."""


def _counted(load):
    def counted(self):
        self._left -= 1
        if self._left < 0:
            raise RefusedError(f"it has more than {MAX_INSTRUCTIONS:,} instructions")
        load(self)

    return counted


class Unpickler(pickle._Unpickler):  # Python's own code, of which instructions can be replaced
    """Unpickler that makes only numbers, strings, containers and the names in `names`, given as
    {(module, name): stand-in}.

    A stand-in is called with whatever the file contains. It must check the types before anything
    else, since a tuple that is nested deeply enough takes forever to hash, print or convert.

    Time and memory are in proportion to the file. There are at most MAX_INSTRUCTIONS. Each takes as
    long as the bytes that it reads, or the objects that it takes from the stack, which another
    instruction has put there. So a call has few arguments, and an OrderedDict none: otherwise every
    call could copy what was made once. For the same reason a key is short. A key that is a number
    has at most 60 bits, since larger ones can be chosen such that all have one hash.
    """

    def __init__(self, stream: BinaryIO, names: Mapping[tuple[str, str], Any], encoding: str):
        super().__init__(stream, encoding=encoding)
        self._names = {("collections", "OrderedDict"): _ordered_dict, **names}
        self._left = MAX_INSTRUCTIONS

    def find_class(self, module: str, name: str) -> Any:
        """Returns the stand-in for a name. Raises RefusedError for an unknown name."""
        if (module, name) not in self._names:
            raise RefusedError(f"it refers to {module[:100]}.{name[:100]}")
        return self._names[module, name]

    def load_call(self) -> None:
        """Calls a stand-in."""
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(arguments) is not tuple or len(arguments) > MAX_ARGUMENTS:
            raise ValueError(f"a call with other than a tuple of up to {MAX_ARGUMENTS} arguments")
        self.append(function(*arguments))

    def load_build(self) -> None:
        """Gives an object its state, if it takes one. Other objects' states are dropped."""
        state = self.stack.pop()
        if isinstance(self.stack[-1], Stateful):
            self.stack[-1].take(state)

    def load_append(self) -> None:
        """Adds an item to a list, and to nothing else."""
        item = self.stack.pop()
        self._extend([item])

    def load_appends(self) -> None:
        """Adds items to a list, and to nothing else."""
        items = self.pop_mark()
        self._extend(items)

    def _extend(self, items):
        if type(self.stack[-1]) is not list:
            raise ValueError(f"items of a {type(self.stack[-1]).__name__}")
        self.stack[-1].extend(items)

    def load_dict(self) -> None:
        """Makes a dict with plain keys."""
        items = self.pop_mark()
        self.append(_checked(items))

    def load_setitem(self) -> None:
        """Adds an item to a dict, and to nothing else."""
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    def load_setitems(self) -> None:
        """Adds items to a dict, and to nothing else."""
        items = self.pop_mark()
        self._update(items)

    def _update(self, items):
        if not isinstance(self.stack[-1], dict):
            raise ValueError(f"items of a {type(self.stack[-1]).__name__}")
        self.stack[-1].update(_checked(items))

    def load_get(self) -> None:
        """Pushes the object that was kept under a number in digits."""
        self.append(self.memo[self._read_number()])

    def load_put(self) -> None:
        """Keeps the top of the stack under a number in digits."""
        self.memo[self._read_number()] = self.stack[-1]

    def _read_number(self):
        number = int(self.readline()[:-1])
        if not 0 <= number < 2**32:  # the range of the binary instructions
            raise ValueError("an object that is kept under a number of more than 32 bits")
        return number

    def load_other(self) -> None:
        """Refuses an instruction that none of these files has. It could hash, reserve memory or
        import."""
        raise RefusedError("it has an instruction that is not accepted")

    dispatch = dict.fromkeys(range(256), load_other)
    for _name in PLAIN_INSTRUCTIONS:
        _code = getattr(pickle, _name)[0]
        dispatch[_code] = pickle._Unpickler.dispatch[_code]
    dispatch |= {
        pickle.REDUCE[0]: load_call,
        pickle.NEWOBJ[0]: load_call,
        pickle.BUILD[0]: load_build,
        pickle.APPEND[0]: load_append,
        pickle.APPENDS[0]: load_appends,
        pickle.DICT[0]: load_dict,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.GET[0]: load_get,
        pickle.PUT[0]: load_put,
    }
    dispatch = {code: _counted(load) for code, load in dispatch.items()}


class Stateful:
    """Stand-in for an object whose state follows after it has been made."""

    def take(self, state: Any) -> None:
        """Takes the state that the pickle has for it."""
        raise NotImplementedError


def _checked(items):
    """Returns a dict of alternating keys and values, once the keys are checked."""
    keys = items[::2]
    for key in keys:
        is_name = type(key) in (str, bytes) and len(key) <= MAX_KEY
        if not is_name and not (type(key) is int and 0 <= key < 2**60):
            raise ValueError(f"a key that is a {type(key).__name__}, or too large")
    return dict(zip(keys, items[1::2], strict=True))


def _ordered_dict():  # without arguments, as Python 3 writes it: the items follow
    return OrderedDict()
