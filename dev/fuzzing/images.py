"""Damaged images; what is accepted of them must be what Pillow makes of them."""

import hashlib
import io
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from convnext.images import decode
from dev.fuzzing import mutate


@cache
def originals() -> list[bytes]:
    """Small files of every kind that JPEG, PNG and WebP come in."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (5, 6, 4), np.uint8))
    image = small.resize((45, 37), Image.Resampling.BICUBIC)  # neither noise nor flat
    grey16 = Image.fromarray(rng.integers(0, 2**16, (9, 11), np.uint16))
    turned = Image.Exif()
    turned[0x0112] = 6
    rgb, frames = image.convert("RGB"), [image.transpose(Image.Transpose.ROTATE_180)]
    files = []

    def add(file_format, image=rgb, **keywords):
        file = io.BytesIO()
        image.save(file, file_format, **keywords)
        files.append(file.getvalue())

    for mode in ("RGB", "L", "CMYK"):
        for progressive in (False, True):
            add("JPEG", image.convert(mode), progressive=progressive)
    add("JPEG", subsampling=0, quality=95)
    add("JPEG", exif=turned, comment=b"comment", restart_marker_blocks=2)
    add("JPEG", keep_rgb=True)
    add("MPO", save_all=True, append_images=[rgb])
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        add("PNG", image.convert(mode))
    add("PNG", grey16)
    add("PNG", image.convert("P"), transparency=bytes(range(256)))
    add("PNG", exif=turned)
    add("PNG", image, save_all=True, append_images=frames)
    add("WEBP", rgb)
    add("WEBP", image)
    add("WEBP", rgb, lossless=True)
    add("WEBP", image, lossless=True, exif=turned)
    add("WEBP", image, save_all=True, append_images=frames)
    return files


def make(rng: np.random.Generator) -> dict[str, bytes]:
    data, other = mutate.one_of(originals(), rng), mutate.one_of(originals(), rng)
    if rng.random() < 0.2:
        data = _resized(data, rng)
    if rng.random() < 0.9:
        data = mutate.damaged(data, other, rng)
    if data.startswith(b"\x89PNG") and rng.random() < 0.5:
        data = _with_checksums(data)
    return {"image": data}


def _resized(data, rng):
    """Another size in the header, often more than there is memory for."""
    sides = [int(rng.choice([0, 1, 44, 46, 300, 5000, 13_000, 40_000, 65_535])) for _ in range(2)]
    changed = bytearray(data)
    if data.startswith(b"\x89PNG"):
        changed[16:24] = struct.pack(">II", *sides)
        return _with_checksums(bytes(changed))
    if data.startswith(b"RIFF"):
        place = data.find(b"VP8X")
        if place >= 0:  # 24 bits each, less 1
            changed[place + 12 : place + 18] = b"".join(
                (max(side, 1) - 1).to_bytes(3, "little") for side in sides
            )
        return bytes(changed)
    frame = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    changed[frame + 5 : frame + 9] = struct.pack(">HH", *sides)
    return bytes(changed)


def _with_checksums(data):
    """A PNG whose chunks have the checksums that they should have, so that they are decoded."""
    place, changed = 8, bytearray(data)
    while place + 12 <= len(data):
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        if end + 4 > len(data):
            break
        changed[end : end + 4] = zlib.crc32(changed[place + 4 : end]).to_bytes(4, "big")
        place = end + 4
    return bytes(changed)


def readings(folder: Path) -> list[tuple[Callable[[], Any], Callable[[], Any]]]:
    """Of each way to decode a file: what is to be tried, and what it must be if it is accepted."""
    data = (folder / "image").read_bytes()
    return [
        (lambda: _digest(decode.decode_file(data, "image")), lambda: _of_pillow(data)),
        (lambda: _digest(decode.decode(data)), lambda: _of_pillow(data, turned=True)),
        (lambda: _upper_half(data), lambda: _digest(_half(decode.decode_file(data, "image")))),
    ]


def _upper_half(data):
    return _digest(_half(decode.decode_on_demand(data, "image")))


def _half(pixels):
    return pixels[: pixels.shape[0] // 2, :]


def _of_pillow(data, turned=False):
    """Its own pixels; grey of 16 bits is scaled, which Pillow clips."""
    with Image.open(io.BytesIO(data)) as image:
        frame = ImageOps.exif_transpose(image) if turned else image
        if frame.mode.startswith("I"):
            levels = np.rint(np.asarray(frame) / 257).astype(np.uint8)
            return _digest(levels[..., None].repeat(3, axis=-1))
        return _digest(np.asarray(frame.convert("RGB")))


def _digest(pixels):
    """Instead of the pixels, so that memory has one image at a time."""
    return pixels.shape, hashlib.sha256(np.ascontiguousarray(pixels)).hexdigest()
