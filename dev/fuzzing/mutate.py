"""Damage, as disks, networks and people do it. Everything is drawn from `rng`."""

import json
import struct
from typing import Any

import numpy as np

NUMBERS = (0, 1, 255, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
VALUES = (
    None, True, False, 0, 1, -1, 3, 10**9, 10**30, 10**400, 1e-320, 1e308, float("nan"),
    float("inf"), "", "x", "1", "\n\x1b[2J", [], [1], [10**9] * 4, [[]], {}, {"0": 1},
)  # fmt: skip


def damaged(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """One to three changes of bytes; `other` is what pieces are taken from."""
    for _ in range(rng.integers(1, 4)):
        data = CHANGES[rng.integers(len(CHANGES))](data, other, rng)
    return data


def _flipped(data, other, rng):
    changed = bytearray(data)
    for place in rng.integers(0, len(data), rng.integers(1, 9)) if data else ():
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _truncated(data, other, rng):
    return data[: rng.integers(0, len(data) + 1)]


def _deleted(data, other, rng):
    begin, end = _span(data, rng)
    return data[:begin] + data[end:]


def _inserted(data, other, rng):
    place, _ = _span(data, rng)
    return data[:place] + rng.bytes(int(rng.integers(1, 20))) + data[place:]


def _spliced(data, other, rng):
    (begin, end), (first, last) = _span(data, rng), _span(other, rng)
    return data[:begin] + other[first:last] + data[end:]


def _repeated(data, other, rng):
    begin, end = _span(data, rng)
    return data[:end] + data[begin:]


def _number(data, other, rng):
    """A field of 1 to 8 bytes, more often at the beginning, is made huge or 0."""
    size = int(2 ** rng.integers(0, 4))
    limit = min(len(data), 64) if rng.random() < 0.7 else len(data)
    place = int(rng.integers(0, max(limit - size, 1)))
    value = int(rng.choice(np.array(NUMBERS, np.uint64))) % 2 ** (8 * size)
    return data[:place] + value.to_bytes(size, rng.choice(["big", "little"])) + data[place + size :]


CHANGES = (_flipped, _flipped, _truncated, _deleted, _inserted, _spliced, _repeated, _number)


def _span(data, rng):
    begin = int(rng.integers(0, len(data) + 1))
    return begin, min(begin + int(rng.geometric(1 / 16)), len(data))


def damaged_json(text: bytes, rng: np.random.Generator) -> bytes:
    """One to three values are replaced, or keys dropped or renamed."""
    tree = json.loads(text)
    for _ in range(rng.integers(1, 4)):
        places = list(_places(tree))
        if not places:
            break
        holder, key = places[rng.integers(len(places))]
        match rng.integers(4):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[f"{key}{VALUES[rng.integers(len(VALUES))]!s:.9}"] = holder.pop(key)
            case _:
                holder[key] = VALUES[rng.integers(len(VALUES))]
    return json.dumps(tree).encode()


def _places(tree):
    keys = tree.keys() if isinstance(tree, dict) else range(len(tree))
    for key in keys:
        yield tree, key
        if isinstance(tree[key], dict | list) and tree[key] not in VALUES:
            yield from _places(tree[key])


def headed(text: bytes) -> bytes:
    """The length of the header of a safetensors file, and the header."""
    return struct.pack("<Q", len(text)) + text


def one_of(things: list[Any], rng: np.random.Generator) -> Any:
    return things[rng.integers(len(things))]
