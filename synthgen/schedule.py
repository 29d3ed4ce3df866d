"""Datasets made by the clock: a Prefect deployment whose every firing makes the next run."""

from __future__ import annotations

import datetime
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Literal, cast

# Before anything of Prefect, whose settings it puts right.
from synthgen.flow import flow_of, served  # isort: skip

import prefect
from prefect import State, flow, get_client, get_run_logger
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.context import FlowRunContext
from prefect.deployments.runner import RunnerDeployment
from prefect.events import emit_event
from prefect.runner import Runner
from prefect.settings import PREFECT_API_URL
from prefect.states import Completed
from prefect.types.entrypoint import EntrypointType

from synthgen.dataset.history import begun_in, drop, history, is_finished, runs_of
from synthgen.errors import RunError, SpecError, SynthgenError
from synthgen.judging.quality import Quality
from synthgen.judging.summary import headline
from synthgen.orchestration.connection import answers, check_api
from synthgen.orchestration.timetable import MOST, Log, Timetable, in_utc, now
from synthgen.pipeline.build import Build
from synthgen.pipeline.fingerprints import made_from
from synthgen.pipeline.request import BuildRequest
from synthgen.pipeline.stages import Stages
from synthgen.spec import DatasetSpec
from synthgen.store.mirror import address, runs_in_store
from synthgen.store.paths import run_name
from synthgen.store.run import Run

Overlap = Literal["skip", "wait"]

POLL_SECONDS = 5.0


def number_of_next(folder: Path, spec: DatasetSpec) -> int:
    """The run that a firing makes: the last one, if that is not finished and of this spec's images, else the next."""
    runs = runs_of(folder)
    free = runs[-1].number + 1 if runs else 1
    while Run(folder / run_name(free)).is_another:  # the copy of a run, which is not touched
        free += 1
    if not runs:
        return free
    last = runs[-1]
    try:
        if is_finished(Build.read(last.root)):
            return free
    except (RunError, SpecError):
        pass  # its spec is damaged, and the run writes it anew
    facts = last.facts.read()
    models = Stages.of(spec).models(facts.get("models", {}))
    other = bool(facts) and facts["made_from"] != made_from(spec, models)
    return free if other else last.number


def at_work(folder: Path) -> str:
    """Who is at work in the last run, and in which; "" for nobody."""
    stored = [run for run in map(Run, runs_in_store(folder)) if run.named_number is not None]
    runs = [*begun_in(folder), *stored]
    if not runs:
        return ""
    last = max(runs, key=lambda run: run.number)
    holder = last.holder()
    return f"run {last.number} ({holder})" if holder else ""


@flow(name="next-run", flow_run_name="next-run-of-{spec}", validate_parameters=False)
def build_next(
    spec: Path,
    out: str | Path = Path("outputs"),
    overrides: Sequence[str] = (),
    overlap: Overlap = "skip",
    profile: Path | None = None,
) -> State[Any]:
    """One firing: makes the next run of a dataset, or goes on with the last one where that is not finished.

    Args:
        spec, out, overrides, profile: as `build_dataset` takes them.
        overlap: what becomes of a firing while the last run is going.

    Returns:
        Completed; with the name Skipped (the last run was going), Missed (too late to be made up for) or Short (images
        or instances are missing) where one fits.

    Raises:
        SynthgenError: the run cannot be made.
    """
    request = BuildRequest(Path(spec), out, overrides=tuple(overrides), profile_file=Path(profile) if profile else None)
    name, folder, log = request.spec.name, request.folder / request.spec.name, get_run_logger()
    _ = request.profile  # Its problems are told even if this firing is skipped.
    book, (due, timetable) = Log(folder), _asked_for()
    if timetable:
        missed = book.account(timetable, due)
        if missed:
            log.warning(tell(name, timetable, missed))
            announce("synthgen.firings.missed", name, {"times": [t.isoformat() for t in missed]})
        busy = book.was_at_work(due)
        if missed is None or (timetable.is_past(due, now()) and not busy):
            book.note(due, outcome="missed")
            return Completed(name="Missed", message=f"{timetable.shown(due)} is past, and is not made up for")
        if busy and overlap == "skip":
            book.note(due, outcome="skipped")
            return Completed(name="Skipped", message=f"another run was going at {timetable.shown(due)}")
    while True:
        if other := at_work(folder):
            if overlap == "skip":
                book.note(due, outcome="skipped", why=other)
                return Completed(name="Skipped", message=f"{other} is still going")
            time.sleep(POLL_SECONDS)
            continue
        number = number_of_next(folder, request.spec)
        book.note(due, run=number, started=now().isoformat())
        try:
            numbered = request.numbered(number)
            quality = Quality.read(flow_of(numbered)(**numbered.parameters()))
        except RunError:
            if at_work(folder):
                continue  # another was quicker
            book.note(due, outcome="failed", ended=now().isoformat())
            raise
        except BaseException:
            book.note(due, outcome="failed", ended=now().isoformat())
            raise
        break
    book.note(due, outcome="made", ended=now().isoformat())
    if behind := drop([p for p in history(folder) if p.number <= number]):
        log.warning(behind)
        announce("synthgen.run.fell-behind", name, {"message": behind})
    return Completed(name="Short" if quality.is_short else None, message=f"run {number}: {headline(quality)}")


