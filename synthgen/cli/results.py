"""Prints the results of a run."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from synthgen.cli.inputs import note
from synthgen.errors import listed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from synthgen.judging.quality import Quality
    from synthgen.models.hub.upload import Upload
    from synthgen.pipeline.build import Build
    from synthgen.store.marks import Mark
    from synthgen.store.run import Run


def console() -> Console:
    from rich.console import Console

    return Console()


def print_remarks(build: Build) -> None:
    """Prints what the libraries of the models remarked while the shards were made."""
    for remark in build.remarks():
        note(remark)


def print_shard(shard: int) -> None:
    print(f"labelling and measuring shard {shard}")


def merge(build: Build) -> None:
    """Adds the run to the dataset of all finished runs, if its spec says `grow`. The lock of the run must be free."""
    if build.spec.grow:
        from synthgen.dataset.growth import grow

        grow(build)


def print_exports(folder: Run, written: Mapping[str, Mark], quiet: bool = False) -> None:
    """Prints where exports are, and what their formats could not hold."""
    for name, mark in written.items():
        if not quiet:
            print(f"{name}: {mark.counts['files']} files in {folder.paths.export(name)}")
    _print_losses(written)


def _print_losses(written: Mapping[str, Mark | None]) -> None:
    for name, mark in written.items():
        for loss in mark.notes.get("losses", ()) if mark else ():
            note(f"{name}: {loss}")


def print_result(build: Build, quality: Quality, quiet: bool, state: str) -> None:
    """Prints the numbers of a run. Raises Exit with code 3 if images or instances are missing."""
    from synthgen.judging.summary import headline, shortfall

    screen = console()
    if not quiet:
        _print_tables(quality, screen)
        for name in build.spec.exporters:
            screen.print(f"{name}: {build.run.paths.export(name)}", highlight=False, soft_wrap=True)
        _print_losses({name: build.run.marks.read("export", name) for name in build.spec.exporters})
        screen.print(f"report: {build.run.paths.report}", highlight=False, soft_wrap=True)
        if build.run.is_mirror:
            screen.print(f"store: {build.run.address}", highlight=False, soft_wrap=True)
    screen.print(f"{state}: {headline(quality)}", highlight=False, soft_wrap=True)
    for line in shortfall(quality, build.is_complete()):
        print(f"short: {line}", file=sys.stderr)
    if quality.is_short:
        raise typer.Exit(3)


def _print_tables(quality: Quality, screen: Console) -> None:
    """Prints the first table on the left, and the others on the right, one below the other."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table

    from synthgen.judging.summary import tables

    drawn = []
    for _, columns, rows in tables(quality):
        table = Table(box=None)
        for i, column in enumerate(columns):
            table.add_column(column, justify="right" if i else "left", no_wrap=True)
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        drawn.append(table)
    grid = Table.grid(padding=(0, 4))
    grid.add_row(drawn[0], Group(*drawn[1:]))
    screen.print(grid)


def publication_lines(upload: Upload, licence: str) -> list[str]:
    """What a push would send, and to whom."""
    from huggingface_hub import constants

    state = (
        f"is there, and {'private' if upload.is_private else 'public'}"
        if upload.exists
        else (f"a new dataset, {'private' if upload.is_private else 'public: everybody can load it'}")
    )
    lines = [
        f"{upload.repository} on {constants.ENDPOINT}: {state}; your account: {upload.account}",
        f"to send: {len(upload.files)} files, {upload.size / 1e6:,.1f} MB; {upload.unchanged} files are there already",
    ]
    if upload.replaced:
        lines.append(f"replaces {listed(upload.replaced, 3)}")
    if upload.removed:
        lines.append(f"removes what an earlier push has sent: {listed(upload.removed, 3)}")
    return [*lines, f"licence on the card: {licence}"]
