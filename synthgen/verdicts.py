"""Numbers become verdicts: which images are accepted, which are not, and every reason why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from synthgen.backends import Filter, ThresholdFilter
from synthgen.plan import split_of
from synthgen.spec import DatasetSpec

if TYPE_CHECKING:
    import pandas as pd

EMPTY = "empty_mask"  # the reason for an object that was asked for, or grounded, and has no pixel


@dataclass(frozen=True, slots=True)
class ClassCount:
    """Instances of a class: asked for in all jobs, and labelled in accepted images."""

    asked: int
    accepted: int


@dataclass(frozen=True, slots=True)
class Reason:
    """Images that a filter rejects, and those that it alone rejects. `advice`: what another threshold would do."""

    images: int
    alone: int
    advice: str


@dataclass(frozen=True, slots=True)
class Quality:
    """A run in numbers: what `quality.json` holds."""

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

    @property
    def missing(self) -> int:
        return max(0, self.wanted - self.accepted)

    @property
    def passed(self) -> float:
        """Yield: the share of images made that pass every filter."""
        return (self.accepted + self.surplus) / self.made if self.made else 0.0

    @classmethod
    def read(cls, raw: dict[str, Any]) -> Quality:
        reasons = {n: Reason(**r) for n, r in raw.pop("reasons").items()}
        classes = {n: ClassCount(**c) for n, c in raw.pop("classes").items()}
        return cls(reasons=reasons, classes=classes, **raw)


@dataclass(frozen=True)
class Verdicts:
    """Verdicts on images and on instances.

    Attributes:
        images: a row an image in order of id: image_id, shard, split, objects (asked), verdict (accepted, surplus,
            rejected), reasons.
        instances: a row an instance: image_id, instance, shard, category_id, verdict (kept, ignored, dropped,
            rejected), reasons.
    """

    spec: DatasetSpec
    filters: Mapping[str, Filter[Any]]
    images: pd.DataFrame
    instances: pd.DataFrame
    asked: Counter[int]
    failing: Mapping[str, Mapping[int, list[float]]]

    def table(self) -> pa.Table:
        """Both as one table; `instance` is null in an image's row."""
        schema = pa.schema(
            [
                ("image_id", pa.int64()),
                ("instance", pa.int32()),
                ("shard", pa.int32()),
                ("split", pa.string()),
                ("category_id", pa.int32()),
                ("verdict", pa.string()),
                ("reasons", pa.list_(pa.string())),
            ]
        )
        columns = [
            pa.Table.from_pandas(self._filled(f, schema), schema, preserve_index=False)
            for f in (self.images, self.instances)
        ]
        return pa.concat_tables(columns)

    @staticmethod
    def _filled(frame: pd.DataFrame, schema: pa.Schema) -> pd.DataFrame:
        # The type of an empty column is anyone's guess, and no guess of pandas's is a list.
        return frame.reindex(columns=schema.names).astype({"reasons": object})

    def quality(self) -> Quality:
        counts = Counter(self.images["verdict"])
        chosen = self.images[self.images["verdict"] == "accepted"]
        kept = self.instances[
            self.instances["verdict"].eq("kept") & self.instances["image_id"].isin(chosen["image_id"])
        ]
        per_class = Counter(kept["category_id"])
        return Quality(
            name=self.spec.name,
            wanted=self.spec.count,
            made=len(self.images),
            accepted=counts["accepted"],
            surplus=counts["surplus"],
            rejected=counts["rejected"],
            instances=len(kept),
            reasons=self._reasons(),
            classes={c.name: ClassCount(self.asked[c.id], per_class[c.id]) for c in self.spec.categories},
            splits={name: int((chosen["split"] == name).sum()) for name in self.spec.splits},
            objects={str(k): int((chosen["objects"] == k).sum()) for k in sorted(self.spec.objects_per_image)},
        )

    def _reasons(self) -> dict[str, Reason]:
        rejected = self.images.loc[self.images["verdict"] == "rejected", ["image_id", "reasons"]]
        total = Counter(r for reasons in rejected["reasons"] for r in reasons)
        alone: dict[str, list[int]] = {}
        for image_id, reasons in zip(rejected["image_id"], rejected["reasons"], strict=True):
            if len(reasons) == 1:
                alone.setdefault(reasons[0], []).append(int(image_id))
        missing = max(0, self.spec.count - int((self.images["verdict"] == "accepted").sum()))
        return {
            name: Reason(n, len(alone.get(name, [])), self._advice(name, alone.get(name, []), missing))
            for name, n in sorted(total.items(), key=lambda item: (-item[1], item[0]))
        }

    def _advice(self, name: str, images: list[int], missing: int) -> str:
        """Which threshold would let through as many images as are missing, of those that this filter alone rejects."""
        f = self.filters.get(name)
        if not isinstance(f, ThresholdFilter) or not images or not missing:
            return ""
        # What an image's threshold would have to be is decided by its worst number; only one side can be told simply.
        key = "max" if f.config.min is None else "min"
        worst = []
        for values in (np.array(self.failing[name][i]) for i in images):
            if np.isfinite(values).all() and (key == "max" or not (values > f.config.min).any()):
                worst.append(values.max() if key == "max" else values.min())
        if not worst:
            return ""
        worst.sort(reverse=key == "min")
        shown = _outward(worst[min(missing, len(worst)) - 1], key)
        more = sum(v <= shown if key == "max" else v >= shown for v in worst)
        return f"{key}: {shown:g} would let {more} more through"


