import pytest

from convnext.errors import InputError, reported


def test_a_message_is_one_line_that_no_terminal_obeys():
    assert str(InputError("a\n  b\r\nc \x1b[2J\x07 ü")) == r"a b c \x1b[2J\x07 ü"
    assert len(str(InputError("a" * 10**6 + "; accepted: b"))) < 2100
    assert str(InputError("a" * 10**6 + "; accepted: b")).endswith("a; accepted: b")


def test_a_command_ends_with_it():
    with pytest.raises(SystemExit, match="^error: a b$"), reported():
        raise InputError("a\nb")
