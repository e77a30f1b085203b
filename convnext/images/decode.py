"""Decoding of images of any kind to uint8 RGB."""

import importlib.util
import io
import os
import re
import struct
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError, features

from convnext.errors import InputError, require
from convnext.images.compiled import compiled

MAX_PIXELS = 2 * 89_478_485  # of an image; Pillow's own default limit
# Scans of a JPEG. A decoder goes through all pixels for each scan, even an empty one. Progressive
# files usually have 10, of CMYK 18 (jpeg_simple_progression of libjpeg-turbo, whose own tests for
# hostile files stop at 500).
MAX_SCANS = 500
MAX_SCANNED = 12 * MAX_PIXELS  # pixels times scans
# Formats that Pillow may open, and how the names of their files end. For some of the others it
# starts programs, such as Ghostscript.
SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif",),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
}
HEIF_SUFFIXES = (".heic", ".heif")  # of iPhones
if not features.check("avif"):
    del SUFFIXES["AVIF"]
if importlib.util.find_spec("pillow_heif"):
    import pillow_heif

    pillow_heif.register_heif_opener()
    SUFFIXES["HEIF"] = HEIF_SUFFIXES
IMAGE_FORMATS = tuple(SUFFIXES)


def decode(image: Any, input_data_format: str | None = None) -> np.ndarray:
    """Returns uint8 [H, W, 3] of a file, bytes, PIL image or array (see ImageProcessor.preprocess).

    Raises InputError if it is none of them, damaged, or an animation.
    """
    if is_array(image):
        return _array_to_rgb(np.asarray(image), input_data_format)
    known = isinstance(image, str | os.PathLike | bytes | Image.Image)
    require(known, "its type", type(image).__name__, "a path, bytes, a PIL image, an array")
    try:
        if isinstance(image, Image.Image):
            return np.asarray(to_rgb(image))
        with _opened(image if isinstance(image, bytes) else Path(image).read_bytes()) as file:
            _require_still(file)
            return np.asarray(frame_to_rgb(ImageOps.exif_transpose(file)))
    except InputError:
        raise
    except Exception as error:
        raise _refused(error) from error


def _opened(data):
    """Opens the bytes of a file with Pillow, which so far reads only the header."""
    image = Image.open(io.BytesIO(data), formats=IMAGE_FORMATS)
    _require_pixels(*image.size)
    if image.format in ("JPEG", "MPO"):
        _require_scans(data, *image.size)
    return image


def _require_pixels(width, height):
    accepted = f"at most {MAX_PIXELS:,} pixels"
    require(width * height <= MAX_PIXELS, "the size in pixels", (width, height), accepted)


def _require_scans(data, width, height):
    limit = min(MAX_SCANS, MAX_SCANNED // max(width * height, 1))
    accepted = f"at most {limit}, of {width} x {height} pixels"
    scans = scan_count(data)
    require(scans <= limit, "the number of scans", scans, accepted)


def scan_count(data: bytes) -> int:
    """Counts the scans of a JPEG by its markers, in the order in which libjpeg reads them. It skips
    those inside segments, such as a preview, and those after the end."""
    scans, components, is_progressive = 0, b"", False
    for code, place in _segments(data):
        if code in _FRAMES:
            components = data[place + 7 : place + 8]
            is_progressive = code in (0xC2, 0xC6, 0xCA, 0xCE)
        if code == _SCAN:
            scans += 1
            # After a sequential scan of all components there is no other.
            if not is_progressive and data[place + 2 : place + 3] == components:
                break
    return scans


def _segments(data):
    """Yields the code and the place of each segment of a JPEG."""
    place = 2
    while (marker := _MARKER.search(data, place)) and marker[1] != b"\xd9":
        place = marker.end()
        yield marker[1][0], place
        place += int.from_bytes(data[place : place + 2], "big")


_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd9-\xfe])")  # those with a length, and EOI
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15
_SCAN = 0xDA  # SOS


def _refused(error, where=""):
    """Returns an InputError for whatever Pillow raised: what that is depends on the format."""
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    if isinstance(error, UnidentifiedImageError):
        reason = "it is of none of the formats"
    return InputError(f"{where}{reason}", f"a whole file of {', '.join(IMAGE_FORMATS)}")


