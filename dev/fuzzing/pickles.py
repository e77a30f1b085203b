"""Pickles from nothing: instructions as no program writes them, in a .pth or in CIFAR's archive.

Most are refused. What is accepted must be what a plain unpickler makes of the same bytes.
"""

import io
import pickle
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from convnext.data import in_memory
from convnext.weights import locate
from dev.fuzzing import mutate

NUMBERS = np.arange(16, dtype="<f4").tobytes()  # of the one storage that there is
KEYS = ("head.weight", "head.bias", "stages.0.0.gamma", "a", "", "k" * 2000)
CALLED = (
    "collections OrderedDict", "torch Size", "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter", "argparse Namespace",
)  # fmt: skip
NAMES = (
    *CALLED, "torch FloatStorage", "torch ByteStorage", "numpy ndarray", "numpy dtype",
    "numpy.core.multiarray _reconstruct", "builtins list",
)  # fmt: skip


def make(rng: np.random.Generator) -> dict[str, bytes]:
    """A file weights.pth, or an archive of CIFAR-100."""
    is_sound = rng.random() < 0.4
    if rng.random() < 0.6:
        items = [_text(key) + _tensor(rng) for key in KEYS[: rng.integers(5)]]
        if not is_sound:
            items.insert(int(rng.integers(len(items) + 1)), _text("x") + _value(rng, 0))
        state = _global("collections OrderedDict") + b")R(" + b"".join(items) + b"u"
        if not is_sound and rng.random() < 0.5:
            state = _value(rng, 0)
        return {"weights.pth": _zipped(_program(b"}" + _text("model") + state + b"s"))}
    images = {name: _images(rng, is_sound) for name in ("train", "test")}
    names = b"]" if is_sound or rng.random() < 0.8 else _value(rng, 0)
    names += b"(" + b"".join(_bytes(b"name %d" % i) for i in range(3)) + b"e"
    meta = b"}" + _bytes(b"fine_label_names") + names + b"s"
    return {"cifar.tar": _tarred({**images, "meta": meta})}


def _program(instructions):
    return b"\x80\x02" + instructions + b"."


def _zipped(program):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/data/0", NUMBERS)
    return file.getvalue()


def _tarred(programs):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, instructions in programs.items():
            member, data = tarfile.TarInfo(name), _program(instructions)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


# Instructions that leave one value on the stack.


def _value(rng, depth):
    """Anything, also what makes little of the file into much, if it is let."""
    kinds = _PLAIN if depth > 5 else (*_PLAIN, *_NESTED)
    return mutate.one_of(kinds, rng)(rng, depth + 1)


def _text(string):
    data = string.encode()
    return b"X" + len(data).to_bytes(4, "little") + data


def _bytes(data):
    return b"T" + len(data).to_bytes(4, "little") + data


def _global(name):
    return b"c" + name.replace(" ", "\n").encode() + b"\n"


def _number(rng, _):
    size = int(2 ** rng.integers(0, 18))
    match rng.integers(6):
        case 0:
            return b"K" + rng.bytes(1)
        case 1:
            return b"J" + rng.bytes(4)
        case 2:
            return b"\x8b" + size.to_bytes(4, "little") + rng.bytes(size)
        case 3:
            return b"I" + b"9" * min(size, 6000) + b"\n"
        case 4:
            return b"L0x" + b"f" * size + b"L\n"
        case _:
            return b"G" + rng.bytes(8)


def _string(rng, _):
    data = b"x" * int(2 ** rng.integers(0, 18))
    return mutate.one_of([_text(data.decode()), _bytes(data), b"V" + data + b"\n"], rng)


def _single(rng, _):
    return mutate.one_of([b"N", b"\x88", b")", b"]", b"}", b"I01\n", b"S'x'\n"], rng)


def _name(rng, _):
    return _global(mutate.one_of(NAMES, rng))


def _tensor(rng, _=None, sizes=None):
    storage = b"(" + _text("storage") + _global("torch FloatStorage") + _text("0") + b"NK\x10tQ"
    size = rng.integers(1, 4, rng.integers(0, 3)) if sizes is None else sizes
    stride = [3 ** (len(size) - 1 - i) for i in range(len(size))]
    size, stride = (
        b"(" + b"".join(b"K%c" % n for n in numbers) + b"t" for numbers in (size, stride)
    )
    rebuild = _global("torch._utils _rebuild_tensor_v2")
    return rebuild + b"(" + storage + b"K\x01" + size + stride + b"tR"


def _doubled(rng, depth):
    """A value that holds the one before twice, and so on: to print or convert it takes forever."""
    pair = mutate.one_of([b"\x86", b"\x87", b"\x85\x86", b"l"], rng)
    many = {b"\x86": b"2\x86", b"\x87": b"22\x87", b"\x85\x86": b"2\x86\x85"}.get(pair)
    times = int(2 ** rng.integers(1, 12))
    if many is None:
        return b"]" + b"q\xc8]h\xc8ah\xc8a" * times
    return b")" + many * times


def _kept(rng, depth):
    """A value that is kept, and taken up again and again, by calls or as it is."""
    use = mutate.one_of(
        [b"h\xc9", b"h\xcah\xc9R", b"h\xcah\xc9\x81", b"h\xcah\xc9\x85R", b"2"], rng
    )
    times = int(2 ** rng.integers(8, 18))
    first = _global(mutate.one_of(CALLED, rng)) + b"q\xca0" + _value(rng, depth) + b"q\xc90"
    return first + b"](" + b"N" + use * times + b"e"


def _keyed(rng, depth):
    """A dict of many keys; of some kinds all have one hash."""
    count = int(2 ** rng.integers(0, 15))
    step = int(mutate.one_of([1, 2**20, 2**61 - 1, 2**40 + 1], rng))
    keys = ((step * i).to_bytes(12, "little") for i in range(count))
    return b"}(" + b"".join(b"\x8a\x0c" + key + b"N" for key in keys) + b"u"


