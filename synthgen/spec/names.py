"""Names that a spec gives: which characters they may have, and which names are reserved or too much alike."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

from synthgen.base.pattern import Pattern
from synthgen.errors import WrongValue

# Why an image or a label may be lost where no filter rejects it; `review_…` too.
REASONS = ("empty_mask", "not_found", "not_made")
# Names that a run folder and its tables use themselves: an exporter writes into the folder of its name, and a filter's
# numbers are the column of its name.
RUN_FOLDERS = ("commits", "images", "jobs", "labels", "measures")
MEASURE_COLUMNS = ("image_id", "instance")

Name = Annotated[
    str,
    Pattern(
        r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$", "letters, digits, _ and -, at most 64 of them, a letter or digit first"
    ),
]
Word = Annotated[str, Field(max_length=200)]


def require_free(key: str, names: Iterable[str]) -> None:
    """Refuses names that are reserved, and names that differ only in case: some file systems take `train` and `Train`
    for one.

    Args:
        key: the key of the spec whose entries have these names.

    Raises:
        WrongValue: one of the names is refused.
    """
    seen: dict[str, str] = {}
    for name in names:
        if what := _reserved(key, name.casefold()):
            raise WrongValue(f"got {name!r}, which is {what}; takes another name")
        if other := seen.get(name.casefold()):
            raise WrongValue(f"got {other!r} and {name!r}, which some file systems take for one; takes another name")
        seen[name.casefold()] = name


def _reserved(key: str, name: str) -> str:
    """What uses a name already, in small letters, that is given under a key of the spec; "" for nothing."""
    if key == "filters" and (name in REASONS or name.startswith("review_")):
        return "the name of a reason that is no filter"
    if key == "filters" and name in MEASURE_COLUMNS:
        return "a column of the table of measures"
    return "a folder of the run itself" if key == "exporters" and name in RUN_FOLDERS else ""


def is_printable(text: str) -> bool:
    """Whether no character of a text breaks the line, moves a terminal's cursor or reverses the text after it.
    Characters that join letters are printable: Persian and emoji need them."""
    return not any(
        unicodedata.category(character) in {"Cc", "Zl", "Zp"}
        or "\u202a" <= character <= "\u202e"
        or "\u2066" <= character <= "\u2069"
        for character in text
    )
