"""The records of a run as columns, as judging and figures read them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from synthgen.backends import Filter
from synthgen.errors import RunError
from synthgen.store.run import Run

Columns = Mapping[str, NDArray[Any]]

_UNUSED = {
    "jobs": {"run", "round", "index", "prompt", "negative_prompt", "slots", "seed"},
    "labels": {"rle", "height", "width"},
    "measures": set[str](),
}
# Columns that only figures need.
_SHOWN = {"jobs": {"layout", "height", "width"}, "labels": {"bbox_xyxy"}, "measures": set[str]()}
_KEYS = ("image_id", "instance", "category_id", "area", "bbox_xyxy")


@dataclass(frozen=True, slots=True)
class Lists:
    """A list for each of N images: that of image i is `values[offsets[i] : offsets[i + 1]]`."""

    values: NDArray[Any]
    offsets: NDArray[np.int64]

    @property
    def counts(self) -> NDArray[np.int64]:
        """(N,)."""
        return np.diff(self.offsets)

    @property
    def holder(self) -> NDArray[np.int32]:
        """The index of each value's image."""
        return np.repeat(np.arange(len(self.offsets) - 1, dtype=np.int32), self.counts)

    @classmethod
    def of(cls, values: NDArray[Any], counts: NDArray[Any]) -> Lists:
        """`counts`: how many of the values each image has, (N,)."""
        return cls(values, np.concatenate([np.zeros(1, np.int64), counts.cumsum(dtype=np.int64)]))


@dataclass(frozen=True, slots=True)
class Tables:
    """The records of shards, without pixels and masks: N images in order of id, and their M labels, in order of image
    and instance. Columns that only figures need are empty unless `read` was asked for them.

    Attributes:
        images: columns (N,): image_id int64, shard int32; for figures, height and width, int32 px.
        families: N strings.
        asked: category ids, int32.
        layouts: for figures: boxes asked for, float32 (K, 4), xyxy px; none for an image without a layout.
        labels: columns (M,): instance, category_id, area, all int32.
        holder: int32 (M,), the index of each label's image.
        boxes: for figures: float32 (M, 4), xyxy px.
        scores: for figures: every score of labels, float32 (M,); NaN for a label without it.
        measures: filter -> its numbers, of its dtype: (N,) or (N, D) of images, (M,) of instances.
        added: bool (M,), which labels people have added; nothing has measured these. None of them as read.
    """

    images: Columns
    families: pa.ChunkedArray
    asked: Lists
    layouts: Lists
    labels: Columns
    holder: NDArray[np.int32]
    boxes: NDArray[np.float32]
    scores: Columns
    measures: Columns
    added: NDArray[np.bool_]

    @classmethod
    def read(
        cls, run: Run, shards: Iterable[int], filters: Mapping[str, Filter[Any]], *, shown: bool = False
    ) -> Tables:
        """`shown`: with the columns that only figures need.

        Raises:
            RunError: a table cannot be read, or measures are not those of the labels.
        """
        columns: dict[tuple[str, str], _Column] = defaultdict(_Column)
        families, images, labels = [], 0, 0
        for shard in sorted(shards):
            part = _Part.read(run, shard, filters, shown)
            for (kind, name), values in part.columns.items():
                columns[kind, name].add(values, labels if kind == "scores" else None)
            families.append(part.families)
            images, labels = images + part.images, labels + part.labels
        pa.default_memory_pool().release_unused()

        def column(kind: str, name: str, dtype: Any, shape: tuple[int, ...] = ()) -> NDArray[Any]:
            return columns[kind, name].array() if (kind, name) in columns else np.zeros((0, *shape), dtype)

        def lists(kind: str, dtype: Any, shape: tuple[int, ...] = ()) -> Lists:
            counts = column(kind, "counts", np.int64) if (kind, "counts") in columns else np.zeros(images, np.int64)
            return Lists.of(column(kind, "values", dtype, shape), counts)

        names = {"image_id": np.int64, "shard": np.int32} | (
            dict.fromkeys(("height", "width"), np.int32) if shown else {}
        )
        ids = column("images", "image_id", np.int64)
        if (np.diff(ids) <= 0).any():
            raise RunError(
                f"{run.address} has two jobs of one id, or shards in another order than they were planned in"
            )
        return cls(
            images={name: column("images", name, dtype) for name, dtype in names.items()},
            families=pa.chunked_array(families, pa.string()),
            asked=lists("asked", np.int32),
            layouts=lists("layouts", np.float32, (4,)),
            labels={name: column("labels", name, np.int32) for name in ("instance", "category_id", "area")},
            holder=np.searchsorted(ids, column("labels", "image_id", np.int64)).astype(np.int32),
            boxes=column("labels", "boxes", np.float32, (4,)),
            scores={name: c.array(labels) for (kind, name), c in columns.items() if kind == "scores"},
            measures={name: column("measures", name, f.dtype) for name, f in filters.items()},
            added=np.zeros(labels, bool),
        )

    def labels_of(self, image_id: int) -> slice:
        """The indices of an image's labels."""
        place = np.searchsorted(self.images["image_id"], image_id)
        begin, end = np.searchsorted(self.holder, np.array([place, place + 1], np.int32))
        return slice(int(begin), int(end))

    def label(self, image_id: int, instance: int) -> int:
        """The index of a label, which must exist."""
        own = self.labels_of(image_id)
        return int(own.start + np.searchsorted(self.labels["instance"][own], instance))

    def category(self, image_id: int, instance: int) -> int:
        """The category id of a label, which must exist."""
        return int(self.labels["category_id"][self.label(image_id, instance)])


