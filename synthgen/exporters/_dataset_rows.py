"""The rows of a dataset for Hugging Face's `datasets`, one for each image, and their types."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from synthgen.types import Category, Record

FIRST_IMAGES = 100  # of a split, from which types are inferred; `datasets` takes the first 10 MB of its metadata.jsonl


@dataclass
class Survey:
    """What must be known of all records before the first row is written.

    Attributes:
        shards: split -> the number of rows of each of its files.
        labels: split -> number of labels.
        per_class: category id -> number of labels.
        scores, slots, measures: the names that occur in any record.
        has_verdicts: whether images are among them that are not accepted.
        first_values: split -> the columns for which the first images of the split have values. `datasets` infers the
            types of a metadata.jsonl from its first lines.
    """

    shards: dict[str, list[int]] = field(default_factory=dict)
    labels: Counter[str] = field(default_factory=Counter)
    per_class: Counter[int] = field(default_factory=Counter)
    scores: set[str] = field(default_factory=set)
    slots: set[str] = field(default_factory=set)
    measures: set[str] = field(default_factory=set)
    has_verdicts: bool = False
    first_values: dict[str, set[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, records: Iterable[Record], splits: Iterable[str], shard_bytes: int | None) -> Survey:
        """Reads all records once.

        Args:
            shard_bytes: most bytes of PNGs in one file; None: all rows of a split are in one file.
        """
        survey = cls({split: [] for split in splits})
        room: dict[str, int] = {}  # bytes that a split's last file can still take
        for record in records:
            split, size = record.job.split, record.image_path.stat().st_size if shard_bytes else 0
            rows = survey.shards.setdefault(split, [])
            if is_first := not rows or size > room[split]:
                room[split] = shard_bytes or 0
            room[split] -= size
            survey.add(record, is_first=is_first)
        return survey

    def add(self, record: Record, *, is_first: bool) -> None:
        """Counts a record; `is_first`: of the next file of its split."""
        split = record.job.split
        rows = self.shards.setdefault(split, [])
        rows += [0] * is_first
        rows[-1] += 1
        self.labels[split] += len(record.annotations)
        self.per_class.update(a.category_id for a in record.annotations)
        self.scores.update(*(a.scores for a in record.annotations))
        self.slots.update(record.job.slots)
        self.measures.update(record.measures)
        self.has_verdicts |= record.verdict != "accepted"
        if sum(rows) <= FIRST_IMAGES:
            self.first_values.setdefault(split, set()).update(_with_values(record))

    def images(self, split: str) -> int:
        return sum(self.shards[split])

    def has_types(self) -> bool:
        """Whether `datasets` infers the same types from the first lines of the metadata.jsonl of every split; it loads
        none of them otherwise."""
        columns = {f"{kind}.{name}" for kind in ("scores", "slots", "measures") for name in getattr(self, kind)}
        columns |= {"objects", "prompt", *(["reasons"] if self.has_verdicts else [])}
        return all(columns <= found for found in self.first_values.values())


def _with_values(record: Record) -> Iterator[str]:
    """The columns of which JSON shows the type."""
    if record.annotations:
        yield "objects"
    if record.reasons:
        yield "reasons"
    for annotation in record.annotations:
        yield from (f"scores.{name}" for name, value in annotation.scores.items() if value == value)
    yield from (f"measures.{name}" for name, value in record.measures.items() if value == value)
    # Arrow takes texts such as 2026-01-31 for dates.
    texts = {"prompt": record.job.prompt, **{f"slots.{name}": value for name, value in record.job.slots.items()}}
    yield from (name for name, value in texts.items() if not value[:4].isdecimal())


class Rows:
    """Turns records into rows: plain Python values, as pyarrow gives them back."""

    def __init__(self, categories: Sequence[Category], survey: Survey) -> None:
        self._categories, self._survey = categories, survey
        self._labels = {category.id: number for number, category in enumerate(categories)}

    def features(self, *, file_names: bool = False) -> Any:
        """The types of the columns: `datasets.Features`.

        Args:
            file_names: names of image files in place of images, as in the metadata of an image folder.
        """
        from datasets import ClassLabel, Features, Image, List, Value

        survey = self._survey
        size = {"size": List(Value("int32"), length=2), "counts": Value("string")}
        objects = {
            "id": List(Value("int64")),
            "bbox": List(List(Value("float64"), length=4)),
            "category": List(ClassLabel(names=[category.name for category in self._categories])),
            "area": List(Value("int64")),
            "iscrowd": List(Value("int8")),
            "segmentation": List(size),
        }
        # Parquet has no mapping without keys, so what no record has is no column.
        if survey.scores:
            objects["scores"] = List({name: Value("float64") for name in sorted(survey.scores)})
        columns = {
            **({"file_name": Value("string")} if file_names else {"image": Image()}),
            "image_id": Value("int64"),
            "width": Value("int32"),
            "height": Value("int32"),
            "objects": objects,
            "prompt": Value("string"),
            "negative_prompt": Value("string"),
            "seed": Value("int64"),
        }
        if survey.slots:
            columns["slots"] = {name: Value("string") for name in sorted(survey.slots)}
        if survey.measures:
            columns["measures"] = {name: Value("float64") for name in sorted(survey.measures)}
        if survey.has_verdicts:
            columns |= {"verdict": Value("string"), "reasons": List(Value("string"))}
        return Features(columns)

    def row(self, record: Record) -> dict[str, Any]:
        """A record's row, without its image."""
        job, survey, annotations = record.job, self._survey, record.annotations
        objects: dict[str, Any] = {
            "id": [a.id for a in annotations],
            "bbox": [[*a.bbox_xywh] for a in annotations],
            "category": [self._labels[a.category_id] for a in annotations],
            "area": [a.area for a in annotations],
            "iscrowd": [int(a.ignore) for a in annotations],
            "segmentation": [{"size": [*a.rle["size"]], "counts": a.rle["counts"]} for a in annotations],
        }
        if survey.scores:
            # A list of mappings: in a metadata.jsonl, Arrow misreads lists that begin with null
            # (https://github.com/apache/arrow/issues/51305).
            objects["scores"] = [{name: a.scores.get(name) for name in sorted(survey.scores)} for a in annotations]
        row = {
            "image_id": job.id,
            "width": job.width,
            "height": job.height,
            "objects": objects,
            "prompt": job.prompt,
            "negative_prompt": job.negative_prompt,
            "seed": job.seed,
        }
        if survey.slots:
            row["slots"] = {name: job.slots.get(name) for name in sorted(survey.slots)}
        if survey.measures:
            row["measures"] = {name: record.measures.get(name) for name in sorted(survey.measures)}
        if survey.has_verdicts:
            row |= {"verdict": record.verdict, "reasons": [*record.reasons]}
        return row


def difference(found: Any, expected: Any, place: str = "") -> tuple[str, Any, Any] | None:
    """Where two rows differ first, such as `objects.bbox.3`, with what is there in each; None if they are equal. NaN
    equals NaN.

    Args:
        place: of the two values in the row.
    """
    if found == expected or (found != found and expected != expected):
        return None
    if isinstance(found, Mapping) and isinstance(expected, Mapping) and found.keys() == expected.keys():
        pairs: Iterable[tuple[Any, Any, Any]] = ((key, found[key], expected[key]) for key in expected)
    elif isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        pairs = ((i, a, b) for i, (a, b) in enumerate(zip(found, expected, strict=True)))
    else:
        return place, found, expected
    differences = (difference(a, b, f"{place}.{key}".lstrip(".")) for key, a, b in pairs)
    return next((one for one in differences if one), None)