def decode_file(data: bytes, name: str, *, upright: bool = False) -> np.ndarray:
    """Decodes the bytes of an image file to Pillow's pixels, uint8 [H, W, 3], for training.
    upright: turned as its EXIF data say, as `decode` does.

    Raises InputError with the file's name if it is no whole image.
    """
    with _refusals_of(name):
        pixels = _decode_jpeg(data)
        if pixels is not None:
            return np.ascontiguousarray(_TURNS[_orientation(data)](pixels)) if upright else pixels
        with _opened(data) as file:
            return np.asarray(frame_to_rgb(ImageOps.exif_transpose(file) if upright else file))


def decode_small(data: bytes, name: str, side: int) -> tuple[np.ndarray, int]:
    """Decodes the bytes of an image file to uint8 [H, W, 3], turned as its EXIF data say. A JPEG is
    decoded to an eighth, a quarter or a half of its size if both sides then have `side` pixels.

    Returns the pixels and the shorter side of the whole image. Raises as `decode_file`.
    """
    with _refusals_of(name), _opened(data) as file:
        shorter = min(file.size)
        file.draft("RGB", (side, side))
        return np.asarray(frame_to_rgb(ImageOps.exif_transpose(file))), shorter


def header(path: str | os.PathLike) -> tuple[int, int, int]:
    """Returns width and height of an image file as it is shown, and its EXIF orientation, 1 to 8,
    without decoding it. Raises InputError if the file cannot be read."""
    with _refusals_of(path), Image.open(path, formats=IMAGE_FORMATS) as file:
        orientation = file.getexif().get(ExifTags.Base.Orientation, 1)
        width, height = file.size
        is_turned = orientation in range(5, 9) and file.format != "TIFF"  # which Pillow has turned
    return (height, width, orientation) if is_turned else (width, height, orientation)


@contextmanager
def _refusals_of(name):
    """Names the file in what is raised."""
    try:
        yield
    except InputError as error:
        raise InputError(
            f"cannot read the image {name}: {error.problem}", error.accepted
        ) from error
    except Exception as error:
        raise _refused(error, f"cannot read the image {name}: ") from error


def _decode_jpeg(data):
    """Decodes a JPEG with libjpeg-turbo. Returns None if Pillow must decide: for files that
    libjpeg-turbo refuses but Pillow may read, such as one with a few wrong bytes, and for CMYK,
    which Pillow converts in its own way."""
    if not data.startswith(b"\xff\xd8"):
        return None
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        _require_pixels(width, height)
        _require_scans(data, width, height)
        if colorspace == "CMYK":
            return None
        return simplejpeg.decode_jpeg(data)
    except InputError:
        raise
    except ValueError:
        return None


def _orientation(data):
    """The EXIF orientation of a JPEG, 1 to 8: upright where it has none."""
    if not any(word in data for word in _TELL_ORIENTATION):
        return 1
    with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as file:
        orientation = file.getexif().get(ExifTags.Base.Orientation, 1)
    return orientation if orientation in _TURNS else 1


_TELL_ORIENTATION = (b"Exif\0\0", b"Orientation")  # EXIF itself, and XMP
_TURNS = {  # of pixels [H, W, C], as ImageOps.exif_transpose does
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels.swapaxes(0, 1)[:, ::-1],
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels.swapaxes(0, 1)[::-1],
}


class Rows:
    """The pixels of a JPEG file, uint8 [H, W, 3], decoded when a window of rows and columns is
    asked for: then from the first row of the file to the last one of the window."""

    def __init__(self, data: bytes, name: str, shape: tuple[int, int, int], place: int):
        self.data, self.name, self.shape = data, name, shape
        self.place = place  # of the height in the data

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        _, bottom, _ = window[0].indices(self.shape[0])
        height = min(bottom + BELOW, self.shape[0])
        if height == self.shape[0]:
            return np.asarray(self)[window]
        before, after = self.data[: self.place], self.data[self.place + 2 :]
        try:
            # A strict decoder would refuse the bytes of the rows that the header does not tell of.
            data = before + height.to_bytes(2, "big") + after
            pixels = simplejpeg.decode_jpeg(data, strict=False)
        except ValueError:
            pixels = np.asarray(self)
        return pixels[window]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return decode_file(self.data, self.name)


BELOW = 2  # rows under a window to which the colours of its last row reach, at half their height


