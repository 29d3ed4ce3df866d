"""The Prefect flow that builds a dataset, and its thin tasks. `synthgen run` is this flow.

Tasks take paths and integers and give counts; what is done is the store's to say, never the orchestrator's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, chdir, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from synthgen.orchestration.user_profile import has_server, own_home

# Prefect reads its settings when it is imported. Where they name a server of the user's, they hold. Else Prefect keeps
# its files in our cache folder, and is imported in a folder that has no files of settings, as the user's may have.
os.environ.setdefault("DO_NOT_TRACK", "1")
with ExitStack() as _elsewhere:
    if not has_server():
        os.environ["PREFECT_HOME"] = str(own_home())
        _elsewhere.enter_context(chdir("/"))
    import prefect.context  # noqa: F401

from prefect import Flow, flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.settings import PREFECT_API_URL

from synthgen.base.interrupts import checkpoint, stoppable
from synthgen.base.overlap import Behind
from synthgen.dataset.growth import grow
from synthgen.errors import SynthgenError
from synthgen.judging.quality import Quality
from synthgen.judging.summary import markdown
from synthgen.orchestration.profile import Profile, load_profile
from synthgen.orchestration.server import embedded_server, on_server, without_proxy
from synthgen.pipeline.build import Build
from synthgen.pipeline.stages import check
from synthgen.report.page import write
from synthgen.spec import DatasetSpec, load_spec
from synthgen.store.mirror import place, run_place
from synthgen.store.run import Run


@task(name="generate", task_run_name="generate-{shard}", cache_policy=NO_CACHE)
def generate(run: Path, shard: int, allow_mixed: bool, strict: bool) -> Mapping[str, int]:
    return Build.open(run).generate(shard, allow_mixed, strict)


@task(name="label", task_run_name="label-{shard}", cache_policy=NO_CACHE)
def label(run: Path, shard: int, allow_mixed: bool) -> Mapping[str, int]:
    return Build.open(run).label(shard, allow_mixed)


@task(name="measure", task_run_name="measure-{shard}", cache_policy=NO_CACHE)
def measure(run: Path, shard: int) -> Mapping[str, int]:
    return Build.open(run).measure(shard)


@task(name="shards", task_run_name="shards-{shards[0]}-and-on", cache_policy=NO_CACHE)
def work(run: str, shards: Sequence[int], allow_mixed: bool, strict: bool) -> int:
    """A lot of shards, for one worker; `run`: the folder's address."""
    folder = Run(run_place(run))
    folder.take_up(shards)
    return make(folder.root, shards, allow_mixed, strict)


def make(run: Path, shards: Sequence[int], allow_mixed: bool, strict: bool) -> int:
    """Makes, labels and measures shards; while models make the next one, the last one's measures are taken."""
    with Behind(1) as behind:
        for shard in shards:
            generate(run, shard, allow_mixed, strict)
            label(run, shard, allow_mixed)
            behind.do(measure, run, shard)
    return len(shards)


def hand_out(profile: Profile, run: Run, shards: Sequence[int], allow_mixed: bool, strict: bool) -> None:
    """Gives shards to workers, lot by lot, and waits for all.

    Raises:
        SynthgenError: what the first of them that failed has raised.
        Interrupted: a signal came. What workers are at is as good as killed, which costs a batch of each.
    """
    lots = [shards[i : i + profile.shards_at_once] for i in range(0, len(shards), profile.shards_at_once)]
    with profile.options():
        waiting = [work.submit(run.address, lot, allow_mixed, strict) for lot in lots]
    for future in waiting:
        while not future.state.is_final():
            checkpoint()
            future.wait(1)
        future.result()
        run.take_up(files=False, drop=False)  # for the display: others are at work still
    run.take_up()


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


