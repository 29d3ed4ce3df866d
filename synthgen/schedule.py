"""Schedules: a Prefect deployment that makes the next run of a dataset with every firing."""

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

# This import comes before those of Prefect, because it prepares Prefect's settings.
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
from synthgen.orchestration.firings import FiringLog
from synthgen.orchestration.timetable import MAX_TIMES, Timetable, in_utc, now
from synthgen.pipeline.build import Build
from synthgen.pipeline.fingerprints import made_from
from synthgen.pipeline.request import BuildRequest
from synthgen.pipeline.stages import Stages
from synthgen.spec import DatasetSpec
from synthgen.store.location import address, runs_in_store
from synthgen.store.paths import run_name
from synthgen.store.run import Run

Overlap = Literal["skip", "wait"]

POLL_SECONDS = 5.0


def number_of_next(folder: Path, spec: DatasetSpec) -> int:
    """The number of the run that a firing makes: the last run if it is unfinished and has images of this spec, else the
    next one."""
    runs = runs_of(folder)
    free = runs[-1].number + 1 if runs else 1
    while Run(folder / run_name(free)).is_another:  # It is a copy of another run.
        free += 1
    if not runs:
        return free
    last = runs[-1]
    try:
        if is_finished(Build.read(last)):
            return free
    except (RunError, SpecError):
        pass  # Its spec is damaged. The run writes it again.
    facts = last.facts.read()
    models = Stages.of(spec).models(facts.get("models", {}))
    other = bool(facts) and facts["made_from"] != made_from(spec, models)
    return free if other else last.number


def at_work(folder: Path) -> str:
    """The last run and who is at work in it, such as `run 3 (pid 7 on host)`. "" for nobody."""
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
    """One firing: makes the next run of a dataset, or resumes the last one if it is not finished.

    Args:
        spec, out, overrides, profile: as `build_dataset` takes them.
        overlap: what a firing does while the last run is going: skip, or wait for its end.

    Returns:
        Completed. Its name is Skipped if the last run was going, Missed if the firing is too late to be made up for,
        and Short if images or instances are missing.

    Raises:
        SynthgenError: the run cannot be made.
    """
    request = BuildRequest(Path(spec), out, overrides=tuple(overrides), profile_file=Path(profile) if profile else None)
    name, folder, log = request.spec.name, request.folder / request.spec.name, get_run_logger()
    _ = request.profile  # Its problems are told even if this firing is skipped.
    firings, (due, timetable) = FiringLog(folder), _due()
    if timetable:
        missed = firings.account(timetable, due)
        if missed:
            log.warning(missed_line(name, timetable, missed))
            emit("synthgen.firings.missed", name, {"times": [t.isoformat() for t in missed]})
        busy = firings.was_busy(due)
        if missed is None or (timetable.is_too_late(due, now()) and not busy):
            firings.record(due, outcome="missed")
            return Completed(name="Missed", message=f"{timetable.local(due)} is past, and is not made up for")
        if busy and overlap == "skip":
            firings.record(due, outcome="skipped")
            return Completed(name="Skipped", message=f"another run was going at {timetable.local(due)}")
    while True:
        if other := at_work(folder):
            if overlap == "skip":
                firings.record(due, outcome="skipped", why=other)
                return Completed(name="Skipped", message=f"{other} is still going")
            time.sleep(POLL_SECONDS)
            continue
        number = number_of_next(folder, request.spec)
        firings.record(due, run=number, started=now().isoformat())
        try:
            numbered = request.numbered(number)
            quality = Quality.read(flow_of(numbered)(**numbered.parameters()))
        except RunError:
            if at_work(folder):
                continue  # Another process has started the run.
            firings.record(due, outcome="failed", ended=now().isoformat())
            raise
        except BaseException:
            firings.record(due, outcome="failed", ended=now().isoformat())
            raise
        break
    firings.record(due, outcome="made", ended=now().isoformat())
    if behind := drop([p for p in history(folder) if p.number <= number]):
        log.warning(behind)
        emit("synthgen.run.fell-behind", name, {"message": behind})
    return Completed(name="Short" if quality.is_short else None, message=f"run {number}: {headline(quality)}")


def _due() -> tuple[datetime.datetime, Timetable | None]:
    """When this flow run was due, and by which timetable. The timetable is None if a person started the run, or if its
    deployment has several schedules."""
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


def emit(event: str, name: str, payload: Mapping[str, Any]) -> None:
    """Emits an event that Prefect's automations can act on."""
    resource = {"prefect.resource.id": f"synthgen.dataset.{name}", "prefect.resource.name": name}
    emit_event(event, resource=resource, payload=dict(payload))


def missed_line(name: str, timetable: Timetable, missed: Sequence[datetime.datetime]) -> str:
    """The firings that were missed, in a line."""
    first, last = timetable.local(missed[0]), timetable.local(missed[-1])
    if len(missed) == 1:
        return f"{name}: a firing was missed, {first}; nothing was made then"
    if len(missed) >= MAX_TIMES - 1:
        return f"{name}: {MAX_TIMES:,} firings and more were missed, from {first} on; nothing was made then"
    return f"{name}: {len(missed)} firings were missed, {first} to {last}; nothing was made then"


def serve(request: BuildRequest, timetable: Timetable, overlap: Overlap) -> None:
    """Serves a spec's schedule until it is stopped: on the Prefect server that is configured, else on an embedded one.
    Waits for a server that goes away, or starts another.

    Raises:
        SynthgenError: the spec cannot be run.
    """
    request.check()
    name, profile = request.spec.name, request.profile_file
    firings = FiringLog(request.folder / name)
    earlier = firings.timetable
    if missed := firings.account(timetable, now()):
        print(missed_line(name, earlier or timetable, missed), file=sys.stderr)
    soon = ", ".join(map(timetable.local, timetable.after(now(), 3)))
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
    """Serves a schedule until it is stopped. Returns False if the server has gone away instead."""
    with served(services=True):
        check_api()
        try:
            deployment = build_next.to_deployment(
                name, schedule=timetable.schedule, parameters=dict(parameters), paused=False,
                entrypoint_type=EntrypointType.MODULE_PATH,
            )  # fmt: skip
            # A firing that waits stays on the server until the runner has room. A firing that is skipped needs a
            # process to record it. One such process at a time is enough: more would pile up on a quick schedule.
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
    """In its block, Ctrl-C ends Prefect's runner as SIGTERM does. asyncio's own handler cancels the task that serves.
    If a firing ends just then, the cancellation gets lost, and the schedule goes on."""

    def end(number: int, frame: FrameType | None) -> None:
        handler = signal.getsignal(signal.SIGTERM)
        if not isinstance(getattr(handler, "__self__", None), Runner):  # The runner has not begun.
            raise KeyboardInterrupt
        cast(Callable[[int, FrameType | None], None], handler)(number, frame)

    before = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
