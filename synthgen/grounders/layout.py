"""Takes the boxes from the job's layout. It detects nothing, so it gives no score."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from synthgen import backends
from synthgen.backends import Grounder, Request
from synthgen.errors import BackendError, Problem
from synthgen.types import Grounding, Job


class Config(backends.Config):
    """The layout grounder has no options."""


class Backend(Grounder[Config]):
    """Trusts the layout, so it is for generators that follow one. Filters find out whether they did."""

    def check(self, request: Request) -> Iterable[Problem]:
        if not request.has_layout:
            message = "missing; the `layout` grounder takes its boxes from it; add one, or ground with `use: detector`"
            yield Problem("layout", message)

    def score_names(self) -> frozenset[str]:
        return frozenset()

    def ground(self, jobs: Sequence[Job], images: Sequence[NDArray[np.uint8]]) -> list[Grounding]:
        """One box for each of `job.asked`, in that order; xyxy px, no scores. The images are not used.

        Raises:
            BackendError: a job has no layout.
        """
        return [_grounding(job) for job in jobs]


def _grounding(job: Job) -> Grounding:
    if job.layout is None:
        raise BackendError(f"image {job.id} has no layout, and the `layout` grounder takes its boxes from there")
    boxes = np.array(job.layout, np.float32).reshape(-1, 4)  # (0, 4) for an empty layout
    return Grounding(boxes, np.array(job.asked, np.int64))
