"""The one exception of axoloci that a user is meant to read, and what helps to word it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

MOST_NAMED = 40


class InputError(ValueError):
    """The input is wrong: the message names the file, row, volume or variant, and what to do.

    Commands print it without a traceback and end with exit code 1.

    Attributes
    ----------
    problems
        The faults one by one, each a sentence that stands alone.
    """

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__("\n  ".join([message, *problems]))
        self.problems = tuple(problems) or (message,)


class NotPossibleError(InputError):
    """The input is right, but what is asked for cannot be made of it: pipelines go on without."""


def raise_all(problems: Sequence[str], heading: str) -> None:
    """Raise one `InputError` of all problems, under a heading where they are several."""
    if len(problems) == 1:
        raise InputError(problems[0])
    if problems:
        raise InputError(heading, problems)


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that was probably meant, else the first of them."""
    known = list(known)
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    more = ", …" if len(known) > MOST_NAMED else ""
    return (
        f"did you mean '{found[0]}'?" if found else f"known: {', '.join(known[:MOST_NAMED])}{more}"
    )
