"""Where the models of a stage are computed, and in which batches. Both decide the last bits of the results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from synthgen.backends import Stage, environment_of
from synthgen.errors import RunError
from synthgen.pipeline.build import Build
from synthgen.spec import differences
from synthgen.store.paths import StageName
from synthgen.types import Job

ADDED = ("variant",)  # keys that marks of earlier versions lack


def environment(
    build: Build, stage: StageName, backends: Mapping[str, Stage[Any]], allow_mixed: bool
) -> dict[str, Any]:
    """Where the models of this stage are computed now: kind of backend -> see `environment_of`.

    Args:
        backends: those of the stage, by kind.
        allow_mixed: whether it may differ from the environment of earlier shards.

    Raises:
        RunError: it differs.
    """
    configs = {kind: backend.config for kind, backend in backends.items()}
    now: dict[str, Any] = {kind: found for kind, c in configs.items() if (found := environment_of(c))}
    done = (build.run.marks.read(stage, shard) for shard in build.run.marks.shards() if build.is_done(stage, shard))
    earlier = next((mark for mark in done if mark), None)
    comparable = _without_added(now, earlier.environment) if earlier else now
    if earlier and dict(earlier.environment) != comparable and not allow_mixed:
        changed = "; ".join(differences(earlier.environment, comparable))
        raise RunError(
            f"earlier shards of {build.run.address} were made differently ({changed}), so the same job would get "
            "slightly different pixels; set what the earlier shards had, or pass --allow-mixed"
        )
    return now


def _without_added(now: Mapping[str, Any], earlier: Mapping[str, Any]) -> dict[str, Any]:
    """What is computed now, without the keys of `ADDED` that marks of earlier versions lack."""
    return {
        kind: {key: value for key, value in keys.items() if key not in ADDED or key in earlier.get(kind, {})}
        for kind, keys in now.items()
    }


def batches(jobs: Sequence[Job], environment: Mapping[str, Any], kind: str) -> Iterator[Sequence[Job]]:
    """The batches in which jobs go through the model of a backend. `kind`: of the backend."""
    size = environment.get(kind, {}).get("batch_size", 1)
    for start in range(0, len(jobs), size):
        yield jobs[start : start + size]
