"""A run in numbers: yield, classes, and what was lost to which filter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import orjson
from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # as in `forms`

from synthgen.errors import RunError
from synthgen.judging.precision import HALF_WIDTHS, LabelPrecision
from synthgen.store.forms import Count

DAMAGED = "quality.json cannot be read, or is not what was written; judge the run again to write it anew"


@dataclass(frozen=True, slots=True)
class ClassCount:
    """Instances of a class.

    Attributes:
        asked: the instances that all jobs ask for.
        accepted: the kept instances in accepted images.
        quota: the least number that the spec wants accepted; 0 for none.
        lost: the instances asked for that are not kept, or are in rejected images.
        reasons: filter -> how many of `lost` it had a part in, the largest number first.
    """

    asked: Count
    accepted: Count
    quota: Count = 0
    lost: Count = 0
    reasons: Mapping[str, Count] = field(default_factory=dict)

    @property
    def missing(self) -> int:
        return max(0, self.quota - self.accepted)


@dataclass(frozen=True, slots=True)
class Reason:
    """`images`: those that a filter rejects; `alone`: those that no other rejects; `advice`: what another threshold
    would do, or ""."""

    images: Count
    alone: Count
    advice: str


@dataclass(frozen=True, slots=True)
class Quality:
    """A run in numbers: the first part of `quality.json`. The second is made by `figures`."""

    name: str
    wanted: Count
    made: Count
    accepted: Count
    surplus: Count
    rejected: Count
    instances: Count
    reasons: Mapping[str, Reason]
    classes: Mapping[str, ClassCount]
    splits: Mapping[str, Count]
    objects: Mapping[Annotated[str, Field(pattern="^[0-9]{1,3}$")], Count]
    precision: LabelPrecision

    @property
    def missing(self) -> int:
        return max(0, self.wanted - self.accepted)

    @property
    def short(self) -> Mapping[str, ClassCount]:
        """The classes that have not met their quotas."""
        return {name: c for name, c in self.classes.items() if c.missing}

    @property
    def is_short(self) -> bool:
        return bool(self.missing or self.short)

    @property
    def passed(self) -> float:
        """Yield: the share of images made that pass every filter."""
        return (self.accepted + self.surplus) / self.made if self.made else 0.0

    @classmethod
    def read(cls, raw: Any) -> Quality:
        """The first part of the content of `quality.json`.

        Raises:
            RunError: a number is missing, or does not agree with the others.
        """
        try:
            quality: Quality = _QUALITY.validate_python({f.name: raw[f.name] for f in fields(cls)})
        except (ValidationError, LookupError, TypeError) as error:
            raise RunError(DAMAGED) from error
        p = quality.precision
        whole = quality.wanted and quality.accepted + quality.surplus + quality.rejected == quality.made
        if not (whole and 0 <= p.right <= p.verdicts <= p.population and {w for w, _ in p.needed} == {*HALF_WIDTHS}):
            raise RunError(DAMAGED)
        return quality


_QUALITY = TypeAdapter(Quality)


class _Nearest(TypedDict):
    instance: Count | None


class _Borderline(TypedDict):
    image_id: Annotated[int, Field(ge=1, lt=2**63)]
    nearest: _Nearest


class _Samples(TypedDict):
    borderline: list[_Borderline]


class _Timings(TypedDict):
    seconds: Annotated[float, Field(ge=0, le=1e12)]
    accepted_per_hour: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None


@dataclass(frozen=True, slots=True)
class Numbers:
    """The parts of `quality.json` that other commands than the report read. `samples`: the images near a threshold."""

    quality: Quality
    samples: _Samples
    timings: _Timings

    @classmethod
    def read(cls, file: Path) -> Numbers:
        """
        Raises:
            RunError: it cannot be read, or is not what was written.
        """
        try:
            raw = orjson.loads(file.read_bytes())
            quality = Quality.read(raw)
            return cls(quality, _SAMPLES.validate_python(raw["samples"]), _TIMINGS.validate_python(raw["timings"]))
        except (OSError, ValueError, KeyError) as error:
            raise RunError(DAMAGED) from error


_SAMPLES, _TIMINGS = TypeAdapter(_Samples), TypeAdapter(_Timings)
