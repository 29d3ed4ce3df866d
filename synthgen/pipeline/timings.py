"""How long the stages of a run took, by the marks of its shards."""

from __future__ import annotations

from typing import Any

from synthgen.pipeline.fingerprints import PER_SHARD
from synthgen.store.run import Run


def stage_seconds(run: Run) -> dict[str, tuple[float, int]]:
    """Stage -> (seconds, images) of the finished shards. `synthgen plan` estimates the next run's time from it."""
    totals: dict[str, tuple[float, int]] = {}
    for stage in PER_SHARD:
        marks = [mark for shard in run.marks.shards() if (mark := run.marks.read(stage, shard))]
        totals[stage] = (sum(mark.seconds for mark in marks), sum(mark.counts.get("images", 0) for mark in marks))
    return totals


def timings(run: Run, accepted: int) -> dict[str, Any]:
    """How long the finished shards took: seconds and images per second of each stage, and of all together."""
    stages = stage_seconds(run)
    total = sum(seconds for seconds, _ in stages.values())
    return {
        "stages": [
            {
                "stage": name,
                "seconds": round(seconds, 3),
                "images": images,
                "images_per_second": round(images / seconds, 3) if seconds else None,
            }
            for name, (seconds, images) in stages.items()
        ],
        "seconds": round(total, 3),
        "accepted_per_hour": round(3600 * accepted / total, 1) if total else None,
    }
