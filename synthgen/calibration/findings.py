"""The results of a calibration: progress and tables for people, JSON for programs."""

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

PLAIN_SECONDS = 15.0  # The time between lines of progress without a terminal.
WIDTH = 100  # The columns that the tables need.
STRONG_AUROC = 0.9
MOST_CATCHERS = 2  # The most filters that the table names for a kind of fault.
LEAST_GAIN = 0.05  # A filter catches a kind of fault if it fails this share more of these images than of good ones.
NOTHING = "·"
# Narrow headings, so that all columns fit beside each other.
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


def with_progress(planted: Iterable[Planted], count: int, console: Console) -> Iterator[Planted]:
    """Yields the images and shows how many: a bar on a terminal, else a plain line every `PLAIN_SECONDS`."""
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
    """Yields (number, images a second, image). The speed leaves out the first image, since it loads the models."""
    first = 0.0
    for number, item in enumerate(planted, 1):
        now = time.monotonic()
        first = now if number <= 2 else first
        yield number, (number - 2) / (now - first) if now > first else 0.0, item


def tables(result: Calibration) -> Iterator[RenderableType]:
    """A table of measures and a table of faults, each with a title and notes. They fit into `WIDTH` columns."""
    kinds = [kind for kind in KINDS if kind in result.images]
    yield "[bold]Measures[/]: AUROC by kind of fault; 1 tells it from good labels, 0.5 does not at all"
    yield _measures(result, kinds)
    wanted = f"{result.precision:.3g}"
    yield "[dim]lost: share of good images that fail at the spec's threshold[/]"
    ignored = f"it ignores faults with an AUROC under {SEES:g}"
    yield f"[dim]needs: threshold at which {wanted} of what it keeps is good; {ignored}[/]"
    yield "[dim]keeps: share of good labels that this threshold keeps[/]"
    if any(m.keeps == "unknown" for m in result.measures):
        yield "[dim]*: the spec sets neither `min` nor `max`, so higher counts as better[/]"
    if any(m.keeps == "between" for m in result.measures):
        yield "[dim]↔: the spec sets `min` and `max`; AUROC is of the distance to the nearer one[/]"
    yield ""
    yield "[bold]Faults[/]: share of images that fail"
    yield _faults(result, kinds)
    if POOR in result.images:
        yield f"[dim]{POOR}: the segmenter's own mask is off the truth; nobody planted it[/]"


def headline(result: Calibration) -> str:
    """One line with what all filters together catch and lose."""
    faulty = sum(result.images.values())
    caught = sum(result.caught[kind] * n for kind, n in result.images.items())
    text = f"the filters catch {caught / faulty:.0%} of {faulty} faulty images" if faulty else "no image is faulty"
    lost = f"lose {result.lost:.0%} of {result.good} good ones" if result.good else "no image is good"
    return f"{text} and {lost}"


def as_data(result: Calibration) -> dict[str, Any]:
    """All numbers as plain data, in the form that docs/calibration.md describes."""
    return {
        "precision": result.precision,
        "good": {"images": result.good, "lost": result.lost},
        "faults": {kind: {"images": n, "caught": result.caught[kind]} for kind, n in result.images.items()},
        "measures": {m.name: {k: v for k, v in asdict(m).items() if k != "name"} for m in result.measures},
    }


def write(path: Path, data: Mapping[str, Any]) -> None:
    """Writes plain data as indented JSON."""
    import orjson

    from synthgen.base.files import atomic

    with atomic(path) as file:
        file.write(orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def catchers(result: Calibration, kind: str) -> list[Measured]:
    """The filters that catch a kind of fault, the best first. A filter's gain is the share that it fails of the images
    with this fault, minus the share that it fails of good images."""

    def gain(measured: Measured) -> float:
        return measured.caught[kind] - measured.lost

    # Filters with equal gains stay in the spec's order.
    return [m for m in sorted(result.measures, key=gain, reverse=True) if gain(m) > LEAST_GAIN][:MOST_CATCHERS]


def _measures(result: Calibration, kinds: list[str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("\n\nmeasure", overflow="fold", max_width=26)  # Narrow terminals squeeze this column alone.
    for kind in kinds:
        table.add_column(HEADINGS[kind], justify="right", no_wrap=True)
    table.add_column("\n\nlost", justify="right", no_wrap=True)
    table.add_column("\n\nneeds", justify="right", no_wrap=True)
    table.add_column("\n\nkeeps", justify="right", no_wrap=True)
    for m in result.measures:
        if m.name == EMPTY and not m.lost:
            continue
        mark = {"unknown": " *", "between": " ↔"}.get(m.keeps, "")
        needs = NOTHING if m.threshold is None else f"{SIGNS[m.keeps]}{_number(m.threshold)}"
        keeps = NOTHING if m.yielded is None else f"{m.yielded:.0%}"
        areas = (_area(m.auroc.get(kind)) for kind in kinds)
        lost = f"{m.lost:.0%}" if result.good else NOTHING
        table.add_row(escape(m.name + mark), *areas, lost, needs, keeps)
    return table


def _faults(result: Calibration, kinds: list[str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("fault", no_wrap=True)
    table.add_column("images", justify="right", no_wrap=True)
    table.add_column("fail", justify="right", no_wrap=True)
    table.add_column("mostly by", overflow="fold")
    for kind in kinds:
        by = ", ".join(f"{escape(m.name)} {m.caught[kind]:.0%}" for m in catchers(result, kind)) or NOTHING
        table.add_row(kind, str(result.images[kind]), f"{result.caught[kind]:.0%}", by)
    table.add_section()
    if result.good:
        worst = [m for m in sorted(result.measures, key=lambda m: m.lost, reverse=True) if m.lost][:MOST_CATCHERS]
        by = ", ".join(f"{escape(m.name)} {m.lost:.0%}" for m in worst) or NOTHING
        table.add_row("none: good images", str(result.good), f"{result.lost:.0%}", by)
    return table


def _area(area: float | None) -> str:
    if area is None:
        return f"[dim]{NOTHING}[/]"
    style = "bold green" if area >= STRONG_AUROC else "bold" if area >= SEES else "dim"
    return f"[{style}]{area:.2f}[/]"


def _number(value: float) -> str:
    """Three digits: `0.523`, `1.23e+05`, `120`."""
    return f"{value:.3g}"
