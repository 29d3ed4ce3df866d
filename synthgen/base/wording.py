"""Words for error messages: what a key got, and what it takes."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from synthgen.errors import nearest

# The first word of the type of a pydantic error (`int_parsing`, `int_type`) -> what the key takes.
# https://docs.pydantic.dev/latest/errors/validation_errors/
TYPES = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "string": "text",
    "bool": "true or false",
    "tuple": "a list",
    "list": "a list",
    "dict": "a mapping of keys to values",
    "model": "a mapping of keys to values",
}
# A key of the context of a pydantic error -> what the key of the spec takes.
LIMITS = {"ge": "{} or more", "gt": "more than {}", "le": "at most {}", "lt": "less than {}"}


def shown(value: Any) -> str:
    """A value as an error message shows it, cut to fit a line."""
    try:
        text = repr(value[:100] if isinstance(value, str) else value)
    except ValueError:  # Python refuses to write a number of more than 4,300 digits.
        return "a number too long to be shown"
    return text if len(text) <= 80 else text[:77] + "…"


def plain(text: str, most: int = 80) -> str:
    """A user's text within a message: cut to `most` characters. Characters that would move a terminal's cursor or
    reverse its line are escaped."""
    text = text if len(text) <= most else text[: most - 1] + "…"
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def one_line(error: Exception, most: int) -> str:
    """What an error of a library says, as `plain`, with its line breaks as spaces."""
    return plain(" ".join(str(error).split()), most)


def folded(text: str) -> str:
    """The same text for all texts that people, or file systems, take for one. They may differ in case, in how letters
    with marks are composed (the canonical caseless match of Unicode, section 3.13 of its standard), in spaces, and in
    characters that show nothing."""
    return unicodedata.normalize("NFC", looked_at(text).casefold())


def looked_at(text: str) -> str:
    """The same text for all texts that look the same: as `folded`, but with case."""
    visible = "".join(c for c in text if unicodedata.category(c) != "Cf" and not "\ufe00" <= c <= "\ufe0f")
    return unicodedata.normalize("NFC", " ".join(visible.split()))


def takes(kind: str, context: Mapping[str, Any], got: Any, choices: Sequence[str] = ()) -> str | None:
    """What a key takes, from the type and the context of a pydantic error; None where pydantic's own words must do.

    Args:
        choices: the texts that the key takes, if it takes only some.
    """
    if kind == "literal_error":
        return f"takes {context['expected']}{nearest(got, choices) if isinstance(got, str) else ''}"
    if kind == "string_pattern_mismatch":
        return f"takes text that matches {context['pattern']}"
    if kind == "multiple_of":
        step = context["multiple_of"]
        return f"takes a multiple of {step:g}, such as {max(step, round(got / step) * step):g}"
    for limit, words in LIMITS.items():
        if limit in context:
            number = context[limit]
            return "takes " + words.format(f"{int(number) if number == int(number) else number:,}")
    for limit, words in (("min_length", "at least"), ("max_length", "at most")):
        if limit in context:
            number = context[limit]
            unit = "character" if kind.startswith("string") else "entry"
            several = unit + "s" if unit == "character" else "entries"
            return f"takes {words} {number:,} {unit if number == 1 else several}"
    word = TYPES.get(kind.partition("_")[0])
    if word == "text" and isinstance(got, bool):
        return "takes text; put it in quotes (without them yes, on and true are True, and no, off and false are False)"
    if word == "text" and (got is None or isinstance(got, int | float)):
        return "takes text; put it in quotes"
    if word in {"a whole number", "a number"} and isinstance(got, str) and got[:1].isdecimal():
        return f"takes {word}, written in plain decimal"
    return f"takes {word}" if word else None
