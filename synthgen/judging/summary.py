"""A run in words: for the terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

from synthgen.base.markdown import markdown_table, markdown_text
from synthgen.judging.quality import ClassCount, Quality
from synthgen.spec import DatasetSpec


def headline(q: Quality) -> str:
    surplus = f", {q.surplus} to spare" if q.surplus else ""
    further = q.accepted - q.wanted
    quotas = f", and {further} more for quotas," if further > 0 else ""
    return (
        f"{min(q.accepted, q.wanted)} of {q.wanted} images accepted{quotas} with {q.instances} instances{surplus}; "
        f"{q.made} made, yield {q.passed:.0%}"
    )


def shortfall(q: Quality, spent: bool = True) -> Iterator[str]:
    """What is missing, which filters rejected it, and what would help: a line each; no lines if nothing is missing.

    Args:
        spent: whether the budget has no room for another round.
    """
    if not q.is_short:
        return
    what = f"{q.missing} images are missing" if q.missing else f"{len(q.short)} of {len(q.classes)} classes are short"
    state = f"the budget is spent ({q.made} images made)" if spent else "running the spec would add a round"
    yield f"{what}, and {state}"
    yield from (_lost(name, c) for name, c in q.short.items())
    for name, reason in q.reasons.items():
        advice = f"; {reason.advice}" if reason.advice else ""
        yield f"{name} rejects {reason.images} images, {reason.alone} of them alone{advice}"
    if spent:
        raised = f"raise `budget`{_enough(q)}"
        yield f"{raised}, relax a filter, or ask for what the model makes well; then run the same command again"


def _lost(name: str, c: ClassCount) -> str:
    """`cat: 31 of 50 instances; of 80 asked, 49 were lost: predicted_iou 40, asked_found 12`"""
    text = f"{name}: {c.accepted} of {c.quota} instances; of {c.asked} asked, {c.lost} were lost"
    return text + (": " if c.reasons else "") + ", ".join(f"{reason} {n}" for reason, n in c.reasons.items())


def _enough(q: Quality) -> str:
    """` to about 5.2`: the budget that would be enough at the yield so far; "" without a yield."""
    if not q.accepted or not all(c.accepted for c in q.short.values()):
        return ""
    objects = sum(c.asked for c in q.classes.values()) / q.made
    further = sum(c.missing * c.asked / c.accepted for c in q.short.values()) / max(objects, 1)
    budget = ceil(10 * (q.made + max(further, q.missing * q.made / q.accepted)) / q.wanted) / 10
    return f" to about {budget:g}"


def quotas(spec: DatasetSpec) -> str:
    names = {c.id: c.name for c in spec.categories}
    found = ", ".join(f"{names[c]} {n}" for c, n in spec.quotas.items())
    return f"quotas, in instances kept: {found}; rounds after the first make up what is short"


def tables(q: Quality) -> Iterator[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """The tables of a summary, each as its title, columns and rows."""
    quota = any(c.quota for c in q.classes.values())
    yield (
        "classes",
        ("class", "asked", "accepted", *["quota"] * quota),
        [(name, str(c.asked), str(c.accepted), *[str(c.quota)] * quota) for name, c in q.classes.items()],
    )
    yield "splits", ("split", "images"), [(name, str(n)) for name, n in q.splits.items()]
    if q.reasons:
        yield (
            "rejected",
            ("reason", "images", "by it alone"),
            [(name, str(r.images), str(r.alone)) for name, r in q.reasons.items()],
        )


def markdown(q: Quality) -> str:
    lines = [f"# {markdown_text(q.name)}", "", headline(q), "", f"Label precision: {q.precision}.", ""]
    lines += [f"- {markdown_text(line)}" for line in shortfall(q)]
    return "\n".join(lines) + "\n" + markdown_tables(q, level=2)


def markdown_tables(q: Quality, level: int = 3) -> str:
    lines = []
    for title, columns, rows in tables(q):
        lines += ["", f"{'#' * level} {title}", "", *markdown_table(columns, rows)]
    return "\n".join(lines) + "\n"
