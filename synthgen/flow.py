"""The Prefect flow that builds a dataset, and its thin tasks. `synthgen run` is this flow.

Tasks take a run and integers and return counts. A run brings its lock along if this process holds it, so a task stops
if another process has taken over the folder. Workers get the address of the run folder instead, and hold no lock. The
store says what is done, never Prefect.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, chdir, contextmanager, suppress
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import Any

from synthgen.orchestration.user_profile import has_server, prefect_home

# Prefect reads its settings when it is imported. They hold if they name a server of the user's. Otherwise Prefect keeps
# its files in our cache folder, and it is imported in a folder without settings files, which the user's may have.
os.environ.setdefault("DO_NOT_TRACK", "1")
with ExitStack() as _elsewhere:
    if not has_server():
        os.environ["PREFECT_HOME"] = str(prefect_home())
        _elsewhere.enter_context(chdir("/"))
    import prefect.context  # noqa: F401

from prefect import Flow, flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.settings import PREFECT_API_URL

from synthgen.base.background import WriteBehind
from synthgen.base.interrupts import raise_if_stopped, stoppable
from synthgen.dataset.growth import grow
from synthgen.errors import SynthgenError
from synthgen.judging.quality import Quality
from synthgen.judging.summary import markdown
from synthgen.orchestration.connection import on_server
from synthgen.orchestration.server import embedded_server
from synthgen.orchestration.settings import without_proxy
from synthgen.pipeline.build import Build
from synthgen.pipeline.export import export_run
from synthgen.pipeline.generate import generate_shard
from synthgen.pipeline.judge import judge_run
from synthgen.pipeline.label import label_shard
from synthgen.pipeline.measure import measure_shard
from synthgen.pipeline.plan import add_round, plan_shards
from synthgen.pipeline.request import BuildRequest
from synthgen.pipeline.stages import Stages
from synthgen.report.page import write
from synthgen.spec import DatasetSpec
from synthgen.store.location import local_run_folder
from synthgen.store.run import Run


@task(name="generate", task_run_name="generate-{shard}", cache_policy=NO_CACHE)
def generate(run: Run, shard: int, allow_mixed: bool, strict: bool) -> Mapping[str, int]:
    return generate_shard(Build.open(run), shard, allow_mixed, strict)


@task(name="label", task_run_name="label-{shard}", cache_policy=NO_CACHE)
def label(run: Run, shard: int, allow_mixed: bool) -> Mapping[str, int]:
    return label_shard(Build.open(run), shard, allow_mixed)


@task(name="measure", task_run_name="measure-{shard}", cache_policy=NO_CACHE)
def measure(run: Run, shard: int) -> Mapping[str, int]:
    return measure_shard(Build.open(run), shard)


@task(name="shards", task_run_name="shards-{shards[0]}-and-on", cache_policy=NO_CACHE)
def make_on_worker(run: str, shards: Sequence[int], allow_mixed: bool, strict: bool) -> int:
    """Makes some shards on one worker. `run`: the address of the run folder, a path or a URL."""
    folder = Run(local_run_folder(run))
    folder.sync(shards)
    return make(folder, shards, allow_mixed, strict)


def make(run: Run, shards: Sequence[int], allow_mixed: bool, strict: bool) -> int:
    """Generates, labels and measures shards. Measures a shard while the models make the next one."""
    with WriteBehind(1) as behind:
        for shard in shards:
            generate(run, shard, allow_mixed, strict)
            label(run, shard, allow_mixed)
            behind.submit(measure, run, shard)
    return len(shards)


def hand_out(request: BuildRequest, run: Run, shards: Sequence[int]) -> None:
    """Gives shards to workers, some at a time as the profile says, and waits for all.

    Raises:
        SynthgenError: the error of the first that failed.
        Interrupted: a signal came. It stops the workers as a kill does, which costs each a batch.
    """
    profile = request.profile
    lots = [shards[i : i + profile.shards_at_once] for i in range(0, len(shards), profile.shards_at_once)]
    with profile.options():
        futures = [make_on_worker.submit(run.address, lot, request.allow_mixed, request.strict) for lot in lots]
    for future in futures:
        while not future.state.is_final():
            raise_if_stopped()
            future.wait(1)
        future.result()
        run.sync(files=False, drop=False)  # The display reads the marks. Other workers still write here.
    run.sync()


@task(name="judge", cache_policy=NO_CACHE)
def judge(run: Run) -> dict[str, int]:
    quality = judge_run(Build.open(run))
    return {"made": quality.made, "accepted": quality.accepted, "rejected": quality.rejected}


@task(name="export", cache_policy=NO_CACHE)
def export(run: Run) -> dict[str, int]:
    return {name: mark.counts["files"] for name, mark in export_run(Build.open(run)).items()}


@task(name="report", cache_policy=NO_CACHE)
def report(run: Run) -> str:
    return str(write(Build.open(run)))


@task(name="merge", cache_policy=NO_CACHE)
def merge(run: Run) -> int:
    return grow(Build.open(run)).images


@flow(name="build-dataset", flow_run_name="{spec}-run-{run}", validate_parameters=False)
def build_dataset(
    spec: Path,
    out: str | Path = Path("outputs"),
    run: int = 1,
    overrides: tuple[str, ...] = (),
    allow_mixed: bool = False,
    strict: bool = False,
    profile: Path | None = None,
) -> dict[str, Any]:
    """Makes, labels, filters, exports and reports a dataset, or resumes the run if it was stopped.

    Args:
        spec: the YAML file.
        out: the folder of run folders, or its URL in an object store.
        run: the number of the run. Each number makes other images.
        overrides: `key.path=value`, as for `synthgen run --set`.
        allow_mixed: whether shards made on another kind of machine may be joined.
        strict: whether to stop if memory is short, instead of making smaller batches.
        profile: a YAML file that says where the run is computed, see `Profile`. None: in this process. The caller sets
            the flow's task runner (`Profile.task_runner`), as `build_here` does.

    Returns:
        The first numbers of `quality.json`.

    Raises:
        SynthgenError: the spec cannot be run, or the folder cannot be used.
    """
    file = Path(profile) if profile else None
    return _build(BuildRequest(Path(spec), out, run, tuple(overrides), allow_mixed, strict, file))


def _build(request: BuildRequest) -> dict[str, Any]:
    profile = request.profile  # Its problems are told before anything is made.

    def make_shards(run: Run, pending: Sequence[int]) -> None:
        if profile.runner == "local":
            make(run, pending, request.allow_mixed, request.strict)
        else:
            hand_out(request, run, pending)

    return asdict(carry_out(request.run, request.spec, request.stages, make_shards))


def carry_out(
    run: Run, spec: DatasetSpec, stages: Stages, make_shards: Callable[[Run, Sequence[int]], object]
) -> Quality:
    """Does all work of a run.

    Args:
        stages: the backends of the spec, which have been checked.
        make_shards: generates, labels and measures the shards that a round has left to do.

    Raises:
        SynthgenError: the folder cannot be used, or a stage fails.
    """
    with run.lock(), stoppable():
        build = Build.start(run, spec, stages)
        while True:
            plan_shards(build)
            make_shards(run, build.pending())
            judge(run)
            if not add_round(build):
                break
        export(run)
        report(run)
        quality = build.quality()
    assert quality is not None
    if spec.grow:  # The lock must be free: a run that is being made is no part of the merged dataset.
        merge(run)
    publish(quality)
    return quality


def flow_of(request: BuildRequest) -> Flow[..., dict[str, Any]]:
    """`build_dataset` for a request that may have been read already, with the task runner of its profile. Call it with
    `request.parameters()`, which Prefect records.

    Raises:
        SpecError: the profile has problems.
    """

    @wraps(build_dataset.fn)  # Prefect takes the names of parameters from it.
    def build(**parameters: Any) -> dict[str, Any]:
        return _build(request)

    return Flow(
        build,
        name=build_dataset.name,
        flow_run_name=build_dataset.flow_run_name,
        validate_parameters=False,
        task_runner=request.profile.task_runner(),
    )


def build_here(request: BuildRequest) -> dict[str, Any]:
    """`build_dataset`, now and in this process: on the Prefect server that is configured, else on an embedded one.
    `on_server` says what happens if the server is lost.

    Raises:
        SynthgenError: as `build_dataset`, or the server does not answer.
    """
    spec, flow = request.spec, flow_of(request)

    def finished() -> dict[str, Any] | None:
        with suppress(SynthgenError):  # The folder does not exist yet, or holds another spec.
            build = Build.open(request.run)
            quality = build.quality()
            if quality and build.spec == spec and build.is_complete():
                return asdict(quality)
        return None

    with served() as is_embedded:
        return on_server(lambda: flow(**request.parameters()), finished, is_embedded)


@contextmanager
def served(services: bool = False) -> Iterator[bool]:
    """In its block, flows run on the Prefect server that is configured, else on an embedded one. Yields whether it is
    embedded.

    Args:
        services: whether an embedded server also looks after schedules and automations.

    Raises:
        ServerError: an embedded server could not be started.
    """
    with ExitStack() as stack:
        is_embedded = not PREFECT_API_URL.value()
        stack.enter_context(without_proxy(is_embedded))
        if is_embedded:
            stack.enter_context(embedded_server(services))
        yield is_embedded


def publish(quality: Quality) -> None:
    """Publishes the numbers of the run as Prefect artifacts: the yield as a table, the summary as text."""
    key = quality.name.lower().replace("_", "-")
    rows = [{"reason": name, "images": r.images, "alone": r.alone} for name, r in quality.reasons.items()]
    rows = [{"reason": "accepted", "images": quality.accepted, "alone": ""}, *rows]
    create_table_artifact(table=rows, key=f"{key}-yield", description=f"{quality.name}: images by what became of them")
    create_markdown_artifact(markdown(quality), key=f"{key}-summary", description=f"{quality.name}: summary")
