"""Repeats the stages after the images: what `synthgen label` and `synthgen judge` do."""

from __future__ import annotations

from collections.abc import Callable

from synthgen.errors import RunError
from synthgen.judging.quality import Quality
from synthgen.pipeline.build import Build
from synthgen.pipeline.export import export_run
from synthgen.pipeline.judge import judge_run
from synthgen.pipeline.label import label_shard
from synthgen.pipeline.measure import measure_shard


def relabel(build: Build, allow_mixed: bool = False, on_shard: Callable[[int], object] | None = None) -> Quality:
    """Labels, measures, judges and exports the images of a run. Skips what is done.

    Args:
        allow_mixed: whether labels made on another kind of machine may be joined.
        on_shard: called with the number of each shard that is not done, before work on it begins.

    Raises:
        RunError: some shards have no images yet.
    """
    shards = build.run.marks.shards()
    if unmade := [s for s in shards if not build.is_done("generate", s)]:
        raise RunError(f"{len(unmade)} shards have no images yet; run the spec to make them")
    pending = set(build.pending())
    for shard in shards:
        if on_shard and shard in pending:
            on_shard(shard)
        label_shard(build, shard, allow_mixed)
        measure_shard(build, shard)
    quality = judge_run(build)
    export_run(build)
    return quality
