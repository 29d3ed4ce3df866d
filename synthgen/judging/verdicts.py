"""Numbers become verdicts: which images and labels are kept, and every reason why the others are not."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from synthgen.backends import Filter
from synthgen.judging.reasons import Bits, Reasons, gathered
from synthgen.judging.reviews import VERDICTS, Review, Reviews, reason
from synthgen.judging.tables import Lists, Tables
from synthgen.planning.jobs import split_of
from synthgen.spec import REASONS, DatasetSpec
from synthgen.store.tables import VERDICT_SCHEMA

if TYPE_CHECKING:
    import pandas as pd

# Reasons that are no filter's: an object that was asked for, or grounded, has no pixel; an object that was asked for is
# lost although no filter failed; the model could not make the image.
EMPTY, NOT_FOUND, NOT_MADE = REASONS
REMOVED, IGNORED = reason("removed"), reason("ignored")  # A label with one of these does not reject its image.
IMAGE_VERDICTS = ("accepted", "surplus", "rejected")
LABEL_VERDICTS = ("kept", "dropped", "ignored", "rejected")


@dataclass(frozen=True, slots=True)
class Compared:
    """The input and the result of a filter of the whole dataset.

    Attributes:
        image_ids: (M,), in order.
        values: (M,) or (M, D), their numbers.
        failed: bool (M,).
    """

    image_ids: np.ndarray[Any, Any]
    values: np.ndarray[Any, Any]
    failed: np.ndarray[Any, Any]


@dataclass(frozen=True)
class Verdicts:
    """Verdicts on images and on instances, row by row as in `tables`.

    Attributes:
        reasons: every possible reason, in the order in which reasons are listed: images that the model could not make,
            masks without a pixel, filters of instances, filters of images, reviewers, filters of the whole dataset.
        images: image_id, shard, split, verdict (of IMAGE_VERDICTS), reasons (bits of `reasons`), passed.
        instances: image_id, instance, shard, category_id (what a reviewer says it is, where one does), verdict (of
            LABEL_VERDICTS), reasons, passed.
            `passed`: whether the filters alone would keep it, whatever reviewers said; of an instance, with its image.
        compared: filter of the whole dataset -> the images that it compared, see `Compared`.
        reviews: the verdicts of people that were applied.
    """

    spec: DatasetSpec
    filters: Mapping[str, Filter[Any]]
    tables: Tables
    reasons: Reasons
    images: pd.DataFrame
    instances: pd.DataFrame
    compared: Mapping[str, Compared]
    reviews: Reviews

    def image_is(self, verdict: str) -> NDArray[np.bool_]:
        return np.asarray(self.images["verdict"] == verdict)

    def label_is(self, verdict: str) -> NDArray[np.bool_]:
        return np.asarray(self.instances["verdict"] == verdict)

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """Which labels are objects: those with pixels that no person has removed, (M,)."""
        is_removed = self.instances["reasons"].to_numpy() & self.reasons.bits(REMOVED) != 0
        return np.asarray((self.tables.labels["area"] > 0) & ~is_removed)

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


def select(passing: NDArray[np.bool_], held: Lists, count: int, quotas: Mapping[int, int]) -> NDArray[np.bool_]:
    """Which images are accepted, (N,). Images are taken in order of index: one that passes is accepted if fewer than
    `count` are, or if it holds an instance of a class that is short of its quota at that point. This depends on earlier
    images only, so images that are made later never change it.

    Args:
        passing: whether an image has no reason to be rejected, (N,).
        held: the category ids of each image's kept instances.
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
    """Applies thresholds to stored numbers, and then the reviews.

    A label that a person accepts is kept, and an accepted image is kept with all its labels, whatever the filters of
    instances and of single images say; a near-duplicate stays rejected. A label that is not accepted rejects its image,
    unless the person gave its right class or mask, which `tables` have already: then it is kept. A label that a person
    removed is dropped. An image whose labels a person corrected is kept, with those that would reject it; labels that
    filters drop or ignore stay so.

    Args:
        tables: with the classes and masks that the reviews give, and the labels that they add, see `corrected`.
        reviews: on the labels as they are.
        failed: ids of images that the model could not make. No review can accept them.
    """
    reviews = reviews or Reviews()
    judging = _Judging(filters, tables, failed)
    of_labels, of_images = judging.measured()
    all_reasons = judging.combined(of_labels, of_images)
    passed = all_reasons == 0
    label_passed = passed[tables.holder] & (of_labels == 0) & ~tables.added
    categories = tables.labels["category_id"]
    if len(reviews):
        of_labels, of_images = judging.reviewed(reviews, of_labels, of_images)
        all_reasons = judging.combined(of_labels, of_images)
    fates = judging.fates(of_labels)
    kept = fates == LABEL_VERDICTS.index("kept")
    held = Lists.of(categories[kept], np.bincount(tables.holder[kept], minlength=len(all_reasons)))
    accepted = select(all_reasons == 0, held, spec.count, spec.quotas)
    image_verdicts = np.where(accepted, 0, np.where(all_reasons == 0, 1, 2))  # as in IMAGE_VERDICTS
    return Verdicts(
        spec,
        filters,
        tables,
        judging.reasons,
        _image_rows(spec, tables, image_verdicts, all_reasons, passed),
        _label_rows(tables, categories, fates, of_labels, label_passed),
        judging.compared,
        reviews,
    )


