"""All finished runs of a dataset as one: `DIR/<name>/dataset`, which every run of a spec with `grow: true` adds to."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import TypeAdapter

from synthgen.backends import Filter
from synthgen.base.sealed import read_sealed, sha256_json, validated, write_sealed
from synthgen.dataset.history import is_finished, others_of, runs_of
from synthgen.errors import RunError, SynthgenError
from synthgen.pipeline.build import Build
from synthgen.pipeline.export import accepted_images, write_export
from synthgen.pipeline.fingerprints import exported_by, hash_of, measured_by
from synthgen.pipeline.licences import licensed_models
from synthgen.pipeline.responsible_ai import Making
from synthgen.planning.rounds import IMAGES_PER_RUN, run_of
from synthgen.store.marks import Mark
from synthgen.store.paths import MERGED
from synthgen.store.records import Accepted, judged_images
from synthgen.store.run import Run
from synthgen.types import DatasetInfo, Record

FORMAT = 1  # of merged datasets: a change here merges every one anew
# Each run has a range of ids of its own, so they do not depend on other runs. Even the last ids are exact in a float64.
ANNOTATIONS_PER_RUN = 1000 * IMAGES_PER_RUN
WAIT_SECONDS = 600.0  # how long to wait for another process that merges


@dataclass(frozen=True, slots=True)
class Part:
    """What a run contributes.

    Attributes:
        run: its number.
        accepted: its accepted images.
        alike: filter -> how many of these it leaves out as near-duplicates of earlier images.
        images: how many of these remain.
    """

    run: int
    accepted: int
    alike: Mapping[str, int]
    images: int


@dataclass(frozen=True, slots=True)
class Growth:
    """A merged dataset in numbers: its `dataset.json`.

    Attributes:
        images, instances: in all; objects to be ignored are not counted.
        runs: a `Part` each, by number.
        splits: split -> images.
        classes: class -> instances.
        left_out: runs that are no part of it, and other things to know: a line each.
        inputs: hash of everything that it was made from.
    """

    name: str
    images: int
    instances: int
    runs: tuple[Part, ...]
    splits: Mapping[str, int]
    classes: Mapping[str, int]
    left_out: tuple[str, ...]
    inputs: str

    @classmethod
    def read(cls, file: Path) -> Growth | None:
        """The numbers in a file. None if it is damaged or missing, as during a merge or after one that was killed."""
        growth: Growth | None = validated(_GROWTH, read_sealed(file))
        return growth

    def __str__(self) -> str:
        alike = sum(sum(part.alike.values()) for part in self.runs)
        twins = f"; {alike} more were near-duplicates of earlier ones" if alike else ""
        runs = f"{len(self.runs)} runs" if len(self.runs) != 1 else "1 run"
        return f"{self.images} images of {runs} with {self.instances} instances{twins}"


_GROWTH = TypeAdapter(Growth)


class Merged:
    """The accepted images of several runs, without some, in order of id; see `Records`."""

    def __init__(self, members: Sequence[Build], without: Collection[int]) -> None:
        self._members, self._without = members, without

    def __iter__(self) -> Iterator[Record]:
        for accepted in self._parts():
            yield from accepted

    def split(self, name: str) -> Iterator[Record]:
        for accepted in self._parts():
            yield from accepted.split(name)

    def _parts(self) -> Iterator[Accepted]:
        for build in self._members:
            first = (build.run.number - 1) * ANNOTATIONS_PER_RUN + 1
            yield accepted_images(build, first, self._without)


@dataclass(frozen=True)
class Merge:
    """The runs that one spec's dataset is made of now.

    Attributes:
        build: the run whose spec says how: exporters, splits, filters of the whole dataset.
        members: the finished runs of the same classes, by number, with the splits of that spec.
        left_out: a line for each other run, and for each filter that cannot compare a member.
        states: the inputs of each member's exports.
    """

    build: Build
    members: tuple[Build, ...]
    left_out: tuple[str, ...]
    states: tuple[Any, ...]

    @classmethod
    def of(cls, build: Build) -> Merge:
        members, lines, states = [], others_of(build.run.root.parent), []
        for run in runs_of(build.run.root.parent):
            try:
                member = Build.open(run)
                if member.spec.categories != build.spec.categories:
                    lines.append(f"run {run.number} has other classes")
                    continue
                if (planned := run.planned_number) not in {None, run.number}:
                    lines.append(f"run {run.number} holds the images of run {planned}: a copy?")
                    continue
                if not is_finished(member):
                    lines.append(f"run {run.number} is not finished")
                    continue
                state = [run.number, *(member.inputs("export", name) for name in member.spec.exporters)]
            except SynthgenError as error:
                lines.append(f"run {run.number} cannot be read: {str(error).splitlines()[0]}")
                continue
            # Runs that were split by other shares would have a family in one split here, and in another there.
            members.append(replace(member, spec=member.spec.model_copy(update={"splits": build.spec.splits})))
            states.append(state)
        merge = cls(build, tuple(members), (), tuple(states))
        lines += [
            f"run {member.run.number} has no numbers of `{name}` as it is now, so this filter leaves its images alone; "
            f"run it again to take them"
            for name in merge.filters
            for member in merge.members
            if not merge.measures(member, name)
        ]
        return replace(merge, left_out=tuple(lines))

    @cached_property
    def filters(self) -> dict[str, Filter[Any]]:
        """Those that compare images with all others."""
        return {name: f for name, f in self.build.stages.filters.items() if f.whole_dataset}

    def measures(self, member: Build, name: str) -> bool:
        """Whether a member's numbers of a filter are made as this spec would make them."""
        own, asked = (measured_by(b.spec, b.run.facts.read().get("models", {})).get(name) for b in (member, self.build))
        return own == asked

    @cached_property
    def info(self) -> DatasetInfo:
        spec, recorded = self.build.spec, [m.run.facts.read().get("models", {}) for m in self.members]
        licences = {(name, url) for models in recorded for m in models.values() for name, url in m["licences"]}
        splits, models = tuple(spec.splits), licensed_models(*recorded)
        return DatasetInfo(spec.name, spec.description, spec.categories, splits, tuple(sorted(licences)), models=models)

    @cached_property
    def making(self) -> Making:
        return Making.of(self.build.spec, self.members, is_grown=True)

    def inputs(self, exporter: str) -> str:
        """Hash of everything that an export is made from."""
        spec, info = self.build.spec, asdict(self.info)
        del info["subset"], info["models"]  # The exporter's options, and the runs, say it.
        # `exported_by` has both if a spec sets them. Without them, datasets of earlier versions stay merged.
        for category in info["categories"]:
            del category["supercategory"], category["own_id"]
        own = {
            "format": FORMAT,
            "export": exported_by(spec, exporter),
            "splits": list(spec.splits.items()),
            "alike": {name: f.config.model_dump(mode="json") for name, f in self.filters.items()},
            "measured": [[self.measures(m, name) for name in self.filters] for m in self.members],
            "info": info,
        }
        return hash_of(own, *map(sha256_json, self.states))

    def alike(self) -> dict[str, set[int]]:
        """Filter of the whole dataset -> ids of the images that are near-duplicates of earlier ones by it. Images of
        earlier runs come first, so a later run never changes what an earlier one contributes."""
        found: dict[str, set[int]] = {}
        gone: set[int] = set()
        for name, f in self.filters.items():
            read = [_numbers(m, name, f, gone) for m in self.members if self.measures(m, name)]
            read = [(ids, values) for ids, values in read if len(ids)]
            if read:
                ids, values = (np.concatenate(columns) for columns in zip(*read, strict=True))
                found[name] = set(ids[f.fails(values)].tolist())
                gone |= found[name]
        return found

    def records(self) -> tuple[Merged, Mapping[str, Collection[int]]]:
        """The images that remain, and the near-duplicates among them that do not, see `alike`."""
        for member in self.members:
            member.run.refresh(files=True)
        alike = self.alike()
        return Merged(self.members, {i for ids in alike.values() for i in ids}), alike

    def numbers(self, records: Merged, alike: Mapping[str, Collection[int]], inputs: str) -> Growth:
        of_run, splits, classes = Counter[int](), Counter[str](), Counter[int]()
        for record in records:
            of_run[record.job.run] += 1
            splits[record.job.split] += 1
            classes.update(a.category_id for a in record.annotations if not a.ignore)
        runs = []
        for member in self.members:
            number = member.run.number
            twins = {name: sum(run_of(i) == number for i in ids) for name, ids in alike.items()}
            runs.append(Part(number, of_run[number] + sum(twins.values()), twins, of_run[number]))
        return Growth(
            self.build.spec.name,
            sum(of_run.values()),
            sum(classes.values()),
            tuple(runs),
            {name: splits[name] for name in self.build.spec.splits},
            {c.name: classes[c.id] for c in self.build.spec.categories},
            self.left_out,
            inputs,
        )


