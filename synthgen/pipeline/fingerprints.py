"""What the results of each stage depend on: one table, `DEPENDENCIES`, with a row for each stage.

A commit mark holds a hash of what its files were made from. A piece of work is done if this hash equals the one that
the spec gives now. So a change of the spec repeats the stages whose rows name what has changed, and those after them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from synthgen.base.sealed import sha256_json
from synthgen.judging.reviews import read_reviews
from synthgen.spec import DatasetSpec
from synthgen.store.marks import Mark
from synthgen.store.paths import CORRECTIONS, VERDICTS, StageName
from synthgen.store.run import Run

FORMAT = 1  # of fingerprints: a change here makes every existing run another dataset
JUDGE_FORMAT = 2  # of what judging writes: a change here judges every existing run again

Models = Mapping[str, Mapping[str, Any]]  # key in the spec -> name, revision and weights of its model


class Work(NamedTuple):
    """A piece of a stage's work, which has a mark of its own.

    Attributes:
        piece: number of the shard, name of the exporter, or None for the run as a whole.
    """

    stage: StageName
    piece: int | str | None

    def __str__(self) -> str:
        return self.stage if self.piece is None else f"{self.stage} {self.piece}"


class SpecWithModels(Protocol):
    """A spec and its models. The models are looked up only if a row asks for them."""

    @property
    def spec(self) -> DatasetSpec: ...

    @property
    def models(self) -> Models: ...


@dataclass(frozen=True, slots=True)
class Upstream:
    """A stage whose results another stage reads.

    Attributes:
        file: name of the only file that is read; "": all files are read.
        is_optional: whether the file may be missing although the stage is done.
    """

    stage: StageName
    file: str = ""
    is_optional: bool = False

    def checksum(self, mark: Mark | None) -> str | None:
        """A hash of the content that is read; None while it does not exist."""
        if mark is None or (self.file and self.file not in mark.files):
            return None
        return mark.files[self.file][1] if self.file else mark.outputs


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What the results of a stage depend on.

    Attributes:
        per: what the work is split by: each shard, each exporter, or the run as a whole has its own results and mark.
        fingerprint: what the results depend on in the spec and its models, as plain data. Its second argument is the
            exporter's name.
        upstream: the stages whose results this one reads, in the order in which they are hashed. A stage that is done
            per shard reads those of its own shard, and every other stage reads those of all shards.
        reads_reviews: whether the results depend on what people said of labels.
    """

    per: Literal["shard", "exporter", "run"]
    fingerprint: Callable[[SpecWithModels, str], Mapping[str, Any]]
    upstream: tuple[Upstream, ...] = ()
    reads_reviews: bool = False

    def inputs(self, run: Run, fingerprint: Mapping[str, Any], piece: int | str | None) -> str | None:
        """Hash of everything that a piece of work is made from; None while some of that is missing.

        Args:
            fingerprint: what `Dependencies.fingerprint` gives.
            piece: number of the shard, name of the exporter, or None for the run as a whole.
        """
        reviews = read_reviews(run.paths.reviews).digest() if self.reads_reviews else ""
        shards = [piece] if self.per == "shard" else run.marks.shards()
        of_shards = [u for u in self.upstream if DEPENDENCIES[u.stage].per == "shard"]
        of_run = [(u, run.marks.read(u.stage)) for u in self.upstream if u not in of_shards]
        checksums = [
            u.checksum(mark) for u, mark in of_run if not (u.is_optional and mark and u.file not in mark.files)
        ]
        checksums += [u.checksum(run.marks.read(u.stage, shard)) for shard in shards for u in of_shards]
        existing = [checksum for checksum in checksums if checksum is not None]
        if len(existing) < len(checksums):
            return None
        return hash_of(fingerprint, *existing, *filter(None, [reviews]))


def hash_of(fingerprint: Mapping[str, Any], *checksums: str) -> str:
    return sha256_json([fingerprint, *checksums])


def weights_of(models: Models, key: str) -> str:
    """The weights of a backend, or of those nested in it; "" if it has no model."""
    return " ".join(str(m["weights"]) for k, m in models.items() if k == key or k.startswith(f"{key}.of."))


def made_from(spec: DatasetSpec, models: Models) -> dict[str, Any]:
    """What the images depend on, as plain data: the generator, and every key of the spec that decides jobs."""
    return {
        "format": FORMAT,
        "name": spec.name,
        "seed": spec.seed,
        "height": spec.height,
        "width": spec.width,
        "shard_size": spec.shard_size,
        "classes": {c.name: list(c.aspect_ratio) if c.aspect_ratio else None for c in spec.classes},
        "class_order": [c.name for c in spec.classes],
        **({"class_prompts": named} if (named := {c.name: c.prompt for c in spec.classes if c.prompt}) else {}),
        "objects_per_image": {str(k): w for k, w in spec.objects_per_image.items()},
        "prompts": spec.prompts.model_dump(mode="json"),
        "layout": spec.layout.model_dump(mode="json") if spec.layout else None,
        "generator": {**spec.generator.fingerprint(), "weights": weights_of(models, "generator")},
        # Runs that are older than this key have no value for it. Without prompts, the files are others.
        **({} if spec.provenance.prompt else {"provenance": {"prompt": False}}),
    }