def _outward(value: float, key: str) -> float:
    """A threshold of three digits that surely keeps `value`."""
    rounding = ROUND_FLOOR if key == "min" else ROUND_CEILING
    return float(Context(prec=3, rounding=rounding).create_decimal_from_float(float(value)))


def judge(
    spec: DatasetSpec,
    filters: Mapping[str, Filter[Any]],
    measures: pd.DataFrame,
    labels: pd.DataFrame,
    jobs: pd.DataFrame,
) -> Verdicts:
    """Applies thresholds to stored numbers.

    Args:
        measures: image_id, instance (null: the image), a column a filter.
        labels: image_id, instance, category_id, area.
        jobs: image_id, shard, family, asked.
    """
    jobs = jobs.sort_values("image_id", ignore_index=True)
    order: list[int] = jobs["image_id"].tolist()
    place = {image_id: i for i, image_id in enumerate(order)}
    whole = measures[measures["instance"].isna()].set_index("image_id").reindex(jobs["image_id"])
    each = labels.merge(measures[measures["instance"].notna()], on=["image_id", "instance"], how="left")
    each = each.sort_values(["image_id", "instance"], ignore_index=True)

    ids: list[int] = each["image_id"].tolist()
    image_reasons: list[list[str]] = [[] for _ in place]
    instance_reasons: list[list[str]] = [[] for _ in range(len(each))]
    rank = np.zeros(len(each), int)  # of what is to become of an instance: kept, dropped, ignored, rejected
    failing: dict[str, dict[int, list[float]]] = {}

    def fail(name: str, failed: np.ndarray[Any, Any], values: np.ndarray[Any, Any] | None, outcome: str) -> None:
        """Marks instances."""
        for i in np.flatnonzero(failed):
            image_id = ids[i]
            instance_reasons[i].append(name)
            rank[i] = max(rank[i], ("keep", "drop", "ignore", "reject").index(outcome))
            if values is not None:
                failing.setdefault(name, {}).setdefault(image_id, []).append(float(values[i]))
            if outcome == "reject" and name not in image_reasons[place[image_id]]:
                image_reasons[place[image_id]].append(name)

    fail(EMPTY, each["area"].to_numpy() == 0, None, "reject")
    for name, f in filters.items():
        if f.scope == "instance":
            values = each[name].to_numpy(f.dtype)
            fail(name, f.fails(values), values, f.config.on_fail)
    for name, f in filters.items():
        if f.scope == "image" and not f.whole_dataset:
            values = whole[name].to_numpy(f.dtype)
            for i in np.flatnonzero(f.fails(values)):
                image_reasons[i].append(name)
                failing.setdefault(name, {})[order[i]] = [float(values[i])]
    for name, f in filters.items():
        if f.whole_dataset:
            passing = np.array([i for i, reasons in enumerate(image_reasons) if not reasons], int)
            for i in passing[f.fails(whole[name].to_numpy(f.dtype)[passing])]:
                image_reasons[i].append(name)

    rejected = np.array([bool(reasons) for reasons in image_reasons], bool)
    surplus = ~rejected & ((~rejected).cumsum() > spec.count)
    images = jobs[["image_id", "shard"]].copy()
    images["split"] = [split_of(family, spec.splits) for family in jobs["family"]]
    images["objects"] = [len(asked) for asked in jobs["asked"]]
    images["verdict"] = np.where(rejected, "rejected", np.where(surplus, "surplus", "accepted"))
    images["reasons"] = image_reasons
    instances = each[["image_id", "instance", "category_id"]].copy()
    instances["shard"] = jobs["shard"].to_numpy()[[place[i] for i in ids]] if len(each) else 0
    instances["verdict"] = np.array(["kept", "dropped", "ignored", "rejected"])[rank]
    instances["reasons"] = instance_reasons
    asked = Counter(int(category_id) for row in jobs["asked"] for category_id in row)
    return Verdicts(spec, filters, images, instances, asked, failing)