class _Judging:
    """Every reason to reject an image or a label, as `Bits` of `reasons`: of labels (M,), of images (N,).

    Attributes:
        compared: filter of the whole dataset -> what it was given and said, see `Compared`.
    """

    def __init__(self, filters: Mapping[str, Filter[Any]], tables: Tables, failed: Collection[int]) -> None:
        self._tables = tables
        self._of_instance = {name: f for name, f in filters.items() if f.scope == "instance"}
        self._of_image = {name: f for name, f in filters.items() if f.scope == "image" and not f.whole_dataset}
        self._of_dataset = {name: f for name, f in filters.items() if f.whole_dataset}
        by_people = sorted(reason(verdict) for verdict in VERDICTS)
        self.reasons = Reasons((NOT_MADE, EMPTY, *self._of_instance, *self._of_image, *by_people, *self._of_dataset))
        self._ignoring = self._with_fate("ignore") | self.reasons.bits(IGNORED)
        # A label that fails one of these rejects its image.
        by_people = [name for name in by_people if name not in {REMOVED, IGNORED}]
        self._rejecting = self._with_fate("reject") | self.reasons.bits(EMPTY, *by_people)
        self._is_unmade = np.isin(tables.images["image_id"], list(failed))
        self.compared: dict[str, Compared] = {}

    def _with_fate(self, on_fail: str) -> np.uint64:
        return self.reasons.bits(*(name for name, f in self._of_instance.items() if f.config.on_fail == on_fail))

    def measured(self) -> tuple[Bits, Bits]:
        """The reasons by filters of instances and of single images: those of labels, and those of images themselves."""
        tables, reasons = self._tables, self.reasons
        of_labels = np.where(tables.labels["area"] == 0, reasons.bits(EMPTY), np.uint64(0))
        for name, f in self._of_instance.items():
            of_labels[f.fails(tables.measures[name])] |= reasons.bits(name)
        of_labels[tables.added] = 0  # They were not measured.
        of_images = np.zeros(len(tables.images["image_id"]), np.uint64)
        for name, f in self._of_image.items():
            of_images[f.fails(tables.measures[name])] |= reasons.bits(name)
        return of_labels, of_images

    def reviewed(self, reviews: Reviews, of_labels: Bits, of_images: Bits) -> tuple[Bits, Bits]:
        """The reasons of labels and images after the reviews. Changes the given reasons in place."""
        tables = self._tables
        # Reviews of labels come after those of images, because they count more.
        for (image_id, instance), review in sorted(reviews.of.items(), key=lambda item: item[0][1] is not None):
            bits = self._of_review(review)
            if instance is not None:
                of_labels[tables.label(image_id, instance)] = bits
            else:
                image = tables.images["image_id"].searchsorted(image_id)
                of_images[image] = of_images[image] | bits if bits else 0
                if not bits:
                    own = tables.labels_of(image_id)
                    is_kept = review.verdict == "accept" or of_labels[own] & self._rejecting != 0
                    of_labels[own] = np.where(is_kept, np.uint64(0), of_labels[own])
        return of_labels, of_images

    def _of_review(self, review: Review) -> np.uint64:
        """The reason that a review is; 0 if it keeps its label or image."""
        is_corrected = review.category_id is not None or review.rle is not None
        if review.verdict in {"accept", "added", "corrected"} or (
            review.verdict in {"wrong_class", "bad_mask"} and is_corrected
        ):
            return np.uint64(0)
        return self.reasons.bits(reason(review.verdict))

    def combined(self, of_labels: Bits, of_images: Bits) -> Bits:
        """All reasons of each image: its labels', its own, and those of the filters of the whole dataset, which compare
        the images that pass all else."""
        tables, ids = self._tables, self._tables.images["image_id"]
        rejecting = np.flatnonzero(of_labels & self._rejecting)
        combined = of_images | gathered(of_labels[rejecting] & self._rejecting, tables.holder[rejecting], len(ids))
        combined[self._is_unmade] = self.reasons.bits(NOT_MADE)
        for name, f in self._of_dataset.items():
            passing = np.flatnonzero(combined == 0)
            earlier = self.compared.get(name)
            if earlier is None or not np.array_equal(earlier.image_ids, ids[passing]):
                values = tables.measures[name][passing]
                self.compared[name] = Compared(ids[passing], values, f.fails(values))
            combined[passing[self.compared[name].failed]] |= self.reasons.bits(name)
        return combined

    def fates(self, of_labels: Bits) -> NDArray[np.int8]:
        """The verdict on each label, as an index in LABEL_VERDICTS. The strictest one wins."""
        ranked = [of_labels & self._rejecting != 0, of_labels & self._ignoring != 0, of_labels != 0]
        return np.select(ranked, [np.int8(3), np.int8(2), np.int8(1)], np.int8(0))