def _put(rng, depth):
    step = int(mutate.one_of([1, 2**61 - 1], rng))
    return b"N" + b"".join(b"p%d\n" % (step * i) for i in range(2 ** rng.integers(0, 15)))


def _container(rng, depth):
    parts = b"".join(_value(rng, depth) for _ in range(rng.integers(0, 5)))
    form = mutate.one_of([b"(%bt", b"(%bl", b"](%be", b"(%bd", b"}(%bu"], rng)
    return form.replace(b"%b", parts)


def _call(rng, depth):
    how = mutate.one_of([b"R", b"\x81", b"b"], rng)
    return _name(rng, depth) + _value(rng, depth) + how


def _reference(rng, depth):
    parts = (_value(rng, depth) for _ in range(3))
    kind, key, size = (part if rng.random() < 0.3 else b"" for part in parts)
    dtype = _global("torch FloatStorage")
    return (
        b"("
        + (kind or _text("storage"))
        + dtype
        + (key or _text("0"))
        + b"N"
        + (size or b"K\x10")
        + b"tQ"
    )


def _bent_tensor(rng, depth):
    """Of some values in the place of numbers."""
    parts = [_reference(rng, depth), b"K\0", b"K\2\x85", b"K\1\x85"]
    parts[rng.integers(4)] = _value(rng, depth)
    return _global("torch._utils _rebuild_tensor_v2") + b"(" + b"".join(parts) + b"tR"


def _noise(rng, depth):
    return rng.bytes(int(rng.integers(1, 20)))


_PLAIN = (_number, _string, _single, _name, _tensor)
_NESTED = (
    _doubled, _doubled, _kept, _kept, _keyed, _put, _container, _container, _call, _call,
    _reference, _bent_tensor, _noise,
)  # fmt: skip


def _images(rng, is_sound):
    """A dict of an array of images and a list of labels."""
    count = int(rng.integers(1, 4))
    shape, data = b"M%b\0M\0\x0c\x86" % bytes([count]), _bytes(bytes(range(256)) * 12 * count)
    dtype = _global("numpy dtype") + _bytes(b"u1") + b"K\0K\1\x87R"
    array = _global("numpy.core.multiarray _reconstruct") + _global("numpy ndarray")
    array += b"K\0\x85" + _bytes(b"b") + b"\x87R"
    labels = b"](" + b"".join(b"K%c" % int(n) for n in rng.integers(0, 3, count)) + b"e"
    parts = [shape, dtype, data, labels]
    if not is_sound:
        parts[rng.integers(4)] = _value(rng, 0)
    shape, dtype, data, labels = parts
    array += b"(K\1" + shape + dtype + b"\x89" + data + b"tb"
    return b"}" + _bytes(b"data") + array + b"s" + _bytes(b"fine_labels") + labels + b"s"


# What is tried, and what it must be.


def readings(folder: Path) -> list[tuple[Callable[[], Any], Callable[[], Any]]]:
    """Of the one file: what is to be tried, and what it must be if it is accepted."""
    path = folder / "cifar.tar"
    if path.exists():
        return [(lambda: _examples(path), lambda: _plain_examples(path))]
    path = folder / "weights.pth"
    return [(lambda: _contents(locate.read_tensors(path)), lambda: _plain_contents(path))]


def _contents(state):
    return {key: (array.shape, array.tobytes()) for key, array in state.items()}


def _plain_contents(path):
    with zipfile.ZipFile(path) as archive:
        stored = _Plain(archive.read("archive/data.pkl"), "utf-8").load()
    within = [stored.get(key) for key in ("model", "state_dict", "module")]
    return _contents(next((state for state in within if isinstance(state, dict)), stored))


def _examples(path):
    return [
        (part.images.tobytes(), part.labels.tolist(), list(part.class_names))
        for part in in_memory.cifar(str(path))
    ]


def _plain_examples(path):
    with tarfile.open(path) as archive:
        train, test, meta = (
            _Plain(archive.extractfile(name).read(), "bytes").load()
            for name in ("train", "test", "meta")
        )
    names = [name.decode() for name in meta[b"fine_label_names"]]
    return [
        (
            b"".join(
                np.frombuffer(image, np.uint8).reshape(3, 1024).T.tobytes()
                for image in np.frombuffer(part[b"data"][4], "V3072")
            ),
            [*part[b"fine_labels"]],
            names,
        )
        for part in (train, test)
    ]


class _Plain(pickle._Unpickler):
    """Of what has been accepted alone: it would follow a file wherever that leads."""

    def __init__(self, data, encoding):
        super().__init__(io.BytesIO(data), encoding=encoding)

    def find_class(self, module, name):
        known = dict(
            OrderedDict=OrderedDict,
            Size=tuple,
            Namespace=dict,
            FloatStorage="<f4",
            ByteStorage="u1",
            _rebuild_tensor_v2=_plain_tensor,
            dtype=lambda *_: None,
            _rebuild_parameter=lambda data, *_: data,
            ndarray=None,
            _reconstruct=lambda *_: None,
        )
        return known[name]

    def persistent_load(self, reference):
        return np.frombuffer(NUMBERS, reference[1])

    def load_build(self):
        """An array becomes its state."""
        state = self.stack.pop()
        if self.stack[-1] is None:
            self.stack[-1] = state

    dispatch = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: load_build}


def _plain_tensor(storage, offset, size, stride, *_):
    flat = [
        storage[offset + sum(i * step for i, step in zip(place, stride, strict=True))]
        for place in np.ndindex(*size)
    ]
    return np.array(flat, storage.dtype).reshape(size)
