"""What came of the firings of a schedule. `schedule.json` keeps it beside the run folders, so that `synthgen schedule`
notices when the machine was off or the server was down."""

from __future__ import annotations

import datetime
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict  # Pydantic takes no other before Python 3.12.

from synthgen.base.sealed import read_sealed, validated, write_sealed
from synthgen.errors import SpecError
from synthgen.orchestration.timetable import Timetable

MAX_FIRINGS = 500  # that are kept


def _time(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)


def _checked_time(text: str) -> str:
    if _time(text).tzinfo is None:
        raise ValueError("takes a time with its offset")
    return text


_Time = Annotated[str, AfterValidator(_checked_time)]


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


def _recorded(raw: _Timetable | None) -> Timetable | None:
    """A timetable of the log. None for one that is refused today, such as a cron line of six fields."""
    try:
        return Timetable(**raw) if raw else None
    except SpecError:
        return None


class FiringLog:
    """`schedule.json` in the folder of a dataset, or in the mirror of an object store on this machine.

    The file has `timetable`, the last one; `until`, the time up to which all firings are accounted for; and `firings`,
    the last ones, each with its `time` and what came of it: `run`, `started`, `ended` and `outcome`, which is made,
    skipped, missed or failed.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / "schedule.json"

    def read(self) -> dict[str, Any]:
        """The content of the file. An empty log if it is missing or damaged."""
        log = validated(_LOG, read_sealed(self.file))
        return dict(log) if log else {"timetable": None, "until": None, "firings": []}

    @property
    def timetable(self) -> Timetable | None:
        return _recorded(self.read()["timetable"])

    @contextmanager
    def _change(self) -> Iterator[dict[str, Any]]:
        """The content, for its block to change in place. Firings may overlap, so one process changes it at a time."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with open(self.file.with_name(".schedule.lock"), "a") as lock:
            with suppress(OSError):  # Some file systems have no locks.
                fcntl.flock(lock, fcntl.LOCK_EX)
            raw = self.read()
            yield raw
            raw["firings"] = sorted(raw["firings"], key=lambda firing: firing["time"])[-MAX_FIRINGS:]
            write_sealed(self.file, raw)

    def account(self, timetable: Timetable, until: datetime.datetime) -> list[datetime.datetime] | None:
        """Records a timetable, and that all firings up to `until` are accounted for.

        Returns:
            The times before `until` that nobody has fired for, which are missed; None if `until` was accounted for
            already.
        """
        with self._change() as raw:
            missed: list[datetime.datetime] = []
            if raw["until"] is not None:
                since = _time(raw["until"])
                if until <= since:
                    return None
                before = _recorded(raw["timetable"])
                missed = before.between(since, until) if before else []
            raw["timetable"] = asdict(timetable)
            raw["until"] = until.isoformat()
            raw["firings"] += [{"time": t.isoformat(), "outcome": "missed"} for t in missed]
            return missed

    def record(self, due: datetime.datetime, **facts: Any) -> None:
        """Adds facts to the firing that was due at a time."""
        with self._change() as raw:
            key = due.isoformat()
            known = next((f for f in raw["firings"] if f["time"] == key), None)
            if known is None:
                raw["firings"].append(known := {"time": key})
            known.update(facts)

    def was_busy(self, due: datetime.datetime) -> bool:
        """Whether an earlier firing was still going at a time. Counts only firings that have ended since: one that was
        killed has no end."""
        ended = [firing for firing in self.read()["firings"] if "ended" in firing]
        return any(_time(firing["time"]) < due < _time(firing["ended"]) for firing in ended)
