"""When a schedule fires, and what came of its firings: the times are those of Prefect's own scheduler.

`schedule.json`, beside the run folders, remembers both, so that a machine that was off, or a server that was down, is
noticed.
"""

from __future__ import annotations

import datetime
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, NotRequired
from zoneinfo import ZoneInfo

from prefect.schedules import Schedule
from prefect.server.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.utilities.asyncutils import run_coro_as_sync
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict  # as in `forms`

from synthgen.base.files import formed, read_sealed, write_sealed
from synthgen.errors import Problem, SpecError

FIRINGS = 500  # that are remembered
MOST = 1000  # times that Prefect's scheduler gives at once
# A firing that starts later than this, and after the time of the next, is not made up for. Starting one takes some
# seconds, so that those of a quick schedule always start after the next one's time.
LATE = datetime.timedelta(minutes=5)


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def in_utc(at: datetime.datetime) -> datetime.datetime:
    """A plain one: Prefect's are of a class of its own."""
    return datetime.datetime.fromtimestamp(at.timestamp(), datetime.UTC)


def _at(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)


@dataclass(frozen=True, slots=True)
class Timetable:
    """When a schedule fires: by a cron line, or every `interval` seconds from `anchor` (ISO 8601) on.

    Raises:
        SpecError: it is none; names the command's options.
    """

    timezone: str
    cron: str | None = None
    interval: float | None = None
    anchor: str | None = None

    def __post_init__(self) -> None:
        try:
            ZoneInfo(self.timezone)
        except (ValueError, OSError, LookupError) as error:
            got = f"got {self.timezone!r}; takes a name of the IANA time zone database, such as Europe/Berlin"
            raise SpecError([Problem("--timezone", got)]) from error
        if (self.cron is None) == (self.interval is None):
            raise SpecError([Problem("--cron", "give it or --interval, one of the two")])
        try:
            if self.cron is not None and len(self.cron.split()) != 5:
                raise ValueError  # croniter takes six for seconds at the end, and Quartz has them at the beginning
            if next(iter(self.after(now(), 1)), None) is None:
                raise ValueError
        except ValueError as error:
            got = f"got {self.cron!r}; takes minute, hour, day, month and weekday, such as '0 2 * * *'"
            raise SpecError([Problem("--cron", got)]) from error

    def is_past(self, due: datetime.datetime, at: datetime.datetime) -> bool:
        """Whether it is too late at `at` for a firing that was due: the next one is due, too."""
        return at - due > LATE and self.after(due, 1)[0] <= at

    @classmethod
    def every(cls, interval: float, timezone: str, earlier: Timetable | None) -> Timetable:
        """`earlier`: the one before it, whose times go on if it has the same interval."""
        if earlier and (earlier.interval, earlier.timezone) == (interval, timezone):
            return earlier
        return cls(timezone, interval=interval, anchor=now().replace(microsecond=0).isoformat())

    def _of_server(self) -> CronSchedule | IntervalSchedule:
        """What Prefect's scheduler reckons with."""
        if self.cron is not None:
            return CronSchedule(cron=self.cron, timezone=self.timezone)
        s = self.schedule
        assert s.interval
        return IntervalSchedule(interval=s.interval, anchor_date=s.anchor_date, timezone=self.timezone)

    @property
    def schedule(self) -> Schedule:
        """As a deployment takes it."""
        if self.interval is None or self.anchor is None:
            return Schedule(cron=self.cron, timezone=self.timezone)
        anchor = _at(self.anchor)
        return Schedule(interval=datetime.timedelta(seconds=self.interval), anchor_date=anchor, timezone=self.timezone)

    def after(self, start: datetime.datetime, count: int) -> list[datetime.datetime]:
        """The next times after `start`, in UTC."""
        # Prefect's include the start.
        found = run_coro_as_sync(self._of_server().get_dates(n=count + 1, start=start)) or []
        return [t for t in map(in_utc, found) if t > start][:count]

    def between(self, start: datetime.datetime, end: datetime.datetime) -> list[datetime.datetime]:
        """Times after `start` and before `end`, in UTC; of more than `MOST`, about as many, the first."""
        found = run_coro_as_sync(self._of_server().get_dates(start=start, end=end)) or []
        return [t for t in map(in_utc, found) if start < t < end]

    def shown(self, at: datetime.datetime) -> str:
        return f"{at.astimezone(ZoneInfo(self.timezone)):%Y-%m-%d %H:%M:%S %Z}"

    def __str__(self) -> str:
        return f"cron {self.cron} in {self.timezone}" if self.cron else f"every {self.interval:g} s"


