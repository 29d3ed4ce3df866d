"""The Prefect flow that builds a dataset, and its thin tasks. `synthgen run` is this flow.

Tasks take paths and integers and give counts; what is done is the store's to say, never the orchestrator's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from synthgen.models import cache_folder

# Before Prefect is imported, since it reads its settings then. With PREFECT_API_URL set, the user's own settings hold;
# without, Prefect keeps its files in our cache folder.
os.environ.setdefault("DO_NOT_TRACK", "1")
if "PREFECT_API_URL" not in os.environ:
    os.environ.setdefault("PREFECT_HOME", str(cache_folder() / "prefect"))
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)  # Prefect makes no parents

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.settings import PREFECT_API_URL, temporary_settings

from synthgen.interrupts import stoppable
from synthgen.pipeline import Build
from synthgen.report.page import write
from synthgen.server import embedded_server
from synthgen.spec import load_spec
from synthgen.stages import check
from synthgen.store import Run
from synthgen.summary import markdown
from synthgen.verdicts import Quality


@task(name="generate", task_run_name="generate-{shard}", cache_policy=NO_CACHE)
def generate(run: Path, shard: int, allow_mixed: bool, strict: bool) -> Mapping[str, int]:
    return Build.open(run).generate(shard, allow_mixed, strict)


@task(name="label", task_run_name="label-{shard}", cache_policy=NO_CACHE)
def label(run: Path, shard: int, allow_mixed: bool) -> Mapping[str, int]:
    return Build.open(run).label(shard, allow_mixed)


@task(name="measure", task_run_name="measure-{shard}", cache_policy=NO_CACHE)
def measure(run: Path, shard: int) -> Mapping[str, int]:
    return Build.open(run).measure(shard)


@task(name="judge", cache_policy=NO_CACHE)
def judge(run: Path) -> dict[str, int]:
    quality = Build.open(run).judge()
    return {"made": quality.made, "accepted": quality.accepted, "rejected": quality.rejected}


@task(name="export", cache_policy=NO_CACHE)
def export(run: Path) -> dict[str, int]:
    return Build.open(run).export()


@task(name="report", cache_policy=NO_CACHE)
def report(run: Path) -> str:
    return str(write(Build.open(run)))


@flow(name="build-dataset", flow_run_name="{spec}-run-{run}", validate_parameters=False)
def build_dataset(
    spec: Path,
    out: Path = Path("outputs"),
    run: int = 1,
    overrides: tuple[str, ...] = (),
    allow_mixed: bool = False,
    strict: bool = False,
) -> dict[str, Any]:
    """Makes, labels, filters, exports and reports a dataset, and goes on where an earlier run of the same was stopped.

    Args:
        spec: the YAML file.
        out: folder of run folders.
        run: number of the run; another number makes other images.
        overrides: `key.path=value`, as for `synthgen run --set`.
        allow_mixed: whether shards made on another kind of machine may be joined.
        strict: whether to stop, instead of making smaller batches, where memory is short.

    Returns:
        The first numbers of `quality.json`.

    Raises:
        SynthgenError: the spec cannot be run, or the folder cannot be used.
    """
    loaded = load_spec(Path(spec), overrides)
    stages = check(loaded, Path(out))
    folder = Run.at(Path(out), loaded.name, run)
    with folder.lock(), stoppable():
        build = Build.start(folder, loaded, stages)
        while True:
            build.plan()
            for shard in build.pending():
                generate(folder.root, shard, allow_mixed, strict)
                label(folder.root, shard, allow_mixed)
                measure(folder.root, shard)
            judge(folder.root)
            if not build.extend():
                break
        export(folder.root)
        report(folder.root)
        quality = build.quality()
    assert quality is not None
    publish(quality)
    return asdict(quality)


def build_here(
    spec: Path,
    out: Path = Path("outputs"),
    run: int = 1,
    overrides: Sequence[str] = (),
    allow_mixed: bool = False,
    strict: bool = False,
) -> dict[str, Any]:
    """`build_dataset`, now and in this process: on the Prefect server that is configured, else on one of our own."""
    with ExitStack() as stack:
        if not PREFECT_API_URL.value():
            url = stack.enter_context(embedded_server())
            stack.enter_context(temporary_settings({PREFECT_API_URL: url}))
        return build_dataset(spec, out, run, tuple(overrides), allow_mixed, strict)


def publish(quality: Quality) -> None:
    """Shows the run's numbers in Prefect: the yield as a table, the summary as text."""
    key = quality.name.lower().replace("_", "-")
    rows = [{"reason": name, "images": r.images, "alone": r.alone} for name, r in quality.reasons.items()]
    rows = [{"reason": "accepted", "images": quality.accepted, "alone": ""}, *rows]
    create_table_artifact(table=rows, key=f"{key}-yield", description=f"{quality.name}: images by what became of them")
    create_markdown_artifact(markdown(quality), key=f"{key}-summary", description=f"{quality.name}: summary")
