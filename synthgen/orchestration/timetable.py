"""When a schedule fires. The times are those of Prefect's own scheduler."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from prefect.schedules import Schedule
from prefect.server.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.utilities.asyncutils import run_coro_as_sync

from synthgen.errors import Problem, SpecError

MAX_TIMES = 1000  # that Prefect's scheduler gives at once
# A firing that starts later than this, and after the time of the next one, is not made up for. To start one takes some
# seconds, so the firings of a quick schedule always start after the time of the next one.
GRACE = datetime.timedelta(minutes=5)


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def in_utc(at: datetime.datetime) -> datetime.datetime:
    """The same time as a plain `datetime` in UTC: Prefect's times are of a class of its own."""
    return datetime.datetime.fromtimestamp(at.timestamp(), datetime.UTC)


@dataclass(frozen=True, slots=True)
class Timetable:
    """When a schedule fires: by a cron line, or every `interval` seconds from `anchor` (ISO 8601) on.

    Raises:
        SpecError: the values are no timetable; names the command's options.
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
            # Of six fields, the seconds come last in croniter and first in Quartz.
            if self.cron is not None and len(self.cron.split()) != 5:
                raise ValueError
            if not self.after(now(), 1):
                raise ValueError
        except ValueError as error:
            got = f"got {self.cron!r}; takes minute, hour, day, month and weekday, such as '0 2 * * *'"
            raise SpecError([Problem("--cron", got)]) from error

    @classmethod
    def every(cls, interval: float, timezone: str, earlier: Timetable | None) -> Timetable:
        """A timetable of an interval in seconds. It goes on with the times of `earlier` if that has the same interval
        and time zone."""
        if earlier and (earlier.interval, earlier.timezone) == (interval, timezone):
            return earlier
        return cls(timezone, interval=interval, anchor=now().replace(microsecond=0).isoformat())

    @property
    def schedule(self) -> Schedule:
        """As a deployment takes it."""
        if self.interval is None or self.anchor is None:
            return Schedule(cron=self.cron, timezone=self.timezone)
        anchor = datetime.datetime.fromisoformat(self.anchor)
        return Schedule(interval=datetime.timedelta(seconds=self.interval), anchor_date=anchor, timezone=self.timezone)

    def _of_server(self) -> CronSchedule | IntervalSchedule:
        """As Prefect's scheduler takes it."""
        if self.cron is not None:
            return CronSchedule(cron=self.cron, timezone=self.timezone)
        schedule = self.schedule
        assert schedule.interval
        return IntervalSchedule(interval=schedule.interval, anchor_date=schedule.anchor_date, timezone=self.timezone)

    def after(self, start: datetime.datetime, count: int) -> list[datetime.datetime]:
        """The next times after `start`, in UTC."""
        # Prefect's times include the start.
        times = run_coro_as_sync(self._of_server().get_dates(n=count + 1, start=start)) or []
        return [t for t in map(in_utc, times) if t > start][:count]

    def between(self, start: datetime.datetime, end: datetime.datetime) -> list[datetime.datetime]:
        """The times after `start` and before `end`, in UTC. If there are more than `MAX_TIMES`, about as many, from the
        first on."""
        times = run_coro_as_sync(self._of_server().get_dates(start=start, end=end)) or []
        return [t for t in map(in_utc, times) if start < t < end]

    def is_too_late(self, due: datetime.datetime, at: datetime.datetime) -> bool:
        """Whether `at` is too late for a firing that was due: the next one is due too, and `GRACE` is over."""
        return at - due > GRACE and self.after(due, 1)[0] <= at

    def local(self, at: datetime.datetime) -> str:
        """A time as the clock of the time zone shows it."""
        return f"{at.astimezone(ZoneInfo(self.timezone)):%Y-%m-%d %H:%M:%S %Z}"

    def __str__(self) -> str:
        return f"cron {self.cron} in {self.timezone}" if self.cron else f"every {self.interval:g} s"
