"""The runs of a dataset side by side: what came of each, and whether the last one fell behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from math import exp, lgamma
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from synthgen.errors import SynthgenError
from synthgen.judging.quality import Numbers, Quality
from synthgen.pipeline.build import Build
from synthgen.spec import differences
from synthgen.store.location import runs_in_store
from synthgen.store.paths import run_folders
from synthgen.store.run import Run

if TYPE_CHECKING:
    from rich.table import Table

State = Literal["finished", "unfinished", "at work", "damaged"]

WIDTH = 120  # of the table, where it is not for a terminal
# One run in a thousand that is as good as those before it is wrongly said to have fallen behind: on a nightly schedule,
# that is less than one in two years.
ALPHA = 0.001
# Keys of a spec that do not decide how many images pass.
_IDLE = {"version", "description", "count", "budget", "splits", "exporters", "shard_size", "grow"}


def runs_of(folder: Path) -> list[Run]:
    """The runs of a dataset's folder that have a spec, by number. If the folder mirrors one in an object store, the
    runs of the store are synced and included."""
    runs = {path: Run(path) for path in run_folders(folder)}
    for path in runs_in_store(folder):
        runs.setdefault(path, Run(path)).refresh()
    members = [run for run in runs.values() if _is_member(run) and run.paths.spec.is_file()]
    return sorted(members, key=lambda run: run.number)


def begun_in(folder: Path) -> list[Run]:
    """The runs of a dataset's folder on this machine, by number. Runs that have just begun, and have no spec yet, are
    among them; copies of runs, and folders with other names, are not."""
    return [run for run in map(Run, run_folders(folder)) if _is_member(run)]


def others_of(folder: Path) -> list[str]:
    """A line for each folder that looks like one of the dataset's runs and is none, such as a copy of one."""
    runs = [run for run in map(Run, run_folders(folder)) if run.paths.spec.is_file()]
    copies = {run.root.name: run.recorded_number for run in runs if run.is_another}
    lines = [f"{name} holds the images of run {number}: a copy?" for name, number in copies.items()]
    foreign = [run.root.name for run in runs if run.named_number is None]
    return lines + [f"{name} has no name of a run, such as run-0001" for name in foreign]


def _is_member(run: Run) -> bool:
    """Whether a folder is one of the dataset's runs: it has the name of a run, and holds that run."""
    return run.named_number is not None and not run.is_another


def is_finished(build: Build) -> bool:
    """Whether a run is finished by the spec in its folder: it is reported, and its exports are up to date with labels
    and verdicts. New reviews do not change that: they wait for the next judging."""
    return (
        build.run.marks.read("report") is not None
        and build.run.marks.read("judge") is not None
        and all(build.is_done("export", name) for name in build.spec.exporters)
    )


@dataclass(frozen=True, slots=True)
class Past:
    """A run in the history of its dataset.

    Attributes:
        number: number of the run.
        state: finished; at work: a process holds its lock; unfinished: work is left and no process does it; damaged:
            its spec or its numbers cannot be read.
        quality: the first part of `quality.json`; None before it is judged.
        seconds: how long its shards took.
        accepted_per_hour: accepted images per hour of that time.
        spec: the spec in its folder.
    """

    number: int
    state: State
    quality: Quality | None
    seconds: float | None
    accepted_per_hour: float | None
    spec: Mapping[str, Any]

    @classmethod
    def of(cls, run: Run) -> Past:
        try:
            build = Build.read(run)
            state: State = "at work" if run.holder() else "finished" if is_finished(build) else "unfinished"
            if not run.paths.quality.is_file():
                return cls(run.number, state, None, None, None, build.spec.dump())
            numbers = Numbers.read(run.paths.quality)
        except (SynthgenError, OSError):
            return cls(run.number, "damaged", None, None, None, {})
        seconds, hourly = numbers.timings["seconds"], numbers.timings["accepted_per_hour"]
        return cls(run.number, state, numbers.quality, seconds, hourly, build.spec.dump())

    @property
    def passed(self) -> tuple[int, int]:
        """(images that pass every filter, images made)."""
        q = self.quality
        return (q.accepted + q.surplus, q.made) if q else (0, 0)

    @property
    def right(self) -> tuple[int, int]:
        """(labels that people found right, labels of the random sample that they went through)."""
        return (self.quality.precision.right, self.quality.precision.verdicts) if self.quality else (0, 0)


