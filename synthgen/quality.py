"""A run in numbers: yield, classes, and what was lost to which filter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from synthgen.precision import LabelPrecision


@dataclass(frozen=True, slots=True)
class ClassCount:
    """Instances of a class.

    Attributes:
        asked: for, in all jobs.
        accepted: kept, in accepted images.
        quota: the least number to be accepted; 0 is none.
        lost: those asked for that are not kept, or are in rejected images.
        reasons: filter -> how many of `lost` it had a part in, the hungriest first.
    """

    asked: int
    accepted: int
    quota: int = 0
    lost: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)

    @property
    def missing(self) -> int:
        return max(0, self.quota - self.accepted)


@dataclass(frozen=True, slots=True)
class Reason:
    """Images that a filter rejects, and those that it alone rejects. `advice`: what another threshold would do."""

    images: int
    alone: int
    advice: str


@dataclass(frozen=True, slots=True)
class Quality:
    """A run in numbers: what `quality.json` begins with; `figures` has the rest of it."""

    name: str
    wanted: int
    made: int
    accepted: int
    surplus: int
    rejected: int
    instances: int
    reasons: Mapping[str, Reason]
    classes: Mapping[str, ClassCount]
    splits: Mapping[str, int]
    objects: Mapping[str, int]
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
    def read(cls, raw: dict[str, Any]) -> Quality:
        """`quality.json`; what it has besides is left."""
        own = {f.name: raw[f.name] for f in fields(cls)}
        own["reasons"] = {n: Reason(**r) for n, r in own["reasons"].items()}
        own["classes"] = {n: ClassCount(**c) for n, c in own["classes"].items()}
        own["precision"] = LabelPrecision.read(own["precision"])
        return cls(**own)
