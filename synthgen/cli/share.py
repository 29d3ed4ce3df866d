"""Commands that hand a dataset on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from synthgen.cli.arguments import Overrides, Quiet, RunFolder, path
from synthgen.cli.inputs import reopen
from synthgen.cli.results import print_exports
from synthgen.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from synthgen.store.marks import Mark
    from synthgen.store.run import Run


def export(
    run: RunFolder,
    to: Annotated[
        list[str],
        typer.Option(
            "--to",
            help="A format that the spec need not name, such as yolo. Repeat it, or put commas between several.",
            metavar="FORMAT",
            show_default=False,
        ),
    ] = [],  # noqa: B006
    classes: Annotated[
        str, typer.Option("--classes", help="With --to: only these classes, with commas.", metavar="NAMES")
    ] = "",
    only: Annotated[
        Literal["accepted", "all"],
        typer.Option("--only", help="With --to: all also takes rejected images.", metavar="accepted|all"),
    ] = "accepted",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="With --to: the folder that gets a folder for each format, instead of RUN.",
            metavar="DIR",
            parser=path,
            show_default=False,
        ),
    ] = None,
    overrides: Overrides = [],  # noqa: B006
    quiet: Quiet = False,
) -> None:
    """Write the exports of a run again, or write other formats.

    Without --to, writes only the exports of the spec whose options or labels have changed. With --to, the spec stays
    as it is, --set exporters.FORMAT.KEY=VALUE gives the format's options, and RUN may also be a grown dataset, such as
    outputs/fruit/dataset.
    """
    from synthgen.pipeline.export import export_run
    from synthgen.store.run import Run

    if not to:
        if classes or only != "accepted" or out:
            raise RunError("--classes, --only and --out go with --to FORMAT; without it, --set changes the exports")
        folder = Run.existing(run)
        with folder.lock():
            build = reopen(folder, overrides)
            if not build.is_done("judge"):
                raise RunError(f"{run} has not been judged by this spec yet; judge it first: synthgen judge {run}")
            written = export_run(build)
        print_exports(build.run, written, quiet)
        return
    formats = [name for names in to for name in names.split(",") if name]
    options: dict[str, dict[str, object]] = {name: {"use": name} for name in formats}
    for name in formats if classes else ():
        options[name]["classes"] = classes.split(",")
    print_exports(*_export_once(run, options, overrides, only == "all", out), quiet)


def _export_once(
    root: Path, options: dict[str, dict[str, object]], overrides: list[str], all_images: bool, out: Path | None
) -> tuple[Run, Mapping[str, Mark]]:
    from synthgen.dataset.growth import export_grown, latest_finished
    from synthgen.pipeline.build import Build
    from synthgen.pipeline.export import export_to, with_exporters
    from synthgen.spec import set_value
    from synthgen.store.run import Run

    raw = {"exporters": options}
    for override in overrides:
        if not override.startswith("exporters."):
            raise RunError(f"--set {override}: takes exporters.FORMAT.KEY=VALUE with --to; the spec stays as it is")
        set_value(raw, override)
    is_grown = Run(root).paths.merged.is_file()
    if is_grown and all_images:
        raise RunError("--only all takes a run; a grown dataset holds accepted images")
    build = latest_finished(root.parent) if is_grown else Build.open(Run.existing(root))
    if not out and (named := sorted(options.keys() & build.spec.exporters.keys())):
        raise RunError(f"{root} has an export {named[0]} by its spec; give --out DIR, or --set without --to")
    build = with_exporters(build, raw["exporters"])
    if out:
        out.mkdir(parents=True, exist_ok=True)
    target = Run(out) if out else Run(root) if is_grown else build.run
    with target.lock():
        return target, export_grown(build, target) if is_grown else export_to(build, target, all_images)
