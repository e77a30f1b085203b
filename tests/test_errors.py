import math
from pathlib import Path

import pytest

from convnext.errors import InputError, printable, reported, require, require_local, require_range


def test_a_message_is_one_line_that_no_terminal_obeys():
    assert str(InputError("a\n  b\r\nc \x1b[2J\x07 ü")) == r"a b c \x1b[2J\x07 ü"
    assert len(str(InputError("a" * 10**6 + "; accepted: b"))) < 2100
    assert str(InputError("a" * 10**6 + "; accepted: b")).endswith("a; accepted: b")


def test_what_is_printed_of_a_file_is_no_command_of_a_terminal():
    assert printable("\x1b]0;x\x07 cat\n\u202e ü 猫") == r"\x1b]0;x\x07 cat\n\u202e ü 猫"


def test_what_cannot_be_printed_is_named_by_its_type():
    nested = []
    for _ in range(100_000):
        nested = [nested]
    for given, name in ((nested, "list"), (10**5000, "int")):
        with pytest.raises(InputError, match=f"^x is a {name} too large to print; accepted: y$"):
            require(False, "x", given, "y")


@pytest.mark.parametrize("given", [(), (1,), (2, 1), (0, 1), "ab", ("a", "b"), (1, math.inf), 1])
def test_a_range_is_two_numbers_in_order(given):
    with pytest.raises(InputError, match=r"^x is .*; accepted: two numbers in order, above 0$"):
        require_range("x", given, 0, math.inf)
    with pytest.raises(InputError, match=r"above 0 and at most 3$"):
        require_range("x", given, 0, 3)
    require_range("x", (1, 3), 0, 3)


def test_a_command_ends_with_it():
    with pytest.raises(SystemExit, match="^error: a b$"), reported():
        raise InputError("a\nb")


@pytest.mark.parametrize("given", ["gs://a/b", "s3:/a", Path("gs://a"), "file:///a"])
def test_the_address_of_a_store_is_no_folder(given):
    with pytest.raises(InputError, match=f"^x is '{given}'; accepted: a folder of a disk, or a"):
        require_local("x", given)


@pytest.mark.parametrize("given", ["a/b", "/a", "C:/a", "a:b", None, Path("gs")])
def test_a_folder_is_local(given):
    require_local("x", given)