def grow(build: Build) -> Growth:
    """Merges the finished runs of a dataset by the spec of one of them, unless that is done. That run must be finished.

    The folder's `dataset.json` is removed first and written last: while it exists, the dataset is whole.

    Raises:
        RunError: another process still merges after ten minutes, or the records of a run are damaged.
    """
    folder = Run(build.run.root.parent / MERGED)  # It has a lock, exports and their marks, as a run folder has.
    file = folder.paths.merged
    with ExitStack() as stack:
        _wait_for_lock(folder, stack)
        while True:
            merge = Merge.of(build)
            inputs = {name: merge.inputs(name) for name in build.spec.exporters}
            everything = sha256_json([inputs, merge.left_out])
            done = {name: folder.marks.is_done("export", name, own) for name, own in inputs.items()}
            growth = Growth.read(file)
            if growth and growth.inputs == everything and all(done.values()):
                return growth
            folder.files.remove([file])
            folder.marks.sweep()
            records, alike = merge.records()
            growth = merge.numbers(records, alike, everything)
            for name in (name for name in inputs if not done[name]):
                exporter = build.stages.exporters[name]
                write_export(folder, name, inputs[name], exporter, merge.info, records, merge.making)
            # Another process may have judged a run anew meanwhile.
            if {name: Merge.of(build).inputs(name) for name in inputs} == inputs:
                write_sealed(file, asdict(growth))
                folder.files.publish(file)
                return growth