@task(name="merge", cache_policy=NO_CACHE)
def merge(run: Path) -> int:
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
    """Makes, labels, filters, exports and reports a dataset, and goes on where an earlier run of the same was stopped.

    Args:
        spec: the YAML file.
        out: folder of run folders, or its URL in an object store.
        run: number of the run; another number makes other images.
        overrides: `key.path=value`, as for `synthgen run --set`.
        allow_mixed: whether shards made on another kind of machine may be joined.
        strict: whether to stop, instead of making smaller batches, where memory is short.
        profile: a YAML file that says where it is computed, see `Profile`; None: in this process. The flow's task
            runner is the caller's to set (`Profile.task_runner`), as `build_here` does.

    Returns:
        The first numbers of `quality.json`.

    Raises:
        SynthgenError: the spec cannot be run, or the folder cannot be used.
    """
    loaded, where = load_spec(Path(spec), overrides), load_profile(Path(profile)) if profile else Profile()

    def shards(folder: Run, pending: Sequence[int]) -> None:
        if where.runner == "local":
            make(folder.root, pending, allow_mixed, strict)
        else:
            hand_out(where, folder, pending, allow_mixed, strict)

    return asdict(carry_out(loaded, place(out), run, shards))


def carry_out(spec: DatasetSpec, out: Path, number: int, shards: Callable[[Run, Sequence[int]], object]) -> Quality:
    """All that a flow does for a run in `out`; `shards` has those made that a round has left to do.

    Raises:
        SynthgenError: the spec cannot be run, or the folder cannot be used.
    """
    stages = check(spec, out)
    folder = Run.at(out, spec.name, number)
    with folder.lock(), stoppable():
        build = Build.start(folder, spec, stages)
        while True:
            build.plan()
            shards(folder, build.pending())
            judge(folder.root)
            if not build.extend():
                break
        export(folder.root)
        report(folder.root)
        quality = build.quality()
    assert quality is not None
    if spec.grow:  # not before the lock is let go: a run that is being made is no part of the whole
        merge(folder.root)
    publish(quality)
    return quality


def computed(profile: Path | None) -> Flow[..., dict[str, Any]]:
    """`build_dataset`, computed where a profile says.

    Raises:
        SynthgenError: the profile cannot be read.
    """
    return build_dataset.with_options(task_runner=load_profile(profile).task_runner() if profile else None)


def build_here(
    spec: Path,
    out: str | Path = Path("outputs"),
    run: int = 1,
    overrides: Sequence[str] = (),
    allow_mixed: bool = False,
    strict: bool = False,
    profile: Path | None = None,
) -> dict[str, Any]:
    """`build_dataset`, now and in this process: on the Prefect server that is configured, else on one of our own. See
    `on_server` for what becomes of it if the server is lost."""
    loaded, out, flow = load_spec(Path(spec), overrides), place(out), computed(profile)

    def finished() -> dict[str, Any] | None:
        with suppress(SynthgenError):  # there is no such folder yet, or not with this spec
            build = Build.open(Run.at(out, loaded.name, run).root)
            quality = build.quality()
            if quality and build.spec == loaded and build.is_complete():
                return asdict(quality)
        return None

    with served() as is_own:
        return on_server(lambda: flow(spec, out, run, tuple(overrides), allow_mixed, strict, profile), finished, is_own)


@contextmanager
def served(services: bool = False) -> Iterator[bool]:
    """In it, flows run on the Prefect server that is configured, else on one of our own; -> whether it is our own.
    `services`: see `embedded_server`."""
    with ExitStack() as stack:
        is_own = not PREFECT_API_URL.value()
        stack.enter_context(without_proxy(is_own))
        if is_own:
            stack.enter_context(embedded_server(services))
        yield is_own


def publish(quality: Quality) -> None:
    """Shows the run's numbers in Prefect: the yield as a table, the summary as text."""
    key = quality.name.lower().replace("_", "-")
    rows = [{"reason": name, "images": r.images, "alone": r.alone} for name, r in quality.reasons.items()]
    rows = [{"reason": "accepted", "images": quality.accepted, "alone": ""}, *rows]
    create_table_artifact(table=rows, key=f"{key}-yield", description=f"{quality.name}: images by what became of them")
    create_markdown_artifact(markdown(quality), key=f"{key}-summary", description=f"{quality.name}: summary")
