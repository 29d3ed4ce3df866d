"""Commands that hand a dataset on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from synthgen.base.wording import shown
from synthgen.cli.arguments import Overrides, Quiet, RunFolder, path
from synthgen.cli.inputs import reopen
from synthgen.cli.results import print_exports, publication_lines
from synthgen.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from synthgen.pipeline.build import Build
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
    from synthgen.pipeline.export import with_exporters
    from synthgen.store.run import Run

    exporters = _with_overrides(options, overrides)
    build, target, is_grown = _origin(root)
    if is_grown and all_images:
        raise RunError("--only all takes a run; a grown dataset holds accepted images")
    if not out and (named := sorted(options.keys() & build.spec.exporters.keys())):
        raise RunError(f"{root} has an export {named[0]} by its spec; give --out DIR, or --set without --to")
    build = with_exporters(build, exporters)
    if out:
        out.mkdir(parents=True, exist_ok=True)
        target = Run(out)
    with target.lock():
        return target, _write(build, target, is_grown, all_images)


def _with_overrides(options: Mapping[str, Mapping[str, Any]], overrides: list[str]) -> dict[str, dict[str, Any]]:
    """The options of exports, by name, with some changed."""
    from synthgen.spec import set_value

    raw: dict[str, Any] = {"exporters": {name: dict(given) for name, given in options.items()}}
    for override in overrides:
        if not override.startswith("exporters."):
            raise RunError(f"--set {override}: takes exporters.FORMAT.KEY=VALUE here; the spec stays as it is")
        set_value(raw, override)
    return raw["exporters"]  # type: ignore[no-any-return]


def _origin(root: Path) -> tuple[Build, Run, bool]:
    """Whose spec the exports of a folder follow, the folder, and whether it is a grown dataset."""
    from synthgen.dataset.growth import latest_finished
    from synthgen.pipeline.build import Build
    from synthgen.store.run import Run

    if Run(root).paths.merged.is_file():
        return latest_finished(root.parent), Run(root), True
    build = Build.open(Run.existing(root))
    return build, build.run, False


def _write(build: Build, target: Run, is_grown: bool, all_images: bool = False) -> Mapping[str, Mark]:
    """Writes the exports that have changed. The caller holds the lock of `target`."""
    from synthgen.dataset.growth import export_grown
    from synthgen.pipeline.export import export_to

    return export_grown(build, target) if is_grown else export_to(build, target, all_images)


def push(
    run: RunFolder,
    repository: Annotated[
        str, typer.Argument(help="The dataset on the hub, such as me/fruit.", metavar="USER/NAME", show_default=False)
    ],
    private: Annotated[bool, typer.Option("--private", help="Only its owners see the dataset.", metavar="")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Send without a question.", metavar="")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be sent, and stop.", metavar="")] = False,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Upload a dataset to the Hugging Face hub.

    Sends the exports of the format huggingface, in which `datasets` loads it; writes one, if the spec names none, with
    the options that --set exporters.huggingface.KEY=VALUE gives. RUN may also be a grown dataset, such as
    outputs/fruit/dataset. Says first what would be sent to whom, and asks. What the hub has already is not sent again,
    so after an interruption the same command goes on.

    The token is that of `hf auth login`, or HF_TOKEN.
    """
    from synthgen.cli.needs import showing_progress
    from synthgen.models import is_hub_id
    from synthgen.models.hub.upload import Upload
    from synthgen.pipeline.export import with_exporters
    from synthgen.pipeline.publication import Publication, published

    if not is_hub_id(repository):
        raise RunError(f"got {shown(repository)}; takes the user and the name of the dataset, such as me/fruit")
    build, target, is_grown = _origin(run)
    exporters = _with_overrides(published(build), overrides)
    try:
        with target.lock():
            marks = _write(with_exporters(build, exporters), target, is_grown)
            publication = Publication.of(target, marks)
            upload = Upload.plan(repository, publication.files, publication.is_own, private=private)
            print("\n".join(publication_lines(upload, publication.licence)))
            if dry_run or not (upload.files or upload.removed):
                return
            if not yes and not (sys.stdin.isatty() and typer.confirm("Send it?")):
                raise RunError("nothing was sent; --yes sends without a question")
            with showing_progress(f"sending {repository}") as report:
                page = upload.send(f"Version {publication.version[:12]} of the dataset", report)
    except ValueError as error:
        raise RunError(f"cannot push to {repository!r}: {error}") from error
    print(page)