def _image_rows(
    spec: DatasetSpec, tables: Tables, verdicts: NDArray[Any], reasons: Bits, passed: NDArray[np.bool_]
) -> pd.DataFrame:
    place_of = {name: i for i, name in enumerate(spec.splits)}
    families = (family for chunk in tables.families.chunks for family in chunk.to_pylist())
    splits = np.fromiter((place_of[split_of(family, spec.splits)] for family in families), np.int8, len(verdicts))
    return _frame({
        "image_id": tables.images["image_id"],
        "shard": tables.images["shard"],
        "split": _categorical(splits, spec.splits),
        "verdict": _categorical(verdicts, IMAGE_VERDICTS),
        "reasons": reasons,
        "passed": passed,
    })  # fmt: skip


def _label_rows(
    tables: Tables, categories: NDArray[np.int32], fates: NDArray[np.int8], reasons: Bits, passed: NDArray[np.bool_]
) -> pd.DataFrame:
    return _frame({
        "image_id": tables.images["image_id"][tables.holder],
        "instance": tables.labels["instance"],
        "shard": tables.images["shard"][tables.holder],
        "category_id": categories,
        "verdict": _categorical(fates, LABEL_VERDICTS),
        "reasons": reasons,
        "passed": passed,
    })  # fmt: skip


def _frame(columns: Mapping[str, Any]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(columns, copy=False)


def _categorical(codes: NDArray[Any], names: Iterable[str]) -> Any:
    import pandas as pd

    return pd.Categorical.from_codes(codes, pd.Index(list(names)))
