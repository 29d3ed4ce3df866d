"""The command line. Thin: every command reads its arguments, calls one thing, prints what came of it."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from synthgen.base.interrupts import Interrupted, ended_by_signals
from synthgen.errors import RunError, SynthgenError, of_system

if TYPE_CHECKING:
    from rich.console import Console

    from synthgen.judging.quality import Quality
    from synthgen.pipeline.build import Build
    from synthgen.spec import DatasetSpec

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A YAML dataset spec in; a labelled, filtered, trustworthy COCO dataset and a report out.",
    epilog="Errors are one line each; --debug, anywhere on the line, shows where they come from.",
)


def _path(value: str | Path) -> Path:
    from synthgen.base.files import at_home

    return at_home(value)


def _out(value: str | Path) -> Path:
    from synthgen.store.mirror import place

    return place(value)


def _run(value: str | Path) -> Path:
    from synthgen.store.mirror import run_place
    from synthgen.store.run import Run

    run = run_place(value)
    Run(run).look()
    return run


Spec = Annotated[
    Path, typer.Argument(help="The dataset's YAML spec.", metavar="SPEC", show_default=False, parser=_path)
]
RunFolder = Annotated[
    Path,
    typer.Argument(
        help="A run folder, such as outputs/quickstart/run-0001, or its URL.",
        metavar="RUN",
        show_default=False,
        parser=_run,
    ),
]
Out = Annotated[
    Path,
    typer.Option(
        "--out", help="Folder of run folders, or a URL such as s3://bucket/datasets.", metavar="DIR", parser=_out
    ),
]
ProfileFile = Annotated[
    Path | None,
    typer.Option("--profile", help="Where it is computed, such as on many workers.", metavar="FILE", parser=_path),
]
Number = Annotated[
    int, typer.Option("--run", min=1, max=99_999, help="Number of the run; another number makes other images.")
]
Overrides = Annotated[
    list[str],
    typer.Option(
        "--set",
        help="Change a key of the spec, such as filters.sharpness.min=60.",
        metavar="KEY.PATH=VALUE",
        show_default=False,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the result only.")]
Mixed = Annotated[bool, typer.Option("--allow-mixed", help="Join shards made on another kind of machine.")]


def main() -> None:
    """Runs the command line; errors for people become one line each, and their exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a terminal's encoding lacks is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    with ended_by_signals():
        _main()


def _main() -> None:
    debug = "--debug" in sys.argv
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    try:
        code = app(arguments, prog_name="synthgen", standalone_mode=False) or 0
        if code == Interrupted.exit_code:  # what typer makes of a KeyboardInterrupt
            raise KeyboardInterrupt
        sys.exit(code)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except SynthgenError as error:
        if debug:
            raise
        prefix = "" if isinstance(error, Interrupted) else "error: "
        for line in str(error).splitlines():
            _tell(f"{prefix}{line}")
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        _tell(str(Interrupted()))
        sys.exit(Interrupted.exit_code)
    except Exception as error:
        if debug:
            raise
        if isinstance(error, OSError) and (told := of_system(error)):
            _tell(f"error: {told}")
            sys.exit(told.exit_code)
        words = getattr(error, "format_message", None)  # wrong usage: click's errors, of which typer has its own copy
        if callable(words):
            if text := " ".join(words().split()):
                _tell(f"error: {text.rstrip('.')}; synthgen --help says what there is")
            sys.exit(2)
        text = " ".join(str(error).split())
        _tell(f"error: {type(error).__name__}: {text} (--debug shows where)")
        sys.exit(1)


def _tell(line: str) -> None:
    try:
        print(line, file=sys.stderr)
    except OSError:  # the terminal has been closed; Python would try again at the exit, and make that its exit code
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)


def _console() -> Console:
    from rich.console import Console

    return Console()


def _load(spec: Path, overrides: list[str]) -> DatasetSpec:
    from synthgen.spec import load_spec

    loaded = load_spec(spec, overrides)
    _say_imported(loaded)
    return loaded


def _say_imported(spec: DatasetSpec) -> None:
    from synthgen.pipeline.stages import own_modules

    for key, place in own_modules(spec).items():
        print(f"note: {key}: imported your module from {place}", file=sys.stderr)


