"""Numbers become verdicts: which images are accepted, which are not, and every reason why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from synthgen.backends import Filter, ThresholdFilter
from synthgen.plan import split_of
from synthgen.precision import LabelPrecision
from synthgen.reviews import VERDICTS, Reviews, reason
from synthgen.spec import REASONS, DatasetSpec

if TYPE_CHECKING:
    import pandas as pd

# For an object that was asked for, or grounded, and has no pixel; for an asked object that was lost although no filter
# failed; for an image that the model could not make.
EMPTY, NOT_FOUND, NOT_MADE = REASONS
OUTCOMES = ("keep", "drop", "ignore", "reject")


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


@dataclass(frozen=True, slots=True)
class Compared:
    """What a filter of the whole dataset was given and said: ids (M,) in order, their numbers, which failed."""

    image_ids: np.ndarray[Any, Any]
    values: np.ndarray[Any, Any]
    failed: np.ndarray[Any, Any]


@dataclass(frozen=True)
class Verdicts:
    """Verdicts on images and on instances.

    Attributes:
        images: a row an image in order of id: image_id, shard, split, asked (category ids), verdict (accepted,
            surplus, rejected), reasons, passed.
        instances: a row an instance: image_id, instance, shard, category_id (what a reviewer says it is, where one
            does), verdict (kept, ignored, dropped, rejected), reasons, passed.
            `passed`: by the filters alone, whatever reviewers said; an instance, with its image.
        failing: filter -> image id -> the numbers that failed.
        alike: filter of the whole dataset -> the images that it compared, see `Compared`.
        reviews: the verdicts of people that were applied.
    """

    spec: DatasetSpec
    filters: Mapping[str, Filter[Any]]
    images: pd.DataFrame
    instances: pd.DataFrame
    failing: Mapping[str, Mapping[int, list[float]]]
    alike: Mapping[str, Compared]
    reviews: Reviews

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
                ("passed", pa.bool_()),
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
            precision=self.precision(),
        )

    def precision(self) -> LabelPrecision:
        """Of the labels that pass the filters, by the verdicts on the random sample of them."""
        population = self.instances.loc[self.instances["passed"], ["image_id", "instance"]]
        asked = {about for about, review in self.reviews.of.items() if review.queue == "random"}
        sample = [about for about in zip(*map(population.get, population), strict=True) if about in asked]  # type: ignore[arg-type]
        right = sum(self.reviews.of[about].verdict == "accept" for about in sample)
        return LabelPrecision.of(right, len(sample), len(population))

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
    reviews: Reviews | None = None,
    failed: Collection[int] = (),
) -> Verdicts:
    """Applies thresholds to stored numbers, then what people said of these labels.

    An accepted label is kept, an accepted image with all its labels, whatever a filter of single images says (what is
    near-duplicate stays so); a label that is not accepted rejects its image, unless its right class was given: then it
    is that.

    Args:
        measures: image_id, instance (null: the image), a column a filter.
        labels: image_id, instance, category_id, area.
        jobs: image_id, shard, family, asked.
        reviews: on the labels as they are.
        failed: ids of images that the model could not make: no one can accept them.
    """
    reviews = reviews or Reviews()
    jobs = jobs.sort_values("image_id", ignore_index=True)
    order: list[int] = jobs["image_id"].tolist()
    place = {image_id: i for i, image_id in enumerate(order)}
    whole = measures[measures["instance"].isna()].set_index("image_id").reindex(jobs["image_id"])
    each = labels.merge(measures[measures["instance"].notna()], on=["image_id", "instance"], how="left")
    each = each.sort_values(["image_id", "instance"], ignore_index=True)
    holder = np.array([place[i] for i in each["image_id"].tolist()], int)  # of each instance, its image's place

    own: list[list[str]] = [[] for _ in place]  # reasons of an image that are no instance's
    of_instance: list[list[str]] = [[] for _ in range(len(each))]
    rank = np.zeros(len(each), int)  # of what is to become of an instance, see OUTCOMES
    rejecting: list[list[str]] = [[] for _ in range(len(each))]  # the reasons of an instance that reject its image
    failing: dict[str, dict[int, list[float]]] = {}

    def fail(name: str, failed: np.ndarray[Any, Any], values: np.ndarray[Any, Any] | None, outcome: str) -> None:
        """Marks instances."""
        for i in np.flatnonzero(failed):
            of_instance[i].append(name)
            rank[i] = max(rank[i], OUTCOMES.index(outcome))
            if values is not None:
                failing.setdefault(name, {}).setdefault(order[holder[i]], []).append(float(values[i]))
            if outcome == "reject":
                rejecting[i].append(name)

    fail(EMPTY, each["area"].to_numpy() == 0, None, "reject")
    for name, f in filters.items():
        if f.scope == "instance":
            values = each[name].to_numpy(f.dtype)
            fail(name, f.fails(values), values, f.config.on_fail)
    for name, f in filters.items():
        if f.scope == "image" and not f.whole_dataset:
            values = whole[name].to_numpy(f.dtype)
            for i in np.flatnonzero(f.fails(values)):
                own[i].append(name)
                failing.setdefault(name, {})[order[i]] = [float(values[i])]

    gone = [place[i] for i in failed if i in place]
    names = [EMPTY, *filters, *(reason(v) for v in VERDICTS)]
    precedence = {name: i for i, name in enumerate(names)}

    def together() -> tuple[list[list[str]], dict[str, Compared]]:
        """The reasons of each image, those of its instances first; those of the whole dataset last."""
        found: list[list[str]] = [[] for _ in place]
        for i in np.flatnonzero(rank == OUTCOMES.index("reject")):
            found[holder[i]] += rejecting[i]
        for k, more in enumerate(own):
            of_labels = sorted(set(found[k]), key=precedence.__getitem__)
            found[k] = of_labels + [name for name in more if name not in of_labels]
        for k in gone:
            found[k] = [NOT_MADE]
        alike: dict[str, Compared] = {}
        for name, f in filters.items():
            if f.whole_dataset:
                passing = np.array([i for i, reasons in enumerate(found) if not reasons], int)
                column = whole[name].to_numpy()[passing]
                values = np.stack(column).astype(f.dtype) if f.vector and len(column) else column.astype(f.dtype)
                failed = f.fails(values)
                alike[name] = Compared(jobs["image_id"].to_numpy()[passing], values, failed)
                for i in passing[failed]:
                    found[i].append(name)
        return found, alike

    image_reasons, alike = together()
    passed = np.array([not reasons for reasons in image_reasons], bool)
    label_passed = passed[holder] & (rank == 0)
    categories = each["category_id"].to_numpy(np.int64, copy=True)
    if len(reviews):
        row = {about: i for i, about in enumerate(zip(each["image_id"], each["instance"], strict=True))}
        for (image_id, instance), review in sorted(reviews.of.items(), key=lambda item: item[0][1] is not None):
            chosen = [row[image_id, instance]] if instance is not None else np.flatnonzero(holder == place[image_id])
            kept = review.verdict == "accept" or review.category_id is not None
            for k in chosen if kept or instance is not None else ():
                of_instance[k], rejecting[k] = ([], []) if kept else ([reason(review.verdict)],) * 2
                rank[k] = 0 if kept else OUTCOMES.index("reject")
                categories[k] = review.category_id or categories[k]
            if instance is None:
                own[place[image_id]] = [] if kept else [*own[place[image_id]], reason(review.verdict)]
        image_reasons, alike = together()

    held: list[list[int]] = [[] for _ in order]
    for i in np.flatnonzero(rank == 0):
        held[holder[i]].append(int(categories[i]))
    accepted = select([not reasons for reasons in image_reasons], held, spec.count, spec.quotas)
    images = jobs[["image_id", "shard"]].copy()
    images["split"] = [split_of(family, spec.splits) for family in jobs["family"]]
    images["asked"] = [tuple(map(int, asked)) for asked in jobs["asked"]]
    images["verdict"] = np.where(accepted, "accepted", np.where(list(map(bool, image_reasons)), "rejected", "surplus"))
    images["reasons"] = image_reasons
    images["passed"] = passed
    instances = each[["image_id", "instance"]].copy()
    instances["category_id"] = categories
    instances["shard"] = jobs["shard"].to_numpy()[holder] if len(each) else 0
    instances["verdict"] = np.array(["kept", "dropped", "ignored", "rejected"])[rank]
    instances["reasons"] = of_instance
    instances["passed"] = label_passed
    return Verdicts(spec, filters, images, instances, failing, alike, reviews)
