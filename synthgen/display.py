"""What a run is doing, for the person watching: read from the run folder, so it is true wherever the work is done."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Thread

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from synthgen.errors import SynthgenError
from synthgen.pipeline import Build
from synthgen.store import Run

PLAIN_SECONDS = 15.0  # between lines where there is no terminal to draw on


@dataclass
class Snapshot:
    """How far a run is. Near-duplicates are judged at the end: until then they count as accepted."""

    wanted: int = 0
    planned: int = 0
    made: int = 0
    labelled: int = 0
    accepted: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


class Progress:
    """Follows a run folder from outside."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._build: Build | None = None
        self._judged: dict[int, tuple[int, Counter[str]]] = {}
        self._started = time.monotonic()
        self._first: Snapshot | None = None

    def look(self) -> Snapshot:
        found = Snapshot()
        if self._build is None:
            try:
                self._build = Build.open(self._run.root)
            except SynthgenError:
                return found
        found.wanted = self._build.spec.count
        for shard in self._run.shards():
            plan = self._run.mark("plan", shard)
            found.planned += plan.counts["images"] if plan else 0
            found.made += self._run.images_made(shard)
            if self._build.is_done("label", shard):
                found.labelled += plan.counts["images"] if plan else 0
            if shard not in self._judged and self._build.is_done("measure", shard):
                images = self._build.verdicts([shard]).images
                reasons = Counter(r for reasons in images["reasons"] for r in reasons)
                self._judged[shard] = (int((images["verdict"] != "rejected").sum()), reasons)
        for accepted, reasons in self._judged.values():
            found.accepted += accepted
            found.reasons += reasons
        if self._first is None:
            self._first = found
        return found

    def speed(self, now: Snapshot) -> float:
        """Images a second since this process began to watch."""
        elapsed = time.monotonic() - self._started
        return (now.made - self._first.made) / elapsed if self._first and elapsed > 0 else 0.0

    def seconds_left(self, now: Snapshot) -> float | None:
        """Until as many are accepted as are wanted, at the speed and yield so far; None while neither is known."""
        speed = self.speed(now)
        if not speed:
            return None
        judged = sum(n for n, _ in self._judged.values()) + sum(sum(c.values()) > 0 for _, c in self._judged.values())
        share = now.accepted / now.labelled if now.labelled and judged else 1.0
        return (
            max(0, now.planned - now.made, (now.wanted - now.accepted) / max(share, 0.05) - (now.made - now.labelled))
            / speed
        )

    def words(self, now: Snapshot) -> str:
        if not now.planned:
            return "starting"
        text = f"{now.made}/{now.planned} images made ({self.speed(now):.1f}/s), {now.labelled} labelled"
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
            f"{self.speed(now):.1f} images/s",
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
