"""Commands that decide what is good enough."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from synthgen.base.interrupts import Interrupted
from synthgen.cli.arguments import Overrides, Quiet, RunFolder, Spec, path
from synthgen.cli.inputs import load, note_modules, reopen
from synthgen.cli.results import console, merge, print_result, print_shard
from synthgen.errors import RunError

if TYPE_CHECKING:
    from synthgen.review.edits import Edits


def judge(run: RunFolder, overrides: Overrides = [], quiet: Quiet = False) -> None:  # noqa: B006
    """Apply the filters of a run again, then export.

    Takes up other thresholds (`--set filters.NAME.min=…`) and the verdicts of reviews. Images and labels stay.
    """
    from synthgen.pipeline.relabel import relabel
    from synthgen.report.page import write
    from synthgen.store.run import Run

    folder = Run.existing(run)
    with folder.lock():
        build = reopen(folder, overrides)
        stale = [s for s in build.run.marks.shards() if not build.is_done("label", s)]
        if stale:
            raise RunError(f"{len(stale)} shards have no labels by this spec; label them first: synthgen label {run}")
        quality = relabel(build, on_shard=None if quiet else print_shard)
        write(build)
    merge(build)
    print_result(build, quality, quiet, "done")


def review(
    run: RunFolder,
    queue: Annotated[
        Literal["random", "borderline"],
        typer.Option(help="random: labels drawn by chance, for label precision. borderline: images near a threshold."),
    ] = "random",
    count: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="The most items to show. Default: as many as precision within 5 % takes, or all borderline images.",
            metavar="N",
        ),
    ] = None,
    port: Annotated[
        int,
        typer.Option(
            min=0, max=65535, help="The port of the page, on this machine only. 0 takes a free one.", metavar="PORT"
        ),
    ] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.", metavar="")] = True,
    file: Annotated[
        Path | None,
        typer.Option(
            "--import",
            help="Take what annotators changed, from a file of CVAT (for images 1.1), Label Studio (JSON) or COCO, "
            "instead of opening the page.",
            metavar="FILE",
            show_default=False,
            parser=path,
        ),
    ] = None,
    missing: Annotated[
        Literal["delete", "keep"],
        typer.Option(help="With --import: whether labels that are missing in the file are deleted or kept."),
    ] = "delete",
    by: Annotated[
        str, typer.Option(help="Who decides. With --import: where the file does not say it.", metavar="NAME")
    ] = "",
    undo: Annotated[bool, typer.Option("--undo", help="Take the last import back.", metavar="")] = False,
) -> None:
    """Accept, reject and correct labels: in the browser, or by a file of an annotation tool.

    Verdicts are kept in the run folder. `synthgen judge` applies them. An import is taken whole or not at all. With
    --import, RUN may also be a grown dataset, such as outputs/fruit/dataset.
    """
    from synthgen.pipeline.build import Build
    from synthgen.store.run import Run

    if file and undo:
        raise RunError("--undo takes the last import back, and --import makes one; give one of them")
    if file and (run / "dataset.json").is_file():
        from synthgen.review.imports import import_grown

        for member, edits in import_grown(run, file, by, missing):
            print(f"run {member.run.number}")
            _print_edits(edits, member.run.root)
        return
    build = Build.open(Run.existing(run))
    note_modules(build.spec)
    judge_it = f"apply them with: synthgen judge {run}"
    if file:
        from synthgen.review.imports import import_file

        _print_edits(import_file(build, file, by, missing), run)
    elif undo:
        from synthgen.review.imports import take_back

        taken = take_back(build)
        print(f"the last import is taken back, with {taken} verdicts; {judge_it}")
    else:
        from synthgen.review.server import serve

        made = serve(build, queue, count, port, browser, by)
        print(f"{made} verdicts made; {judge_it}" if made else "no verdicts made")


def _print_edits(edits: Edits, run: Path) -> None:
    for line in edits.lines():
        print(line)
    print(f"apply them with: synthgen judge {run}" if edits.reviews else "nothing new to take")


def calibrate(
    spec: Spec,
    overrides: Overrides = [],  # noqa: B006
    count: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="The images to compose, or the most to read.", metavar="N")
    ] = 500,
    precision: Annotated[
        float,
        typer.Option(min=0.5, max=1, help="The share of good ones among what a threshold keeps.", metavar="SHARE"),
    ] = 0.95,
    share: Annotated[
        float,
        typer.Option("--faults", min=0, max=1, help="The share of images that get a fault.", metavar="SHARE"),
    ] = 0.5,
    seed: Annotated[int, typer.Option(min=0, help="Another seed takes other scenes and faults.", metavar="N")] = 0,
    truth: Annotated[
        Path | None,
        typer.Option(
            help="A COCO file with labels of your images. Default: composed scenes.",
            metavar="FILE",
            show_default=False,
            parser=path,
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="The folder of the images in --truth.", metavar="DIR", show_default=False, parser=path),
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option(help="Write all numbers to this file.", metavar="FILE", show_default=False, parser=path),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Measure how well the filters of a spec catch faults.

    Takes images whose labels are known to be right, plants faults into some labels, and shows which faults each filter
    finds and which threshold to take.
    """
    from synthgen.calibration import calibrate as calibration
    from synthgen.calibration import faults, findings, truths
    from synthgen.errors import Problem, SpecError

    if (truth is None) != (images is None):
        given, other = ("--truth", "--images") if truth else ("--images", "--truth")
        raise SpecError([Problem(given, f"needs {other} beside it: a COCO file and the folder of its images")])
    if json and json.is_dir():
        raise SpecError([Problem("--json", f"{str(json)!r} is a folder; takes a file")])
    loaded, screen = load(spec, overrides), console()
    stages = calibration.checked_stages(loaded)
    known = truths.from_coco(loaded, truth, images, count) if truth and images else truths.composed(loaded, count, seed)
    if known.left_out and not quiet:
        screen.print(
            f"classes left out, because no image has them: {', '.join(known.left_out)}", highlight=False, markup=False
        )
    if known.unusable and not quiet:
        screen.print(truths.objects_left_out(known.unusable), highlight=False, markup=False, soft_wrap=True)
    planted = faults.plant(loaded, stages.segmenter, known, share, seed)
    if not quiet:
        planted = findings.with_progress(planted, known.count, screen)
    try:
        result = calibration.calibrate(stages.filters, planted, precision)
    except KeyboardInterrupt as stop:
        raise Interrupted("stopped; an unfinished calibration keeps nothing") from stop
    if not quiet:
        width = None if screen.is_terminal else max(screen.width, findings.WIDTH)
        for part in findings.tables(result):
            screen.print(part, highlight=False, width=width)
    if json:
        asked = {"spec": str(spec), "truth": str(truth) if truth else None, "seed": seed, "left_out": known.unusable}
        findings.write(json, {**asked, **findings.as_data(result)})
        if not quiet:
            print(f"wrote {json}")
    screen.print(f"done: {findings.headline(result)}", highlight=False, soft_wrap=True)
