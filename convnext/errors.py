"""The one exception that is not a bug."""


class InputError(ValueError):
    """What the user gave cannot be used. The message, one line, says what was given and what is
    accepted; the commands print it without a traceback."""
