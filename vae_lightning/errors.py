"""The one exception that means: the input is at fault, not the program."""


class UserError(ValueError):
    """What a user got wrong, in one line: the file, key and value at fault, and what would do.

    The command line prints the message without a traceback and exits with code 2.
    """
