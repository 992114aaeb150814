"""The command line: its parser, its messages, and what each command does. Nothing else imports it."""

from .main import main

__all__ = ["main"]
