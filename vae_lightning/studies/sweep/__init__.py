"""A sweep: what its file says, who runs which trial, their results.

``plan_file`` reads a ``plan``; ``trials`` hands out each ``trial`` to one process; ``points`` are their results,
for ``report`` and ``pictures``; ``command`` puts it together. With ``--batch``, ``groups`` says which trials are
trained as one ``group``. The ledger is Optuna's study in its ``storage``: nothing else says what is done and what is
left.
"""

from ...errors import UserError

try:
    import optuna  # noqa: F401
except ImportError as missing:
    raise UserError("sweep: Optuna is not installed: pip install -e '.[sweep]'") from missing

from .command import main

__all__ = ["main"]
