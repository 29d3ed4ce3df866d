"""Commands that show what there is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from synthgen.cli.arguments import Out, Overrides, RunFolder, Spec, path
from synthgen.cli.inputs import load
from synthgen.cli.results import console
from synthgen.errors import RunError


def status(run: RunFolder) -> None:
    """Show what is done in a run and what is left.

    Reads the run folder, so it also works while the run is being made, here or elsewhere.
    """
    from synthgen.judging.summary import headline
    from synthgen.pipeline.build import Build
    from synthgen.pipeline.fingerprints import DEPENDENCIES, PER_SHARD
    from synthgen.store.run import Run

    build = Build.read(Run.existing(run))
    shards = build.run.marks.shards()
    holder = build.run.holder()
    print(f"{build.spec.name}, {len(shards)} shards planned" + (f"; {holder} is at work" if holder else ""))
    for stage in PER_SHARD:
        done = [s for s in shards if build.is_done(stage, s)]
        images = sum(mark.counts.get("images", 0) for s in done if (mark := build.run.marks.read(stage, s)))
        begun = sum(build.run.marks.images_in_batches(s) for s in shards if s not in done) if stage == "generate" else 0
        more = f", and {begun} in unfinished shards" if begun else ""
        print(f"{stage}: {len(done)} of {len(shards)} shards, {images} images{more}")
    for work in build.work():
        if DEPENDENCIES[work.stage].per != "shard":
            print(f"{work}: {'done' if build.is_done(*work) else 'to be done'}")
    if build.is_done("judge") and (quality := build.quality()):
        print(headline(quality))
    if not build.is_complete():
        print(f"the run is not complete; go on with: synthgen run SPEC (its spec is in {build.run.paths.spec})")


def show(
    run: RunFolder,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The .png, .jpg or .webp to write. Default: sheet.png or rejected.png in the run folder.",
            metavar="FILE",
            show_default=False,
            parser=path,
        ),
    ] = None,
    images: Annotated[int, typer.Option(min=1, max=1000, help="The most images to draw.", metavar="N")] = 48,
    columns: Annotated[int, typer.Option(min=1, max=32, help="Images in a row.", metavar="N")] = 8,
    tile: Annotated[int, typer.Option(min=64, max=1024, help="The side of an image, in pixels.", metavar="PX")] = 224,
    rejected: Annotated[
        bool, typer.Option("--rejected", help="Draw the rejected images, with their reasons.", metavar="")
    ] = False,
) -> None:
    """Draw a contact sheet: images with masks, boxes and class names."""
    from synthgen.pipeline.build import Build
    from synthgen.report.show import draw
    from synthgen.store.run import Run

    build = Build.read(Run.existing(run))
    file = output or build.run.root / ("rejected.png" if rejected else "sheet.png")
    drawn = draw(build, file, images=images, columns=columns, tile_px=tile, rejected=rejected)
    print(f"{file}: {drawn} images")


def report(run: RunFolder) -> None:
    """Write the report and the dataset card of a run, and print where the report is.

    `synthgen run` writes both at its end.
    """
    from synthgen.pipeline.build import Build
    from synthgen.report.page import write
    from synthgen.store.run import Run

    folder = Run.existing(run)
    with folder.lock():
        build = Build.read(folder)
        if not build.is_done("judge"):
            raise RunError(
                f"{run} has not been judged by its spec and reviews yet; judge it first: synthgen judge {run}"
            )
        print(write(build))


def runs(spec: Spec, out: Out = Path("outputs"), overrides: Overrides = []) -> None:  # noqa: B006
    """List the runs of a spec with their state, yield, label precision and speed.

    Warns if the last run kept fewer images than the runs before it let expect.
    """
    from synthgen.dataset import history

    name = load(spec, overrides).name
    past = history.history(out / name)
    if not past:
        raise RunError(f"there are no runs in {out / name}; make one: synthgen run {spec}")
    screen = console()
    if not screen.is_terminal:
        screen.width = max(screen.width, history.WIDTH)
    screen.print(history.table(past))
    if behind := history.drop([p for p in past if p.state == "finished"]):
        print(f"fell behind: {behind}", file=sys.stderr)
