"""The one exception of axoloci that a user is meant to read."""

from __future__ import annotations


class InputError(ValueError):
    """The input is wrong: the message names the file, row, volume or variant, and what to do.

    Commands print it without a traceback and end with exit code 1.
    """
