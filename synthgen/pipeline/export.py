"""The stage that exports: the accepted images of a run in the formats that its spec names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import pyarrow.compute as pc

from synthgen.backends import Exporter, ImageOptions
from synthgen.base.collector import short_lived_objects
from synthgen.errors import RunError, SpecError
from synthgen.pipeline import croissant
from synthgen.pipeline.build import Build
from synthgen.pipeline.check import problems_of, request_of
from synthgen.pipeline.fingerprints import hash_of
from synthgen.pipeline.licences import licensed_models
from synthgen.pipeline.responsible_ai import Making
from synthgen.pipeline.signing import signer_of
from synthgen.pipeline.stages import Stages
from synthgen.pipeline.subset import part_options, subset_of
from synthgen.spec import DatasetSpec
from synthgen.store.content import Content, Stored
from synthgen.store.encodings import Encoder
from synthgen.store.export_folder import exporting
from synthgen.store.marks import Mark
from synthgen.store.records import Accepted
from synthgen.store.run import Run
from synthgen.types import DatasetInfo


def export_run(build: Build) -> dict[str, Mark]:
    """Writes every export whose inputs have changed. Returns the mark of each, by exporter: its notes hold the
    `content_hash` and the `losses`.

    Raises:
        RunError: the run has not been judged yet, or a record is damaged.
    """
    return export_to(build, build.run)


def export_to(build: Build, folder: Run, all_images: bool = False) -> dict[str, Mark]:
    """`export_run` into any folder, which gets a folder for each exporter of the spec.

    Args:
        folder: the run itself, or a folder for exports alone, with its own marks. The caller holds its lock.
        all_images: rejected images too, with the labels that have them rejected.

    Raises:
        RunError: another process changed the run meanwhile.
    """
    folder.marks.sweep()  # what a killed process left
    marks = {}
    for name, exporter in build.stages.exporters.items():
        inputs = _inputs(build, name, all_images)
        if not folder.marks.is_done("export", name, inputs):
            records = accepted_images(build, all_images=all_images)
            making = Making.of(build.spec, [build], has_all_images=all_images)
            write_export(folder, name, inputs, exporter, info_of(build), records, making)
            if _inputs(build, name, all_images) != inputs:
                raise RunError(f"{build.run.address} was judged or labelled anew meanwhile; export it again")
        mark = folder.marks.read("export", name)
        assert mark is not None
        marks[name] = mark
    return marks


def _inputs(build: Build, name: str, all_images: bool) -> str:
    inputs = build.inputs("export", name)
    if inputs is None:
        raise RunError(f"{build.run.root} has not been judged yet; run the spec first")
    return hash_of({"all_images": True}, inputs) if all_images else inputs


def with_exporters(build: Build, exporters: Mapping[str, Mapping[str, Any]]) -> Build:
    """The build of a run, with other exporters than those of its spec.

    Args:
        exporters: options by name, as in a spec.

    Raises:
        SpecError: an exporter or an option is unknown, or would fail.
    """
    spec = DatasetSpec.parse({**build.spec.dump(), "exporters": exporters})
    changed = replace(build, spec=spec, stages=replace(build.stages, exporters=Stages.of(spec).exporters))
    named = {f"exporters.{name}": exporter for name, exporter in changed.stages.exporters.items()}
    if problems := problems_of(named, request_of(spec)):
        raise SpecError(problems)
    return changed


def write_export(
    folder: Run,
    name: str,
    inputs: str,
    exporter: Exporter[Any],
    info: DatasetInfo,
    records: Stored,
    making: Making | None = None,
) -> None:
    """Writes an export, its `croissant.json`, and its mark.

    Args:
        folder: the run, or another folder with marks of exports.
        inputs: hash of everything that the export is made from.
        making: how the dataset was made, by which spec; None: that is not known, so there is no `croissant.json`, and
            images are not signed.

    Raises:
        SpecError: the images cannot be signed.
    """
    options, signer = exporter.config, signer_of(making.spec) if making else None
    encoder = Encoder(options.quality if isinstance(options, ImageOptions) else None, signer)
    exporter, info, part = part_of(exporter, info, records)
    with exporting(folder, name, inputs, encoder) as export, short_lived_objects():
        exporter.export(info, part, export)
        export.notes["content_hash"] = part.content_hash
        if making and not export.has(croissant.NAME):
            sets = exporter.record_sets(info)
            text = croissant.document(info, making, part.content_hash, export.written(), sets)
            with export.open(croissant.NAME) as file:
                file.write(text)


def part_of(exporter: Exporter[Any], info: DatasetInfo, records: Stored) -> tuple[Exporter[Any], DatasetInfo, Content]:
    """The part of a dataset that an exporter's options ask for, and the exporter for the classes of that part."""
    part, info = subset_of(records, info, exporter.config)
    if part is not records:
        exporter = type(exporter)(exporter.config, info.categories)
    return exporter, info, Content(part, info.categories)


def info_of(build: Build) -> DatasetInfo:
    """What the dataset of a run says of itself."""
    spec = build.spec
    licences = {licence for stage in build.stages.named().values() for licence in stage.licences()}
    models = licensed_models(build.run.facts.read().get("models", {}))
    splits = tuple(spec.splits)
    return DatasetInfo(spec.name, spec.description, spec.categories, splits, tuple(sorted(licences)), models=models)


def content_hash(build: Build) -> str:
    """The version of the accepted images and labels: see `Records.content_hash`.

    Raises:
        RunError: the run has not been judged yet, or a record is damaged.
    """
    for name, exporter in build.stages.exporters.items():
        mark = None if part_options(exporter.config) else build.run.marks.read("export", name)
        if mark and "content_hash" in mark.notes and build.is_done("export", name):
            return str(mark.notes["content_hash"])
    return Content(accepted_images(build), build.spec.categories).content_hash


def accepted_images(
    build: Build, first_annotation: int = 1, without: Collection[int] = (), all_images: bool = False
) -> Accepted:
    """The accepted images with their labels, see `Accepted`.

    Raises:
        RunError: the spec does not have the class of a label with a verdict.
    """
    run = build.run
    for rows in run.tables.read_batches(run.paths.verdicts, ["instance", "category_id"]):
        ids = rows.filter(pc.is_valid(rows["instance"]))["category_id"]
        if ids.null_count or not build.has_classes(*pc.unique(ids).to_pylist()):
            raise RunError(f"{run.address} has verdicts on labels of classes that its spec lacks; judge it again")
    return Accepted(
        run, build.jobs, build.stages.filters, first_annotation=first_annotation, without=without,
        all_images=all_images, looked_for=build.stages.grounder.looked_for,
    )  # fmt: skip
