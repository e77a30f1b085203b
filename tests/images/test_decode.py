"""Images of every kind, as the image processor and the data sources read them."""

import io
import struct
import warnings
import zlib
from collections import Counter

import numpy as np
import pytest
import simplejpeg
from PIL import Image
from sklearn.datasets import load_sample_image

from convnext.errors import InputError
from convnext.images import decode
from convnext.images.processor import ImageProcessor
from tests.helpers.inputs import noise, refused


def raw(image, **keywords):
    """The pixels that are decoded: uint8 [H, W, 3]."""
    processor = ImageProcessor(do_resize=False, do_rescale=False, do_normalize=False)
    pixels = processor.preprocess(image, **keywords)[0]
    return pixels.astype(np.uint8)


def encoded(image, file_format="PNG", **keywords):
    file = io.BytesIO()
    image.save(file, file_format, **keywords)
    return file.getvalue()


def test_a_path_its_bytes_and_its_image_are_the_same(tmp_path):
    image = Image.fromarray(noise(20, 30, 3))
    (tmp_path / "a.png").write_bytes(encoded(image))
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), encoded(image), image):
        np.testing.assert_array_equal(raw(source), np.asarray(image))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_files_are_turned_as_their_exif_data_say(file_format):
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: the first row is the right side
    image = Image.fromarray(np.repeat(noise(1, 1, 3), 40, axis=0).repeat(24, axis=1))
    image.paste("white", (0, 0, 24, 8))
    content = encoded(image, file_format, exif=exif)
    turned = raw(content)
    assert turned.shape == (24, 40, 3)
    assert turned[:, 34:].min() > 200 > turned[:, :30].max(axis=-1).min()
    if file_format == "JPEG":  # a PIL image is taken as it is
        assert raw(Image.open(io.BytesIO(content))).shape == (40, 24, 3)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("read", [decode.decode_file, decode.decode_on_demand])
def test_training_reads_files_upright_where_it_is_asked_to(file_format, read, tmp_path):
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        content = encoded(Image.fromarray(noise(6, 9, 3)), file_format, exif=exif)
        upright = np.asarray(read(content, "a", upright=True))
        (tmp_path / "a").write_bytes(content)
        assert decode.header(tmp_path / "a") == (*upright.shape[1::-1], orientation)
        np.testing.assert_array_equal(upright, raw(content))
        if file_format != "TIFF":  # which Pillow turns whatever is asked for
            assert read(content, "a").shape == (6, 9, 3)
        whole_is_needed = file_format != "JPEG" or orientation != 1
        on_demand = isinstance(read(content, "a", upright=True), decode.Rows)
        assert on_demand == (read is decode.decode_on_demand and not whole_is_needed)


@pytest.mark.parametrize("read", [decode.decode_file, decode.decode_on_demand])
def test_exif_data_that_cannot_be_read_turn_nothing_as_when_predicting(read):
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"
    content = encoded(Image.fromarray(noise(6, 9, 3)), "JPEG", exif=exif)
    with pytest.warns(UserWarning, match="Corrupt EXIF data"):
        expected = raw(content)
    with pytest.warns(UserWarning, match="Corrupt EXIF data"):
        np.testing.assert_array_equal(read(content, "a", upright=True), expected)


def test_every_suffix_of_the_formats_is_pillows():
    Image.init()
    known = Image.registered_extensions()
    for file_format, suffixes in decode.SUFFIXES.items():
        formats = {known[suffix] for suffix in suffixes}
        assert formats <= {file_format, "MPO"}, suffixes
    read = {suffix for suffixes in decode.SUFFIXES.values() for suffix in suffixes}
    missing = {s for s, name in known.items() if name in decode.SUFFIXES} - read
    assert missing <= {".pfm", ".avifs", ".heics", ".heifs", ".hif"}  # no grey levels, and films


def test_photos_of_iphones_are_read_where_the_plugin_is_installed():
    pytest.importorskip("pillow_heif")
    image = np.repeat(noise(2, 2, 3), 32, axis=0).repeat(32, axis=1)
    content = encoded(Image.fromarray(image), "HEIF", quality=100)
    for pixels in (decode.decode_file(content, "a.heic"), raw(content)):
        assert pixels.shape == (64, 64, 3)
        assert np.abs(pixels.astype(int) - image).mean() < 3


def test_a_16_bit_file_is_turned_too():
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(Image.fromarray(np.full((4, 7), 514, np.uint16)), exif=exif)
    assert (raw(content) == np.full((7, 4, 3), 2)).all()


