"""The differences of two datasets on the screen: tables in a terminal, a line for each row elsewhere; or as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, NamedTuple

import orjson
from rich.markup import escape
from rich.table import Table

from synthgen.base.wording import plain
from synthgen.dataset.distributions import QUANTILES, Shares

if TYPE_CHECKING:
    from rich.console import Console

    from synthgen.dataset.diff import Diff, Pair
    from synthgen.dataset.labels import Change, Object

MOST = 20  # rows of a table of images


class Listing(NamedTuple):
    """A table: its title, its columns and its rows."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def as_json(found: Diff) -> str:
    """All that `show` shows, and every image of each kind."""
    return orjson.dumps({"equal": found.is_equal, **asdict(found)}, option=orjson.OPT_INDENT_2).decode()


def show(found: Diff, specs: Sequence[str], screen: Console) -> None:
    """Prints the differences.

    Args:
        specs: what differs in the specs, a line each.
    """

    def say(line: str) -> None:
        screen.print(line, highlight=False, markup=False, soft_wrap=True)

    for letter, side in (("A", found.a), ("B", found.b)):
        version = f", content hash {side.content_hash[:12]}" if side.content_hash else ""
        ignored = f", and {side.ignored:,} to be ignored" if side.ignored else ""
        counted = f"{_number(side.images, 'image')} with {_number(side.objects, 'object')}"
        say(f"{letter}: {side.address}: {counted}{ignored}{version}")
    for line in specs:
        say(f"the specs differ: {line}")
    if found.by == "name":
        say("images are matched by the names of their files, so other pixels are not noticed")
    if found.alike:
        say(f"{found.alike:,} of the images removed and added have the same name and other bytes; see --match name")
    for listing in _listings(found):
        if screen.is_terminal:
            screen.print(_drawn(listing))
            continue
        for name, *cells in listing.rows:
            values = (f"{column} {cell}" for column, cell in zip(listing.columns[1:], cells, strict=True) if cell)
            say(f"{listing.title}: {name}: {', '.join(values)}")
    say(headline(found))


def headline(found: Diff) -> str:
    """Whether the two are equal, and what differs in numbers, in a line."""
    if found.is_equal:
        return "equal: the same images, labels, splits and classes"
    parts = [
        f"{_number(len(images), 'image')} {what}"
        for what, images in (
            ("removed", found.removed),
            ("added", found.added),
            ("relabelled", found.relabelled),
            ("moved between splits", found.moved),
        )
        if images
    ]
    kinds = Counter(kind for pair in found.relabelled for change in pair.changes for kind in change.kinds)
    if kinds:
        parts.append(f"in their labels: {', '.join(f'{count:,} {_KINDS[kind]}' for kind, count in kinds.items())}")
    for what, names in (("removed", found.classes_removed), ("added", found.classes_added)):
        if names:
            parts.append(f"classes {what}: {', '.join(map(plain, names))}")
    return f"different: {'; '.join(parts)}"


_KINDS = {
    "removed": "removed",
    "added": "added",
    "class": "of another class",
    "mask": "with another mask",
    "box": "with another box",
    "ignore": "with another ignore flag",
}


def _listings(found: Diff) -> Iterator[Listing]:
    """The tables that have rows."""
    for what, images in (("removed", found.removed), ("added", found.added)):
        yield from _cut(what, ("image", "split"), [(str(i.id), i.split) for i in images])
    yield from _cut("moved", ("image", "from", "to"), [(_id(p), p.a.split, p.b.split) for p in found.moved])
    rows = [(_id(pair), *_words(change)) for pair in found.relabelled for change in pair.changes]
    yield from _cut("relabelled", ("image", "what", "A", "B", "IoU"), rows)
    for what, unit, shares in (
        ("splits", "images", found.splits),
        ("classes", "objects", found.classes),
        ("sizes", "objects", found.sizes),
    ):
        if any(a != b for a, b in shares.counts.values()):
            yield _shares(what, unit, shares)
    moved = {name: spread for name, spread in found.scores.items() if spread.wasserstein or 0 in spread.counts}
    if moved:
        columns = ("score", "of", "values", *(f"{q:.0%}" for q in QUANTILES), "Wasserstein distance")
        spread_rows = []
        for name, spread in moved.items():
            distance = "" if spread.wasserstein is None else f"{spread.wasserstein:.4g}"
            for letter, count, values in zip("AB", spread.counts, (spread.a, spread.b), strict=True):
                cells = [f"{v:.4g}" for v in values] or [""] * len(QUANTILES)
                spread_rows.append((plain(name), letter, f"{count:,}", *cells, distance if letter == "B" else ""))
        yield Listing("scores", columns, spread_rows)


def _shares(what: str, unit: str, shares: Shares) -> Listing:
    totals = [sum(side) for side in zip(*shares.counts.values(), strict=True)]
    rows = []
    for name, counts in shares.counts.items():
        part = [100 * n / total if total else 0.0 for n, total in zip(counts, totals, strict=True)]
        cells = (f"{n:,} ({p:.1f} %)" for n, p in zip(counts, part, strict=True))
        rows.append((plain(name), *cells, f"{part[1] - part[0]:+.1f} points"))
    distance = "" if shares.total_variation is None else f", total variation distance {shares.total_variation:.4f}"
    return Listing(f"{what}{distance}", (unit, "A", "B", "change"), rows)


def _cut(what: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterable[Listing]:
    if not rows:
        return
    title = what if len(rows) <= MOST else f"{what} (the first {MOST} of {len(rows):,}; --json has all)"
    yield Listing(title, columns, rows[:MOST])


def _id(pair: Pair) -> str:
    return str(pair.a.id) if pair.a.id == pair.b.id else f"{pair.a.id} (B: {pair.b.id})"


def _words(change: Change) -> tuple[str, str, str, str]:
    iou = "" if change.iou is None else f"{change.iou:.3f}"
    return ", ".join(change.kinds), _object(change.a), _object(change.b), iou


def _object(found: Object | None) -> str:
    return "" if found is None else plain(found.category) + (" (ignored)" if found.ignore else "")


def _drawn(listing: Listing) -> Table:
    table = Table(box=None, title=escape(listing.title), title_justify="left", title_style="bold")
    for i, column in enumerate(listing.columns):
        table.add_column(escape(column), justify="left" if i == 0 else "right")
    for row in listing.rows:
        table.add_row(*map(escape, row))
    return table


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
