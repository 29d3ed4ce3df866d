"""What can go wrong, in words for people, each with its exit code."""

import errno
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

FULL = {errno.ENOSPC, errno.EDQUOT}  # The disk is full, or the user's share of it.


def nearest(name: str, known: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"` for the known name that is most like `name`; "" if none is."""
    original = {k.lower(): k for k in known}
    matches = get_close_matches(name.lower(), original, n=1, cutoff=0.6)
    return f" (did you mean {original[matches[0]]!r}?)" if matches else ""


def listed(names: Iterable[str], most: int = 40) -> str:
    """Names for an error message, comma-separated, cut after `most`."""
    names = list(names)
    return ", ".join(names[:most]) + (f", … ({len(names)} in all)" if len(names) > most else "")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a spec.

    Attributes:
        field: the key that is wrong, such as `filters.sharpness.min`.
        message: a sentence with what the key got and what it takes.
        subject: the class or word that a model does not know, if that is the problem. `check` reports a class that the
            generator does not know once, and leaves out what later backends say of it.
    """

    field: str
    message: str
    subject: str = ""

    def __str__(self) -> str:
        text = f"{self.field}: {self.message}" if self.field else self.message
        return " ".join(text.split())  # One line, even if the user's value has several.


class WrongValue(ValueError):
    """A check of a model of pydantic refuses a value, and its message says what the check got.

    (A check that raises a plain `ValueError` only says what it takes. The error line says what it got.)

    Attributes:
        message: a sentence with what was got and what is taken.
        loc: the wrong key, from where the check stands; empty where the check stands at the key.
    """

    def __init__(self, message: str, *loc: str | int) -> None:
        super().__init__(message)
        self.message = message
        self.loc = loc


class SynthgenError(Exception):
    """An error for the person at the terminal: printed as one line, with `exit_code`."""

    exit_code = 2


class SpecError(SynthgenError):
    """A spec that cannot be run: every problem found, not just the first."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.problems,)  # Pickle would pass the joined text as `problems`.


class BackendError(SynthgenError):
    """A backend cannot do what its options ask."""


class RunError(SynthgenError):
    """A run folder that cannot be used as asked: it holds another dataset, is locked, or is damaged."""


class NotWritable(RunError):
    """A folder in which this process may not write: another user's, or on a disk that is mounted read-only."""


class OutOfRoom(SynthgenError):
    """The disk or the memory is full. What is committed stays, and the same command resumes."""

    exit_code = 4


def of_system(error: OSError) -> SynthgenError | None:
    """The system's error about a file, for the person at the terminal; None if the error is not about a file."""
    if error.filename is None:
        return None
    words = f"{error.filename}: {(error.strerror or type(error).__name__).lower()}"
    if error.errno in FULL:
        return OutOfRoom(f"{words}; free some room and run the same command again")
    return RunError(words)