# Arrays.


@pytest.mark.parametrize("layout", ["2d", "last", "first", "alpha", "alpha first"])
def test_arrays_of_every_layout_are_understood(layout):
    image = noise(6, 7, 3)
    grey, alpha = image[..., :1], np.concatenate([image, noise(6, 7, 1)], axis=-1)
    given, expected = {
        "2d": (grey[..., 0], grey),
        "last": (grey, grey),
        "first": (image.transpose(2, 0, 1), image),
        "alpha": (alpha, image),
        "alpha first": (alpha.transpose(2, 0, 1), image),
    }[layout]
    np.testing.assert_array_equal(raw(given), np.broadcast_to(expected, image.shape))


def test_an_ambiguous_layout_is_channels_last_unless_told():
    image = noise(3, 7, 3)
    np.testing.assert_array_equal(raw(image), image)
    np.testing.assert_array_equal(raw(image, input_data_format="channels_last"), image)
    first = raw(image, input_data_format="channels_first")
    np.testing.assert_array_equal(first, image.transpose(1, 2, 0))
    refused("input_data_format is 'first'", raw, image, input_data_format="first")


@pytest.mark.parametrize(
    "dtype, given, expected",
    [
        (np.uint8, [0, 1, 255], [0, 1, 255]),
        (bool, [False, True, True], [0, 255, 255]),
        (np.uint16, [128, 129, 65535], [0, 1, 255]),
        (">u2", [128, 129, 65535], [0, 1, 255]),
        (np.float32, [0, 0.0019, 1], [0, 0, 255]),
        (np.float64, [0.002, 0.5, 1], [1, 128, 255]),
        (np.float16, [0, 0.25, 1], [0, 64, 255]),
    ],
)
def test_every_dtype_has_its_white(dtype, given, expected):
    array = np.array([given], dtype)  # [1, 3]: one row, grey
    np.testing.assert_array_equal(raw(array)[0, :, 0], expected)


@pytest.mark.parametrize(
    "array, message",
    [
        (np.zeros((5, 6, 2), np.uint8), r"\(5, 6, 2\)"),
        (np.zeros((0, 6, 3), np.uint8), r"\(0, 6, 3\)"),
        (np.zeros(5, np.uint8), r"\(5,\)"),
        (np.zeros((2, 2, 5, 6, 3), np.uint8), r"\(2, 2, 5, 6, 3\)"),
        (np.zeros((5, 6, 3), np.int64), "int64"),
        (np.full((5, 6, 3), 1.1), "1.1"),
        (np.full((5, 6, 3), -0.1), "-0.1"),
        (np.full((5, 6, 3), np.nan), "nan"),
    ],
)
def test_other_arrays_are_refused(array, message):
    refused(message, raw, array)


def test_channels_that_are_not_where_they_are_said_to_be_are_refused():
    image = noise(5, 6, 3)
    refused(r"\(5, 6, 3\), 'channels_first'", raw, image, input_data_format="channels_first")


@pytest.mark.parametrize("thing", [None, 3, {"image": 1}, [[1, 2], [3, 4]]])
def test_what_is_no_image_is_refused(thing):
    refused("its type is", raw, thing)


# Modes of PIL.


@pytest.mark.parametrize("mode", ["I", "I;16", "I;16L", "I;16B"])
def test_16_bits_are_scaled_to_8(mode):
    levels = np.array([[0, 128, 129, 257, 32768, 65535]])
    image = Image.new(mode, (6, 1))
    image.putdata(levels[0].tolist())
    rgb = decode.to_rgb(image)
    assert rgb.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(rgb)[0, :, 0], [0, 0, 1, 1, 128, 255])


