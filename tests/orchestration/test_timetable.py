"""When a schedule fires."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from synthgen import flow as _flow  # noqa: F401  # before Prefect: its settings
from synthgen.errors import SpecError
from synthgen.orchestration import timetable as clock
from synthgen.orchestration.timetable import GRACE, Timetable

HOURLY = Timetable("UTC", "0 * * * *")


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def clocks(timetable: Timetable, start: str, count: int) -> list[str]:
    return [t.strftime("%m-%d %H:%M") for t in timetable.after(utc(start), count)]


@pytest.mark.parametrize(
    ("cron", "start", "expected"),
    [
        # Clocks go from 02:00 to 03:00 (UTC+1 to UTC+2) on 2026-03-29: half past two is not there, and an hour later.
        ("30 2 * * *", "2026-03-27 12:00", ["03-28 01:30", "03-29 01:30", "03-30 00:30"]),
        ("0 9 * * *", "2026-03-27 12:00", ["03-28 08:00", "03-29 07:00", "03-30 07:00"]),
        # They go from 03:00 to 02:00 on 2026-10-25: half past two is there twice, and fires once.
        ("30 2 * * *", "2026-10-23 12:00", ["10-24 00:30", "10-25 00:30", "10-26 01:30"]),
        ("0 9 * * *", "2026-10-23 12:00", ["10-24 07:00", "10-25 08:00", "10-26 08:00"]),
    ],
)
def test_a_named_zone_over_its_summer_time(cron: str, start: str, expected: list[str]) -> None:
    assert clocks(Timetable("Europe/Berlin", cron), start, 3) == expected


def test_the_southern_summer_is_the_other_way_round() -> None:
    # Sydney goes back from UTC+11 to UTC+10 on 2026-04-05, and on again on 2026-10-04.
    assert clocks(Timetable("Australia/Sydney", "0 9 * * *"), "2026-04-04 00:00", 2) == ["04-04 23:00", "04-05 23:00"]
    assert clocks(Timetable("Australia/Sydney", "0 9 * * *"), "2026-10-02 00:00", 2) == ["10-02 23:00", "10-03 22:00"]


def test_an_interval_of_a_day_keeps_its_hour_and_one_of_hours_does_not() -> None:
    anchor = "2026-01-01T08:00:00+00:00"  # nine in Berlin
    day = Timetable("Europe/Berlin", interval=86400, anchor=anchor)
    assert clocks(day, "2026-03-28 00:00", 3) == ["03-28 08:00", "03-29 07:00", "03-30 07:00"]
    hours = Timetable("Europe/Berlin", interval=6 * 3600, anchor=anchor)
    assert clocks(hours, "2026-03-28 20:00", 4) == ["03-29 02:00", "03-29 08:00", "03-29 14:00", "03-29 20:00"]


def test_the_machine_s_own_zone_does_not_matter() -> None:
    code = (
        "from datetime import UTC, datetime\n"
        "from synthgen.orchestration.timetable import Timetable\n"
        "start = datetime(2026, 3, 27, 12, tzinfo=UTC)\n"
        "for t in (Timetable('Europe/Berlin', '30 2 * * *'), Timetable('UTC', '30 2 * * *'),\n"
        "          Timetable('UTC', interval=7200, anchor='2026-01-01T00:00:00+00:00')):\n"
        "    print([int(at.timestamp()) for at in t.after(start, 5)], [t.local(at) for at in t.after(start, 5)])\n"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "TZ": zone}, capture_output=True, text=True, check=True
        ).stdout
        for zone in ("America/New_York", "Asia/Tokyo", "UTC")
    ]
    assert said[0] == said[1] == said[2]
    assert "2026-03-29 03:30:00 CEST" in said[0] and "2026-03-29 02:30:00 UTC" in said[0]


def test_an_interval_goes_on_in_the_same_step_after_a_restart() -> None:
    first = Timetable.every(60, "UTC", None)
    assert Timetable.every(60, "UTC", first) is first
    assert Timetable.every(90, "UTC", first).interval == 90
    (soon,) = first.after(clock.now(), 1)
    assert timedelta(0) < soon - clock.now() <= timedelta(seconds=60)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"timezone": "Mars/Olympus", "cron": "0 2 * * *"}, "--timezone: got 'Mars/Olympus'; takes a name of"),
        ({"timezone": "UTC", "cron": "2 o'clock"}, '--cron: got "2 o\'clock"; takes minute, hour'),
        ({"timezone": "UTC", "cron": "0 0 30 2 *"}, "--cron: got '0 0 30 2 *'; takes minute, hour"),
        ({"timezone": "UTC"}, "--cron: give it or --interval"),
        ({"timezone": "UTC", "cron": "0 2 * * *", "interval": 60.0}, "--cron: give it or --interval"),
    ],
)
def test_what_is_no_timetable_is_told_in_a_line(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError) as caught:
        Timetable(**options)
    assert str(caught.value).startswith(words) and "\n" not in str(caught.value)


def test_too_late_is_when_the_next_is_due_and_minutes_have_gone_by() -> None:
    due, minutely = utc("2026-05-01 10:00"), Timetable("UTC", "* * * * *")
    assert not HOURLY.is_too_late(due, due)
    assert not HOURLY.is_too_late(due, due + timedelta(minutes=59))  # late, and still the last that was due
    assert HOURLY.is_too_late(due, due + timedelta(minutes=60))
    assert not minutely.is_too_late(due, due + GRACE)
    assert minutely.is_too_late(due, due + GRACE + timedelta(seconds=1))


@pytest.mark.parametrize("cron", ["0 0 2 * * *", "0 2 * * * 30", "0 2 * * * 2030 1", "0 2 * *", "", "* * * * * *"])
def test_a_cron_line_has_five_fields(cron: str) -> None:
    """Of six, seconds come first in Quartz and last in croniter, which would fire every second."""
    with pytest.raises(SpecError, match="takes minute, hour, day, month and weekday, such as '0 2"):
        Timetable("UTC", cron=cron)
    assert Timetable("UTC", cron=" 0 2 * * 1-5 ").cron