class _Column:
    """A column that grows in place, so that many small arrays need not be kept until the end."""

    def __init__(self) -> None:
        self._held: NDArray[Any] = np.zeros(0)
        self._used = 0

    def add(self, values: NDArray[Any], at: int | None = None) -> None:
        """`at`: the index of the first value; missing ones before it become NaN."""
        begin = self._used if at is None else at
        end = begin + len(values)
        if end > len(self._held) or not self._used:  # The first array gives the dtype, even if it is empty.
            larger = np.empty((max(2 * len(self._held), end), *values.shape[1:]), values.dtype)
            if self._used:
                larger[: self._used] = self._held[: self._used]
            self._held = larger
        if begin > self._used:
            self._held[self._used : begin] = np.nan
        self._held[begin:end] = values
        self._used = end

    def array(self, count: int | None = None) -> NDArray[Any]:
        """(N,). `count`: the number of rows; missing ones at the end become NaN."""
        if count is not None:
            self.add(self._held[:0], count)
        return self._held[: self._used]


@dataclass(frozen=True, slots=True)
class _Part:
    """The records of a shard. `columns`: (attribute of `Tables`, name) -> values; a list has `values` and `counts`."""

    images: int
    labels: int
    families: pa.Array
    columns: Mapping[tuple[str, str], NDArray[Any]]

    @classmethod
    def read(cls, run: Run, shard: int, filters: Mapping[str, Filter[Any]], shown: bool) -> _Part:
        def table(kind: Any) -> pa.Table:
            left = _UNUSED[kind] | (set() if shown else _SHOWN[kind])
            return run.tables.read(run.paths.table(kind, shard), without=left).combine_chunks()

        jobs, labels, measures = table("jobs"), table("labels"), table("measures")
        key = [("image_id", "ascending"), ("instance", "ascending")]
        jobs, labels = jobs.sort_by("image_id"), labels.sort_by(key)
        of_image = pc.is_null(measures["instance"])
        whole, each = measures.filter(of_image).sort_by("image_id"), measures.filter(pc.invert(of_image)).sort_by(key)
        if whole["image_id"] != jobs["image_id"] or any(each[name] != labels[name] for name, _ in key):
            raise RunError(f"the measures of shard {shard} are not those of its labels; run the spec to take them anew")
        columns: dict[tuple[str, str], NDArray[Any]] = {}
        columns["images", "image_id"] = ids = _numbers(jobs["image_id"], np.int64)
        holders = _numbers(labels["image_id"], np.int64)
        within = np.arange(len(holders)) - np.searchsorted(holders, holders)
        if not (np.isin(holders, ids).all() and np.array_equal(within, _numbers(labels["instance"], np.int64))):
            raise RunError(f"the labels of shard {shard} are not those of its images; label the run anew")
        columns["images", "shard"] = np.full(len(jobs), shard, np.int32)
        asked, columns["asked", "counts"] = _lists(jobs["asked"])
        columns["asked", "values"] = _numbers(asked, np.int32)
        columns["labels", "image_id"] = holders
        for name in ("instance", "category_id", "area"):
            columns["labels", name] = _numbers(labels[name], np.int32)
        for name, f in filters.items():
            try:
                column = (whole if f.scope == "image" else each)[name]
                flat = _numbers(pc.list_flatten(column) if f.vector else column, f.dtype)
                columns["measures", name] = flat.reshape(len(column), -1) if f.vector and len(column) else flat
            except (KeyError, ValueError, TypeError, pa.ArrowException) as error:
                raise RunError(
                    f"the measures of shard {shard} have no numbers of {name}; measure the run anew"
                ) from error
        if shown:
            for name in ("height", "width"):
                columns["images", name] = _numbers(jobs[name], np.int32)
            planned, columns["layouts", "counts"] = _lists(jobs["layout"])
            for key_of, boxes in ((("layouts", "values"), planned), (("labels", "boxes"), labels["bbox_xyxy"])):
                columns[key_of] = _numbers(pc.list_flatten(boxes), np.float32).reshape(-1, 4)
            for name in labels.column_names:
                if name not in _KEYS:
                    columns["scores", name] = _numbers(labels[name], np.float32)
        return cls(len(jobs), len(labels), jobs["family"].combine_chunks(), columns)


def pairs(place: NDArray[Any], category: NDArray[Any], size: int) -> NDArray[np.int64]:
    """A number for each pair of an image and a class, in order of image and class. `size`: above every category id."""
    keys: NDArray[np.int64] = np.multiply(place, size, dtype=np.int64)
    keys += category
    return keys


def _lists(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, NDArray[np.int64]]:
    """The values of a column of lists, one after another, and the length of each list; null counts as an empty list."""
    return pc.list_flatten(column), _numbers(pc.fill_null(pc.list_value_length(column), 0), np.int64)


def _numbers(column: Any, dtype: Any) -> NDArray[Any]:
    """A column as an array. Null becomes NaN in a column of floats, else 0."""
    filled = column if np.issubdtype(dtype, np.floating) else pc.fill_null(column, 0)
    return np.asarray(filled.to_numpy(), dtype)
