"""``python -m vae_lightning``, and the script ``vae-lightning``."""

import sys


def run() -> None:
    """Run the command on the command line, and exit with its code."""
    from .commands import main

    sys.exit(main())


if __name__ == "__main__":
    run()
