"""A sweep: what its file says, who runs which trial, what they came to.

``command`` reads top down; ``plan`` says which runs are tried, ``trials`` who runs them, ``report`` what they came to.
Optuna's study is the ledger: nothing else says what is done and what is left.
"""

from ...errors import UserError

try:
    import optuna  # noqa: F401
except ImportError as missing:
    raise UserError("sweep: Optuna is not installed: pip install -e '.[sweep]'") from missing

from .command import main

__all__ = ["main"]
