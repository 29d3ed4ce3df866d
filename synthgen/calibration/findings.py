"""What a calibration found: progress and tables for people, numbers for programs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from synthgen.calibration.calibrate import SEES, Calibration, Measured
from synthgen.calibration.faults import KINDS, POOR, Planted
from synthgen.judging.verdicts import EMPTY

PLAIN_SECONDS = 15.0  # between lines where there is no terminal to draw on
WIDTH = 100
STRONG = 0.9  # AUROC
NAMED = 2  # filters that a kind of fault is said to be caught by
NOT_MUCH = 0.05  # caught beyond what is lost; a filter with less is not said to catch a fault
NOTHING = "·"
# Narrow enough for all of them to stand beside each other.
HEADINGS = {
    "shifted box": "shif-\nted\nbox",
    "swapped class": "swap-\nped\nclass",
    "cut mask": "\ncut\nmask",
    "blank image": "\nblank\nimage",
    "blurred image": "blur-\nred\nimage",
    "duplicate": "\ndupli-\ncate",
    "unlabelled thing": "unla-\nbelled\nthing",
    POOR: "\npoor\nmask",
}
SIGNS = {"above": "≥ ", "below": "≤ ", "unknown": "≥ "}


def watched(planted: Iterable[Planted], count: int, console: Console) -> Iterator[Planted]:
    """Passes images on and shows how many: drawn on a terminal, else as plain lines, a few a minute."""
    if console.is_terminal:
        columns = (
            TextColumn("planting and measuring"), BarColumn(30), MofNCompleteColumn(),
            TextColumn("{task.fields[speed]:.1f} images/s"), TimeRemainingColumn(),
        )  # fmt: skip
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("", total=count, speed=0.0)
            for done, speed, item in _timed(planted):
                yield item
                progress.update(task, completed=done, speed=speed)
        return
    shown = time.monotonic()
    for done, speed, item in _timed(planted):
        yield item
        if time.monotonic() - shown >= PLAIN_SECONDS or done == count:
            shown = time.monotonic()
            console.print(f"{done}/{count} images ({speed:.1f}/s)", highlight=False)


def _timed(planted: Iterable[Planted]) -> Iterator[tuple[int, float, Planted]]:
    """(number, images a second, image). Up to the second image models are loaded, which is no part of the speed."""
    first = 0.0
    for number, item in enumerate(planted, 1):
        now = time.monotonic()
        first = now if number <= 2 else first
        yield number, (number - 2) / (now - first) if now > first else 0.0, item


def tables(found: Calibration) -> Iterator[RenderableType]:
    """A table of measures and one of faults, with a line before and notes after each; fit into `WIDTH` columns."""
    kinds = [kind for kind in KINDS if kind in found.images]
    yield "[bold]Measures[/]: AUROC by kind of fault; 1 tells it from good labels, 0.5 does not at all"
    yield _measures(found, kinds)
    wanted = f"{found.precision:.3g}"
    yield "[dim]lost: share of good images that fail now[/]"
    yield f"[dim]needs: the threshold at which {wanted} of what is kept is good, beside the faults from {SEES:g}[/]"
    yield "[dim]keeps: the share of good labels that it keeps[/]"
    if any(m.keeps == "unknown" for m in found.measures):
        yield "[dim]*: has neither `min` nor `max`, so higher counts as better[/]"
    if any(m.keeps == "between" for m in found.measures):
        yield "[dim]↔: has both `min` and `max`; AUROC is of the distance to the nearer one[/]"
    yield ""
    yield "[bold]Faults[/]: share of images that fail"
    yield _faults(found, kinds)
    if POOR in found.images:
        yield f"[dim]{POOR}: not planted; the segmenter itself is off the truth[/]"


def headline(found: Calibration) -> str:
    faulty = sum(found.images.values())
    caught = sum(found.caught[kind] * n for kind, n in found.images.items())
    text = f"{caught / faulty:.0%} of {faulty} faulty images are caught" if faulty else "no fault was planted"
    lost = f"{found.lost:.0%} of {found.good} good ones lost" if found.good else "there is no good one"
    return f"{text}, {lost}"


def as_data(found: Calibration) -> dict[str, Any]:
    """All numbers, as plain data."""
    return {
        "precision": found.precision,
        "good": {"images": found.good, "lost": found.lost},
        "faults": {kind: {"images": n, "caught": found.caught[kind]} for kind, n in found.images.items()},
        "measures": {m.name: {k: v for k, v in asdict(m).items() if k != "name"} for m in found.measures},
    }


def write(path: Path, data: Mapping[str, Any]) -> None:
    import orjson

    from synthgen.base.files import atomic

    with atomic(path) as file:
        file.write(orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def catchers(found: Calibration, kind: str) -> list[Measured]:
    """The filters that catch most of a kind of fault beyond what they lose of good images, the best first."""

    def gain(measured: Measured) -> float:
        return measured.caught[kind] - measured.lost

    # Equal ones stay in the spec's order.
    return [m for m in sorted(found.measures, key=gain, reverse=True) if gain(m) > NOT_MUCH][:NAMED]


def _measures(found: Calibration, kinds: list[str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("\n\nmeasure", overflow="fold", max_width=26)  # the only one that narrow terminals squeeze
    for kind in kinds:
        table.add_column(HEADINGS[kind], justify="right", no_wrap=True)
    table.add_column("\n\nlost", justify="right", no_wrap=True)
    table.add_column("\n\nneeds", justify="right", no_wrap=True)
    table.add_column("\n\nkeeps", justify="right", no_wrap=True)
    for m in found.measures:
        if m.name == EMPTY and not m.lost:
            continue
        mark = {"unknown": " *", "between": " ↔"}.get(m.keeps, "")
        needs = NOTHING if m.threshold is None else f"{SIGNS[m.keeps]}{_number(m.threshold)}"
        keeps = NOTHING if m.yielded is None else f"{m.yielded:.0%}"
        areas = (_area(m.auroc.get(kind)) for kind in kinds)
        lost = f"{m.lost:.0%}" if found.good else NOTHING
        table.add_row(escape(m.name + mark), *areas, lost, needs, keeps)
    return table


def _faults(found: Calibration, kinds: list[str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("fault", no_wrap=True)
    table.add_column("images", justify="right", no_wrap=True)
    table.add_column("fail", justify="right", no_wrap=True)
    table.add_column("mostly by", overflow="fold")
    for kind in kinds:
        by = ", ".join(f"{escape(m.name)} {m.caught[kind]:.0%}" for m in catchers(found, kind)) or NOTHING
        table.add_row(kind, str(found.images[kind]), f"{found.caught[kind]:.0%}", by)
    table.add_section()
    if found.good:
        worst = [m for m in sorted(found.measures, key=lambda m: m.lost, reverse=True) if m.lost][:NAMED]
        by = ", ".join(f"{escape(m.name)} {m.lost:.0%}" for m in worst) or NOTHING
        table.add_row("none: good images", str(found.good), f"{found.lost:.0%}", by)
    return table


def _area(area: float | None) -> str:
    if area is None:
        return f"[dim]{NOTHING}[/]"
    style = "bold green" if area >= STRONG else "bold" if area >= SEES else "dim"
    return f"[{style}]{area:.2f}[/]"


def _number(value: float) -> str:
    """Three digits: `0.523`, `1.23e+05`, `120`."""
    return f"{value:.3g}"
