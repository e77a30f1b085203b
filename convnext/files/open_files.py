"""How many files a process may have open. Readers of shards keep each one open."""

import errno
import os
import resource
from contextlib import suppress

from convnext.errors import InputError, RunError

SPARE = 100  # that a process has open beside its data


def raise_limit() -> None:
    """Lets this process, and those that it starts, open as many files as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # macOS names a limit that it does not take
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def check(count: int, name: str) -> None:
    """Raises InputError where a process may not have the shards of a data set open, all at once."""
    raise_limit()
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != resource.RLIM_INFINITY and count + SPARE > limit:
        raise InputError(
            f"{name} has {count:,} shards, which are open at once, and a process may open "
            f"{limit:,} files",
            f"ulimit -n {count + SPARE} or more, or larger shards",
        )


def check_error(error: Exception) -> None:
    """Raises RunError where it says that too many files are open, for which the file that was to be
    opened is not to blame."""
    too_many = getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE)
    if too_many or os.strerror(errno.EMFILE) in str(error):  # of C++, the text alone
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        raise RunError(
            f"too many open files: {error}; a process may open {limit:,}; accepted: more, by "
            "ulimit -n"
        ) from error
