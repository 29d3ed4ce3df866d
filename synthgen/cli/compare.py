"""Commands that compare datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from synthgen.cli import completion
from synthgen.cli.arguments import path
from synthgen.cli.results import console


def _side(value: str | Path) -> Path:
    from synthgen.store.location import is_url, local_run_folder

    return local_run_folder(value) if is_url(value) else path(value)


def _argument(letter: str) -> Any:
    return typer.Argument(
        help="A run folder or its URL, a grown dataset, a COCO file or the folder of a COCO export.",
        metavar=letter,
        show_default=False,
        parser=_side,
        autocompletion=completion.run_folders,
    )


def diff(
    a: Annotated[Path, _argument("A")],
    b: Annotated[Path, _argument("B")],
    match: Annotated[
        Literal["content", "name"] | None,
        typer.Option(
            help="What makes two images the same: the bytes of their files, or the names of the files without folder "
            "and ending. Default: content, or name where a COCO file has no images beside it.",
            show_default=False,
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.", metavar="")] = False,
) -> None:
    """Show what differs between two datasets: images, labels, splits and distributions.

    Exits with 0 if images, labels, splits and classes are equal, and with 1 if they differ. Scores may differ in equal
    datasets.
    """
    from synthgen.cli.differences import as_json, show
    from synthgen.dataset import diff as comparison
    from synthgen.dataset.sides import side_of

    sides = side_of(a), side_of(b)
    found = comparison.diff(*sides, match)
    if json:
        print(as_json(found))
    else:
        show(found, comparison.spec_changes(*sides), console())
    if not found.is_equal:
        raise typer.Exit(1)