def latest_finished(dataset: Path) -> Build:
    """The last finished run in a dataset's folder, whose spec says how the runs are merged.

    Raises:
        RunError: no run is finished.
    """
    for run in reversed(runs_of(dataset)):
        if is_finished(build := Build.open(run)):
            return build
    raise RunError(f"{dataset} has no finished run")


def export_grown(build: Build, folder: Run) -> dict[str, Mark]:
    """Writes exports of all finished runs, merged by the spec of one of them, and nothing else. Returns the marks.

    Args:
        folder: gets a folder for each exporter of the spec. The caller holds its lock.

    Raises:
        RunError: a run changed meanwhile.
    """
    folder.marks.sweep()
    merge = Merge.of(build)
    (records, _), marks = merge.records(), {}
    for name, exporter in build.stages.exporters.items():
        inputs = merge.inputs(name)
        if not folder.marks.is_done("export", name, inputs):
            write_export(folder, name, inputs, exporter, merge.info, records, merge.making)
            if Merge.of(build).inputs(name) != inputs:
                raise RunError(f"a run beside {build.run.root} changed meanwhile; export the dataset again")
        mark = folder.marks.read("export", name)
        assert mark is not None
        marks[name] = mark
    return marks


def _wait_for_lock(folder: Run, stack: ExitStack) -> None:
    """Takes the folder's lock; waits while another process merges."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            stack.enter_context(folder.lock())
            return
        except RunError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.5)


def _numbers(build: Build, name: str, f: Filter[Any], gone: Collection[int]) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """The accepted images of a run that are not `gone`: their ids (N,), in order, and a filter's numbers of
    them, (N,) or (N, D)."""
    run = build.run
    rows = judged_images(run, "accepted")
    tables = []
    for shard in np.unique(rows["shard"].to_numpy()).tolist():
        measures = run.tables.read(run.paths.table("measures", shard)).select(["image_id", "instance", name])
        tables.append(measures.filter(pc.field("instance").is_null() & pc.field("image_id").isin(rows["image_id"])))
    if not tables:
        return np.zeros(0, np.int64), np.zeros(0, f.dtype)
    table = pa.concat_tables(tables).sort_by("image_id").combine_chunks()
    ids, column = table["image_id"].to_numpy(), table[name]
    flat = np.asarray((pc.list_flatten(column) if f.vector else column).to_numpy(), f.dtype)
    values = flat.reshape(len(ids), -1) if f.vector else flat
    left = ~np.isin(ids, list(gone))
    return ids[left], values[left]