def history(folder: Path) -> list[Past]:
    """The runs of a dataset's folder, such as outputs/quickstart, by number."""
    return [Past.of(run) for run in runs_of(folder)]


def drop(past: Sequence[Past]) -> str | None:
    """Compares the last judged run, finished or not, with the finished runs before it. If its yield or its label
    precision is lower by more than chance allows (`ALPHA`), returns a line that says so and how its spec differs from
    that of the run before; else None."""
    judged = [p for p in past if p.quality]
    earlier = [p for p in judged[:-1] if p.state == "finished"]
    if not earlier:
        return None
    last = judged[-1]
    found = []
    runs = f"{len(earlier)} runs" if len(earlier) > 1 else "run"
    for what, now, then in (
        ("yield", last.passed, _pooled([p.passed for p in earlier])),
        ("label precision", last.right, _pooled([p.right for p in earlier])),
    ):
        chance = fisher(now, then)
        if chance < ALPHA:
            found.append(f"{what} {_share(now)}, after {_share(then)} in the {runs} before it (p = {chance:.1g})")
    if not found:
        return None
    old, new = ({k: v for k, v in p.spec.items() if k not in _IDLE} for p in (earlier[-1], last))
    changed = differences(old, new)
    why = f"; since run {earlier[-1].number} the spec has changed: {'; '.join(changed[:3])}" if changed else ""
    return f"run {last.number}: {', and '.join(found)}{why}"


def _pooled(counts: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return sum(k for k, _ in counts), sum(n for _, n in counts)


def _share(count: tuple[int, int]) -> str:
    return f"{count[0] / count[1]:.1%} ({count[0]:,} of {count[1]:,})"


def fisher(now: tuple[int, int], before: tuple[int, int]) -> float:
    """How likely so small a share as now, or a smaller one, would be if both had one share: Fisher's exact test of two
    proportions, one-sided (R. A. Fisher, Statistical Methods for Research Workers, 5th edition, 1934, section 21.02).

    Args:
        now, before: (successes, tries).
    """
    (k, n), (successes, tries) = now, (now[0] + before[0], now[1] + before[1])
    if not n or not before[1]:
        return 1.0
    # The hypergeometric probability of k, then of each smaller number by its ratio to the one above.
    term = exp(_choose(successes, k) + _choose(tries - successes, n - k) - _choose(tries, n))
    total = term
    while k and term > 1e-17 * total:
        term *= k * (tries - successes - n + k) / ((successes - k + 1) * (n - k + 1))
        total += term
        k -= 1
    return min(1.0, total)


def _choose(n: int, k: int) -> float:
    """The logarithm of n over k."""
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)


def table(past: Sequence[Past]) -> Table:
    """A row for each run. `trend`: its yield minus that of all finished runs before it, in percentage points."""
    from rich.table import Table

    drawn = Table(box=None)
    for i, column in enumerate(
        ("run", "state", "made", "accepted", "yield", "trend", "label precision", "time", "accepted/h")
    ):
        drawn.add_column(column, justify="left" if i == 1 else "right")
    for index, p in enumerate(past):
        cells = ["", "", "", "", "", "", ""]
        if q := p.quality:
            before = _pooled([e.passed for e in past[:index] if e.state == "finished"])
            cells = [
                f"{q.made:,}",
                f"{q.accepted:,} of {q.wanted:,}",
                f"{q.passed:.1%}",
                _trend(q.passed, before),
                _precision(q),
                str(timedelta(seconds=round(p.seconds or 0))),
                "" if p.accepted_per_hour is None else f"{p.accepted_per_hour:,.0f}",
            ]
        drawn.add_row(str(p.number), p.state, *cells)
    return drawn


def _trend(share: float, before: tuple[int, int]) -> str:
    return f"{100 * (share - before[0] / before[1]):+.1f}" if before[1] else ""


def _precision(q: Quality) -> str:
    p = q.precision
    return "" if p.share is None else f"{100 * p.share:.1f} % ({100 * p.low:.1f} to {100 * p.high:.1f})"
