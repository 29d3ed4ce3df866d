"""Texts and tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_text(text: str) -> str:
    """Text of a user's, escaped so that Markdown shows it as it is, in one line."""
    return " ".join(text.split()).translate({ord(c): f"&#{ord(c)};" for c in "&\\`*_{}[]<>|#"})


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table. Cells are escaped, and the titles of columns are not."""
    head = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    return [*head, *(f"| {' | '.join(map(markdown_text, row))} |" for row in rows)]
