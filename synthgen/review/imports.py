"""Takes annotated files into the log of a run's reviews, and takes them back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from synthgen.errors import RunError
from synthgen.judging.reviews import ReviewLog
from synthgen.pipeline.build import Build
from synthgen.review.annotated import AnnotationError
from synthgen.review.edits import Edits, Missing, edits_of
from synthgen.review.formats import read_annotations


def import_file(build: Build, path: Path, by: str = "", missing: Missing = "delete") -> Edits:
    """Adds what annotators changed to the log, in one line: all of it or, after an error or a crash, nothing.

    Args:
        path: a file of CVAT, Label Studio or COCO, see `read_annotations`.
        by, missing: see `edits_of`.

    Raises:
        RunError: the file cannot be read or does not fit the run, or another review of the run is open.
    """
    images = [*read_annotations(path)]
    with _log(build) as log:
        try:
            edits = edits_of(build, images, log.standing(), by, missing)
        except AnnotationError as error:
            raise AnnotationError(f"{path}: {error}") from error
        if edits.reviews:
            log.add(*edits.reviews)
    return edits


def take_back(build: Build) -> int:
    """Takes the last import back; -> how many verdicts it had.

    Raises:
        RunError: the last verdicts do not come from an imported file, or another review of the run is open.
    """
    with _log(build) as log:
        if not any(review.queue == "import" for review in log.last):
            last = (
                "the last verdict comes from the review page, whose key U takes it back" if log.last else "no verdicts"
            )
            raise RunError(f"{build.run.address} has no import to take back: {last}")
        return len(log.undo())


@contextmanager
def _log(build: Build) -> Iterator[ReviewLog]:
    run = build.run
    with run.reviewing(), ReviewLog.open(run.files.inside(run.paths.reviews), run.files.publish) as log:
        yield log
