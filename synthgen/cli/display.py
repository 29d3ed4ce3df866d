"""What a run is doing, for the person watching: read from the run folder, so it is true wherever the work is done."""

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

PLAIN_SECONDS = 15.0  # between lines where there is no terminal to draw on


@dataclass
class Snapshot:
    """How far a run is. Near-duplicates are judged at the end: until then they count as accepted."""

    wanted: int = 0
    planned: int = 0
    made: int = 0
    labelled: int = 0
    judged: int = 0
    accepted: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


WINDOW_SECONDS = 60.0  # over which speed is taken
SHARDS_A_LOOK = 20  # judged at most, so that taking up a large run does not keep its tables being read


class Progress:
    """Follows a run folder from outside."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._build: Build | None = None
        self._planned: dict[int, int] = {}
        self._judged: dict[int, tuple[int, Counter[str]]] = {}
        self._seen: deque[tuple[float, int]] = deque()
        self._started = time.monotonic()

    def look(self) -> Snapshot:
        found = Snapshot()
        if self._build is None:
            try:
                self._build = Build.open(self._run.root)
            except SynthgenError:
                return found
        found.wanted = self._build.spec.count
        room = SHARDS_A_LOOK
        for shard in self._run.marks.shards():
            if shard not in self._planned and (plan := self._run.marks.read("plan", shard)):
                self._planned[shard] = plan.counts.get("images", 0)
            images = self._planned.get(shard, 0)
            found.planned += images
            # Marks of shards by the thousand, none of them begun, would be read all the time.
            if shard not in self._judged and not self._run.paths.image(shard, 0).parent.is_dir():
                continue
            if shard not in self._judged and room and self._build.is_done("measure", shard):
                self._judge(shard)
                room -= 1
            if shard in self._judged:
                found.made += images
                found.labelled += images
                found.judged += images
            else:
                found.made += self._run.images.count(shard)
                found.labelled += images if self._build.is_done("label", shard) else 0
        for accepted, reasons in self._judged.values():
            found.accepted += accepted
            found.reasons += reasons
        self._remember(found.made)
        return found

    def _judge(self, shard: int) -> None:
        assert self._build is not None
        found = judge_shards(self._build, [shard])
        reasons = Counter(found.reasons.having(found.image_reasons))
        self._judged[shard] = (int((~found.image_is("rejected")).sum()), reasons)

    def _remember(self, made: int) -> None:
        now = time.monotonic()
        if len(self._seen) == 1 and self._seen[0][1] == made:
            self._seen.clear()  # nothing made yet: loading is no part of the speed
        self._seen.append((now, made))
        while now - self._seen[0][0] > WINDOW_SECONDS:
            self._seen.popleft()

    def speed(self) -> float:
        """Images a second, over the last minute."""
        (then, before), (now, made) = (self._seen[0], self._seen[-1]) if self._seen else ((0.0, 0), (0.0, 0))
        return (made - before) / (now - then) if now > then else 0.0

    def seconds_left(self, now: Snapshot) -> float | None:
        """Until as many are accepted as are wanted, at the speed and yield so far; None while nothing is made."""
        if not self.speed():
            return None
        share = max(now.accepted / now.judged, 0.05) if now.judged else 1.0
        expected = now.accepted + (now.made - now.judged) * share
        return max(now.planned - now.made, (now.wanted - expected) / share, 0) / self.speed()

    def words(self, now: Snapshot) -> str:
        if not now.planned:
            return "starting"
        text = f"{now.made}/{now.planned} images made ({self.speed():.1f}/s), {now.labelled} labelled"
        text += f", {now.accepted} of {now.wanted} accepted"
        if now.reasons:
            text += "; rejected: " + ", ".join(f"{name} {n}" for name, n in now.reasons.most_common())
        left = self.seconds_left(now)
        return text + (f"; about {_clock(left)} left" if left else "")

    def drawn(self, now: Snapshot) -> Table:
        grid = Table.grid(padding=(0, 1))
        if not now.made:
            grid.add_row(
                f"starting: Prefect's server and the models are loaded ({_clock(time.monotonic() - self._started)})"
            )
            return grid
        grid.add_row(
            "made",
            ProgressBar(now.planned or 1, now.made, width=30),
            f"{now.made}/{now.planned}",
            f"{self.speed():.1f} images/s",
        )
        left = self.seconds_left(now)
        grid.add_row(
            "accepted",
            ProgressBar(now.wanted or 1, min(now.accepted, now.wanted), width=30),
            f"{now.accepted}/{now.wanted}",
            f"about {_clock(left)} left" if left else "",
        )
        if now.reasons:
            grid.add_row("rejected", ", ".join(f"{name} {n}" for name, n in now.reasons.most_common()))
        return grid


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@contextmanager
def watching(run: Run, console: Console) -> Iterator[None]:
    """Shows progress until the block ends: drawn on a terminal, else as plain lines, a few a minute."""
    progress, stop = Progress(run), Event()
    if not console.is_terminal:
        with _repeating(lambda: console.print(progress.words(progress.look()), highlight=False), PLAIN_SECONDS, stop):
            yield
        return
    with (
        Live(console=console, refresh_per_second=4, transient=True) as live,
        _repeating(lambda: live.update(progress.drawn(progress.look())), 0.5, stop),
    ):
        yield


@contextmanager
def _repeating(show: Callable[[], None], seconds: float, stop: Event) -> Iterator[None]:
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
