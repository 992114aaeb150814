"""The one exception that means: the input is at fault, not the program."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class UserError(ValueError):
    """What a user got wrong, in one line: the file, key and value at fault, and what would do.

    The command line prints the message without a traceback and exits with code 2.
    """


def one_line(error: BaseException) -> str:
    """What an exception says, in one line; one that nobody has put into words has the name of its kind before it."""
    said = " ".join(str(error).split())
    if isinstance(error, UserError):
        return said
    return f"{type(error).__name__}: {said if len(said) <= 500 else said[:497] + '...'}".removesuffix(": ")


@contextlib.contextmanager
def blaming(what: str) -> Iterator[None]:
    """Within, whatever is raised becomes a UserError that names ``what``, unless it is one already.

    Args:
        what: The key, class or file that is being looked at.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        short = isinstance(error, MemoryError) or "can't allocate memory" in str(error)
        said = "needs more memory than there is" if short else one_line(error)
        raise UserError(f"{what}: {said}") from error
