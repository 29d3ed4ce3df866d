"""Commands that hand a dataset on."""

from __future__ import annotations

from synthgen.cli.arguments import Overrides, Quiet, RunFolder
from synthgen.cli.inputs import reopen
from synthgen.errors import RunError


def export(run: RunFolder, overrides: Overrides = [], quiet: Quiet = False) -> None:  # noqa: B006
    """Write the exports of a run again, with other options if some are set.

    Writes only the exports whose options or labels have changed.
    """
    from synthgen.pipeline.export import export_run
    from synthgen.store.run import Run

    folder = Run.existing(run)
    with folder.lock():
        build = reopen(folder, overrides)
        if not build.is_done("judge"):
            raise RunError(f"{run} has not been judged by this spec yet; judge it first: synthgen judge {run}")
        written = export_run(build)
    if not quiet:
        for name, files in written.items():
            print(f"{name}: {files} files in {build.run.paths.export(name)}")
