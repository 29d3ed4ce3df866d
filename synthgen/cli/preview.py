"""What a run would make, before anything is made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from synthgen.dataset.history import runs_of
from synthgen.pipeline.check import disk_bytes
from synthgen.pipeline.stages import Stages
from synthgen.pipeline.timings import stage_seconds
from synthgen.planning.jobs import plan_round
from synthgen.planning.rounds import first_round
from synthgen.spec import DatasetSpec
from synthgen.store.run import Run

if TYPE_CHECKING:
    from rich.console import RenderableType


def preview(spec: DatasetSpec, stages: Stages, run: Run) -> Iterator[RenderableType]:
    """What `synthgen plan` prints: images per class, slot and split, some prompts, shards, disk space, and the time if
    an earlier run tells the speed."""
    names = {c.id: c.name for c in spec.categories}
    classes: Counter[str] = Counter(dict.fromkeys(names.values(), 0))
    slots: dict[str, Counter[str]] = {name: Counter() for name in spec.prompts.slots}
    splits: Counter[str] = Counter(dict.fromkeys(spec.splits, 0))
    objects: Counter[int] = Counter()
    prompts: list[str] = []
    for job in plan_round(spec, run.number, first_round(spec), stages.generator.aspect_ratios()):
        classes.update(names[i] for i in job.asked)
        splits[job.split] += 1
        objects[len(job.asked)] += 1
        for name, value in job.slots.items():
            slots[name][value] += 1
        if len(prompts) < 6:
            prompts.append(job.prompt)
    yield f"[bold]{spec.name}[/] {escape(str(run.root))}"
    grid = Table.grid(padding=(0, 4))
    tables = [_counts("class", classes), *(_counts(name, counts) for name, counts in slots.items())]
    tables += [_counts("objects", Counter({str(k): n for k, n in sorted(objects.items())})), _counts("split", splits)]
    grid.add_row(*tables)
    yield grid
    yield "[bold]prompts, such as[/]"
    yield from (f"  {escape(prompt)}" for prompt in prompts)
    shards = -(-spec.count // spec.shard_size)
    yield (
        f"first round: {spec.count} images of {spec.width}x{spec.height} px in {shards} shard{'s' * (shards > 1)}; "
        f"at most {spec.max_images} by the budget; about {disk_bytes(spec) / 1e6:,.0f} MB on the disk"
    )
    seconds = [s / n for s, n in stage_seconds(last_run(run)).values() if n]
    if seconds:
        speed = 1 / sum(seconds)
        yield f"time: about {spec.count / speed:,.0f} s for the first round, at the last run's {speed:.1f} images/s"
    else:
        yield "time: not known before the first run here"


def last_run(run: Run) -> Run:
    """The run if it has shards, else the newest run of the dataset that has shards."""
    return next((r for r in (run, *reversed(runs_of(run.root.parent))) if r.marks.shards()), run)


def _counts(title: str, counts: Counter[str]) -> Table:
    table = Table(box=None)
    table.add_column(escape(title))
    table.add_column("", justify="right")
    for name, n in counts.items():
        table.add_row(escape(name), str(n))
    return table
