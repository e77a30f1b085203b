import errno
import io

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits, load_sample_images

from convnext.data import duplicates
from convnext.errors import RunError
from convnext.images import likeness
from dev import shapes


def photographs():
    """Six parts of two photographs, uint8 [200, 300, 3]."""
    return [
        photo[y : y + 200, x : x + 300]
        for photo in load_sample_images().images
        for y, x in ((0, 0), (0, 330), (220, 150))
    ]


def letter(text, *, size=96, color=(30, 20, 60), grain=None):
    """A letter a third as high as the image, on a smooth background, with grain or without."""
    background = np.linspace((200, 220, 235), (240, 230, 210), 300, axis=0)[None].repeat(
        200, axis=0
    )
    if grain is not None:
        background += np.random.default_rng(grain).normal(scale=8, size=(200, 300, 1))
    image = Image.fromarray(background.clip(0, 255).astype(np.uint8))
    font = ImageFont.load_default(size)
    ImageDraw.Draw(image).text((150, 100), text, fill=color, font=font, anchor="mm")
    return np.asarray(image)


def drawn(count, color="red", shape="circle"):
    return [np.asarray(shapes.draw(color, shape, np.random.default_rng(i))) for i in range(count)]


def encoded(image, file_format="PNG", **keywords):
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(file, file_format, **keywords)
    return file.getvalue()


def write(folder, contents):
    paths = [folder / f"{index:03d}" for index in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths


def similar(*images):
    described = map(likeness.describe, images)
    return duplicates.similar(likeness.Thumbnails(*map(np.stack, zip(*described, strict=True))))


def halved(image):
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).reduce(2))


