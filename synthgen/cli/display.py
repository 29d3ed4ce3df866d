"""The progress of a run, for the person watching. It is read from the run folder, so it is right wherever the run is
computed."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Thread

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from synthgen.errors import SynthgenError
from synthgen.pipeline.build import Build
from synthgen.pipeline.judge import judge_shards
from synthgen.store.run import Run

LINE_SECONDS = 15.0  # between lines, where there is no terminal
DRAW_SECONDS = 0.5  # between drawings on a terminal
SPEED_SECONDS = 60.0  # the speed is the mean over this time
MAX_SHARDS_JUDGED = 20  # at one refresh, so that a large resumed run does not keep the display busy
MIN_YIELD = 0.05  # the time left is estimated with at least this yield


@dataclass
class Snapshot:
    """How far a run is, in images. Near-duplicates are judged at the end; until then they count as accepted."""

    wanted: int = 0
    planned: int = 0
    made: int = 0
    labelled: int = 0
    judged: int = 0
    accepted: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def seconds_left(self, speed: float) -> float | None:
        """Until as many images are accepted as are wanted, at a speed in images per second and the yield so far. None
        while nothing is being made."""
        if not speed:
            return None
        share = max(self.accepted / self.judged, MIN_YIELD) if self.judged else 1.0
        expected = self.accepted + (self.made - self.judged) * share
        return max(self.planned - self.made, (self.wanted - expected) / share, 0) / speed


class Speed:
    """Images per second over the last minute."""

    def __init__(self) -> None:
        self._counts: deque[tuple[float, int]] = deque()

    def record(self, seconds: float, made: int) -> None:
        """Records how many images were made by a time."""
        if len(self._counts) == 1 and self._counts[0][1] == made:
            self._counts.clear()  # Models are being loaded, which is no part of the speed.
        self._counts.append((seconds, made))
        while seconds - self._counts[0][0] > SPEED_SECONDS:
            self._counts.popleft()

    @property
    def per_second(self) -> float:
        if not self._counts:
            return 0.0
        (start, before), (end, made) = self._counts[0], self._counts[-1]
        return (made - before) / (end - start) if end > start else 0.0


class Progress:
    """Follows a run folder from outside."""

    def __init__(self, run: Run) -> None:
        self.speed = Speed()
        self._run = run
        self._build: Build | None = None
        self._planned: dict[int, int] = {}
        self._judged: dict[int, tuple[int, Counter[str]]] = {}
        self._started = time.monotonic()

    def refresh(self) -> Snapshot:
        """Reads how far the run is now."""
        now = Snapshot()
        if self._build is None:
            try:
                self._build = Build.open(self._run)
            except SynthgenError:
                return now
        now.wanted = self._build.spec.count
        room = MAX_SHARDS_JUDGED
        for shard in self._run.marks.shards():
            if shard not in self._planned and (plan := self._run.marks.read("plan", shard)):
                self._planned[shard] = plan.counts.get("images", 0)
            images = self._planned.get(shard, 0)
            now.planned += images
            # A large run has thousands of shards that are not begun. Reading their marks again and again takes long.
            if shard not in self._judged and not self._run.paths.image(shard, 0).parent.is_dir():
                continue
            if shard not in self._judged and room and self._build.is_done("measure", shard):
                self._judge(self._build, shard)
                room -= 1
            if shard in self._judged:
                now.made += images
                now.labelled += images
                now.judged += images
            else:
                now.made += self._run.images.count(shard)
                now.labelled += images if self._build.is_done("label", shard) else 0
        for accepted, reasons in self._judged.values():
            now.accepted += accepted
            now.reasons += reasons
        self.speed.record(time.monotonic(), now.made)
        return now

    def _judge(self, build: Build, shard: int) -> None:
        verdicts = judge_shards(build, [shard])
        reasons = Counter(verdicts.reasons.having(verdicts.image_reasons))
        self._judged[shard] = (int((~verdicts.image_is("rejected")).sum()), reasons)

    def as_line(self, now: Snapshot) -> str:
        if not now.planned:
            return "starting"
        text = f"{now.made}/{now.planned} images made ({self.speed.per_second:.1f}/s), {now.labelled} labelled"
        text += f", {now.accepted} of {now.wanted} accepted"
        if now.reasons:
            text += "; rejected: " + _counts(now.reasons)
        left = now.seconds_left(self.speed.per_second)
        return text + (f"; about {clock(left)} left" if left else "")

    def as_table(self, now: Snapshot) -> Table:
        grid = Table.grid(padding=(0, 1))
        if not now.made:
            seconds = time.monotonic() - self._started
            grid.add_row(f"starting: Prefect's server and the models are loaded ({clock(seconds)})")
            return grid
        speed = self.speed.per_second
        left = now.seconds_left(speed)
        grid.add_row(
            "made",
            ProgressBar(now.planned or 1, now.made, width=30),
            f"{now.made}/{now.planned}",
            f"{speed:.1f} images/s",
        )
        grid.add_row(
            "accepted",
            ProgressBar(now.wanted or 1, min(now.accepted, now.wanted), width=30),
            f"{now.accepted}/{now.wanted}",
            f"about {clock(left)} left" if left else "",
        )
        if now.reasons:
            grid.add_row("rejected", _counts(now.reasons))
        return grid


def _counts(reasons: Counter[str]) -> str:
    return ", ".join(f"{name} {n}" for name, n in reasons.most_common())


def clock(seconds: float) -> str:
    """A duration as `0:07` or `2:02:02`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@contextmanager
def watching(run: Run, console: Console) -> Iterator[None]:
    """Shows the progress of a run while its block runs: drawn on a terminal, else as a line from time to time."""
    progress = Progress(run)
    if not console.is_terminal:
        with _repeating(lambda: console.print(progress.as_line(progress.refresh()), highlight=False), LINE_SECONDS):
            yield
        return
    with (
        Live(console=console, refresh_per_second=4, transient=True) as live,
        _repeating(lambda: live.update(progress.as_table(progress.refresh())), DRAW_SECONDS),
    ):
        yield


@contextmanager
def _repeating(show: Callable[[], None], seconds: float) -> Iterator[None]:
    """Calls `show` from another thread, again and again, while its block runs."""
    stop = Event()

    def loop() -> None:
        while not stop.wait(seconds):
            show()

    thread = Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