def decode_on_demand(data: bytes, name: str, *, upright: bool = False) -> np.ndarray | Rows:
    """Returns what `decode_file` does, or for most JPEG files Rows of the same pixels, which may
    raise the InputError when they are asked for."""
    place = None if upright and _is_turned(data) else _height_of_one_scan(data)
    if place is not None:
        height, width, components = struct.unpack_from(">HHB", data, place)
        if components in (1, 3) and 0 < height * width <= MAX_PIXELS:
            return Rows(data, name, (height, width, 3), place)
    return decode_file(data, name, upright=upright)


def _is_turned(data):
    try:
        return _orientation(data) != 1
    except Exception:  # of Pillow, which says so again where all is decoded
        return True


def _height_of_one_scan(data):
    """The place of the height in a JPEG whose only scan goes down all rows, to the end of the file:
    then a decoder does not stop in it, whatever is wrong with its bits."""
    place, components = None, b""
    if not (data.startswith(b"\xff\xd8") and data.endswith(b"\xff\xd9")):
        return None
    for code, at in _segments(data):
        if code in _FRAMES:
            place = at + 3 if code in (0xC0, 0xC1) else None
            components = data[at + 7 : at + 8]
        if code == _SCAN:
            is_only = data[at + 2 : at + 3] == components
            markers = _count_markers(np.frombuffer(data, np.uint8, offset=at))
            return place if is_only and markers == 1 else None  # that of the end
    return None


@compiled()
def _count_markers(values):
    """Counts those that a scan does not have within it: 0xFF and neither 0 nor RST0 to RST7."""
    count = 0
    following = values[1:]
    for i in range(len(following)):
        code = following[i]
        count += (values[i] == 0xFF) & (code != 0) & ((code < 0xD0) | (code > 0xD7))
    return count


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts a still image of any mode to RGB (see `frame_to_rgb`). Raises InputError for an
    animation."""
    _require_still(image)
    return frame_to_rgb(image)


def frame_to_rgb(image: Image.Image) -> Image.Image:
    """Converts the image's current frame to RGB without alpha, as Pillow does. But grey levels of
    16 bits are scaled, where Pillow clips them. Raises InputError if it is undefined which level is
    white."""
    require(min(image.size) > 0, "the size in pixels", image.size, "1 and more")
    require(image.mode != "F", "the mode", image.mode, "8 or 16 bits a channel")
    if image.mode == "I" or image.mode.startswith("I;16"):
        levels = np.asarray(image)
        span = int(levels.min()), int(levels.max())
        require(span[0] >= 0 and span[1] <= 65535, "the span of grey", span, "0 to 65535")
        image = Image.fromarray(_from_16_bits(levels))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns about a conversion straight to RGB
    return image if image.mode == "RGB" else image.convert("RGB")  # convert always copies


def _require_still(image):
    frames = getattr(image, "n_frames", 1)
    # Cameras store one photo with its preview or depth as MPO.
    still = frames == 1 or image.format == "MPO"
    require(still, "the number of frames", frames, "a still image")


def _array_to_rgb(array, input_data_format):
    given, counts = (array.shape, input_data_format), (1, 3, 4)
    if array.ndim == 2:
        array = array[..., None]
    elif array.ndim == 3:
        first = array.shape[0] in counts and array.shape[-1] not in counts
        if first if input_data_format is None else input_data_format == "channels_first":
            array = np.moveaxis(array, 0, -1)
    ok = array.ndim == 3 and array.shape[-1] in counts and array.size > 0
    require(ok, "(shape, input_data_format)", given, "[H, W], [H, W, C], [C, H, W], C 1, 3 or 4")
    if array.dtype == bool:
        array = array * np.uint8(255)
    elif array.dtype.type is np.uint16:  # in either byte order
        array = _from_16_bits(array)
    elif np.issubdtype(array.dtype, np.floating):
        span = float(array.min()), float(array.max())
        require(span[0] >= 0 and span[1] <= 1, "the span of float pixels", span, "0 to 1")
        array = np.rint(array.astype(np.float64) * 255).astype(np.uint8)
    require(array.dtype == np.uint8, "the dtype", array.dtype, "uint8, bool, uint16, float")
    return array.repeat(3, axis=-1) if array.shape[-1] == 1 else array[..., :3]


def _from_16_bits(levels):
    """Scales levels, of which 65535 is white, to uint8, rounded."""
    return ((levels.astype(np.int64) + 128) // 257).astype(np.uint8)


def is_array(image: Any) -> bool:
    """Returns whether it is an array, such as numpy's or JAX's. A PIL image is none, though numpy
    can convert it."""
    return hasattr(image, "__array__") and not isinstance(image, Image.Image)
