"""What came of firings, and which were missed."""

import errno
import fcntl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from synthgen import flow as _flow  # noqa: F401  # before Prefect: its settings
from synthgen.base.sealed import write_sealed
from synthgen.orchestration import firings
from synthgen.orchestration.firings import FiringLog
from synthgen.orchestration.timetable import Timetable


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


HOURLY = Timetable("UTC", "0 * * * *")


def test_times_that_nobody_fired_for_are_missed(tmp_path: Path) -> None:
    log = FiringLog(tmp_path / "fruit")
    assert log.timetable is None
    assert log.account(HOURLY, utc("2026-05-01 10:20")) == []  # it begins; nothing was due before
    assert log.account(HOURLY, utc("2026-05-01 11:00")) == []
    assert log.account(HOURLY, utc("2026-05-01 12:00")) == []
    # The server is down for three hours.
    assert log.account(HOURLY, utc("2026-05-01 16:00")) == [utc(f"2026-05-01 {h}:00") for h in (13, 14, 15)]
    assert log.account(HOURLY, utc("2026-05-01 17:00")) == []
    # The machine is off for the night, and `schedule` is started in the morning.
    assert len(log.account(HOURLY, utc("2026-05-02 07:30")) or []) == 14
    assert log.account(HOURLY, utc("2026-05-02 08:00")) == []
    assert log.timetable == HOURLY
    missed = [f["time"] for f in log.read()["firings"] if f["outcome"] == "missed"]
    assert len(missed) == 17 and missed == sorted(missed)


def test_a_firing_of_a_time_that_was_told_of_is_none_any_more(tmp_path: Path) -> None:
    log = FiringLog(tmp_path)
    log.account(HOURLY, utc("2026-05-01 10:20"))
    log.account(HOURLY, utc("2026-05-01 13:30"))
    assert log.account(HOURLY, utc("2026-05-01 12:00")) is None
    assert log.account(HOURLY, utc("2026-05-01 14:00")) == []


def test_missed_times_are_those_of_the_timetable_that_held_then(tmp_path: Path) -> None:
    log = FiringLog(tmp_path)
    log.account(HOURLY, utc("2026-05-01 10:20"))
    nightly = Timetable("UTC", "0 2 * * *")
    assert log.account(nightly, utc("2026-05-01 12:30")) == [utc("2026-05-01 11:00"), utc("2026-05-01 12:00")]
    assert log.account(nightly, utc("2026-05-03 02:00")) == [utc("2026-05-02 02:00")]


def test_who_was_at_work_when_a_firing_was_due(tmp_path: Path) -> None:
    log, nine, ten = FiringLog(tmp_path), utc("2026-05-01 09:00"), utc("2026-05-01 10:00")
    log.record(nine, run=1, started="2026-05-01T09:00:05+00:00")
    assert not log.was_busy(ten)  # it may have been killed: the run's lock knows
    log.record(nine, ended="2026-05-01T11:15:00+00:00")
    assert log.was_busy(ten) and not log.was_busy(utc("2026-05-01 12:00"))
    assert not log.was_busy(nine)  # it is itself no other
    log.record(nine, ended="2026-05-01T09:59:00+00:00")
    assert not log.was_busy(ten)


def test_a_log_where_the_file_system_has_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", without_locks)
    FiringLog(tmp_path).record(utc("2026-05-01 09:00"), outcome="made")
    assert FiringLog(tmp_path).read()["firings"] == [{"time": "2026-05-01T09:00:00+00:00", "outcome": "made"}]


def test_the_log_is_bounded_and_a_damaged_one_begins_anew(tmp_path: Path) -> None:
    log = FiringLog(tmp_path)
    log.account(Timetable("UTC", "* * * * *"), utc("2026-05-01 00:00"))
    log.account(Timetable("UTC", "* * * * *"), utc("2026-05-01 12:00"))
    assert len(log.read()["firings"]) == firings.MAX_FIRINGS
    assert log.read()["firings"][-1]["time"] == "2026-05-01T11:59:00+00:00"
    log.file.write_bytes(log.file.read_bytes().replace(b"11:59", b"11:58"))
    assert log.read()["firings"] == []
    assert log.account(HOURLY, utc("2026-05-01 13:00")) == []


def test_a_timetable_that_is_refused_now_does_not_stop_a_new_one(tmp_path: Path) -> None:
    """Earlier versions took cron lines of six fields, and their logs say so."""
    log, good = FiringLog(tmp_path), Timetable("UTC", cron="0 2 * * *")
    start = datetime(2026, 1, 1, tzinfo=UTC)
    log.account(good, start)
    raw = log.read()
    raw["timetable"]["cron"] = "0 0 2 * * *"
    write_sealed(log.file, raw)
    assert log.timetable is None
    assert log.account(good, start + timedelta(days=3)) == []
    assert log.timetable == good