def cropped(image):
    height, width = image.shape[:2]
    return image[height // 50 : height * 97 // 100, : width * 95 // 100]


COPIES = {
    "the same pixels": encoded,
    "quality 95": lambda image: encoded(image, "JPEG", quality=95),
    "quality 40": lambda image: encoded(image, "JPEG", quality=40),
    "half size": lambda image: encoded(halved(image)),
    "half size, quality 60": lambda image: encoded(halved(image), "JPEG", quality=60),
    "cropped": lambda image: encoded(cropped(image)),
    "cropped, quality 60": lambda image: encoded(cropped(image), "JPEG", quality=60),
    "mirrored": lambda image: encoded(image[:, ::-1]),
    "mirrored, quality 60": lambda image: encoded(image[:, ::-1], "JPEG", quality=60),
}


@pytest.mark.parametrize("change", COPIES)
def test_a_copy_is_found_and_nothing_else(tmp_path, change):
    images = [*photographs(), *drawn(3), letter("A"), letter("B")]
    contents = [*map(encoded, images), *map(COPIES[change], images)]
    found = duplicates.near(write(tmp_path, contents))
    assert not found.plain and not found.unreadable
    is_mirrored = change.startswith("mirrored")
    expected = [(i, i + len(images), is_mirrored) for i in range(len(images))]
    assert [(pair.first, pair.second, pair.mirrored) for pair in found.pairs] == expected
    assert all(0.67 <= pair.similarity <= 1 for pair in found.pairs)


def test_a_copy_whose_exif_data_turn_it_is_found(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: the first row is the right side
    turned = encoded(np.rot90(photographs()[0]), "JPEG", quality=90, exif=exif)
    paths = write(tmp_path, [encoded(photographs()[0]), turned])
    assert [(pair.first, pair.second) for pair in duplicates.near(paths).pairs] == [(0, 1)]


@pytest.mark.parametrize("size", [96, 200])
def test_letters_that_differ_only_in_the_letter_are_no_pairs(size):
    # Mirrored ones as b and d would be.
    assert not similar(*(letter(text, size=size) for text in "ABCEFGHIJKLMNOPQRSTUVXYZ2358"))


def test_drawings_of_one_class_are_no_pairs():
    assert not similar(*drawn(100))


def test_digits_of_few_pixels_are_no_pairs():
    digits = (load_digits().images[:300] * 15.9).astype(np.uint8)
    assert not similar(*digits[..., None].repeat(3, axis=-1))


def test_a_letter_on_another_grain_is_no_pair():
    assert not similar(letter("A", grain=1), letter("A", grain=2))
    assert similar(letter("A", grain=1), cropped(letter("A", grain=1)))


def test_a_letter_in_another_color_is_no_pair():
    grey, blue, light = (90, 90, 90), (80, 80, 170), (150, 150, 150)
    assert not similar(*(letter("A", color=color) for color in (grey, blue, light)))


def test_a_photograph_with_something_added_is_no_pair():
    changed = photographs()[0].copy()
    changed[80:100, 100:130] = 128
    assert not similar(photographs()[0], changed)


def test_a_letter_that_was_moved_is_no_pair():
    """What a crop moves, it enlarges as well."""
    assert not similar(letter("A", grain=1), np.roll(letter("A", grain=1), 9, axis=1))


def test_what_is_its_own_mirror_image_is_not_called_mirrored():
    half = photographs()[0][:, :150]
    symmetric = np.concatenate([half, half[:, ::-1]], axis=1)
    assert [pair.mirrored for pair in similar(symmetric, cropped(symmetric))] == [False]


def test_images_too_plain_to_be_recognised_are_named(tmp_path):
    gradient = np.linspace(180, 220, 300)[None, :, None].repeat(200, axis=0).repeat(3, axis=2)
    plain = [np.full((200, 300, 3), level, np.uint8) for level in (255, 255, 254)]
    images = [*plain, gradient.astype(np.uint8), letter("A", grain=0)]
    found = duplicates.near(write(tmp_path, [encoded(image) for image in images]))
    assert found.plain == [0, 1, 2, 3] and not found.pairs


def test_images_that_cannot_be_read_are_named(tmp_path):
    good = encoded(photographs()[0])
    paths = [tmp_path / "gone", *write(tmp_path, [good, b"no image", good[:-2000], good])]
    found = duplicates.near(paths)
    assert [(pair.first, pair.second) for pair in found.pairs] == [(1, 4)]
    assert found.unreadable.keys() == {0, 2, 3}
    for index, problem in found.unreadable.items():
        assert problem.startswith(f"cannot read the image {paths[index]}: ")


def test_the_pairs_do_not_depend_on_threads_or_blocks(tmp_path, monkeypatch):
    images = [*photographs(), *drawn(5)]
    copies = [encoded(cropped(image)) for image in images]
    paths = write(tmp_path, [*map(encoded, images), *copies])
    found = duplicates.near(paths, jobs=1)
    assert len(found.pairs) == len(images)
    monkeypatch.setattr(duplicates, "BLOCK", 3 * len(paths))
    assert duplicates.near(paths, jobs=3) == found


def test_progress_counts_all_images(tmp_path):
    counts = {"read": 0, "compared": 0}

    def count(stage, images):
        counts[stage] += images

    duplicates.near(write(tmp_path, [encoded(image) for image in photographs()]), progress=count)
    assert counts == {"read": 6, "compared": 6}


def test_candidates_are_few_among_unrelated_images():
    rng = np.random.default_rng(0)
    noise = [cv2.resize(rng.random((12, 16, 3)), (300, 200)) for _ in range(100)]
    described = [likeness.describe((255 * image).astype(np.uint8)) for image in noise]
    thumbnails = likeness.Thumbnails(*map(np.stack, zip(*described, strict=True)))
    assert sum(len(pairs) for pairs, _ in duplicates.candidates(thumbnails)) < 5


def test_no_images_have_no_pairs():
    found = duplicates.near([])
    assert not found.pairs and not found.plain and not found.unreadable
    assert duplicates.exact([]) == ([], {})


def test_files_of_the_same_content_are_groups_in_order(tmp_path):
    a, b, c = (bytes([value]) * 10_000 for value in (1, 2, 3))
    paths = write(tmp_path, [a, b, b + a, b, a, c, b, b[:-1] + b"\0", b"\0" + b[1:], b""])
    assert duplicates.exact(paths) == ([[0, 4], [1, 3, 6]], {})
    assert duplicates.exact(paths[::-1]) == ([[3, 6, 8], [5, 9]], {})
    assert duplicates.exact([paths[i] for i in (0, 2, 2, 1, 3, 4)])[0] == [[0, 5], [1, 2], [3, 4]]


def test_only_files_of_the_same_size_and_end_are_read_as_a_whole(tmp_path, monkeypatch):
    read = []
    digest = duplicates._digest
    monkeypatch.setattr(duplicates, "_digest", lambda path: read.append(path.name) or digest(path))
    ends = [b"\1" * 10_000, b"\2" * 10_000, b"\3" * 10_001, b"\0" + b"\1" * 9_999]
    assert duplicates.exact(write(tmp_path, ends)) == ([], {})
    assert read == ["000", "003"]


def test_files_that_cannot_be_read_are_named(tmp_path):
    paths = [*write(tmp_path, [b"1", b"1"]), tmp_path / "gone"]
    groups, unreadable = duplicates.exact(paths)
    assert groups == [[0, 1]]
    assert unreadable == {2: f"cannot read the file {paths[2]}: No such file or directory"}


@pytest.mark.parametrize("search", [duplicates.near, duplicates.exact])
def test_a_limit_of_open_files_is_not_taken_for_damage(tmp_path, monkeypatch, search):
    def refuse(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(duplicates, "_content", refuse)
    with pytest.raises(RunError, match="too many open files"):
        search(write(tmp_path, [b"1", b"1"]))
