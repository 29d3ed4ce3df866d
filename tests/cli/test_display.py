"""What is shown while a run is made."""

import io
import time

import pytest
from rich.console import Console

from synthgen.cli import display
from synthgen.pipeline.judge import judge_shards
from synthgen.store.run import Run


def test_progress_of_a_finished_run(finished):
    progress = display.Progress(finished.run)
    now = progress.refresh()
    found = finished.quality()
    judged = [
        judge_shards(finished, [s]).images for s in finished.run.marks.shards()
    ]  # near-duplicates are of a shard only
    accepted = sum(int((images["verdict"] != "rejected").sum()) for images in judged)
    assert (now.wanted, now.planned, now.made, now.labelled, now.accepted) == (8, 8, 8, 8, accepted)
    assert accepted >= found.accepted
    assert sum(now.reasons.values()) >= 8 - accepted
    assert progress.as_line(now).startswith(f"8/8 images made (0.0/s), 8 labelled, {accepted} of 8 accepted")
    console = Console(file=io.StringIO(), width=120)
    console.print(progress.as_table(now))
    drawn = console.file.getvalue()
    assert "8/8" in drawn and f"{accepted}/8" in drawn and "0.0 images/s" in drawn


def test_progress_before_anything_is_there(tmp_path):
    progress = display.Progress(Run.at(tmp_path, "none", 1))
    now = progress.refresh()
    assert progress.as_line(now) == "starting"
    assert progress.as_table(now).row_count >= 1
    assert now.seconds_left(progress.speed.per_second) is None


@pytest.mark.parametrize(
    ("judged", "accepted", "seconds"),
    [
        (0, 0, 4.0),  # one a second, and 4 to go; nothing is known of the yield
        (4, 4, 4.0),
        (4, 2, 12.0),  # half of them pass: the 6 that are wanted still are 12
        (2, 1, 12.0),  # two more are made, and expected to give one: 6 wanted still
    ],
)
def test_time_left(judged: int, accepted: int, seconds: float) -> None:
    speed = display.Speed()
    speed.record(100.0, 0)
    speed.record(104.0, 4)
    now = display.Snapshot(wanted=8, planned=8, made=4, labelled=judged, judged=judged, accepted=accepted)
    assert speed.per_second == 1.0
    assert now.seconds_left(speed.per_second) == pytest.approx(seconds)


def test_speed_is_of_making_and_not_of_loading() -> None:
    speed = display.Speed()
    assert speed.per_second == 0.0
    for seconds, made in ((0.0, 0), (50.0, 0), (60.0, 0), (62.0, 8)):
        speed.record(seconds, made)
    assert speed.per_second == 4.0
    speed.record(121.0, 8)
    speed.record(123.0, 8)  # the images of more than a minute ago are no part of it
    assert speed.per_second == 0.0


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3599.9, "1:00:00"), (7322, "2:02:02")]
)
def test_clock(seconds, shown):
    assert display.clock(seconds) == shown


def test_lines_where_there_is_no_terminal(finished, monkeypatch):
    monkeypatch.setattr(display, "LINE_SECONDS", 0.02)
    console = Console(file=io.StringIO(), width=200)
    with display.watching(finished.run, console):
        time.sleep(0.5)
    lines = console.file.getvalue().splitlines()
    assert lines and all("8/8 images made" in line for line in lines)
    assert "\x1b" not in console.file.getvalue()


def test_a_live_drawing_on_a_terminal(finished):
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    with display.watching(finished.run, console):
        time.sleep(1.2)
    assert "8/8" in console.file.getvalue()
