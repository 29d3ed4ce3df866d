"""Numbers become verdicts: which images are accepted, which are not, and every reason why."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from synthgen.backends import Filter, ThresholdFilter
from synthgen.judging.precision import LabelPrecision
from synthgen.judging.quality import ClassCount, Quality, Reason
from synthgen.judging.reasons import Bits, Reasons, gathered
from synthgen.judging.reviews import VERDICTS, Reviews, reason
from synthgen.judging.tables import Lists, Tables, pairs
from synthgen.planning.jobs import split_of
from synthgen.spec import REASONS, DatasetSpec
from synthgen.store.tables import VERDICT_SCHEMA

if TYPE_CHECKING:
    import pandas as pd

# For an object that was asked for, or grounded, and has no pixel; for an asked object that was lost although no filter
# failed; for an image that the model could not make.
EMPTY, NOT_FOUND, NOT_MADE = REASONS
IMAGE_VERDICTS = ("accepted", "surplus", "rejected")
LABEL_VERDICTS = ("kept", "dropped", "ignored", "rejected")


@dataclass(frozen=True, slots=True)
class Compared:
    """What a filter of the whole dataset was given and said: ids (M,) in order, their numbers, which failed."""

    image_ids: np.ndarray[Any, Any]
    values: np.ndarray[Any, Any]
    failed: np.ndarray[Any, Any]


@dataclass(frozen=True)
class Verdicts:
    """Verdicts on images and on instances, row by row as in `tables`.

    Attributes:
        reasons: every reason that there can be, in the order in which they are told: what the model could not make,
            masks without a pixel, filters of instances, of images, reviewers, filters of the whole dataset.
        images: image_id, shard, split, verdict (of IMAGE_VERDICTS), reasons (bits of `reasons`), passed.
        instances: image_id, instance, shard, category_id (what a reviewer says it is, where one does), verdict (of
            LABEL_VERDICTS), reasons, passed.
            `passed`: by the filters alone, whatever reviewers said; an instance, with its image.
        alike: filter of the whole dataset -> the images that it compared, see `Compared`.
        reviews: the verdicts of people that were applied.
    """

    spec: DatasetSpec
    filters: Mapping[str, Filter[Any]]
    tables: Tables
    reasons: Reasons
    images: pd.DataFrame
    instances: pd.DataFrame
    alike: Mapping[str, Compared]
    reviews: Reviews

    def image_is(self, verdict: str) -> NDArray[np.bool_]:
        return np.asarray(self.images["verdict"] == verdict)

    def label_is(self, verdict: str) -> NDArray[np.bool_]:
        return np.asarray(self.instances["verdict"] == verdict)

    @property
    def categories(self) -> NDArray[np.int32]:
        """(M,)."""
        return self.instances["category_id"].to_numpy()

    @property
    def image_reasons(self) -> Bits:
        return self.images["reasons"].to_numpy()

    @property
    def chosen(self) -> NDArray[np.bool_]:
        """Which labels are kept, in accepted images."""
        return self.label_is("kept") & self.image_is("accepted")[self.tables.holder]

    def table(self) -> pa.Table:
        """Both as one table; `instance` is null in an image's row."""

        def column(frame: pd.DataFrame, field: pa.Field) -> pa.Array:
            if field.name not in frame:
                return pa.nulls(len(frame), field.type)
            if field.name == "reasons":
                return self.reasons.table(frame["reasons"].to_numpy())
            return pa.Array.from_pandas(frame[field.name]).cast(field.type)

        frames = (self.images, self.instances)
        return pa.concat_tables(
            pa.Table.from_arrays([column(f, c) for c in VERDICT_SCHEMA], schema=VERDICT_SCHEMA) for f in frames
        )

    def quality(self) -> Quality:
        accepted, kept = self.image_is("accepted"), self.chosen
        classes = self._classes(np.bincount(self.categories[kept]))
        objects = np.bincount(self.tables.asked.counts[accepted], minlength=max(self.spec.objects_per_image) + 1)
        splits = self.images.loc[accepted, "split"].value_counts()
        return Quality(
            name=self.spec.name,
            wanted=self.spec.count,
            made=len(self.images),
            accepted=int(accepted.sum()),
            surplus=int(self.image_is("surplus").sum()),
            rejected=int(self.image_is("rejected").sum()),
            instances=int(kept.sum()),
            reasons=self._reasons([c.id for c in self.spec.categories if classes[c.name].missing], classes),
            classes=classes,
            splits={name: int(splits[name]) for name in self.spec.splits},
            objects={str(k): int(objects[k]) for k in sorted(self.spec.objects_per_image)},
            precision=self.precision(),
        )

    def precision(self) -> LabelPrecision:
        """Of the labels that pass the filters, by the verdicts on the random sample of them."""
        passed = self.instances["passed"].to_numpy()
        sample = [
            review.verdict == "accept"
            for (image_id, instance), review in self.reviews.of.items()
            if review.queue == "random" and instance is not None and passed[self.tables.label(image_id, instance)]
        ]
        return LabelPrecision.of(sum(sample), len(sample), int(passed.sum()))

    def _classes(self, accepted: NDArray[np.int64]) -> dict[str, ClassCount]:
        """`accepted`: instances by category id, as far as there are any."""
        size = len(self.spec.classes) + 1
        asked, n = np.unique(pairs(self.tables.asked.holder, self.tables.asked.values, size), return_counts=True)
        place, category = asked // size, asked % size
        labels = pairs(self.tables.holder, self.categories, size)
        kept = self.label_is("kept")
        rejected = self.image_is("rejected")[place]
        # A grounder may find more than was asked for: no gain, and no loss.
        gone = np.where(rejected, n, np.maximum(n - _counted(asked, np.sort(labels[kept])), 0))
        # What an asked object is lost to, in an image that stays: its class's first labels that are not kept, or nobody
        # has found it.
        lost = np.flatnonzero(~kept & ~self.image_is("rejected")[self.tables.holder])
        lost = lost[labels[lost].argsort(kind="stable")]
        at = np.minimum(asked.searchsorted(labels[lost]), max(len(asked) - 1, 0))
        is_asked = asked[at] == labels[lost] if len(asked) else np.zeros(len(lost), bool)
        lost, at = lost[is_asked], at[is_asked]
        within = np.arange(len(at)) - at.searchsorted(at)
        lost, at = lost[within < gone[at]], at[within < gone[at]]
        unfound = np.where(rejected, 0, gone - np.bincount(at, minlength=len(asked)))

        why = self.instances["reasons"].to_numpy()[lost]
        whole = self.image_reasons[place]
        found: dict[str, ClassCount] = {}
        sums = [np.bincount(category, weights, size).astype(np.int64) for weights in (n, gone, unfound)]
        by: dict[int, dict[str, int]] = {c: {NOT_FOUND: int(k)} if k else {} for c, k in enumerate(sums[2])}
        for name in self.reasons.names:
            bit = self.reasons.bits(name)
            of_label = np.bincount(category[at[why & bit != 0]], minlength=size)
            of_image = np.bincount(category, np.where(rejected & (whole & bit != 0), n, 0), size).astype(np.int64)
            for k in np.flatnonzero(of_label + of_image).tolist():
                by[k][name] = int(of_label[k] + of_image[k])
        for c in self.spec.categories:
            found[c.name] = ClassCount(
                int(sums[0][c.id]),
                int(accepted[c.id]) if c.id < len(accepted) else 0,
                self.spec.quotas.get(c.id, 0),
                int(sums[1][c.id]),
                dict(sorted(by[c.id].items(), key=lambda item: (-item[1], item[0]))),
            )
        return found

    def _reasons(self, short: Collection[int], classes: Mapping[str, ClassCount]) -> dict[str, Reason]:
        """`short`: category ids of the classes whose quotas lack instances."""
        bits = self.image_reasons
        total = self.reasons.having(bits)
        alone = np.where(np.bitwise_count(bits) == 1, bits, np.uint64(0))
        missing, which = max(0, self.spec.count - int(self.image_is("accepted").sum())), ""
        helping = alone
        if short and not missing:  # images without a short class would be surplus
            missing, which = sum(c.missing for c in classes.values()), " with short classes"
            holds = np.zeros(len(bits), bool)
            holds[self.tables.asked.holder[np.isin(self.tables.asked.values, list(short))]] = True
            helping = np.where(holds, alone, np.uint64(0))
        found = {}
        for name, n in sorted(total.items(), key=lambda item: (-item[1], item[0])):
            bit = self.reasons.bits(name)
            found[name] = Reason(n, int((alone == bit).sum()), self._advice(name, helping == bit, missing, which))
        return found

    def _advice(self, name: str, images: NDArray[np.bool_], missing: int, which: str) -> str:
        """Which threshold would let through as many images as are missing, of those that this filter alone rejects."""
        f = self.filters.get(name)
        if not isinstance(f, ThresholdFilter) or not images.any() or not missing:
            return ""
        numbers, place = self.tables.measures[name], np.flatnonzero(images)
        if f.scope == "instance":
            failed = self.instances["reasons"].to_numpy() & self.reasons.bits(name) != 0
            failed &= images[self.tables.holder]
            numbers, place = numbers[failed], self.tables.holder[failed]
        else:
            numbers = numbers[place]
        # What an image's threshold would have to be is decided by its worst number; only one side can be told simply.
        key = "max" if f.config.min is None else "min"
        begins = np.flatnonzero(np.diff(place, prepend=-1))
        helped = np.isfinite(numbers)
        if key == "min":
            helped &= ~(numbers.astype(np.float64) > f.config.min)
        ufunc = np.maximum if key == "max" else np.minimum
        worst = ufunc.reduceat(numbers, begins)[np.logical_and.reduceat(helped, begins)].astype(np.float64)
        if not len(worst):
            return ""
        worst.sort()
        worst = worst if key == "max" else worst[::-1]
        shown = _outward(worst[min(missing, len(worst)) - 1], key)
        more = int((worst <= shown if key == "max" else worst >= shown).sum())
        return f"{key}: {shown:g} would let {more} more{which} through"


