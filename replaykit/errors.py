"""What goes wrong by use or input: one clear line each, never a traceback."""


class UsageError(Exception):
    """Wrong use or unusable input; the message says what, where, and what to do. Exit status 2."""
