import pytest

from convnext.errors import InputError, printable, reported, require


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


def test_a_command_ends_with_it():
    with pytest.raises(SystemExit, match="^error: a b$"), reported():
        raise InputError("a\nb")