def labelled_by(spec: DatasetSpec, models: Models) -> dict[str, Any]:
    """What the labels depend on, besides the images."""
    return {
        "format": FORMAT,
        "grounder": {**spec.grounder.fingerprint(), "weights": weights_of(models, "grounder")},
        "segmenter": {**spec.segmenter.fingerprint(), "weights": weights_of(models, "segmenter")},
        "synonyms": {c.name: list(c.synonyms) for c in spec.classes},
    }


def measured_by(spec: DatasetSpec, models: Models) -> dict[str, Any]:
    """What the measures depend on, besides images and labels. Measures do not depend on thresholds."""
    return {
        "format": FORMAT,
        **{n: {**c.fingerprint(), "weights": weights_of(models, f"filters.{n}")} for n, c in spec.filters.items()},
    }


def judged_by(spec: DatasetSpec) -> dict[str, Any]:
    """What the verdicts depend on, besides the measures."""
    return {
        "format": JUDGE_FORMAT,
        "count": spec.count,
        "quotas": {str(c): n for c, n in spec.quotas.items()},
        # These are lists because their order counts: it decides the split of a family and the order of reasons.
        "splits": list(spec.splits.items()),
        "filters": [(n, c.model_dump(mode="json")) for n, c in spec.filters.items()],
    }


def exported_by(spec: DatasetSpec, exporter: str) -> dict[str, Any]:
    """What an export depends on, besides the verdicts and the records."""
    return {
        "format": FORMAT,
        "description": spec.description,
        "splits": list(spec.splits),
        "options": (c := spec.exporters[exporter]).model_dump(mode="json", exclude=c.untouched()),
        **({"signed_by": signing.certificate} if (signing := spec.provenance.c2pa) else {}),
        **({"categories": named} if (named := _own_categories(spec)) else {}),
        **({"publication": said} if (said := spec.publication.model_dump(mode="json", exclude_defaults=True)) else {}),
    }


def _own_categories(spec: DatasetSpec) -> list[list[Any]]:
    """The exported id and the supercategory of every class; empty if the spec sets neither for any class."""
    given = [[c.exported_id, c.supercategory] for c in spec.categories]
    return given if any(c.own_id or c.supercategory for c in spec.categories) else []


def reported_by(spec: DatasetSpec) -> dict[str, Any]:
    """What the report and the dataset card depend on, besides numbers, labels and images."""
    folder = Path(__file__).parent.parent / "report"
    templates = sorted(p for p in folder.iterdir() if p.suffix in {".j2", ".css", ".js"})
    return {
        "format": FORMAT,
        "description": spec.description,
        "exporters": list(spec.exporters),
        "templates": {file.name: file.read_text(encoding="utf-8") for file in templates},
    }


# A new stage is a row here. tests/pipeline/test_fingerprints.py has a test for each row. tests/pipeline also has one
# for each row of the table in docs/operate.md, which says what a change of a spec repeats.
DEPENDENCIES: dict[StageName, Dependencies] = {
    "plan": Dependencies("shard", lambda its, _: made_from(its.spec, its.models)),
    "generate": Dependencies(
        "shard",
        lambda its, _: {"own": hash_of(made_from(its.spec, its.models))},
        (Upstream("plan"),),
    ),
    "label": Dependencies(
        "shard",
        lambda its, _: {"own": hash_of(labelled_by(its.spec, its.models))},
        (Upstream("plan"), Upstream("generate")),
    ),
    "measure": Dependencies(
        "shard",
        lambda its, _: {"own": hash_of(measured_by(its.spec, its.models))},
        (Upstream("generate"), Upstream("label")),
    ),
    "judge": Dependencies(
        "run",
        lambda its, _: judged_by(its.spec),
        (Upstream("measure"),),
        reads_reviews=True,
    ),
    "export": Dependencies(
        "exporter",
        lambda its, exporter: exported_by(its.spec, exporter),
        # Exports do not read `quality.json`, which holds times, so that it differs between equal runs.
        (
            Upstream("judge", VERDICTS),
            Upstream("judge", CORRECTIONS, is_optional=True),
            Upstream("label"),
            Upstream("measure"),
        ),
    ),
    "report": Dependencies(
        "run",
        lambda its, _: reported_by(its.spec),
        (Upstream("judge"), Upstream("generate"), Upstream("label"), Upstream("measure")),
    ),
}
# The stages that every planned shard goes through, in order.
PER_SHARD = tuple(stage for stage, row in DEPENDENCIES.items() if row.per == "shard" and row.upstream)