@app.command()
def new(name: Annotated[str, typer.Argument(help="The dataset's name.")]) -> None:
    """Write NAME.yaml, a commented spec to start from."""
    from synthgen.base.reading import load_yaml
    from synthgen.spec import DatasetSpec

    template = (Path(__file__).parent.parent / "spec" / "template.yaml").read_text(encoding="utf-8")
    DatasetSpec.parse({**load_yaml(template), "name": name})
    # YAML reads `yes` and `7` as something else than text.
    template = template.replace("NAME", name if load_yaml(name) == name else f'"{name}"', 1)
    try:
        with open(f"{name}.yaml", "x", encoding="utf-8") as file:
            file.write(template)
    except FileExistsError as error:
        raise RunError(f"{name}.yaml exists already; take another name") from error
    print(f"wrote {name}.yaml; next: synthgen check {name}.yaml")


@app.command()
def check(
    specs: Annotated[
        list[Path], typer.Argument(help="YAML specs.", metavar="SPEC...", show_default=False, parser=_path)
    ],
    out: Out = Path("outputs"),
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Find everything wrong with specs, before anything is made."""
    from synthgen.pipeline import stages

    worst = 0
    for path in specs:
        try:
            spec = _load(path, overrides)
            for note in stages.advice(spec, stages.check(spec, out)):
                print(f"{path}: note: {note}", file=sys.stderr)
            print(f"{path}: good ({spec.count} images of {len(spec.classes)} classes)")
        except SynthgenError as error:
            worst = error.exit_code
            for line in str(error).splitlines():
                print(f"{path}: error: {line}", file=sys.stderr)
    raise typer.Exit(worst)


@app.command()
def plan(spec: Spec, out: Out = Path("outputs"), run: Number = 1, overrides: Overrides = []) -> None:  # noqa: B006
    """Show what a run would make; make nothing."""
    from synthgen.cli.preview import preview
    from synthgen.judging.summary import quotas
    from synthgen.pipeline import stages
    from synthgen.store.run import Run

    loaded = _load(spec, overrides)
    backends = stages.check(loaded, out)
    for part in preview(loaded, backends, Run.at(out, loaded.name, run)):
        _console().print(part)
    if loaded.quotas:
        print(quotas(loaded))


@app.command()
def run(
    spec: Spec,
    out: Out = Path("outputs"),
    number: Number = 1,
    overrides: Overrides = [],  # noqa: B006
    quiet: Quiet = False,
    allow_mixed: Mixed = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop where memory is short, instead of making smaller batches.")
    ] = False,
    profile: ProfileFile = None,
) -> None:
    """Make, label, filter and export a dataset; go on where an earlier run was stopped."""
    from contextlib import nullcontext

    from synthgen.orchestration.profile import load_profile
    from synthgen.pipeline import stages
    from synthgen.pipeline.build import Build
    from synthgen.store.run import Run

    loaded = _load(spec, overrides)
    backends = stages.check(loaded, out)
    for note in stages.advice(loaded, backends):
        print(f"note: {note}", file=sys.stderr)
    if profile:
        load_profile(profile)
    folder, console = Run.at(out, loaded.name, number), _console()
    if folder.is_mirror or folder.spec_file.is_file():  # a store that refuses shall say so before models are loaded
        with folder.lock():
            build = Build.start(folder, loaded, backends)
            quality = build.quality() if build.is_complete() else None
        if quality:
            _merge(build)
            _report(build, quality, console, quiet, "nothing to do")
            return
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")  # what a person needs is on the display
    from synthgen.cli.display import watching

    with nullcontext() if quiet else console.status("starting Prefect") if console.is_terminal else nullcontext():
        from synthgen.flow import build_here
    with nullcontext() if quiet else watching(folder, console):
        build_here(spec, out, number, overrides, allow_mixed, strict, profile)
    build = Build.open(folder.root)
    quality = build.quality()
    assert quality is not None
    _tell_remarks(build)
    _report(build, quality, console, quiet, "done")


def _tell_remarks(build: Build) -> None:
    for remark in build.remarks():
        print(f"note: {remark}", file=sys.stderr)


def _report(build: Build, quality: Quality, console: Console, quiet: bool, state: str) -> None:
    """Prints what came of a run; exits 3 if it is short."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table

    from synthgen.judging.summary import headline, shortfall, tables

    if not quiet:
        grid = Table.grid(padding=(0, 4))
        made = []
        for _, columns, rows in tables(quality):
            table = Table(box=None)
            for i, column in enumerate(columns):
                table.add_column(column, justify="right" if i else "left", no_wrap=True)
            for row in rows:
                table.add_row(*(escape(cell) for cell in row))
            made.append(table)
        grid.add_row(made[0], Group(*made[1:]))
        console.print(grid)
        for name in build.spec.exporters:
            console.print(f"{name}: {build.run.export_folder(name)}", highlight=False, soft_wrap=True)
        console.print(f"report: {build.run.report_file}", highlight=False, soft_wrap=True)
        if build.run.is_mirror:
            console.print(f"store: {build.run.address}", highlight=False, soft_wrap=True)
    console.print(f"{state}: {headline(quality)}", highlight=False, soft_wrap=True)
    for line in shortfall(quality, build.is_complete()):
        print(f"short: {line}", file=sys.stderr)
    if quality.is_short:
        raise typer.Exit(3)


def _reopen(run: Path, overrides: list[str]) -> Build:
    """A run folder, with keys of its spec changed."""
    from synthgen.pipeline.build import Build
    from synthgen.pipeline.stages import Stages
    from synthgen.spec import DatasetSpec, set_value
    from synthgen.store.run import Run

    folder = Run.existing(run)
    raw = folder.read_spec()
    for override in overrides:
        set_value(raw, override)
    spec = DatasetSpec.parse(raw)
    _say_imported(spec)
    return Build.start(folder, spec, Stages.of(spec))


@app.command()
def label(run: RunFolder, overrides: Overrides = [], quiet: Quiet = False, allow_mixed: Mixed = False) -> None:  # noqa: B006
    """Label the images of a run that have no labels by its spec; then judge and export."""
    from synthgen.store.run import Run

    with Run.existing(run).lock():
        build = _reopen(run, overrides)
        quality = _redo(build, quiet, allow_mixed)
    _tell_remarks(build)
    _merge(build)
    _report(build, quality, _console(), quiet, "done")


@app.command()
def judge(run: RunFolder, overrides: Overrides = [], quiet: Quiet = False) -> None:  # noqa: B006
    """Apply the filters of a run again, with other thresholds if some are set; then export."""
    from synthgen.store.run import Run

    with Run.existing(run).lock():
        build = _reopen(run, overrides)
        stale = [s for s in build.run.shards() if not build.is_done("label", s)]
        if stale:
            raise RunError(f"{len(stale)} shards have no labels by this spec; label them first: synthgen label {run}")
        quality = _redo(build, quiet, False)
    _merge(build)
    _report(build, quality, _console(), quiet, "done")


def _merge(build: Build) -> None:
    """Of a spec that asks for it: all finished runs into one dataset. Not before the run's lock is let go."""
    if build.spec.grow:
        from synthgen.dataset.growth import grow

        grow(build)


def _redo(build: Build, quiet: bool, allow_mixed: bool) -> Quality:
    """Every stage after the images, over the shards that have them."""
    from synthgen.pipeline.fingerprints import PER_SHARD

    made = [s for s in build.run.shards() if build.is_done("generate", s)]
    if len(made) < len(build.run.shards()):
        raise RunError(f"{len(build.run.shards()) - len(made)} shards have no images yet; run the spec to make them")
    for shard in made:
        if not quiet and not all(build.is_done(stage, shard) for stage in PER_SHARD):
            print(f"labelling and measuring shard {shard}")
        build.label(shard, allow_mixed)
        build.measure(shard)
    from synthgen.report.page import write

    quality = build.judge()
    build.export()
    write(build)
    return quality


@app.command()
def export(run: RunFolder, overrides: Overrides = [], quiet: Quiet = False) -> None:  # noqa: B006
    """Write the exports of a run again, with other options if some are set."""
    from synthgen.store.run import Run

    with Run.existing(run).lock():
        build = _reopen(run, overrides)
        if not build.is_done("judge"):
            raise RunError(f"{run} has not been judged by this spec yet; judge it first: synthgen judge {run}")
        written = build.export()
    if not quiet:
        for name, files in written.items():
            print(f"{name}: {files} files in {build.run.export_folder(name)}")


@app.command()
def bench(
    spec: Spec,
    images: Annotated[int, typer.Option(min=2, help="Made by the run, and as many by the bare loop.")] = 200,
    annotations: Annotated[int, typer.Option(min=1, help="Of the export that is timed.")] = 100_000,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Time a whole run against a bare loop over the same models, and an export; keep nothing."""
    from tempfile import TemporaryDirectory

    from synthgen.bench.compare import compare, export_cost, table
    from synthgen.pipeline import stages

    loaded = _load(spec, [*overrides, f"count={images}"])
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    with TemporaryDirectory(prefix="synthgen-bench-") as folder:
        stages.check(loaded, Path(folder))
        found = compare(loaded, Path(folder))
        cost = export_cost(annotations, Path(folder) / "records")
    _console().print(table(found))
    middle, least, most = found.spread
    print(f"whole run / bare loop: {found.ratio:.3f} ({found.whole:.1f} s / {sum(found.bare.values()):.1f} s)")
    print(f"shard by shard, in turns: median {middle:.3f}, from {least:.3f} to {most:.3f} ({len(found.pairs)} shards)")
    print(f"of the whole run, what is of no shard (plan, judge, export, report): {found.rest:.1f} s")
    print(f"Prefect's start, counted apart: {found.start:.1f} s")
    print(f"export of {cost.annotations:,} annotations: {cost.seconds:.1f} s, {cost.peak_mb:.0f} MB at most")


@app.command()
def status(run: RunFolder) -> None:
    """Say what of a run is done, and what is left."""
    from synthgen.judging.summary import headline
    from synthgen.pipeline.build import Build
    from synthgen.pipeline.fingerprints import PER_SHARD

    build = Build.read(run)
    shards = build.run.shards()
    holder = build.run.holder()
    print(f"{build.spec.name}, {len(shards)} shards planned" + (f"; {holder} is at work" if holder else ""))
    for stage in PER_SHARD:
        done = [s for s in shards if build.is_done(stage, s)]
        images = sum(mark.counts.get("images", 0) for s in done if (mark := build.run.mark(stage, s)))
        kept = sum(build.run.images_kept(s) for s in shards if s not in done) if stage == "generate" else 0
        more = f", and {kept} of shards begun" if kept else ""
        print(f"{stage}: {len(done)} of {len(shards)} shards, {images} images{more}")
    print(f"judge: {'done' if build.is_done('judge') else 'to be done'}")
    for name in build.spec.exporters:
        print(f"export {name}: {'done' if build.is_done('export', name) else 'to be done'}")
    print(f"report: {'done' if build.is_done('report') else 'to be done'}")
    if build.is_done("judge") and (quality := build.quality()):
        print(headline(quality))
    if not build.is_complete():
        print(f"the run is not complete; go on with: synthgen run SPEC (its spec is in {build.run.spec_file})")


@app.command()
def verify(run: RunFolder) -> None:
    """Check every checksum, mask and id of a run, its reviews and exports; the next run makes anew what is damaged.

    Exits 0 for a run that is whole, 3 for one that is not complete, 2 for one that is damaged.
    """
    from synthgen.base.wording import plain
    from synthgen.errors import SpecError
    from synthgen.pipeline.build import Build
    from synthgen.pipeline.verification import inspect, withdraw
    from synthgen.store.run import Run

    with Run.existing(run).reading() as locked:
        try:
            build = Build.read(run)
        except SpecError as error:
            if Run(run).spec_is_as_recorded():  # and of a version, or of modules, that this one does not read
                raise
            raise RunError(f"damaged: spec.yaml: {error}\nrun the spec again to write it anew") from error
        found = inspect(build)
        if locked:
            withdraw(build, found.damages)
    if build.run.is_another:
        other = f"holds the images of run {build.run.number}, as of a copy; runs and merges leave it out"
        print(f"note: {build.run.address} {other}", file=sys.stderr)
    for damage in found.damages:
        print(f"damaged: {damage}", file=sys.stderr)
    for name in found.stray:
        print(f"of no stage of this run: {plain(name, 300)}")
    for line in found.missing:
        print(f"to be done: {line}", file=sys.stderr)
    print(f"{found.files} files read, {len(found.damages)} damages" + (", and not complete" if found.missing else ""))
    if found.damages:
        print("run the spec again to make anew what is damaged", file=sys.stderr)
        raise typer.Exit(2)
    if found.missing:
        print("run the spec again to go on", file=sys.stderr)
        raise typer.Exit(3)


@app.command()
def report(run: RunFolder) -> None:
    """Write a run's report, with its dataset card, and say where it is."""
    from synthgen.pipeline.build import Build
    from synthgen.report.page import write
    from synthgen.store.run import Run

    with Run.existing(run).lock():
        build = Build.read(run)
        if not build.is_done("judge"):
            raise RunError(
                f"{run} has not been judged by its spec and reviews yet; judge it first: synthgen judge {run}"
            )
        print(write(build))


@app.command()
def review(
    run: RunFolder,
    queue: Annotated[
        Literal["random", "borderline"],
        typer.Option(help="random: labels, for label precision; borderline: images near a threshold."),
    ] = "random",
    count: Annotated[
        int | None, typer.Option(min=1, help="Items at most. Default: as many as give ± 5 %; all that are borderline.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page, on this machine only; 0: a free one.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = True,
) -> None:
    """Go through labels in the browser: accept, reject, wrong class, bad mask."""
    from synthgen.pipeline.build import Build
    from synthgen.review.server import serve

    build = Build.open(run)
    _say_imported(build.spec)
    made = serve(build, queue, count, port, browser)
    print(f"{made} verdicts made; apply them with: synthgen judge {run}" if made else "no verdicts made")


@app.command()
def show(
    run: RunFolder,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The .png, .jpg or .webp to write; default: sheet.png, or rejected.png, in the run folder.",
            metavar="FILE",
            parser=_path,
        ),
    ] = None,
    images: Annotated[int, typer.Option(min=1, max=1000, help="Tiles at most.")] = 48,
    columns: Annotated[int, typer.Option(min=1, max=32)] = 8,
    tile: Annotated[int, typer.Option(min=64, max=1024, help="px of a tile's side.")] = 224,
    rejected: Annotated[bool, typer.Option("--rejected", help="Show the rejected ones, with their reasons.")] = False,
) -> None:
    """Draw a contact sheet: images with masks, boxes and class names."""
    from synthgen.pipeline.build import Build
    from synthgen.report.show import draw

    build = Build.read(run)
    path = output or build.run.root / ("rejected.png" if rejected else "sheet.png")
    drawn = draw(build, path, images=images, columns=columns, tile_px=tile, rejected=rejected)
    print(f"{path}: {drawn} images")


@app.command()
def remake(
    run: RunFolder,
    image_id: Annotated[int, typer.Argument(help="The image's id, as in COCO.", metavar="ID")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the new image here, too.", metavar="FILE", parser=_path),
    ] = None,
) -> None:
    """Make an image's batch again and say whether its pixels are the same."""
    import numpy as np

    from synthgen.pipeline.build import Build

    build = Build.open(run)
    _say_imported(build.spec)
    old, now = build.remake(image_id)
    if output:
        from PIL import Image

        Image.fromarray(now).save(output)
    if np.array_equal(old, now):
        print(f"image {image_id}: the same, to the last bit")
        return
    apart = np.abs(old.astype(int) - now)
    print(
        f"image {image_id}: differs in {(apart > 0).any(2).mean():.2%} of its pixels, by {apart.max()} of 255 at most"
    )
    raise typer.Exit(3)


@app.command()
def calibrate(
    spec: Spec,
    overrides: Overrides = [],  # noqa: B006
    count: Annotated[int, typer.Option(min=1, max=1_000_000, help="Images to compose, or to read at most.")] = 500,
    precision: Annotated[
        float, typer.Option(min=0.5, max=1, help="Wanted share of good among what a threshold keeps.")
    ] = 0.95,
    share: Annotated[
        float, typer.Option("--faults", min=0, max=1, help="Share of well labelled images that get a fault.")
    ] = 0.5,
    seed: Annotated[int, typer.Option(min=0, help="Another seed composes other scenes, and plants other faults.")] = 0,
    truth: Annotated[
        Path | None,
        typer.Option(
            help="COCO file of images of yours; default: composed scenes.",
            metavar="FILE",
            show_default=False,
            parser=_path,
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="The folder of its images.", metavar="FOLDER", show_default=False, parser=_path),
    ] = None,
    json: Annotated[
        Path | None, typer.Option(help="Write all numbers here.", metavar="FILE", show_default=False, parser=_path)
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Plant faults into images with known truth; show how well the spec's filters catch them."""
    from synthgen.calibration import calibrate as calibration
    from synthgen.calibration import faults, findings, truths
    from synthgen.errors import Problem, SpecError

    if (truth is None) != (images is None):
        given, other = ("--truth", "--images") if truth else ("--images", "--truth")
        raise SpecError([Problem(given, f"needs {other} beside it: a COCO file and the folder of its images")])
    if json and json.is_dir():
        raise SpecError([Problem("--json", f"{str(json)!r} is a folder; takes a file")])
    loaded, console = _load(spec, overrides), _console()
    stages = calibration.prepared(loaded)
    known = truths.from_coco(loaded, truth, images, count) if truth and images else truths.composed(loaded, count, seed)
    if known.left_out and not quiet:
        console.print(f"left out, since none is there: {', '.join(known.left_out)}", highlight=False, markup=False)
    if known.unusable and not quiet:
        console.print(truths.objects_left_out(known.unusable), highlight=False, markup=False, soft_wrap=True)
    planted = faults.plant(loaded, stages.segmenter, known, share, seed)
    if not quiet:
        planted = findings.watched(planted, known.count, console)
    try:
        found = calibration.calibrate(stages.filters, planted, precision)
    except KeyboardInterrupt as stop:
        raise Interrupted("stopped; a calibration keeps nothing of what it has done") from stop
    if not quiet:
        width = None if console.is_terminal else max(console.width, findings.WIDTH)
        for part in findings.tables(found):
            console.print(part, highlight=False, width=width)
    if json:
        asked = {"spec": str(spec), "truth": str(truth) if truth else None, "seed": seed, "left_out": known.unusable}
        findings.write(json, {**asked, **findings.as_data(found)})
        if not quiet:
            print(f"wrote {json}")
    console.print(f"done: {findings.headline(found)}", highlight=False, soft_wrap=True)


@app.command()
def schema() -> None:
    """Print the JSON Schema of specs, for editors to complete and check by."""
    import json

    from synthgen.spec.schema import json_schema

    print(json.dumps(json_schema(), indent=2, ensure_ascii=False))


@app.command()
def models(
    download: Annotated[
        str | None, typer.Option(help="A model to fetch: a Hugging Face id, or vit_b, vit_l, vit_h.", metavar="MODEL")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
    variant: Annotated[str | None, typer.Option(help="Of the weights, such as fp16.")] = None,
) -> None:
    """List models by name, size and whether they are here; fetch one."""
    from rich.table import Table

    from synthgen.models import KNOWN, ModelMissing, find_model
    from synthgen.models.download import download_model

    if download:
        print(f"{download}: {download_model(download, revision, variant)}")
        return
    table = Table("model", "GB", "here", box=None)
    table.add_row("mini", "0.06", "embedded")
    for name, known in KNOWN.items():
        try:
            here = str(find_model(name, "diffusion"))
        except ModelMissing:
            here = "no"
        table.add_row(name, f"{known.gigabytes:g}", here)
    _console().print(table)


@app.command()
def runs(spec: Spec, out: Out = Path("outputs"), overrides: Overrides = []) -> None:  # noqa: B006
    """List the runs of a spec: state, yield, label precision, speed, and whether the last fell behind."""
    from synthgen.dataset import history

    name = _load(spec, overrides).name
    past = history.history(out / name)
    if not past:
        raise RunError(f"there are no runs in {out / name}; make one: synthgen run {spec}")
    console = _console()
    if not console.is_terminal:
        console.width = max(console.width, history.WIDTH)
    console.print(history.table(past))
    if behind := history.drop([p for p in past if p.state == "finished"]):
        print(f"fell behind: {behind}", file=sys.stderr)


@app.command()
def schedule(
    spec: Spec,
    cron: Annotated[
        str | None, typer.Option(help="When to fire, such as '0 2 * * *': every night at two.", metavar="LINE")
    ] = None,
    interval: Annotated[
        float | None, typer.Option(min=10, help="Or how often: seconds between firings.", metavar="SECONDS")
    ] = None,
    timezone: Annotated[
        str, typer.Option(help="Whose clock it goes by, such as Europe/Berlin; it follows its summer time.")
    ] = "UTC",
    overlap: Annotated[
        Literal["skip", "wait"], typer.Option(help="What a firing does while the last run is still going.")
    ] = "skip",
    out: Out = Path("outputs"),
    overrides: Overrides = [],  # noqa: B006
    profile: ProfileFile = None,
) -> None:
    """Make the next run of a spec whenever it is time, until stopped."""
    from synthgen import schedule
    from synthgen.orchestration.timetable import Log, Timetable

    name = _load(spec, overrides).name
    if interval is not None and cron is None:
        timetable = Timetable.every(interval, timezone, Log(out / name).timetable)
    else:
        timetable = Timetable(timezone, cron, interval)
    schedule.serve(spec, out, timetable, overlap, overrides, profile)