def _counted(keys: NDArray[np.int64], members: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many of `members`, in order, equal each key."""
    begin, end = members.searchsorted(keys, "left"), members.searchsorted(keys, "right")
    return np.subtract(end, begin, dtype=np.int64)


def _outward(value: float, key: str) -> float:
    """A threshold of three digits that surely keeps `value`."""
    rounding = ROUND_FLOOR if key == "min" else ROUND_CEILING
    return float(Context(prec=3, rounding=rounding).create_decimal_from_float(float(value)))


def select(passing: NDArray[np.bool_], held: Lists, count: int, quotas: Mapping[int, int]) -> NDArray[np.bool_]:
    """Which images are accepted, in order of index: one that passes is if `count` is not full yet, or if it holds an
    instance of a class that is short of its quota at that point. It rests on earlier images only, so images that are
    made later never change it.

    Args:
        passing: (N,).
        held: category ids of each image's kept instances.
        quotas: category id -> least number of instances.
    """
    accepted: NDArray[np.bool_] = passing & (passing.cumsum() <= count)
    holder = held.holder
    have = np.bincount(held.values[accepted[holder]], minlength=max(quotas, default=0) + 1)
    short = {c: n - int(have[c]) for c, n in quotas.items() if n > have[c]}
    rows = np.flatnonzero((passing & ~accepted)[holder] & np.isin(held.values, list(short)))
    for place, group in groupby(zip(holder[rows].tolist(), held.values[rows].tolist(), strict=True), itemgetter(0)):
        classes = [c for _, c in group]
        if any(short[c] > 0 for c in classes):
            accepted[place] = True
            for c in classes:
                short[c] -= 1
        if not any(n > 0 for n in short.values()):
            break
    return accepted


def judge(
    spec: DatasetSpec,
    filters: Mapping[str, Filter[Any]],
    tables: Tables,
    reviews: Reviews | None = None,
    failed: Collection[int] = (),
) -> Verdicts:
    """Applies thresholds to stored numbers, then what people said of these labels.

    An accepted label is kept, an accepted image with all its labels, whatever a filter of single images says (what is
    near-duplicate stays so); a label that is not accepted rejects its image, unless its right class was given: then it
    is that.

    Args:
        reviews: on the labels as they are.
        failed: ids of images that the model could not make: no one can accept them.
    """
    import pandas as pd

    reviews = reviews or Reviews()
    ids, holder, count = tables.images["image_id"], tables.holder, len(tables.images["image_id"])
    of_instance = {name: f for name, f in filters.items() if f.scope == "instance"}
    of_image = {name: f for name, f in filters.items() if f.scope == "image" and not f.whole_dataset}
    whole = {name: f for name, f in filters.items() if f.whole_dataset}
    said = sorted(reason(verdict) for verdict in VERDICTS)
    reasons = Reasons((NOT_MADE, EMPTY, *of_instance, *of_image, *said, *whole))
    fate = {on_fail: reasons.bits(*(n for n, f in of_instance.items() if f.config.on_fail == on_fail))
            for on_fail in ("drop", "ignore", "reject")}  # fmt: skip
    rejecting = fate["reject"] | reasons.bits(EMPTY, *said)

    labels = np.where(tables.labels["area"] == 0, reasons.bits(EMPTY), np.uint64(0))
    for name, f in of_instance.items():
        labels[f.fails(tables.measures[name])] |= reasons.bits(name)
    own = np.zeros(count, np.uint64)  # an image's reasons that are no label's
    for name, f in of_image.items():
        own[f.fails(tables.measures[name])] |= reasons.bits(name)
    unmade = np.isin(ids, list(failed))
    alike: dict[str, Compared] = {}

    def together() -> Bits:
        """The reasons of each image: its labels', its own, and those of the whole dataset."""
        bad = np.flatnonzero(labels & rejecting)
        found = own | gathered(labels[bad] & rejecting, holder[bad], count)
        found[unmade] = reasons.bits(NOT_MADE)
        for name, f in whole.items():
            passing = np.flatnonzero(found == 0)
            earlier = alike.get(name)
            if earlier is None or not np.array_equal(earlier.image_ids, ids[passing]):
                values = tables.measures[name][passing]
                alike[name] = Compared(ids[passing], values, f.fails(values))
            found[passing[alike[name].failed]] |= reasons.bits(name)
        return found

    images = together()
    passed = images == 0
    label_passed = passed[holder] & (labels == 0)
    categories = tables.labels["category_id"]
    if len(reviews):
        categories = categories.copy()
        # What was said of a label counts more than what was said of its image.
        for (image_id, instance), review in sorted(reviews.of.items(), key=lambda item: item[0][1] is not None):
            kept = review.verdict == "accept" or review.category_id is not None
            bits = np.uint64(0) if kept else reasons.bits(reason(review.verdict))
            if instance is not None:
                label = tables.label(image_id, instance)
                labels[label], categories[label] = bits, review.category_id or categories[label]
            else:
                place = ids.searchsorted(image_id)
                own[place] = bits if kept else own[place] | bits
                if kept:
                    labels[tables.labels_of(image_id)] = 0
        images = together()

    # The strictest holds, of what is to become of a label.
    ranked = [labels & rejecting != 0, labels & fate["ignore"] != 0, labels != 0]
    rank = np.select(ranked, [np.int8(3), np.int8(2), np.int8(1)], np.int8(0))
    held = Lists.of(categories[rank == 0], np.bincount(holder[rank == 0], minlength=count))
    accepted = select(images == 0, held, spec.count, spec.quotas)
    place_of = {name: i for i, name in enumerate(spec.splits)}
    splits = np.fromiter((place_of[split_of(f, spec.splits)] for f in _texts(tables.families)), np.int8, count)

    def named(codes: NDArray[Any], names: Iterable[str]) -> Any:
        return pd.Categorical.from_codes(codes, pd.Index(list(names)))

    of_images = {
        "image_id": ids,
        "shard": tables.images["shard"],
        "split": named(splits, spec.splits),
        "verdict": named(np.where(accepted, 0, np.where(images == 0, 1, 2)), IMAGE_VERDICTS),
        "reasons": images,
        "passed": passed,
    }
    of_labels = {
        "image_id": ids[holder],
        "instance": tables.labels["instance"],
        "shard": tables.images["shard"][holder],
        "category_id": categories,
        "verdict": named(rank, LABEL_VERDICTS),
        "reasons": labels,
        "passed": label_passed,
    }
    rows, label_rows = (pd.DataFrame(columns, copy=False) for columns in (of_images, of_labels))
    return Verdicts(spec, filters, tables, reasons, rows, label_rows, alike, reviews)


def _texts(column: pa.ChunkedArray) -> Iterator[str]:
    for chunk in column.chunks:
        yield from chunk.to_pylist()
