"""What is done to a run folder, stage by stage: plan, generate, label, measure, judge, export. No orchestration.

Every function asks the store first: what is done and agrees is left alone.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from synthgen import __version__
from synthgen.backends import ModelConfig, is_own, measured
from synthgen.base.files import sha256
from synthgen.base.interrupts import checkpoint
from synthgen.base.overlap import DEPTH, Behind, ahead
from synthgen.errors import RunError
from synthgen.judging.figures import figures
from synthgen.judging.quality import DAMAGED, Numbers, Quality
from synthgen.judging.reviews import Reviews, labels_digest, read_reviews
from synthgen.judging.summary import shortfall
from synthgen.judging.tables import Tables
from synthgen.judging.verdicts import Verdicts, judge
from synthgen.models import remarks
from synthgen.pipeline import stages as parts
from synthgen.pipeline.attempts import Attempts
from synthgen.pipeline.fingerprints import DEPENDENCIES, PER_SHARD, Models, hash_of, made_from
from synthgen.pipeline.stages import Stages
from synthgen.planning.plan import Round, first_round, next_round, plan_round, retry_seed, split_of
from synthgen.spec import DatasetSpec, differences
from synthgen.spec.unloaded import record
from synthgen.store.export_folder import exporting
from synthgen.store.records import Accepted, instances_of, label_rows, label_schema
from synthgen.store.run import Mark, Run, StageName
from synthgen.types import DatasetInfo, Instances, Job, Sample

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Build:
    """A run folder with the spec it is run by."""

    run: Run
    spec: DatasetSpec
    stages: Stages

    @classmethod
    def start(cls, run: Run, spec: DatasetSpec, stages: Stages) -> Build:
        """Opens a folder for a spec, new or to be taken up again. Call it holding the lock.

        Raises:
            RunError: the folder holds another dataset; says what differs.
        """
        if run.is_another:
            other = f"{run.address} holds the images of run {run.recorded_number}, as of a copy"
            raise RunError(f"{other}; take another --run or --out")
        facts = run.read_facts()
        models = parts.models_of(stages, facts.get("models", {}))
        images_from = made_from(spec, models)
        planned = (run.mark("plan", s) for s in run.shards())
        if facts:
            changed = differences(facts["made_from"], images_from)
        else:  # new; or damaged, and then the marks of the plan know
            inputs = hash_of(images_from)
            changed = ["what, is not known, since run.json is damaged"] * any(m and m.inputs != inputs for m in planned)
        if changed:
            raise RunError(
                f"{run.address} holds images made otherwise ({'; '.join(changed[:5])}); "
                "put the spec back, or take another name, --out or --run"
            )
        run.sweep()
        run.mend_rounds()
        run.write_spec(spec.dump())
        facts = {"run": run.number, "synthgen": __version__, "made_from": images_from, "models": models}
        modules = {
            key: record(stage, str(models.get(key, {}).get("weights", "")))
            for key, stage in stages.named().items()
            if is_own(stage.config.use)
        }
        run.write_facts({**facts, **({"modules": modules} if modules else {}), "spec": sha256(run.spec_file)})
        return cls(run, spec, stages)

    @classmethod
    def open(cls, root: Path) -> Build:
        """A run folder with the spec that stands in it."""
        run = Run.existing(root)
        spec = DatasetSpec.parse(run.read_spec())
        return cls(run, spec, Stages.of(spec))

    @classmethod
    def read(cls, root: Path) -> Build:
        """`open`, for those who only read: no module that the spec names is imported, see `unloaded`."""
        run = Run.existing(root)
        spec = DatasetSpec.parse(run.read_spec(), run.read_facts().get("modules", {}))
        return cls(run, spec, Stages.of(spec))

    # What is done

    @cached_property
    def models(self) -> Models:
        """Key in the spec -> name, revision and weights of its model, see `models_of`."""
        return parts.models_of(self.stages, self.run.read_facts().get("models", {}))

    @cached_property
    def _fingerprints(self) -> dict[tuple[StageName, str], Mapping[str, Any]]:
        """(stage, exporter or "") -> fingerprint, once it was asked for: those with models take long."""
        return {}

    def inputs(self, stage: StageName, piece: int | str | None = None) -> str | None:
        """Hash of all that a piece of work is made from; None while some of it is not there.

        Args:
            piece: number of the shard, name of the exporter, or None, as `DEPENDENCIES` has it for the stage.
        """
        row = DEPENDENCIES[stage]
        key = (stage, piece if isinstance(piece, str) else "")
        if key not in self._fingerprints:
            self._fingerprints[key] = row.fingerprint(self, key[1])
        return row.inputs(self.run, self._fingerprints[key], piece)

    def pieces(self, stage: StageName) -> list[int] | list[str] | list[None]:
        """What a stage has to be done for: the shards, the exporters, or [None] for the run as a whole."""
        match DEPENDENCIES[stage].per:
            case "shard":
                return self.run.shards()
            case "exporter":
                return list(self.spec.exporters)
            case "run":
                return [None]

    def is_done(self, stage: StageName, piece: int | str | None = None) -> bool:
        inputs = self.inputs(stage, piece)
        return inputs is not None and self.run.is_done(stage, piece, inputs)

    def pending(self) -> list[int]:
        """Shards that some stage has still to go through."""
        return [s for s in self.run.shards() if not all(self.is_done(stage, s) for stage in PER_SHARD)]

    def has_its_rounds(self) -> bool:
        """Whether every shard of the rounds that were begun is planned."""
        rounds = self.run.read_rounds()
        return bool(rounds) and len(self.run.shards()) == sum(self._shards_of(r) for r in rounds)

    def is_complete(self) -> bool:
        """Whether running would do nothing: everything is made and exported, and no round can be added."""
        return (
            self.has_its_rounds()
            and all(self.is_done(stage, piece) for stage in DEPENDENCIES for piece in self.pieces(stage))
            and self._next_round(self.quality()) is None
        )

    # Plan

    def plan(self) -> None:
        """Writes the shards of every recorded round; in a new folder, records the first."""
        if not self.run.read_rounds():
            self.run.write_round(1, asdict(first_round(self.spec)))
        shard, inputs = 0, self.inputs("plan")
        assert inputs is not None
        for r in [Round(**recorded) for recorded in self.run.read_rounds()]:
            shards = range(shard, shard + self._shards_of(asdict(r)))
            shard = shards.stop
            left = {s for s in shards if not self.run.is_done("plan", s, inputs)}
            if not left:
                continue
            jobs = plan_round(self.spec, self.run.number, r, self.stages.generator.aspect_ratios())
            for number in shards:  # drawn even where they are there: a choice depends on those before it
                chosen = list(islice(jobs, self.spec.shard_size))
                if number in left:
                    self.run.commit(
                        "plan", number, inputs, [self.run.write_jobs(number, chosen)],
                        counts={"images": len(chosen), "round": r.number}, environment=asdict(r),
                    )  # fmt: skip

    def extend(self) -> bool:
        """Records a further round for what judging threw away; False if nothing is missing or the budget is spent."""
        further = self._next_round(self.quality())
        if further:
            self.run.write_round(further.number, asdict(further))
        return further is not None

    def _shards_of(self, round: Mapping[str, Any]) -> int:
        return -(-int(round["count"]) // self.spec.shard_size)

    def _next_round(self, quality: Quality | None) -> Round | None:
        if quality is None:
            return None
        return next_round(
            self.spec,
            len(self.run.read_rounds()) + 1,
            quality.made,
            quality.accepted,
            {c.id: quality.classes[c.name].asked for c in self.spec.categories},
            {c.id: quality.classes[c.name].accepted for c in self.spec.categories},
            {int(k): n for k, n in quality.objects.items()},
        )

    def jobs(self, shard: int, image_ids: Collection[int] | None = None) -> list[Job]:
        """The jobs of a shard, or of these images, with the seeds that they were made with, once they are."""
        found, made = [], self.run.mark("generate", shard)
        again = made.notes.get("again", {}) if made else {}
        for row in self.run.read_jobs(shard, image_ids):
            row["id"] = row.pop("image_id")
            row["slots"] = dict(row["slots"])
            row["asked"] = tuple(row["asked"])
            if str(row["id"]) in again:
                row["seed"] = retry_seed(row["seed"], again[str(row["id"])])
            try:
                row["layout"] = None if row["layout"] is None else tuple(tuple(box) for box in row["layout"])
                job = Job(split=split_of(row["family"], self.spec.splits), **row)
                if (job.height, job.width) != (self.spec.height, self.spec.width) or not self._knows(*job.asked):
                    raise ValueError("it is of another spec")
            except (TypeError, ValueError) as error:
                raise RunError(f"jobs/{shard:05d}.parquet has a damaged job, {row['id']}: {error}") from error
            found.append(job)
        return found

    def _knows(self, *category_ids: int) -> bool:
        """Whether all of these are of the spec's classes."""
        return all(1 <= category_id <= len(self.spec.classes) for category_id in category_ids)

    # Generate

    def generate(self, shard: int, allow_mixed: bool = False, strict: bool = False) -> Mapping[str, int]:
        """Makes the images of a shard, a batch at a time; a batch that is done already is not made again. `strict`: see
        `Attempts`."""
        run, inputs = self.run, self.inputs("generate", shard)
        if inputs is None or run.is_done("generate", shard, inputs):
            return self._counts("generate", shard)
        where = self._environment("generate", {"generator": self.stages.generator.config}, allow_mixed)
        jobs, started = self.jobs(shard), time.monotonic()
        attempts = Attempts(self.stages.generator.generate, strict)
        part = hash_of({"where": where}, inputs)  # batches of another size hold other images
        marks: dict[int, Mark] = {}

        def keep(number: int, batch: Sequence[Job], images: Sequence[NDArray[np.uint8]], said: dict[str, Any]) -> None:
            run.forget_exports()  # they may hold links to what these images were
            files = [run.write_image(shard, job.id, image) for job, image in zip(batch, images, strict=True)]
            marks[number] = run.commit_batch(shard, number, part, files, said)

        with Behind() as behind:
            for number, batch in enumerate(_batches(jobs, where, "generator")):
                if mark := run.batch_done(shard, number, part):
                    marks[number] = mark
                    continue
                run.require_room((1 + DEPTH) * len(batch) * batch[0].height * batch[0].width * 3)
                behind.do(keep, number, batch, attempts.make(batch), attempts.notes(batch))
                checkpoint()
        known: dict[str, tuple[int, str]] = {}
        notes: dict[str, dict[str, Any]] = {}
        for _, mark in sorted(marks.items()):
            known |= mark.files
            for name, said in mark.notes.items():
                notes.setdefault(name, {}).update(said)
        run.commit(
            "generate",
            shard,
            inputs,
            [run.image_file(shard, job.id) for job in jobs],
            seconds=time.monotonic() - started,
            counts={"images": len(jobs)},
            environment=where,
            notes=notes | ({"smaller_batches": attempts.smaller} if attempts.smaller else {}) | remarks.notes(),
            known=known,
        )
        run.clear_batches(shard)
        return {"images": len(jobs)}

    def _environment(self, stage: StageName, configs: Mapping[str, Any], allow_mixed: bool) -> dict[str, Any]:
        """Where the models of this stage are computed now; the same as in the shards that are there already."""
        now: dict[str, Any] = {name: c.environment() for name, c in configs.items() if isinstance(c, ModelConfig)}
        earlier = next(
            (m for s in self.run.shards() if self.is_done(stage, s) and (m := self.run.mark(stage, s))), None
        )
        if earlier and dict(earlier.environment) != now and not allow_mixed:
            changed = "; ".join(differences(earlier.environment, now))
            raise RunError(
                f"earlier shards of {self.run.address} were made otherwise ({changed}), so the same job would get "
                "slightly other pixels; go on as before, or say --allow-mixed"
            )
        return now

    def _counts(self, stage: StageName, shard: int) -> Mapping[str, int]:
        mark = self.run.mark(stage, shard)
        return mark.counts if mark else {}

    # Label

    def label(self, shard: int, allow_mixed: bool = False) -> Mapping[str, int]:
        """Grounds and segments the images of a shard."""
        run, inputs = self.run, self.inputs("label", shard)
        if inputs is None or run.is_done("label", shard, inputs):
            return self._counts("label", shard)
        grounder, segmenter = self.stages.grounder, self.stages.segmenter
        configs = {"grounder": grounder.config, "segmenter": segmenter.config}
        where = self._environment("label", configs, allow_mixed)
        run.withdraw("label", shard)
        jobs, started = self.jobs(shard), time.monotonic()
        made = run.mark("generate", shard)
        rows: list[dict[str, Any]] = []

        def read() -> Iterator[tuple[Sequence[Job], list[NDArray[np.uint8]]]]:
            for batch in _batches(jobs, where, "segmenter"):
                yield batch, [run.read_image(shard, job.id, made) for job in batch]

        def write(batch: Sequence[Job], found: Sequence[Instances]) -> None:
            for job, instances in zip(batch, found, strict=True):
                rows.extend(label_rows(job.id, instances))

        with Behind() as behind:
            for batch, images in ahead(read()):
                checkpoint()
                behind.do(write, batch, segmenter.segment(images, grounder.ground(batch, images)))
        file = run.write_table(run.table_file("labels", shard), pa.Table.from_pylist(rows, label_schema(rows)))
        counts = {"images": len(jobs), "instances": len(rows)}
        seconds = time.monotonic() - started
        run.commit(
            "label", shard, inputs, [file], seconds=seconds, counts=counts, environment=where, notes=remarks.notes()
        )
        return counts

    def samples(self, shard: int, ids: set[int] | None = None) -> Iterator[Sample]:
        """The labelled images of a shard, one at a time; of those `ids` only, where given."""
        labels = self.run.read_table(self.run.table_file("labels", shard), image_ids=ids).to_pandas()
        by_image = dict(iter(labels.groupby("image_id"))) if len(labels) else {}
        made = self.run.mark("generate", shard)
        for job in self.jobs(shard, ids):
            image = self.run.read_image(shard, job.id, made)
            try:
                sample = Sample(job, image, instances_of(by_image.get(job.id), job.height, job.width))
            except ValueError as error:
                what = f"the labels of image {job.id} in labels/{shard:05d}.parquet do not fit it"
                raise RunError(f"{what}: {error}; label the run anew") from error
            yield sample

    # Measure

    def measure(self, shard: int) -> Mapping[str, int]:
        """Takes every filter's raw numbers: a row an image (`instance` null), and a row an instance."""
        run, inputs = self.run, self.inputs("measure", shard)
        if inputs is None or run.is_done("measure", shard, inputs):
            return self._counts("measure", shard)
        started, rows, images = time.monotonic(), [], 0
        run.withdraw("measure", shard)
        for sample in ahead(self.samples(shard)):
            images += 1
            whole: dict[str, Any] = {"image_id": sample.job.id, "instance": None}
            each: list[dict[str, Any]] = [
                {"image_id": sample.job.id, "instance": i} for i in range(len(sample.instances))
            ]
            for name, f in self.stages.filters.items():
                values = measured(name, f, sample)
                if f.scope == "image":
                    whole[name] = values if f.vector else values.item()
                else:
                    for row, value in zip(each, values.tolist(), strict=True):
                        row[name] = value
            rows += [whole, *each]
        types = {name: pa.from_numpy_dtype(f.dtype) for name, f in self.stages.filters.items()}
        fields = [(n, pa.list_(types[n]) if f.vector else types[n]) for n, f in self.stages.filters.items()]
        schema = pa.schema([("image_id", pa.int64()), ("instance", pa.int32()), *fields])
        file = run.write_table(run.table_file("measures", shard), pa.Table.from_pylist(rows, schema))
        counts = {"images": images, "instances": len(rows) - images}
        seconds = time.monotonic() - started
        run.commit("measure", shard, inputs, [file], seconds=seconds, counts=counts, notes=remarks.notes())
        return counts

    def remarks(self) -> list[str]:
        """What the models' libraries remarked while the shards were made, by whichever workers: each once."""
        told = (text for _, _, mark in self.run.marks() if mark for text in mark.notes.get("remarks", ()))
        return list(dict.fromkeys(told))

    # Judge

    def verdicts(self, shards: Iterable[int]) -> Verdicts:
        """Applies the spec's thresholds to the numbers of these shards, and what people said. Writes nothing."""
        return self._judged(Tables.read(self.run, shards, self.stages.filters))

    def _judged(self, tables: Tables) -> Verdicts:
        categories = (tables.asked.values, tables.labels["category_id"])
        if not all(self._knows(values.min(), values.max()) for values in categories if len(values)):
            raise RunError(f"{self.run.address} has labels of classes that its spec has not; label the run anew")
        made = (self.run.mark("generate", int(shard)) for shard in np.unique(tables.images["shard"]))
        failed = {int(image_id) for mark in made if mark for image_id in mark.notes.get("failed", ())}
        return judge(self.spec, self.stages.filters, tables, self._reviews(tables), failed)

    def _reviews(self, tables: Tables) -> Reviews:
        """What people said of these images, where the labels are still those that they saw."""
        said = read_reviews(self.run.reviews_file)
        ids = tables.images["image_id"]
        chosen = np.isin(ids, list(said.image_ids()))
        shards, now = tables.images["shard"][chosen], dict[int, str]()
        for shard in np.unique(shards).tolist():
            now |= self.labels_digests(shard, set(ids[chosen][shards == shard].tolist()))
        said = said.where(lambda review: now.get(review.image_id) == review.labels)
        for review in said.of.values():
            there = tables.labels_of(review.image_id)
            is_label = review.instance is None or review.instance < there.stop - there.start
            if not (is_label and (review.category_id is None or self._knows(review.category_id))):
                raise RunError(f"{self.run.reviews_file.name} has a verdict on a label, or a class, that there is not")
        return said

    def labels_digests(self, shard: int, image_ids: set[int]) -> dict[int, str]:
        """Image id -> what names its labels as they are."""
        rows: dict[int, list[dict[str, Any]]] = {image_id: [] for image_id in image_ids}
        table = self.run.read_table(self.run.table_file("labels", shard), image_ids=image_ids)
        for row in table.select(["image_id", "instance", "category_id", "rle"]).to_pylist():
            rows[row["image_id"]].append(row)
        return {image_id: labels_digest(found) for image_id, found in rows.items()}

    def judge(self) -> Quality:
        """Writes `verdicts.parquet` and `quality.json`, replaced when what they are made from has changed."""
        inputs = self.inputs("judge")
        if inputs is None:
            raise RunError(f"{self.run.root} has images without measures; run the spec to make them")
        if not self.run.is_done("judge", None, inputs):
            self.run.withdraw("judge")
            started = time.monotonic()
            tables = Tables.read(self.run, self.run.shards(), self.stages.filters, shown=True)
            found = self._judged(tables)
            table = self.run.write_table(self.run.verdicts_file, found.table())
            quality = found.quality()
            notes = list(shortfall(quality, self._next_round(quality) is None))
            numbers = asdict(quality) | {"yield": quality.passed, "notes": notes}
            numbers |= figures(self.spec, self.stages.filters, tables, found)
            self._describe(numbers["samples"], found.images)
            numbers["models"] = [{"stage": key, **model} for key, model in self.models.items()]
            numbers["timings"] = timings(self.run, numbers["accepted"])
            with self.run.writing(self.run.quality_file) as file:
                file.write(orjson.dumps(numbers, option=orjson.OPT_INDENT_2))
            said = read_reviews(self.run.reviews_file).extent()
            files, seconds = [table, self.run.quality_file], time.monotonic() - started
            self.run.commit("judge", None, inputs, files, seconds=seconds, notes={"reviews": said})
        read = self.quality()
        assert read is not None
        return read

    def _describe(self, samples: Mapping[str, list[dict[str, Any]]], jobs: pd.DataFrame) -> None:
        """Puts what their jobs say of images beside them."""
        rows: dict[int, list[dict[str, Any]]] = {}
        for kind in samples.values():
            for row in kind:
                rows.setdefault(row["image_id"], []).append(row)
        for shard in sorted(set(jobs.loc[jobs["image_id"].isin(rows), "shard"])):
            for job in self.jobs(int(shard), rows):
                for row in rows.get(job.id, ()):
                    row |= {"split": job.split, "prompt": job.prompt, "seed": job.seed}

    def quality(self) -> Quality | None:
        """The numbers of the last judging, if there was one."""
        file = self.run.quality_file
        found = Numbers.read(file).quality if file.is_file() else None
        if found and found.classes.keys() != {c.name for c in self.spec.categories}:
            raise RunError(DAMAGED)
        return found

    # Export

    def export(self) -> dict[str, int]:
        """Writes every export whose inputs have changed; -> exporter: files."""
        licences = {li for stage in self.stages.named().values() for li in stage.licences()}
        splits = tuple(self.spec.splits)
        info = DatasetInfo(self.spec.name, self.spec.description, self.spec.categories, splits, tuple(sorted(licences)))
        written = {}
        for name, exporter in self.stages.exporters.items():
            inputs = self.inputs("export", name)
            if inputs is None:
                raise RunError(f"{self.run.root} has not been judged yet; run the spec first")
            if not self.run.is_done("export", name, inputs):
                with exporting(self.run, name, inputs) as folder:
                    exporter.export(info, self.accepted(), folder)
            mark = self.run.mark("export", name)
            written[name] = mark.counts.get("files", len(mark.files)) if mark else 0
        return written

    def accepted(self, first_annotation: int = 1, without: Collection[int] = ()) -> Accepted:
        """The accepted images with their labels, see `Accepted`.

        Raises:
            RunError: there are verdicts on labels of classes that the spec has not.
        """
        for rows in self.run.read_parts(self.run.verdicts_file, ["instance", "category_id"]):
            ids = rows.filter(pc.is_valid(rows["instance"]))["category_id"]
            if ids.null_count or not self._knows(*pc.unique(ids).to_pylist()):
                raise RunError(f"{self.run.address} has verdicts on labels of no class of its spec; judge it again")
        filters = self.stages.filters
        return Accepted(self.run, self.jobs, filters, first_annotation=first_annotation, without=without)

    # Single images

    def find(self, image_id: int) -> int:
        """The shard of an image.

        Raises:
            RunError: there is none of that id.
        """
        for shard in self.run.shards():
            ids = self.run.read_table(self.run.table_file("jobs", shard)).column("image_id").to_pylist()
            if image_id in ids:
                return shard
        raise RunError(f"no image of {self.run.root} has the id {image_id}")

    def remake(self, image_id: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Makes an image's batch again; -> the image that is there, and the one made now. Writes nothing."""
        shard = self.find(image_id)
        mark = self.run.mark("generate", shard)
        batches = _batches(self.jobs(shard), mark.environment if mark else {}, "generator")
        batch = next(b for b in batches if any(job.id == image_id for job in b))
        if mark and str(image_id) in mark.notes.get("again", {}):  # it was made alone
            batch = [job for job in batch if job.id == image_id]
        images = self.stages.generator.generate(batch)
        place = [job.id for job in batch].index(image_id)
        return self.run.read_image(shard, image_id, mark), images[place]


def _batches(jobs: Sequence[Job], environment: Mapping[str, Any], stage: str) -> Iterator[Sequence[Job]]:
    """Jobs in the groups in which they go through a model: part of what decides its results' last bits."""
    size = environment.get(stage, {}).get("batch_size", 1)
    for start in range(0, len(jobs), size):
        yield jobs[start : start + size]


def timings(run: Run, accepted: int) -> dict[str, Any]:
    """How long the shards took that are done: seconds, and images a second, of each stage and of all."""
    stages = stage_seconds(run)
    total = sum(seconds for seconds, _ in stages.values())
    return {
        "stages": [
            {
                "stage": name,
                "seconds": round(seconds, 3),
                "images": images,
                "images_per_second": round(images / seconds, 3) if seconds else None,
            }
            for name, (seconds, images) in stages.items()
        ],
        "seconds": round(total, 3),
        "accepted_per_hour": round(3600 * accepted / total, 1) if total else None,
    }


def stage_seconds(run: Run) -> dict[str, tuple[float, int]]:
    """Stage -> (seconds, images) over the shards that are done: what the next plan's estimate rests on."""
    totals: dict[str, tuple[float, int]] = {}
    for stage in PER_SHARD:
        marks: list[Mark] = [m for s in run.shards() if (m := run.mark(stage, s))]
        totals[stage] = (sum(m.seconds for m in marks), sum(m.counts.get("images", 0) for m in marks))
    return totals
