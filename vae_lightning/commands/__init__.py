"""The command line: its parser, its messages, and what each command does. Nothing else imports it."""

from .main import be_quiet, main
from .parser import CLI

__all__ = ["CLI", "be_quiet", "main"]
