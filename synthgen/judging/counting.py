"""Verdicts in numbers: yield, classes, what was lost to which filter, and which threshold would lose less."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, Context

import numpy as np
from numpy.typing import NDArray

from synthgen.backends import ThresholdFilter
from synthgen.judging.precision import LabelPrecision
from synthgen.judging.quality import ClassCount, Quality, Reason
from synthgen.judging.tables import pairs
from synthgen.judging.verdicts import NOT_FOUND, Verdicts


def quality_of(verdicts: Verdicts) -> Quality:
    """The first part of `quality.json`."""
    spec, tables = verdicts.spec, verdicts.tables
    accepted, kept = verdicts.image_is("accepted"), verdicts.chosen
    classes = _class_counts(verdicts)
    objects = np.bincount(tables.asked.counts[accepted], minlength=max(spec.objects_per_image) + 1)
    splits = verdicts.images.loc[accepted, "split"].value_counts()
    return Quality(
        name=spec.name,
        wanted=spec.count,
        made=len(verdicts.images),
        accepted=int(accepted.sum()),
        surplus=int(verdicts.image_is("surplus").sum()),
        rejected=int(verdicts.image_is("rejected").sum()),
        instances=int(kept.sum()),
        reasons=_reason_counts(verdicts, classes),
        classes=classes,
        splits={name: int(splits[name]) for name in spec.splits},
        objects={str(k): int(objects[k]) for k in sorted(spec.objects_per_image)},
        precision=label_precision(verdicts),
    )


def label_precision(verdicts: Verdicts) -> LabelPrecision:
    """The precision of the labels that pass the filters, by what people said of a random sample of them."""
    passed = verdicts.instances["passed"].to_numpy()
    sample = [
        review.is_right
        for (image_id, instance), review in verdicts.reviews.of.items()
        if review.queue == "random" and instance is not None and passed[verdicts.tables.label(image_id, instance)]
    ]
    return LabelPrecision.of(sum(sample), len(sample), int(passed.sum()))


def _class_counts(verdicts: Verdicts) -> dict[str, ClassCount]:
    spec, tables = verdicts.spec, verdicts.tables
    size = len(spec.classes) + 1
    # By image and class: `n` objects asked for, and how many of them are lost.
    asked, n = np.unique(pairs(tables.asked.holder, tables.asked.values, size), return_counts=True)
    image, category = asked // size, asked % size
    labels = pairs(tables.holder, verdicts.categories, size)
    is_kept, is_rejected = verdicts.label_is("kept"), verdicts.image_is("rejected")
    in_rejected = is_rejected[image]
    # A grounder may find more objects than were asked for, which makes up for no loss of another class.
    lost = np.where(in_rejected, n, np.maximum(n - _count_equal(asked, np.sort(labels[is_kept])), 0))

    # In an image that is not rejected, a lost object is counted with the reasons of a label of its class that is not
    # kept; without such a label, it was not found.
    culprits = np.flatnonzero(~is_kept & ~is_rejected[tables.holder])
    culprits = culprits[labels[culprits].argsort(kind="stable")]
    row = np.minimum(asked.searchsorted(labels[culprits]), max(len(asked) - 1, 0))
    is_asked = asked[row] == labels[culprits] if len(asked) else np.zeros(len(culprits), bool)
    culprits, row = culprits[is_asked], row[is_asked]
    is_counted = np.arange(len(row)) - row.searchsorted(row) < lost[row]
    culprits, row = culprits[is_counted], row[is_counted]
    not_found = np.where(in_rejected, 0, lost - np.bincount(row, minlength=len(asked)))

    reasons: dict[int, dict[str, int]] = {
        c: {NOT_FOUND: k} if k else {} for c, k in enumerate(_sums(category, not_found, size).tolist())
    }
    label_reasons = verdicts.instances["reasons"].to_numpy()[culprits]
    image_reasons = verdicts.image_reasons[image]
    for name in verdicts.reasons.names:
        bit = verdicts.reasons.bits(name)
        by_label = np.bincount(category[row[label_reasons & bit != 0]], minlength=size)
        by_image = _sums(category, np.where(in_rejected & (image_reasons & bit != 0), n, 0), size)
        for c in np.flatnonzero(by_label + by_image).tolist():
            reasons[c][name] = int(by_label[c] + by_image[c])
    asked_of, lost_of = _sums(category, n, size), _sums(category, lost, size)
    accepted_of = np.bincount(verdicts.categories[verdicts.chosen], minlength=size)
    return {
        c.name: ClassCount(
            asked=int(asked_of[c.id]),
            accepted=int(accepted_of[c.id]),
            quota=spec.quotas.get(c.id, 0),
            lost=int(lost_of[c.id]),
            reasons=dict(sorted(reasons[c.id].items(), key=lambda item: (-item[1], item[0]))),
        )
        for c in spec.categories
    }


def _count_equal(keys: NDArray[np.int64], members: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many of `members`, in order, equal each key."""
    begin, end = members.searchsorted(keys, "left"), members.searchsorted(keys, "right")
    return np.subtract(end, begin, dtype=np.int64)


def _sums(category: NDArray[np.int64], numbers: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """The sum of the numbers of each category id below `size`."""
    return np.bincount(category, numbers, size).astype(np.int64)


def _reason_counts(verdicts: Verdicts, classes: Mapping[str, ClassCount]) -> dict[str, Reason]:
    spec, asked, bits = verdicts.spec, verdicts.tables.asked, verdicts.image_reasons
    alone = np.where(np.bitwise_count(bits) == 1, bits, np.uint64(0))
    missing, which, helping = max(0, spec.count - int(verdicts.image_is("accepted").sum())), "", alone
    short = [c.id for c in spec.categories if classes[c.name].missing]
    if short and not missing:  # an image without a short class would be surplus
        missing, which = sum(c.missing for c in classes.values()), " with short classes"
        has_short = np.zeros(len(bits), bool)
        has_short[asked.holder[np.isin(asked.values, short)]] = True
        helping = np.where(has_short, alone, np.uint64(0))
    total = verdicts.reasons.having(bits)
    reasons = {}
    for name, n in sorted(total.items(), key=lambda item: (-item[1], item[0])):
        bit = verdicts.reasons.bits(name)
        advice = _advice(verdicts, name, helping == bit, missing, which)
        reasons[name] = Reason(n, int((alone == bit).sum()), advice)
    return reasons


def _advice(verdicts: Verdicts, name: str, images: NDArray[np.bool_], missing: int, which: str) -> str:
    """The threshold that would accept as many images as are missing, of those that this filter alone rejects."""
    f, tables = verdicts.filters.get(name), verdicts.tables
    if not isinstance(f, ThresholdFilter) or not images.any() or not missing:
        return ""
    numbers, image = tables.measures[name], np.flatnonzero(images)
    if f.scope == "instance":
        failed = verdicts.instances["reasons"].to_numpy() & verdicts.reasons.bits(name) != 0
        failed &= images[tables.holder]
        numbers, image = numbers[failed], tables.holder[failed]
    else:
        numbers = numbers[image]
    # The worst number of an image decides which threshold it needs. The advice is about one side of the range only.
    key = "max" if f.config.min is None else "min"
    begins = np.flatnonzero(np.diff(image, prepend=-1))
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


def _outward(value: float, key: str) -> float:
    """A threshold of three digits that keeps `value`."""
    rounding = ROUND_FLOOR if key == "min" else ROUND_CEILING
    return float(Context(prec=3, rounding=rounding).create_decimal_from_float(float(value)))
