"""The stage that exports: the accepted images of a run in the formats that its spec names."""

from __future__ import annotations

from collections.abc import Collection

import pyarrow.compute as pc

from synthgen.errors import RunError
from synthgen.pipeline.build import Build
from synthgen.store.export_folder import exporting
from synthgen.store.records import Accepted
from synthgen.types import DatasetInfo


def export_run(build: Build) -> dict[str, int]:
    """Writes every export whose inputs have changed. Returns the number of files by exporter.

    Raises:
        RunError: the run has not been judged yet, or a record is damaged.
    """
    run, spec = build.run, build.spec
    licences = {licence for stage in build.stages.named().values() for licence in stage.licences()}
    info = DatasetInfo(spec.name, spec.description, spec.categories, tuple(spec.splits), tuple(sorted(licences)))
    files = {}
    for name, exporter in build.stages.exporters.items():
        inputs = build.inputs("export", name)
        if inputs is None:
            raise RunError(f"{run.root} has not been judged yet; run the spec first")
        if not run.marks.is_done("export", name, inputs):
            with exporting(run, name, inputs) as folder:
                exporter.export(info, accepted_images(build), folder)
        mark = run.marks.read("export", name)
        files[name] = mark.counts.get("files", len(mark.files)) if mark else 0
    return files


def accepted_images(build: Build, first_annotation: int = 1, without: Collection[int] = ()) -> Accepted:
    """The accepted images with their labels, see `Accepted`.

    Raises:
        RunError: the spec does not have the class of a label with a verdict.
    """
    run = build.run
    for rows in run.tables.read_batches(run.paths.verdicts, ["instance", "category_id"]):
        ids = rows.filter(pc.is_valid(rows["instance"]))["category_id"]
        if ids.null_count or not build.has_classes(*pc.unique(ids).to_pylist()):
            raise RunError(f"{run.address} has verdicts on labels of classes that its spec lacks; judge it again")
    return Accepted(run, build.jobs, build.stages.filters, first_annotation=first_annotation, without=without)
