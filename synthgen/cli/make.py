"""Commands that make a dataset."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from synthgen.cli import completion
from synthgen.cli.arguments import Mixed, Number, Out, Overrides, ProfileFile, Quiet, RunFolder, Spec, path
from synthgen.cli.inputs import load, note, note_modules, reopen
from synthgen.cli.results import console, merge, print_remarks, print_result, print_shard
from synthgen.errors import RunError, SynthgenError

if TYPE_CHECKING:
    from synthgen.pipeline.request import BuildRequest


def new(name: Annotated[str, typer.Argument(help="The name of the dataset.", metavar="NAME")]) -> None:
    """Write NAME.yaml, a commented spec to start from.

    The spec works as it is, with the embedded models. An existing file is not overwritten.
    """
    import synthgen.spec
    from synthgen.base.safe_yaml import load_yaml

    template = Path(synthgen.spec.__file__).with_name("template.yaml").read_text(encoding="utf-8")
    synthgen.spec.DatasetSpec.parse({**load_yaml(template), "name": name})
    # YAML does not read `yes` and `7` as text, so such names need quotes.
    template = template.replace("NAME", name if load_yaml(name) == name else f'"{name}"', 1)
    try:
        with open(f"{name}.yaml", "x", encoding="utf-8") as file:
            file.write(template)
    except FileExistsError as error:
        raise RunError(f"{name}.yaml exists already; take another name") from error
    print(f"wrote {name}.yaml; next: synthgen check {name}.yaml")


def check(
    specs: Annotated[
        list[Path],
        typer.Argument(
            help="YAML specs.", metavar="SPEC...", show_default=False, parser=path, autocompletion=completion.specs
        ),
    ],
    out: Out = Path("outputs"),
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Find everything wrong with specs before anything is made.

    Prints every problem with its field, the value it has and the values it takes, and the licence of each model. Loads
    no model. Exits with 2 if a spec has problems.
    """
    from synthgen.pipeline.check import advice
    from synthgen.pipeline.check import check as check_spec
    from synthgen.pipeline.licences import licence_lines, used_models

    worst = 0
    for file in specs:
        try:
            spec = load(file, overrides)
            stages = check_spec(spec, out)
            for note in advice(spec, stages):
                print(f"{file}: note: {note}", file=sys.stderr)
            for line in licence_lines(used_models(stages.leaves())):
                print(f"{file}: licence: {line}")
            print(f"{file}: good ({spec.count} images of {len(spec.classes)} classes)")
        except SynthgenError as error:
            worst = error.exit_code
            for line in str(error).splitlines():
                print(f"{file}: error: {line}", file=sys.stderr)
    raise typer.Exit(worst)


def plan(spec: Spec, out: Out = Path("outputs"), run: Number = 1, overrides: Overrides = []) -> None:  # noqa: B006
    """Show what a run would make, and make nothing.

    Prints the images per class, slot and split, some prompts, the disk space, and the time if an earlier run tells
    the speed.
    """
    from synthgen.cli.preview import preview
    from synthgen.judging.summary import quotas
    from synthgen.pipeline.request import BuildRequest

    request = BuildRequest(spec, out, run, tuple(overrides))
    note_modules(request.spec)
    for part in preview(request.spec, request.stages, request.run):
        console().print(part)
    if request.spec.quotas:
        print(quotas(request.spec))


def run(
    spec: Spec,
    out: Out = Path("outputs"),
    number: Number = 1,
    overrides: Overrides = [],  # noqa: B006
    quiet: Quiet = False,
    allow_mixed: Mixed = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop if memory is short, instead of making smaller batches.", metavar="")
    ] = False,
    profile: ProfileFile = None,
) -> None:
    """Make, label, filter and export a dataset, or resume a run.

    Whatever stopped the last run, the same command goes on from there: finished work is not made again. Makes further
    rounds of images while some are missing and the budget allows. Exits with 3 if images are missing at the end.
    """
    from synthgen.pipeline.build import Build
    from synthgen.pipeline.check import advice
    from synthgen.pipeline.request import BuildRequest

    request = BuildRequest(spec, out, number, tuple(overrides), allow_mixed, strict, profile)
    note_modules(request.spec)
    request.check()
    for problem in advice(request.spec, request.stages):
        note(problem)
    folder = request.run
    if folder.is_mirror or folder.paths.spec.is_file():  # A store that refuses must say so before models are loaded.
        with folder.lock():
            build = Build.start(folder, request.spec, request.stages)
            quality = build.quality() if build.is_complete() else None
        if quality:
            merge(build)
            print_result(build, quality, quiet, "nothing to do")
            return
    _build(request, quiet)
    build = Build.open(folder)
    quality = build.quality()
    assert quality is not None
    print_remarks(build)
    print_result(build, quality, quiet, "done")


def _build(request: BuildRequest, quiet: bool) -> None:
    """Runs the flow, and shows its progress unless it has to be quiet."""
    from contextlib import nullcontext

    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")  # The display shows what a person needs.
    from synthgen.cli.display import watching

    screen = console()
    is_drawn = screen.is_terminal and not quiet
    with screen.status("starting Prefect") if is_drawn else nullcontext():
        from synthgen.flow import build_here
    with nullcontext() if quiet else watching(request.run, screen):
        build_here(request)


def label(run: RunFolder, overrides: Overrides = [], quiet: Quiet = False, allow_mixed: Mixed = False) -> None:  # noqa: B006
    """Label the images of a run again, then judge and export them.

    Labels only the shards that have no labels by the run's spec, such as after another grounder is set. The images
    stay.
    """
    from synthgen.pipeline.relabel import relabel
    from synthgen.report.page import write
    from synthgen.store.run import Run

    folder = Run.existing(run)
    with folder.lock():
        build = reopen(folder, overrides)
        quality = relabel(build, allow_mixed, None if quiet else print_shard)
        write(build)
    print_remarks(build)
    merge(build)
    print_result(build, quality, quiet, "done")
