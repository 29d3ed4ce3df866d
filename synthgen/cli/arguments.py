"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from synthgen.cli import completion


def path(value: str | Path) -> Path:
    """A path, with the user's home for `~`, also where the shell does not put it in."""
    from synthgen.base.files import expand_home

    return expand_home(value)


def _out(value: str | Path) -> Path:
    from synthgen.store.location import local_folder

    return local_folder(value)


def _run(value: str | Path) -> Path:
    from synthgen.store.location import local_run_folder

    return local_run_folder(value)


Spec = Annotated[
    Path,
    typer.Argument(
        help="The YAML spec of the dataset.",
        metavar="SPEC",
        show_default=False,
        parser=path,
        autocompletion=completion.specs,
    ),
]
RunFolder = Annotated[
    Path,
    typer.Argument(
        help="A run folder, such as outputs/quickstart/run-0001, or its URL.",
        metavar="RUN",
        show_default=False,
        parser=_run,
        autocompletion=completion.run_folders,
    ),
]
Out = Annotated[
    Path,
    typer.Option(
        "--out", help="The folder of run folders, or its URL, such as s3://bucket/data.", metavar="DIR", parser=_out
    ),
]
ProfileFile = Annotated[
    Path | None,
    typer.Option(
        "--profile",
        help="A YAML file that says where the run is computed, such as on many workers.",
        metavar="FILE",
        show_default=False,
        parser=path,
    ),
]
Number = Annotated[
    int,
    typer.Option(
        "--run", min=1, max=99_999, help="The number of the run. Each number makes other images.", metavar="N"
    ),
]
Overrides = Annotated[
    list[str],
    typer.Option(
        "--set",
        help="Change a key of the spec, such as filters.sharpness.min=60. Repeat it for more keys.",
        metavar="KEY=VALUE",
        show_default=False,
        autocompletion=completion.spec_keys,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the result only.", metavar="")]
Mixed = Annotated[
    bool,
    typer.Option("--allow-mixed", help="Allow shards that another kind of machine made in the same run.", metavar=""),
]
