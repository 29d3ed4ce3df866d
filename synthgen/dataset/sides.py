"""The sides of a diff: a run, a grown dataset, or COCO files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from synthgen.base.files import sha256
from synthgen.base.sealed import sha256_json
from synthgen.dataset.coco_files import CocoSide, coco_files
from synthgen.dataset.growth import Growth, Merge, Merged
from synthgen.dataset.history import runs_of
from synthgen.dataset.labels import Image, Label, Object
from synthgen.errors import RunError, SynthgenError
from synthgen.pipeline.build import Build
from synthgen.pipeline.export import accepted_images
from synthgen.store.content import Content, Stored
from synthgen.store.run import Run
from synthgen.types import Category


class Side(Protocol):
    """Images and labels to be compared.

    Attributes:
        address: how people name it.
        categories: the names of its classes.
        has_files: whether the images are there, so that they have checksums.
    """

    address: str
    categories: tuple[str, ...]
    has_files: bool

    @property
    def content_hash(self) -> str:
        """The version of its images, labels and splits, once it was read; "" where it is not known."""

    def read(self, *, checksums: bool) -> Iterator[Image | Label]:
        """The images and labels, read from the disk one at a time, in any order: a label may come before its image."""


class RecordsSide:
    """The accepted images of a run or of a grown dataset, see `Side`.

    Attributes:
        spec: the spec that it is made by.
    """

    has_files = True

    def __init__(
        self, address: str, records: Stored, categories: tuple[Category, ...], spec: Mapping[str, Any]
    ) -> None:
        self.address, self.spec, self._records = address, spec, Content(records, categories)
        self._names = {category.id: category.name for category in categories}
        self.categories = tuple(self._names.values())

    @property
    def content_hash(self) -> str:
        return self._records.content_hash

    def read(self, *, checksums: bool) -> Iterator[Image | Label]:
        for record in self._records:
            job, checksum = record.job, record.image_sha256
            if checksums and not checksum:
                checksum = sha256(record.image_path)
            yield Image(job.id, job.split, record.image_path.stem, job.height, job.width, checksum)
            for a in record.annotations:
                label = Object(self._names[a.category_id], a.bbox_xywh, a.ignore, a.rle)
                yield Label(job.split, job.id, label, a.area, a.scores)


def side_of(path: Path) -> Side:
    """The side that a path names: a run folder, the folder of a grown dataset, a COCO file, or the folder of a COCO
    export.

    Raises:
        RunError: it is none of these, or cannot be compared now.
    """
    if files := coco_files(path):
        return CocoSide(str(path), files)
    folder = Run(path)
    folder.refresh()
    if folder.paths.spec.is_file():
        build = Build.read(folder)
        if not build.is_done("judge"):
            raise RunError(
                f"{folder.address} has not been judged by its spec and reviews yet; judge it first: "
                f"synthgen judge {folder.address}"
            )
        return RecordsSide(folder.address, accepted_images(build), build.spec.categories, build.spec.dump())
    if folder.paths.merged.is_file():
        merge, records = _merged(folder)
        return RecordsSide(folder.address, records, merge.info.categories, merge.build.spec.dump())
    raise RunError(
        f"{str(path)!r} cannot be compared; takes a run folder such as outputs/quickstart/run-0001, a grown dataset "
        "such as outputs/quickstart/dataset, a COCO file, or the folder of a COCO export"
    )


def _merged(folder: Run) -> tuple[Merge, Merged]:
    """The runs of a grown dataset that is whole, and its images.

    Raises:
        RunError: a run of it, or its spec, has changed since it was merged, so its images are known no more.
    """
    growth = Growth.read(folder.paths.merged)
    # The last run that grew the dataset is its last finished run, unless an earlier one was run again.
    for run in reversed(runs_of(folder.root.parent) if growth else []):
        try:
            merge = Merge.of(Build.open(run))
            inputs = {name: merge.inputs(name) for name in merge.build.spec.exporters}
        except SynthgenError:
            continue
        if growth and sha256_json([inputs, merge.left_out]) == growth.inputs:
            return merge, merge.records()[0]
    raise RunError(
        f"the runs of {folder.address} have changed since they were merged; run the spec again to merge them"
    )
