import pytest

from convnext.errors import InputError, printable, reported


def test_a_message_is_one_line_that_no_terminal_obeys():
    assert str(InputError("a\n  b\r\nc \x1b[2J\x07 ü")) == r"a b c \x1b[2J\x07 ü"
    assert len(str(InputError("a" * 10**6 + "; accepted: b"))) < 2100
    assert str(InputError("a" * 10**6 + "; accepted: b")).endswith("a; accepted: b")


def test_what_is_printed_of_a_file_is_no_command_of_a_terminal():
    assert printable("\x1b]0;x\x07 cat\n\u202e ü 猫") == r"\x1b]0;x\x07 cat\n\u202e ü 猫"


def test_a_command_ends_with_it():
    with pytest.raises(SystemExit, match="^error: a b$"), reported():
        raise InputError("a\nb")
