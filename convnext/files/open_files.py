"""Limit of files that a process may have open. Readers of shards keep each shard open."""

import errno
import os
import resource
from contextlib import suppress

from convnext.errors import InputError, RunError

SPARE = 100  # files that a process has open beside its data


def raise_limit() -> None:
    """Lets this process, and those that it starts, open as many files as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # macOS reports a limit that it does not accept
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def check(count: int, name: str) -> None:
    """Raises InputError if a process may not have all shards of a data set open at once."""
    raise_limit()
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != resource.RLIM_INFINITY and count + SPARE > limit:
        raise InputError(
            f"{name} has {count:,} shards, which are open at once, and a process may open "
            f"{limit:,} files",
            f"ulimit -n {count + SPARE} or more, or larger shards",
        )


def check_error(error: Exception) -> None:
    """Raises RunError if the error says that too many files are open: then the file itself is not
    to blame."""
    too_many = getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE)
    if too_many or os.strerror(errno.EMFILE) in str(error):  # an error of C++ has only the text
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        raise RunError(
            f"too many open files: {error}; a process may open {limit:,}; accepted: more, by "
            "ulimit -n"
        ) from error
