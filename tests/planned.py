"""Specs, and the jobs that are planned from them."""

from typing import Any

from synthgen.planning.jobs import plan_round
from synthgen.planning.rounds import first_round
from synthgen.spec import DatasetSpec
from synthgen.types import Job


def spec_of(good: dict[str, Any], **changes: Any) -> DatasetSpec:
    return DatasetSpec.parse({**good, **changes})


def jobs_of(spec: DatasetSpec, run: int = 1) -> list[Job]:
    return list(plan_round(spec, run, first_round(spec)))