def test_a_16_bit_png_is_scaled_to_8():
    levels = (noise(5, 6).astype(np.uint16)) * 257
    content = encoded(Image.fromarray(levels))
    np.testing.assert_array_equal(raw(content)[..., 1], levels // 257)


def test_levels_whose_white_is_not_known_are_refused():
    refused("the mode is 'F'", decode.to_rgb, Image.new("F", (2, 2)))
    refused(r"\(0, 65536\)", decode.to_rgb, Image.fromarray(np.int32([[0, 65536]])))
    refused(r"\(-1, 0\)", decode.to_rgb, Image.fromarray(np.int32([[0, -1]])))


@pytest.mark.parametrize("mode", ["RGB", "I;16"])
def test_an_image_without_pixels_is_refused(mode):
    refused(r"the size in pixels is \(0, 5\)", raw, Image.new(mode, (0, 5)))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB"])
def test_other_modes_are_converted_as_pillow_does(mode):
    colours = Image.fromarray(noise(6, 7, 3))
    image = Image.new("LAB", (7, 6), (120, 60, 200)) if mode == "LAB" else colours.convert(mode)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rgb = decode.to_rgb(image)
    np.testing.assert_array_equal(np.asarray(rgb), np.asarray(image.convert("RGB")))


def test_alpha_is_dropped_without_blending():
    image = Image.fromarray(np.concatenate([noise(6, 7, 3), np.zeros((6, 7, 1), np.uint8)], -1))
    np.testing.assert_array_equal(raw(image), np.asarray(image)[..., :3])


def test_a_palette_with_transparency_keeps_its_colours_without_a_warning():
    image = Image.fromarray(noise(6, 7, 3)).quantize(8)
    content = encoded(image, transparency=bytes(range(0, 256, 32)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = raw(content)
    np.testing.assert_array_equal(pixels, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_an_animation_is_refused(file_format):
    frames = [Image.fromarray(noise(6, 7, 3, seed=seed)) for seed in range(2)]
    content = encoded(frames[0], file_format, save_all=True, append_images=frames[1:])
    message = refused("the number of frames is 2", raw, content)
    assert message.endswith("accepted: a still image") and f"bytes of {len(content)}" in message
    refused("the number of frames is 2", raw, Image.open(io.BytesIO(content)))


def test_to_train_on_animations_give_their_first_frame_and_16_bits_are_scaled(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("white", "black")]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    assert (decode.decode_file((tmp_path / "a.png").read_bytes(), "") == 255).all()
    Image.fromarray(np.full((4, 4), 514, np.uint16)).save(tmp_path / "b.png")
    assert (decode.decode_file((tmp_path / "b.png").read_bytes(), "") == 2).all()


def test_a_photo_with_its_preview_is_still():
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("white", "black")]
    content = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(content)).n_frames == 2
    assert (raw(content) == 255).all()


# Files that cannot be used.


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_a_file_that_is_no_whole_image_is_named(tmp_path, content):
    if content is None:
        content = encoded(Image.fromarray(noise(40, 50, 3)))[:-3000]
    path = tmp_path / "a.png"
    path.write_bytes(content)
    refused(f"cannot use the image {path}: ", raw, path)
    message = refused(rf"cannot use the image \(bytes of {len(content)}\): ", raw, [content])
    assert " at 0x" not in message
    if len(content) > 10:  # an open file is read late
        refused("PngImageFile.*truncated", raw, Image.open(path))


def test_a_path_without_a_file_is_named(tmp_path):
    refused(f"{tmp_path}/a.png: No such file", raw, tmp_path / "a.png")
    refused(f"{tmp_path}: Is a directory", raw, str(tmp_path))


def test_a_decompression_bomb_is_refused(monkeypatch):
    content = encoded(Image.new("1", (50, 50)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1249)
    refused("2500 pixels", raw, content)


def jpegs():
    """Every kind that a JPEG file comes in, of sizes that blocks of 8 and 16 do not divide."""
    photo = Image.fromarray(load_sample_image("china.jpg"))
    for size in ((333, 251), (17, 9), (1, 1)):
        for mode in ("RGB", "L", "CMYK"):
            for subsampling in (0, 1, 2):
                for progressive in (False, True):
                    yield encoded(
                        photo.resize(size).convert(mode), "JPEG",
                        subsampling=subsampling, progressive=progressive,
                    )  # fmt: skip


def test_a_jpeg_of_any_kind_has_pillows_pixels():
    for data in jpegs():
        with Image.open(io.BytesIO(data)) as file:
            expected = np.asarray(file.convert("RGB"))
        np.testing.assert_array_equal(decode.decode_file(data, "a.jpg"), expected)


def test_a_jpeg_with_a_few_wrong_bytes_is_read_as_pillow_reads_it():
    whole = encoded(Image.fromarray(load_sample_image("china.jpg")), "JPEG")
    data = whole[:-2] + bytes(90) + whole[-2:]  # libjpeg warns of them
    with pytest.raises(ValueError, match="extraneous"):
        simplejpeg.decode_jpeg(data)
    expected = decode.decode_file(whole, "a.jpg")
    np.testing.assert_array_equal(decode.decode_file(data, "a.jpg"), expected)


@pytest.mark.parametrize("read", [decode.decode_file, decode.decode_on_demand])
@pytest.mark.parametrize("kept", [0, 10, 1000, -2000, -20])
def test_a_jpeg_that_is_cut_off_is_refused_by_name(kept, read):
    whole = encoded(Image.fromarray(load_sample_image("china.jpg")), "JPEG")
    refused("cannot read the image some/a.jpg: ", read, whole[:kept], "some/a.jpg")


def test_rows_that_are_decoded_on_demand_are_those_of_the_whole():
    count = 0
    for data in jpegs():
        whole, rows = decode.decode_file(data, "a.jpg"), decode.decode_on_demand(data, "a.jpg")
        count += isinstance(rows, decode.Rows)
        np.testing.assert_array_equal(rows, whole)
        height, width, _ = rows.shape
        for bottom in range(1, height + 1):
            window = slice(bottom // 3, bottom), slice(width // 3, width)
            np.testing.assert_array_equal(rows[window], whole[window])
    assert count == 18  # neither progressive ones nor CMYK


def test_rows_below_a_window_are_not_decoded(monkeypatch):
    data = encoded(Image.fromarray(load_sample_image("china.jpg")), "JPEG")
    sizes = []

    def decoded(*arguments, decode_jpeg=simplejpeg.decode_jpeg, **keywords):
        sizes.append(decode_jpeg(*arguments, **keywords).shape)
        return np.zeros(sizes[-1], np.uint8)

    monkeypatch.setattr(simplejpeg, "decode_jpeg", decoded)
    rows = decode.decode_on_demand(data, "a.jpg")
    assert sizes == [] and rows[10:50, 5:9].shape == (40, 4, 3)
    assert rows[10:, 5:9].shape == (417, 4, 3)
    assert sizes == [(52, 640, 3), (427, 640, 3)]


def test_rows_of_a_damaged_jpeg_are_those_of_the_whole_or_it_is_refused():
    rng = np.random.default_rng(0)
    photo = Image.fromarray(load_sample_image("china.jpg")).resize((120, 90))
    whole = encoded(photo, "JPEG", restart_marker_blocks=20)
    counts = Counter()
    for _ in range(600):
        data = bytearray(whole)
        for place in rng.integers(2, len(data), size=2):
            data[place] = rng.integers(256)
        try:
            expected = decode.decode_file(bytes(data), "a.jpg")
        except InputError:
            counts["refused"] += 1
            refused("cannot read the image a.jpg", lambda data: read(data)[:50, :], bytes(data))
            continue
        rows = read(bytes(data))
        counts[type(rows)] += 1
        np.testing.assert_array_equal(rows[:50, :], expected[:50])
    assert all(counts[kind] > 10 for kind in ("refused", decode.Rows, np.ndarray)), counts


def read(data):
    return decode.decode_on_demand(data, "a.jpg")


@pytest.mark.parametrize("where", ["huffman table", "frame"])
def test_rows_that_cannot_be_decoded_are_refused_by_name(where):
    """Of a header that a decoder does not look at before."""
    data = bytearray(encoded(Image.fromarray(noise(40, 50, 3)), "JPEG"))
    if where == "frame":
        data[data.index(b"\xff\xc0") + 4] = 12  # bits of a level
    else:
        place = data.index(b"\xff\xc4") + 5
        data[place : place + 16] = bytes([255] * 16)
    refused("cannot read the image a.jpg", lambda: np.asarray(read(bytes(data))[:9, :]))


def with_size(data, width, height):
    """A JPEG or PNG file with another size in its header."""
    if data.startswith(b"\x89PNG"):
        header = data[12:16] + struct.pack(">II", width, height) + data[24:29]
        return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
    frame = data.index(b"\xff\xc0") + 5
    return data[:frame] + struct.pack(">HH", height, width) + data[frame + 4 :]


@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
@pytest.mark.parametrize("pillow", [True, False], ids=["", "Pillow has no limit"])
def test_an_image_of_too_many_pixels_is_refused_by_its_header(file_format, pillow, monkeypatch):
    data = with_size(encoded(Image.fromarray(noise(40, 50, 3)), file_format), 13_500, 13_400)
    if not pillow:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    monkeypatch.setattr(simplejpeg, "decode_jpeg", None)  # not to be called
    size, limit = r"(180900000 pixels|\(13500, 13400\))", "178,?956,?970"
    refused(f"the image a: .*{size}.*{limit}", decode.decode_file, data, "a")
    refused(f"{size}.*{limit}", raw, data)


PREVIEW = encoded(Image.new("RGB", (16, 16)), "JPEG", progressive=True)


@pytest.mark.parametrize(
    "mode, keywords, scans",
    [("RGB", {}, 1), ("RGB", {"progressive": True}, 10), ("L", {"progressive": True}, 6),
     ("CMYK", {"progressive": True}, 18), ("RGB", {"restart_marker_blocks": 1}, 1),
     ("RGB", {"progressive": True, "restart_marker_blocks": 1}, 10),
     ("RGB", {"progressive": True, "comment": PREVIEW}, 10), ("RGB", {"comment": PREVIEW}, 1)],
)  # fmt: skip
def test_the_scans_of_a_jpeg_are_counted(mode, keywords, scans):
    photo = Image.fromarray(noise(50, 60, 3)).convert(mode)
    data = encoded(photo, "JPEG", **keywords)
    assert decode.scan_count(data) == decode.scan_count(data + data) == scans


def test_scans_are_counted_as_libjpeg_comes_upon_them():
    """Some bytes that it skips have the code of a marker, and what would be a length."""
    whole = encoded(Image.fromarray(noise(50, 60, 3)), "JPEG", progressive=True)
    for skipped in (b"\xff\xff\xff", b"\0\xff\0", b"\xff\x02\xff\0", b"\xff\xd0"):
        assert decode.scan_count(whole.replace(b"\xff\xda", skipped + b"\xff\xda")) == 10
    for code in (b"\xda", b"\xc2", b"\xe0", b"\xe0\0"):  # cut off
        assert decode.scan_count(b"\xff\xd8\xff" + code) == (code == b"\xda")
    one = encoded(Image.fromarray(noise(50, 60, 3)), "JPEG")
    place = one.index(b"\xff\xda")
    parts = b"\xff\xda\0\x08\x01\x01\0\0\x3f\0" + one[place + 14 : -2]
    assert decode.scan_count(one[:place] + 7 * parts + b"\xff\xd9") == 7  # a component each


@pytest.mark.parametrize("file_format", ["JPEG", "MPO"])
@pytest.mark.parametrize("limit", ["MAX_SCANS", "MAX_SCANNED"])
def test_a_jpeg_of_too_many_scans_is_refused_before_it_is_decoded(file_format, limit, monkeypatch):
    image = Image.fromarray(noise(50, 60, 3))
    frames = {"save_all": True, "append_images": [image]} if file_format == "MPO" else {}
    data = encoded(image, file_format, progressive=True, **frames)
    assert decode.decode_file(data, "a").shape == raw(data).shape == (50, 60, 3)
    monkeypatch.setattr(decode, limit, 9 if limit == "MAX_SCANS" else 29_999)
    monkeypatch.setattr(simplejpeg, "decode_jpeg", None)  # not to be called
    monkeypatch.setattr(Image.Image, "convert", None)
    told = "number of scans is 10; accepted: at most 9, of 60 x 50 pixels"
    refused(f"the image a: .*{told}", decode.decode_file, data, "a")
    refused(told, raw, data)


def test_only_formats_that_start_no_program_are_opened(monkeypatch):
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("started"))
    postscript = encoded(Image.new("RGB", (4, 4)), "EPS")
    refused("of none of the formats; accepted: a whole file of JPEG, PNG", raw, postscript)
    refused("of none of the formats", decode.decode_file, postscript, "a.jpg")


@pytest.mark.parametrize(
    "file_format, side, shape",
    [("JPEG", 50, (54, 80, 3)), ("JPEG", 55, (107, 160, 3)), ("JPEG", 300, (427, 640, 3)),
     ("PNG", 50, (427, 640, 3))],
)  # fmt: skip
def test_a_jpeg_is_decoded_as_small_as_it_may_be(file_format, side, shape):
    photo = Image.fromarray(load_sample_image("china.jpg"))
    small, shorter = decode.decode_small(encoded(photo, file_format), "a", side)
    assert small.shape == shape and shorter == 427
    means = np.asarray(photo.resize(shape[1::-1], Image.Resampling.BOX)).astype(int)
    assert np.abs(small - means).mean() < 8


def test_a_small_image_is_turned_as_its_exif_data_say():
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = Image.fromarray(load_sample_image("china.jpg"))
    small, shorter = decode.decode_small(encoded(photo, "JPEG", exif=exif), "a", 50)
    assert small.shape == (80, 54, 3) and shorter == 427


def test_a_damaged_file_is_refused_by_name_at_a_small_size_too():
    content = encoded(Image.fromarray(load_sample_image("china.jpg")), "JPEG")
    refused("cannot read the image a.jpg: ", decode.decode_small, content[:-999], "a.jpg", 50)
