"""``vae-lightning``, also as ``python -m vae_lightning``."""

import os
import sys


def run() -> None:
    """Run the command on the command line, and exit with its code."""
    from .commands.help import page

    if (text := page(sys.argv[1:])) is not None:  # before torch is imported
        print(text, end="")
        return
    if not getattr(sys.flags, "safe_path", False):
        sys.path.append(os.getcwd())  # your own classes are found there, as with python -m
    from .commands.entry import main

    sys.exit(main())


if __name__ == "__main__":
    run()