def _asked_for() -> tuple[datetime.datetime, Timetable | None]:
    """When this flow run should start, and the timetable that says so; None for one that a person started, or one of a
    deployment with several schedules."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None or run.deployment_id is None or not run.auto_scheduled or run.expected_start_time is None:
        return now(), None
    with get_client(sync_client=True) as client:
        schedules = [s.schedule for s in client.read_deployment(run.deployment_id).schedules]
    due = in_utc(run.expected_start_time)
    match schedules:
        case [CronSchedule() as by]:
            return due, Timetable(by.timezone or "UTC", cron=by.cron)
        case [IntervalSchedule() as by]:
            anchor = in_utc(by.anchor_date).isoformat()
            return due, Timetable(by.timezone or "UTC", interval=by.interval.total_seconds(), anchor=anchor)
    return due, None


def announce(event: str, name: str, payload: Mapping[str, Any]) -> None:
    """An event that Prefect's automations can act on."""
    resource = {"prefect.resource.id": f"synthgen.dataset.{name}", "prefect.resource.name": name}
    emit_event(event, resource=resource, payload=dict(payload))


def tell(name: str, timetable: Timetable, missed: Sequence[datetime.datetime]) -> str:
    """What was missed, in a line."""
    first, last = timetable.shown(missed[0]), timetable.shown(missed[-1])
    if len(missed) == 1:
        return f"{name}: a firing was missed, {first}; nothing was made then"
    if len(missed) >= MOST - 1:
        return f"{name}: {MOST:,} firings and more were missed, from {first} on; nothing was made then"
    return f"{name}: {len(missed)} firings were missed, {first} to {last}; nothing was made then"


def serve(request: BuildRequest, timetable: Timetable, overlap: Overlap) -> None:
    """Serves a spec's schedule until it is stopped: on the Prefect server that is configured, else on an embedded one.
    Waits for a server that goes away, or starts another.

    Raises:
        SynthgenError: the spec cannot be run.
    """
    name, _, profile = request.spec.name, request.stages, request.profile_file
    _ = request.profile
    book = Log(request.folder / name)
    earlier = book.timetable
    if missed := book.account(timetable, now()):
        print(tell(name, earlier or timetable, missed), file=sys.stderr)
    soon = ", ".join(map(timetable.shown, timetable.after(now(), 3)))
    print(f"{name}: {timetable}; next {soon}; Ctrl-C ends it", flush=True)
    parameters = {
        "spec": str(request.spec_file.resolve()), "out": address(request.folder),
        "overrides": list(request.overrides), "overlap": overlap,
        "profile": str(profile.resolve()) if profile else None,
    }  # fmt: skip
    while not _serve_once(name, timetable, parameters):
        while PREFECT_API_URL.value() and not answers():
            time.sleep(POLL_SECONDS)


def _serve_once(name: str, timetable: Timetable, parameters: Mapping[str, Any]) -> bool:
    """-> whether it was stopped; False: its server has gone."""
    with served(services=True):
        check_api()
        try:
            deployment = build_next.to_deployment(
                name, schedule=timetable.schedule, parameters=dict(parameters), paused=False,
                entrypoint_type=EntrypointType.MODULE_PATH,
            )  # fmt: skip
            # One that is to wait stays on the server until there is room for it; one that is skipped says so itself,
            # one at a time: each is a process, and where they start more slowly than they come there would be no end.
            limit = 1 if parameters["overlap"] == "wait" else 2
            with ended_by_ctrl_c():
                prefect.serve(cast(RunnerDeployment, deployment), limit=limit, print_starting_message=False)
        except SynthgenError:
            raise
        except Exception:
            if answers():
                raise
            print(f"{name}: Prefect's server at {PREFECT_API_URL.value()} does not answer", file=sys.stderr, flush=True)
            return False
    return True


@contextmanager
def ended_by_ctrl_c() -> Iterator[None]:
    """In it, Ctrl-C ends Prefect's runner as SIGTERM does. By itself, as asyncio has it, it cancels the task that
    serves; where a firing comes to its end just then, that has been seen to be lost, and the schedule to go on."""

    def end(number: int, frame: FrameType | None) -> None:
        handler = signal.getsignal(signal.SIGTERM)
        if not isinstance(getattr(handler, "__self__", None), Runner):  # it has not begun
            raise KeyboardInterrupt
        cast(Callable[[int, FrameType | None], None], handler)(number, frame)

    before = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
