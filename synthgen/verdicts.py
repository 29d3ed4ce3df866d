"""Numbers become verdicts: which images are accepted, which are not, and every reason why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from synthgen.backends import Filter, ThresholdFilter
from synthgen.plan import split_of
from synthgen.spec import DatasetSpec

if TYPE_CHECKING:
    import pandas as pd

EMPTY = "empty_mask"  # the reason for an object that was asked for, or grounded, and has no pixel
NOT_FOUND = "not_found"  # the reason for an asked object that was lost although no filter failed


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
        reasons = {n: Reason(**r) for n, r in raw.pop("reasons").items()}
        classes = {n: ClassCount(**c) for n, c in raw.pop("classes").items()}
        return cls(reasons=reasons, classes=classes, **raw)


@dataclass(frozen=True)
class Verdicts:
    """Verdicts on images and on instances.

    Attributes:
        images: a row an image in order of id: image_id, shard, split, asked (category ids), verdict (accepted,
            surplus, rejected), reasons.
        instances: a row an instance: image_id, instance, shard, category_id, verdict (kept, ignored, dropped,
            rejected), reasons.
    """

    spec: DatasetSpec
    filters: Mapping[str, Filter[Any]]
    images: pd.DataFrame
    instances: pd.DataFrame
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
        classes = self._classes(Counter(kept["category_id"]))
        objects = Counter(map(len, chosen["asked"]))
        return Quality(
            name=self.spec.name,
            wanted=self.spec.count,
            made=len(self.images),
            accepted=counts["accepted"],
            surplus=counts["surplus"],
            rejected=counts["rejected"],
            instances=len(kept),
            reasons=self._reasons({c.id: n for c in self.spec.categories if (n := classes[c.name].missing)}),
            classes=classes,
            splits={name: int((chosen["split"] == name).sum()) for name in self.spec.splits},
            objects={str(k): objects[k] for k in sorted(self.spec.objects_per_image)},
        )

    def _classes(self, accepted: Counter[int]) -> dict[str, ClassCount]:
        kept: Counter[tuple[int, int]] = Counter()
        failed: dict[tuple[int, int], list[list[str]]] = {}
        rows = (self.instances[n] for n in ("image_id", "category_id", "verdict", "reasons"))
        for image_id, category_id, verdict, reasons in zip(*rows, strict=True):
            if verdict == "kept":
                kept[image_id, category_id] += 1
            else:
                failed.setdefault((image_id, category_id), []).append(reasons)
        asked: Counter[int] = Counter()
        lost: Counter[int] = Counter()
        by: dict[int, Counter[str]] = {c.id: Counter() for c in self.spec.categories}
        rows = (self.images[n] for n in ("image_id", "asked", "verdict", "reasons"))
        for image_id, row, verdict, reasons in zip(*rows, strict=True):
            for category_id, n in Counter(row).items():
                if verdict == "rejected":
                    why = [reasons] * n
                else:
                    gone = max(0, n - kept[image_id, category_id])  # a grounder may find more than was asked for
                    why = failed.get((image_id, category_id), [])[:gone]
                    why = why + [[NOT_FOUND]] * (gone - len(why))
                asked[category_id] += n
                lost[category_id] += len(why)
                by[category_id].update(chain.from_iterable(why))
        return {
            c.name: ClassCount(
                asked[c.id],
                accepted[c.id],
                self.spec.quotas.get(c.id, 0),
                lost[c.id],
                dict(sorted(by[c.id].items(), key=lambda item: (-item[1], item[0]))),
            )
            for c in self.spec.categories
        }

    def _reasons(self, short: Mapping[int, int]) -> dict[str, Reason]:
        """`short`: category id -> instances that its quota lacks."""
        rejected = self.images.loc[self.images["verdict"] == "rejected", ["image_id", "reasons"]]
        total = Counter(r for reasons in rejected["reasons"] for r in reasons)
        alone: dict[str, list[int]] = {}
        for image_id, reasons in zip(rejected["image_id"], rejected["reasons"], strict=True):
            if len(reasons) == 1:
                alone.setdefault(reasons[0], []).append(int(image_id))
        missing, which = max(0, self.spec.count - int((self.images["verdict"] == "accepted").sum())), ""
        helping = alone
        if short and not missing:  # images without a short class would be surplus
            missing, which = sum(short.values()), " with short classes"
            holding = self.images.loc[[not short.keys().isdisjoint(row) for row in self.images["asked"]], "image_id"]
            helping = {name: sorted({*holding} & {*images}) for name, images in alone.items()}
        return {
            name: Reason(n, len(alone.get(name, [])), self._advice(name, helping.get(name, []), missing, which))
            for name, n in sorted(total.items(), key=lambda item: (-item[1], item[0]))
        }

    def _advice(self, name: str, images: list[int], missing: int, which: str) -> str:
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
        return f"{key}: {shown:g} would let {more} more{which} through"


def _outward(value: float, key: str) -> float:
    """A threshold of three digits that surely keeps `value`."""
    rounding = ROUND_FLOOR if key == "min" else ROUND_CEILING
    return float(Context(prec=3, rounding=rounding).create_decimal_from_float(float(value)))


def select(passing: Sequence[bool], held: Sequence[Sequence[int]], count: int, quotas: Mapping[int, int]) -> list[bool]:
    """Which images are accepted, in order of index: one that passes is if `count` is not full yet, or if it holds an
    instance of a class that is short of its quota at that point. It rests on earlier images only, so images that are
    made later never change it.

    Args:
        held: category ids of each image's kept instances.
        quotas: category id -> least number of instances.
    """
    accepted, have = [], Counter[int]()
    for passes, classes in zip(passing, held, strict=True):
        take = passes and (count > 0 or any(have[c] < quotas.get(c, 0) for c in classes))
        accepted.append(take)
        if take:
            count -= 1
            have.update(classes)
    return accepted


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
            column = whole[name].to_numpy()[passing]
            values = np.stack(column).astype(f.dtype) if f.vector and len(column) else column.astype(f.dtype)
            for i in passing[f.fails(values)]:
                image_reasons[i].append(name)

    held: list[list[int]] = [[] for _ in order]
    categories: list[int] = each["category_id"].tolist()
    for i in np.flatnonzero(rank == 0):
        held[place[ids[i]]].append(categories[i])
    accepted = select([not reasons for reasons in image_reasons], held, spec.count, spec.quotas)
    images = jobs[["image_id", "shard"]].copy()
    images["split"] = [split_of(family, spec.splits) for family in jobs["family"]]
    images["asked"] = [tuple(map(int, asked)) for asked in jobs["asked"]]
    images["verdict"] = np.where(accepted, "accepted", np.where(list(map(bool, image_reasons)), "rejected", "surplus"))
    images["reasons"] = image_reasons
    instances = each[["image_id", "instance", "category_id"]].copy()
    instances["shard"] = jobs["shard"].to_numpy()[[place[i] for i in ids]] if len(each) else 0
    instances["verdict"] = np.array(["kept", "dropped", "ignored", "rejected"])[rank]
    instances["reasons"] = instance_reasons
    return Verdicts(spec, filters, images, instances, failing)
