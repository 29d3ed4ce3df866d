"""Takes annotated files into the log of a run's reviews, and takes them back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from synthgen.dataset.history import runs_of
from synthgen.errors import RunError
from synthgen.judging.reviews import ReviewLog
from synthgen.pipeline.build import Build
from synthgen.planning.rounds import run_of
from synthgen.review.annotated import AnnotatedImage, AnnotationError
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
    ((_, edits),) = _imported([(build, [*read_annotations(path)])], path, by, missing)
    return edits


def import_grown(dataset: Path, path: Path, by: str = "", missing: Missing = "delete") -> list[tuple[Build, Edits]]:
    """`import_file` for an export of a grown dataset: each run gets the changes of its images. An error leaves all logs
    as they are; after a crash, some runs may have their changes, and importing the file again adds the others'.

    Args:
        dataset: the folder of the merged dataset, beside its runs.

    Returns:
        The runs of which the file has images, by number.

    Raises:
        RunError: see `import_file`.
    """
    runs = {run.number: run for run in runs_of(dataset.parent)}
    of_run: dict[int, list[AnnotatedImage]] = {}
    for image in read_annotations(path):
        if run_of(image.image_id) not in runs:
            raise AnnotationError(f"{path}: {image.where}: no run of {dataset.parent} has an image {image.image_id}")
        of_run.setdefault(run_of(image.image_id), []).append(image)
    return _imported([(Build.open(runs[number]), of_run[number]) for number in sorted(of_run)], path, by, missing)


def _imported(
    images: Sequence[tuple[Build, Sequence[AnnotatedImage]]], path: Path, by: str, missing: Missing
) -> list[tuple[Build, Edits]]:
    """The changes of each run. The first log is written once all runs have been compared."""
    with ExitStack() as stack:
        found = []
        for build, own in images:
            log = stack.enter_context(_log(build))
            try:
                found.append((build, log, edits_of(build, own, log.standing(), by, missing)))
            except AnnotationError as error:
                raise AnnotationError(f"{path}: {error}") from error
        for _, log, edits in found:
            if edits.reviews:
                log.add(*edits.reviews)
    return [(build, edits) for build, _, edits in found]


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
