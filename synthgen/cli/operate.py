"""Commands that keep things going."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from synthgen.cli import completion
from synthgen.cli.arguments import Out, Overrides, ProfileFile, RunFolder, Spec, path
from synthgen.cli.inputs import load, note, note_modules
from synthgen.cli.results import console
from synthgen.errors import RunError

if TYPE_CHECKING:
    from synthgen.backends import Source


def schedule(
    spec: Spec,
    cron: Annotated[
        str | None,
        typer.Option(help="When to fire. '0 2 * * *' is every night at two.", metavar="LINE", show_default=False),
    ] = None,
    interval: Annotated[
        float | None,
        typer.Option(min=10, help="Or the seconds between firings.", metavar="SECONDS", show_default=False),
    ] = None,
    timezone: Annotated[
        str,
        typer.Option(
            help="The time zone of the schedule, such as Europe/Berlin. It follows summer time.", metavar="ZONE"
        ),
    ] = "UTC",
    overlap: Annotated[
        Literal["skip", "wait"],
        typer.Option(help="What a firing does while the last run is going."),
    ] = "skip",
    out: Out = Path("outputs"),
    overrides: Overrides = [],  # noqa: B006
    profile: ProfileFile = None,
) -> None:
    """Make the next run of a spec on a schedule, until stopped.

    Takes --cron or --interval. Each firing makes the next run, or resumes the last one if that is not finished.
    """
    from synthgen import schedule
    from synthgen.orchestration.firings import FiringLog
    from synthgen.orchestration.timetable import Timetable
    from synthgen.pipeline.request import BuildRequest

    request = BuildRequest(spec, out, overrides=tuple(overrides), profile_file=profile)
    note_modules(request.spec)
    if interval is not None and cron is None:
        timetable = Timetable.every(interval, timezone, FiringLog(out / request.spec.name).timetable)
    else:
        timetable = Timetable(timezone, cron, interval)
    schedule.serve(request, timetable, overlap)


def verify(run: RunFolder) -> None:
    """Check every checksum, mask and id of a run, with its reviews and exports.

    The next `synthgen run` makes again what is damaged. Exits with 0 if the run is whole, 3 if it is not complete and
    2 if it is damaged.
    """
    from synthgen.base.wording import plain
    from synthgen.errors import SpecError
    from synthgen.pipeline.build import Build
    from synthgen.pipeline.verification import inspect, withdraw
    from synthgen.store.run import Run

    folder = Run.existing(run)
    with folder.reading() as locked:
        try:
            build = Build.read(folder)
        except SpecError as error:
            if folder.facts.spec_is_unchanged():  # The spec is whole: this version, or this machine, cannot read it.
                raise
            raise RunError(f"damaged: spec.yaml: {error}\nrun the spec again to write it anew") from error
        found = inspect(build)
        if locked:
            withdraw(build, found.damages)
    if build.run.is_another:
        other = f"holds the images of run {build.run.number}, so it is a copy; runs and merges leave it out"
        note(f"{build.run.address} {other}")
    for damage in found.damages:
        print(f"damaged: {damage}", file=sys.stderr)
    for name in found.stray:
        print(f"not part of the run: {plain(name, 300)}")
    for line in found.missing:
        print(f"to be done: {line}", file=sys.stderr)
    print(f"{found.files} files read, {len(found.damages)} damages" + (", and not complete" if found.missing else ""))
    if found.damages:
        print("run the spec again to repair it", file=sys.stderr)
        raise typer.Exit(2)
    if found.missing:
        print("run the spec again to go on", file=sys.stderr)
        raise typer.Exit(3)


def remake(
    run: RunFolder,
    image_id: Annotated[int, typer.Argument(help="The id of the image, as in COCO.", metavar="ID")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Write the new image to this file, too.",
            metavar="FILE",
            show_default=False,
            parser=path,
        ),
    ] = None,
) -> None:
    """Make one image again and compare its pixels.

    Makes the batch of the image, since a batch decides the last bits of its pixels. Changes nothing in the run. Exits
    with 3 if pixels differ.
    """
    import numpy as np

    from synthgen.pipeline.build import Build
    from synthgen.pipeline.generate import remake_image
    from synthgen.pipeline.plan import shard_of
    from synthgen.store.run import Run

    build = Build.open(Run.existing(run))
    note_modules(build.spec)
    old, now = remake_image(build, image_id)
    if output:
        from contextlib import suppress

        from PIL import Image

        from synthgen.base.image_metadata import Metadata

        Image.fromarray(now).save(output)
        with suppress(ValueError):  # a format that holds no mark
            carried = Metadata.of_png(build.run.images.read_bytes(shard_of(build, image_id), image_id))
            output.write_bytes(carried.put_into(output.read_bytes()))
    if np.array_equal(old, now):
        print(f"image {image_id}: the same, to the last bit")
        return
    apart = np.abs(old.astype(int) - now)
    print(
        f"image {image_id}: differs in {(apart > 0).any(2).mean():.2%} of its pixels, by {apart.max()} of 255 at most"
    )
    raise typer.Exit(3)


def bench(
    spec: Spec,
    images: Annotated[
        int, typer.Option(min=2, help="The images that the run makes, and as many the loop.", metavar="N")
    ] = 200,
    annotations: Annotated[
        int, typer.Option(min=1, help="The annotations of the export that is timed.", metavar="N")
    ] = 100_000,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Time a run against a bare loop over the same models, and an export.

    Shows what the pipeline costs beside the models. Keeps nothing.
    """
    from tempfile import TemporaryDirectory

    from synthgen.bench.compare import compare, export_cost, table
    from synthgen.pipeline.check import check

    loaded = load(spec, [*overrides, f"count={images}"])
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    with TemporaryDirectory(prefix="synthgen-bench-") as folder:
        check(loaded, Path(folder))
        found = compare(loaded, Path(folder))
        cost = export_cost(annotations, Path(folder) / "records")
    console().print(table(found))
    middle, least, most = found.spread
    print(f"whole run / bare loop: {found.ratio:.3f} ({found.whole:.1f} s / {sum(found.bare.values()):.1f} s)")
    print(f"shard by shard, in turns: median {middle:.3f}, from {least:.3f} to {most:.3f} ({len(found.pairs)} shards)")
    print(f"outside the shards (plan, judge, export, report): {found.rest:.1f} s")
    print(f"start of Prefect, not counted above: {found.start:.1f} s")
    print(f"export of {cost.annotations:,} annotations: {cost.seconds:.1f} s, {cost.peak_mb:.0f} MB at most")


