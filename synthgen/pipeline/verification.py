"""Verifies a run folder: compares every checksum, mask and id, and the exports with the records."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from synthgen.base.file_lists import NameSet
from synthgen.base.files import sha256
from synthgen.base.wording import plain
from synthgen.errors import RunError, SynthgenError
from synthgen.judging.reviews import DamagedReviews, read_reviews
from synthgen.masks import decode_rle, mask_areas, mask_boxes
from synthgen.pipeline.build import Build
from synthgen.pipeline.export import accepted_images, info_of, part_of
from synthgen.pipeline.fingerprints import DEPENDENCIES, PER_SHARD, hash_of
from synthgen.store.export_folder import ExportedFolder
from synthgen.store.marks import Mark
from synthgen.store.paths import StageName
from synthgen.store.run import Run


@dataclass(frozen=True, slots=True)
class Damage:
    """What is wrong with a file of a run.

    Attributes:
        file: its path in the run folder.
        what: the end of a sentence that begins with the file's name.
        stage, shard: the work that makes the file again; for an export, `shard` is the exporter's name. None if the
            next command that changes the run repairs it.
    """

    file: str
    what: str
    stage: StageName | None = None
    shard: int | str | None = None

    def __str__(self) -> str:
        return f"{plain(self.file, 300)}: {self.what}"


@dataclass(frozen=True, slots=True)
class Verified:
    """What a run folder holds.

    Attributes:
        files: how many files were read.
        stray: files that no mark names, such as contact sheets.
        missing: what is still to be done, a line each.
    """

    files: int
    damages: tuple[Damage, ...]
    stray: tuple[str, ...]
    missing: tuple[str, ...]


def inspect(build: Build) -> Verified:
    """Reads every file of a run. Memory holds eight bytes for each file name, and the records of one shard."""
    run = build.run
    damages = list(_files(build))
    damages += _records(build, {damage.file for damage in damages})
    known = NameSet(name for _, _, mark in run.marks.read_all() if mark for name, _ in run.marks.files_of(mark))
    for damage in damages:
        known.add(damage.file)
    count, stray = 0, []
    for name in _names_of_files(run.root):
        count += 1
        if name not in known and not run.paths.is_unmarked(name):
            stray.append(name)
    return Verified(count, tuple(damages), tuple(sorted(stray)), tuple(_missing(build)))


def _names_of_files(folder: Path, name: str = "") -> Iterator[str]:
    """The paths of the files in a folder and below it, each with `name` before it. A folder that may not be read counts
    as empty: if marks name files in it, these cannot be read either, and are reported as damaged."""
    with suppress(PermissionError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _names_of_files(Path(entry.path), f"{name}{entry.name}/")
            elif entry.is_file():
                yield name + entry.name


def _missing(build: Build) -> Iterator[str]:
    """The work that has no mark. Images, labels and measures with a mark count as done, even if other weights would
    make them differently today."""
    run, shards = build.run, build.run.marks.shards()
    if not shards:
        yield "nothing is planned"
    for stage in PER_SHARD:
        if without := [s for s in shards if run.marks.read(stage, s) is None]:
            yield f"{stage}: {len(without)} of {len(shards)} shards, the first of them shard {without[0]}"
    later = [work for work in build.work() if DEPENDENCIES[work.stage].per != "shard"]
    gone = [str(work) for work in later if not ((mark := run.marks.read(*work)) and mark.inputs)]
    yield from gone
    with suppress(RunError):  # The log of reviews is damaged, which `_reviews` has reported.
        stale = [str(work) for work in later if not build.is_done(*work)]
        yield from (f"{name} again: what it is made from has changed" for name in stale if name not in gone)
    if shards and not gone and not build.has_its_rounds():
        yield "plan: some shards of a round that has begun"


def withdraw(build: Build, damages: Iterable[Damage]) -> None:
    """Removes the marks of what is damaged, so that the next run makes it again. The caller holds the lock."""
    for damage in damages:
        if damage.stage:
            build.run.marks.withdraw(damage.stage, damage.shard)


def _files(build: Build) -> Iterator[Damage]:
    """Files that differ from what their marks say, and records that differ from their own checksums."""
    run = build.run
    for file in (*run.facts.damaged(), *run.rounds.damaged()):
        yield Damage(_name(run, file), "its checksum differs")
    facts = run.facts.read()
    plan_inputs = hash_of(facts["made_from"]) if facts else ""
    if not run.facts.spec_is_unchanged():
        yield Damage(run.paths.spec.name, "its checksum differs")
    if facts and (planned := run.planned_number) not in {None, run.number}:
        yield Damage(run.paths.facts.name, f"says that this is run {run.number}, but its jobs belong to run {planned}")
    yield from _reviews(run)
    for stage, shard, mark in run.marks.read_all():
        if mark is None:
            yield Damage(_name(run, run.paths.mark(stage, shard)), "the mark is damaged", stage, shard)
            continue
        if stage == "export" and not mark.inputs:
            continue  # The export is withdrawn: the next run makes it again in any case.
        if plan_inputs and mark.inputs != (_expected_inputs(run, plan_inputs, stage, shard) or mark.inputs):
            yield Damage(
                _name(run, run.paths.mark(stage, shard)), "belongs to another run or to another shard", stage, shard
            )
        for name, (size, checksum) in run.marks.files_of(mark):
            if stage != "export" and run.files.leads_out(run.root / name):  # A user may have moved an export's folder.
                yield Damage(name, "a link on its way leads out of the run folder", stage, shard)
            elif what := _difference(run.root / name, size, checksum):
                yield Damage(name, what, stage, shard)


def _reviews(run: Run) -> Iterator[Damage]:
    """Whether the log of reviews is damaged, or lacks lines that the last judging read."""
    name, data = run.paths.reviews.name, run.paths.reviews.read_bytes() if run.paths.reviews.is_file() else b""
    if data and not data.endswith(b"\n"):
        yield Damage(name, "its last line is cut short and does not count")
    try:
        reviews, judged = read_reviews(run.paths.reviews), run.marks.read("judge")
    except DamagedReviews as error:
        yield Damage(name, error.what)
        return
    extent = judged.notes.get("reviews") if judged else None
    if extent and not reviews.has(extent):
        what = f"the last judging read {extent[0]} lines, and some of them are missing"
        yield Damage(name, f"{what}; restore a copy of the file, or judge again without them")


def _expected_inputs(run: Run, plan_inputs: str, stage: StageName, shard: int | str | None) -> str | None:
    """The `inputs` that a mark of the plan or of images must have in this run; None for other stages.

    Args:
        plan_inputs: those of the plan: the hash of `made_from` in `run.json`. The models may have changed since.
    """
    if stage == "plan":
        return plan_inputs
    planned = run.marks.read("plan", shard) if stage == "generate" else None
    return hash_of({"own": plan_inputs}, planned.outputs) if planned else None


def _difference(path: Path, size: int, checksum: str) -> str:
    try:
        if path.exists() and not path.is_file():  # Reading a device may never end.
            return "is not a file"
        if path.stat().st_size != size:
            return f"has {path.stat().st_size:,} bytes; {size:,} were written"
        return "" if sha256(path) == checksum else "its checksum differs"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _records(build: Build, damaged: Set[str]) -> Iterator[Damage]:
    """Records that contradict each other. Damaged files are not read for this."""
    run, shards = build.run, build.run.marks.shards()
    stages: tuple[StageName, ...] = ("plan", *PER_SHARD)
    whole = [s for s in shards if all(_has_whole_tables(run.marks.read(stage, s), damaged) for stage in stages)]
    for shard in whole:
        try:
            yield from _shard(build, shard)
        except SynthgenError as error:
            yield Damage(run.paths.name(run.paths.table("labels", shard)), str(error), "label", shard)
    judged = run.marks.read("judge")
    if judged and run.paths.corrections.name in judged.files and run.paths.corrections.name not in damaged:
        try:
            yield from _corrections(build)
        except SynthgenError as error:
            yield Damage(run.paths.corrections.name, str(error), "judge")
    if whole == shards and _has_whole_tables(judged, damaged):
        for name in build.spec.exporters:
            mark = run.marks.read("export", name)
            is_whole = mark is not None and not any(file in damaged for file, _ in run.marks.files_of(mark))
            if is_whole and build.is_done("export", name):
                yield from _export(build, name)


def _has_whole_tables(mark: Mark | None, damaged: Set[str]) -> bool:
    """Whether work is done and none of its tables is damaged. Images do not count: no record is compared with them."""
    return mark is not None and not any(name in damaged for name in mark.files if name.endswith((".parquet", ".json")))


def _shard(build: Build, shard: int) -> Iterator[Damage]:
    """Compares the ids of jobs, labels and measures, and masks with their areas and boxes."""
    run, jobs = build.run, {job.id: job for job in build.jobs(shard)}
    labels = run.tables.read(run.paths.table("labels", shard)).to_pylist()
    measures = run.tables.read(run.paths.table("measures", shard)).select(["image_id", "instance"]).to_pylist()
    keys = [(row["image_id"], row["instance"]) for row in labels]
    table = run.paths.name(run.paths.table("labels", shard))
    if len(set(keys)) < len(keys) or not {image_id for image_id, _ in keys} <= jobs.keys():
        yield Damage(table, "has labels of images that are not in the plan, or has a label twice", "label", shard)
        return
    if sorted(keys) != sorted((m["image_id"], m["instance"]) for m in measures if m["instance"] is not None) or (
        sorted(jobs) != sorted(m["image_id"] for m in measures if m["instance"] is None)
    ):
        measured = run.paths.name(run.paths.table("measures", shard))
        yield Damage(measured, "does not hold the measures of these images and labels", "measure", shard)
    for row in labels:
        if what := _fault(row, build.spec.height, build.spec.width):
            yield Damage(table, f"image {row['image_id']}, label {row['instance']}: {what}", "label", shard)


def _corrections(build: Build) -> Iterator[Damage]:
    """Compares the masks that people gave with their areas and boxes."""
    run = build.run
    for row in run.tables.read(run.paths.corrections).to_pylist():
        if what := _fault(row, build.spec.height, build.spec.width):
            name = run.paths.corrections.name
            yield Damage(name, f"image {row['image_id']}, label {row['instance']}: {what}", "judge")


def _fault(row: Mapping[str, Any], height: int, width: int) -> str:
    """What is wrong with the mask of a label of an image of this size, px; "" if nothing is."""
    try:
        mask = decode_rle([{"size": [row["height"], row["width"]], "counts": row["rle"]}], height, width)
    except ValueError as error:
        return str(error)
    if mask_areas(mask)[0] != row["area"]:
        return "the mask's area differs"
    if row["area"] and not np.array_equal(mask_boxes(mask)[0], np.float32(row["bbox_xyxy"])):
        return "the mask's box differs"
    return ""


def _export(build: Build, name: str) -> Iterator[Damage]:
    """What an exporter finds wrong when it reads its export back."""
    run, exporter = build.run, build.stages.exporters[name]
    try:
        exporter, _, records = part_of(exporter, info_of(build), accepted_images(build))
        for file, what in exporter.verify(ExportedFolder(run, name), records):
            yield Damage(f"{name}/{file}", what, "export", name)
    except SynthgenError as error:
        yield Damage(_name(run, run.paths.verdicts), str(error), "judge")


def _name(run: Run, path: Path) -> str:
    return path.relative_to(run.root).as_posix()
