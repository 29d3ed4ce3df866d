"""A run in words: for the terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from synthgen.verdicts import Quality


def headline(q: Quality) -> str:
    surplus = f", {q.surplus} to spare" if q.surplus else ""
    return (
        f"{q.accepted} of {q.wanted} images accepted with {q.instances} instances{surplus}; "
        f"{q.made} made, yield {q.passed:.0%}"
    )


def shortfall(q: Quality) -> Iterator[str]:
    """What is missing, what ate it, and what would help: a line each. Nothing if nothing is missing."""
    if not q.missing:
        return
    yield f"{q.missing} images are missing, and the budget is spent ({q.made} images made)"
    for name, reason in q.reasons.items():
        advice = f"; {reason.advice}" if reason.advice else ""
        yield f"{name} rejects {reason.images} images, {reason.alone} of them alone{advice}"
    yield "raise `budget`, relax a filter, or ask for what the model makes well; then run the same command again"


def tables(q: Quality) -> Iterator[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """(title, columns, rows) of what is worth a table."""
    yield (
        "classes",
        ("class", "asked", "accepted"),
        [(name, str(c.asked), str(c.accepted)) for name, c in q.classes.items()],
    )
    yield "splits", ("split", "images"), [(name, str(n)) for name, n in q.splits.items()]
    if q.reasons:
        yield (
            "rejected",
            ("reason", "images", "by it alone"),
            [(name, str(r.images), str(r.alone)) for name, r in q.reasons.items()],
        )


def markdown(q: Quality) -> str:
    lines = [f"# {_cell(q.name)}", "", headline(q), ""]
    lines += [f"- {_cell(line)}" for line in shortfall(q)]
    for title, columns, rows in tables(q):
        lines += ["", f"## {title}", "", f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
        lines += [f"| {' | '.join(map(_cell, row))} |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Text from a spec, shown as text whatever it holds."""
    return " ".join(text.split()).translate({ord(c): f"&#{ord(c)};" for c in "&\\`*_{}[]<>|#"})