def models(
    spec: Annotated[
        Path | None,
        typer.Argument(
            help="Show the models that this YAML spec needs.",
            metavar="[SPEC]",
            show_default=False,
            parser=path,
            autocompletion=completion.specs,
        ),
    ] = None,
    download: Annotated[
        str | None,
        typer.Option(
            help="Download this model: a Hugging Face id, or vit_b, vit_l, vit_h; or all that a YAML spec needs.",
            metavar="MODEL",
            show_default=False,
            autocompletion=completion.models,
        ),
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option(help="The branch, tag or commit to download.", metavar="NAME", show_default=False),
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(help="The variant of the weights, such as fp16.", metavar="NAME", show_default=False),
    ] = None,
    file: Annotated[
        list[str],
        typer.Option(help="Download this file of the model only. Repeat it for more.", metavar="FILE"),
    ] = [],  # noqa: B006
    online: Annotated[
        bool, typer.Option("--online", help="Ask the hub for sizes, licences and access.", metavar="")
    ] = False,
) -> None:
    """List the known models, or those that a spec needs, and whether they are on this machine; or download them.

    Without --download and --online it contacts nobody. No other command downloads a model. A download fetches the files
    that are read, and goes on where an earlier one has ended.
    """
    from synthgen.backends import Source

    if download and Path(download).suffix in {".yaml", ".yml"}:
        if revision or variant or file:
            raise RunError("--revision, --variant and --file belong to a model; a spec says its own")
        _download_needs(path(download))
    elif download:
        _download(Source(download, revision, variant, files=tuple(file)))
    elif spec:
        _show_needs(spec, online)
    else:
        _show_known()


def _download(source: Source) -> None:
    from synthgen.cli.needs import showing_progress
    from synthgen.models.download import download_model

    with showing_progress(f"fetching {source.model}") as report:
        place = download_model(source, report)
    print(f"{source.model}: {place}")


def _download_needs(spec: Path) -> None:
    """Downloads what a spec needs and is not here. What cannot be loaded even then is an error, after the others."""
    from synthgen.cli.needs import needs_of

    loaded = load(spec, [])
    for source in dict.fromkeys(need.source for need in needs_of(loaded) if need.is_fetchable and need.source):
        _download(source)
    if problems := [f"{need.stage}: {need.lack}" for need in needs_of(loaded) if need.lack]:
        raise RunError("\n".join(problems))
    print(f"{spec}: all its models are here")


def _show_needs(spec: Path, online: bool) -> None:
    import shlex

    from synthgen.cli.needs import needs_of, table_of

    needs = needs_of(load(spec, []))
    console().print(table_of(needs, online=online))
    for need in needs:
        if need.lack and not need.is_fetchable:
            print(f"{need.stage}: {need.lack}")
    if not online and any(need.is_unknown for need in needs):
        print(f"ask the hub for what is not known here with: synthgen models {shlex.quote(str(spec))} --online")
    if any(need.is_fetchable for need in needs):
        print(f"fetch what is missing with: synthgen models --download {shlex.quote(str(spec))}")


def _show_known() -> None:
    from rich.table import Table

    from synthgen.models import KNOWN, ModelMissing, find_model

    table = Table(box=None)
    for column in ("model", "GB", "licence", "access", "here"):
        table.add_column(column, overflow="fold")
    table.add_row("mini", "0.06", "Apache-2.0", "", "embedded")
    for name, known in KNOWN.items():
        try:
            here = str(find_model(name, "diffusion"))
        except ModelMissing:
            here = "no"
        table.add_row(name, f"{known.gigabytes:g}", known.licence, "gated" if known.gated else "open", here)
    console().print(table)


def schema() -> None:
    """Print the JSON Schema of specs, for editors to complete and check them by."""
    import json

    from synthgen.spec.schema import json_schema

    print(json.dumps(json_schema(), indent=2, ensure_ascii=False))