def _recorded(raw: _Timetable | None) -> Timetable | None:
    """A timetable of the log; None for one that is refused now, such as a cron line of six fields."""
    try:
        return Timetable(**raw) if raw else None
    except SpecError:
        return None


def _is_time(text: str) -> str:
    if _at(text).tzinfo is None:
        raise ValueError("takes a time with its offset")
    return text


_Time = Annotated[str, AfterValidator(_is_time)]


class _Timetable(TypedDict):
    timezone: str
    cron: str | None
    interval: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)] | None
    anchor: _Time | None


@with_config(ConfigDict(extra="allow"))
class _Firing(TypedDict):
    time: _Time
    ended: NotRequired[_Time]


class _Log(TypedDict):
    timetable: _Timetable | None
    until: _Time | None
    firings: list[_Firing]


_LOG = TypeAdapter(_Log)


class Log:
    """`schedule.json` in a dataset's folder; of a dataset in an object store, in its mirror on this machine.

    timetable: as it was last; until: up to when its times are accounted for; firings: the last ones, each with its
    `time`, and what came of it: `run`, `started`, `ended`, `outcome` (made, skipped, missed, failed).
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / "schedule.json"

    def read(self) -> dict[str, Any]:
        found = formed(_LOG, read_sealed(self.file))
        return dict(found) if found else {"timetable": None, "until": None, "firings": []}

    @property
    def timetable(self) -> Timetable | None:
        return _recorded(self.read()["timetable"])

    @contextmanager
    def _change(self) -> Iterator[dict[str, Any]]:
        """What there is, to be changed in place while nobody else does; firings may overlap."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with open(self.file.with_name(".schedule.lock"), "a") as lock:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            raw = self.read()
            yield raw
            raw["firings"] = sorted(raw["firings"], key=lambda firing: firing["time"])[-FIRINGS:]
            write_sealed(self.file, raw)

    def account(self, timetable: Timetable, until: datetime.datetime) -> list[datetime.datetime] | None:
        """Puts on record that a timetable holds, and that all times up to `until` are accounted for; -> those before it
        that nobody has fired for, which are missed. None if `until` was accounted for already."""
        with self._change() as raw:
            missed: list[datetime.datetime] = []
            if raw["until"] is not None:
                since = _at(raw["until"])
                if until <= since:
                    return None
                before = _recorded(raw["timetable"])
                missed = before.between(since, until) if before else []
            raw["timetable"] = asdict(timetable)
            raw["until"] = until.isoformat()
            raw["firings"] += [{"time": t.isoformat(), "outcome": "missed"} for t in missed]
            return missed

    def note(self, due: datetime.datetime, **facts: Any) -> None:
        """Adds to what is known of a firing."""
        with self._change() as raw:
            key = due.isoformat()
            known = next((f for f in raw["firings"] if f["time"] == key), None)
            if known is None:
                raw["firings"].append(known := {"time": key})
            known.update(facts)

    def was_at_work(self, due: datetime.datetime) -> bool:
        """Whether another firing, which has come to its end since, was not at it yet when this one was due."""
        ended = [firing for firing in self.read()["firings"] if "ended" in firing]
        return any(_at(firing["time"]) < due < _at(firing["ended"]) for firing in ended)
