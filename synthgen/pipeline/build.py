"""A run folder together with its spec: what is done, what is left to do, and its jobs and numbers.

The stages lie in modules of their own: `plan`, `generate`, `label`, `measure`, `judge` and `export`, and `report.page`.
Each is a function that takes a `Build` and skips work that is done. Nothing here depends on who calls it, or when.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from synthgen import __version__
from synthgen.backends import is_own, nested_configs
from synthgen.base.files import sha256
from synthgen.errors import RunError
from synthgen.judging.quality import DAMAGED, Numbers, Quality
from synthgen.pipeline.fingerprints import DEPENDENCIES, PER_SHARD, Models, Work, hash_of, made_from, weights_of
from synthgen.pipeline.stages import Stages
from synthgen.planning.jobs import retry_seed, split_of
from synthgen.planning.rounds import Round, next_round
from synthgen.spec import DatasetSpec, differences
from synthgen.spec.unloaded import record
from synthgen.store.marks import Mark
from synthgen.store.paths import StageName
from synthgen.store.run import Run
from synthgen.types import Job


@dataclass(frozen=True)
class Build:
    """A run folder and the spec of its run."""

    run: Run
    spec: DatasetSpec
    stages: Stages

    @classmethod
    def start(cls, run: Run, spec: DatasetSpec, stages: Stages) -> Build:
        """Opens a new or an existing run folder for a spec. The caller holds the lock.

        Raises:
            RunError: the folder holds another dataset; the message says what differs.
        """
        if run.is_another:
            other = f"{run.address} holds the images of run {run.recorded_number}, so it is a copy"
            raise RunError(f"{other}; take another --run or --out")
        facts = run.facts.read()
        models = stages.models(facts.get("models", {}))
        fingerprint = made_from(spec, models)
        if facts:
            changed = differences(facts["made_from"], fingerprint)
        else:  # The folder is new, or `run.json` is damaged: then the marks of the plan show whether the spec differs.
            inputs = hash_of(fingerprint)
            planned = (run.marks.read("plan", shard) for shard in run.marks.shards())
            is_other = any(mark and mark.inputs != inputs for mark in planned)
            changed = ["run.json is damaged, so it is not known what differs"] if is_other else []
        if changed:
            raise RunError(
                f"{run.address} holds images that were made differently ({'; '.join(changed[:5])}); "
                "put the spec back, or take another name, --out or --run"
            )
        run.marks.sweep()
        run.rounds.repair()
        run.facts.write_spec(spec.dump())
        facts = {"run": run.number, "synthgen": __version__, "made_from": fingerprint, "models": models}
        modules = {
            key: record(stage, weights_of(models, key))
            for key, stage in stages.named().items()
            if any(is_own(config.use) for config in (stage.config, *nested_configs(stage.config).values()))
        }
        run.facts.write({**facts, **({"modules": modules} if modules else {}), "spec": sha256(run.paths.spec)})
        return cls(run, spec, stages)

    @classmethod
    def open(cls, run: Run) -> Build:
        """Opens a run folder with the spec that it holds."""
        spec = DatasetSpec.parse(run.facts.read_spec())
        return cls(run, spec, Stages.of(spec))

    @classmethod
    def read(cls, run: Run) -> Build:
        """`open` for commands that only read: imports none of the user's modules that the spec names (`unloaded`)."""
        spec = DatasetSpec.parse(run.facts.read_spec(), run.facts.read().get("modules", {}))
        return cls(run, spec, Stages.of(spec))

    # What is done

    @cached_property
    def models(self) -> Models:
        """Key in the spec -> name, revision and weights of its model, see `Stages.models`."""
        return self.stages.models(self.run.facts.read().get("models", {}))

    @cached_property
    def _fingerprints(self) -> dict[tuple[StageName, str], Mapping[str, Any]]:
        """(stage, exporter or "") -> its fingerprint. Kept, because it may take the checksums of large weights."""
        return {}

    def inputs(self, stage: StageName, piece: int | str | None = None) -> str | None:
        """Hash of everything that a piece of work is made from; None while some of that is missing.

        Args:
            piece: number of the shard, name of the exporter, or None, as `DEPENDENCIES` says for the stage.
        """
        row = DEPENDENCIES[stage]
        key = (stage, piece if isinstance(piece, str) else "")
        if key not in self._fingerprints:
            self._fingerprints[key] = row.fingerprint(self, key[1])
        return row.inputs(self.run, self._fingerprints[key], piece)

    def pieces(self, stage: StageName) -> list[int] | list[str] | list[None]:
        """The pieces of a stage's work: the shards, the exporters, or [None] for the run as a whole."""
        match DEPENDENCIES[stage].per:
            case "shard":
                return self.run.marks.shards()
            case "exporter":
                return list(self.spec.exporters)
            case "run":
                return [None]

    def work(self) -> Iterator[Work]:
        """All work of the run, stage by stage, done or not."""
        for stage in DEPENDENCIES:
            for piece in self.pieces(stage):
                yield Work(stage, piece)

    def is_done(self, stage: StageName, piece: int | str | None = None) -> bool:
        inputs = self.inputs(stage, piece)
        return inputs is not None and self.run.marks.is_done(stage, piece, inputs)

    def pending(self) -> list[int]:
        """The shards for which some stage is not done."""
        return [s for s in self.run.marks.shards() if not all(self.is_done(stage, s) for stage in PER_SHARD)]

    def is_complete(self) -> bool:
        """Whether running would do nothing: everything is made, exported and reported, and no round can be added."""
        return (
            self.has_its_rounds()
            and all(self.is_done(*work) for work in self.work())
            and self.next_round(self.quality()) is None
        )

    def counts(self, stage: StageName, shard: int) -> Mapping[str, int]:
        """The counts in the mark of a shard's stage; empty without a mark."""
        mark = self.run.marks.read(stage, shard)
        return mark.counts if mark else {}

    def remarks(self) -> list[str]:
        """What the models' libraries remarked while the shards were made, on any machine. Each remark comes once."""
        remarks = (
            remark for _, _, mark in self.run.marks.read_all() if mark for remark in mark.notes.get("remarks", ())
        )
        return list(dict.fromkeys(remarks))

    # Rounds

    def rounds(self) -> list[Round]:
        """The rounds that are recorded, in order."""
        return [Round(**record) for record in self.run.rounds.read()]

    def shards_of(self, round: Round) -> int:
        """How many shards the jobs of a round fill."""
        return -(-round.count // self.spec.shard_size)

    def has_its_rounds(self) -> bool:
        """Whether every shard of the recorded rounds is planned."""
        rounds = self.rounds()
        return bool(rounds) and len(self.run.marks.shards()) == sum(map(self.shards_of, rounds))

    def next_round(self, quality: Quality | None) -> Round | None:
        """The round that would replace what judging rejected; None if nothing is missing or the budget is spent."""
        if quality is None:
            return None
        return next_round(
            self.spec,
            len(self.rounds()) + 1,
            quality.made,
            quality.accepted,
            {c.id: quality.classes[c.name].asked for c in self.spec.categories},
            {c.id: quality.classes[c.name].accepted for c in self.spec.categories},
            {int(k): n for k, n in quality.objects.items()},
        )

    # Its records

    def jobs(self, shard: int, image_ids: Collection[int] | None = None, generated: Mark | None = None) -> list[Job]:
        """The jobs of a shard, or of some of its images, in order of id. The job of an image that was made with a
        further seed has that seed.

        Args:
            generated: the mark of the shard's images, if the caller has read it.

        Raises:
            RunError: a job is damaged, or belongs to another spec.
        """
        jobs, mark = [], generated or self.run.marks.read("generate", shard)
        attempts = mark.notes.get("again", {}) if mark else {}
        splits, size = self.spec.splits, (self.spec.height, self.spec.width)
        classes = {category.id for category in self.spec.categories}
        for row in self.run.tables.read_jobs(shard, image_ids):
            row["id"] = row.pop("image_id")
            row["slots"] = dict(row["slots"])
            row["asked"] = tuple(row["asked"])
            if attempts and str(row["id"]) in attempts:
                row["seed"] = retry_seed(row["seed"], attempts[str(row["id"])])
            try:
                row["layout"] = None if row["layout"] is None else tuple(map(tuple, row["layout"]))
                job = Job(split=split_of(row["family"], splits), **row)
                if (job.height, job.width) != size or not classes.issuperset(job.asked):
                    raise ValueError("it belongs to another spec")
            except (TypeError, ValueError) as error:
                file = self.run.paths.name(self.run.paths.table("jobs", shard))
                raise RunError(f"{file} has a damaged job, {row['id']}: {error}") from error
            jobs.append(job)
        return jobs

    def has_classes(self, *category_ids: int) -> bool:
        """Whether all of these are classes of the spec."""
        return all(1 <= category_id <= len(self.spec.classes) for category_id in category_ids)

    def quality(self) -> Quality | None:
        """The numbers of the last judging; None before the first.

        Raises:
            RunError: they are damaged.
        """
        file = self.run.paths.quality
        quality = Numbers.read(file).quality if file.is_file() else None
        if quality and quality.classes.keys() != {c.name for c in self.spec.categories}:
            raise RunError(DAMAGED)
        return quality
