"""Labels as rows of a table and back, and the accepted images as exporters read them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice, pairwise, repeat
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from synthgen.backends import Filter
from synthgen.errors import BackendError, RunError
from synthgen.masks import decode_rle, encode_rle, mask_areas
from synthgen.spec import REASONS
from synthgen.store.marks import Mark
from synthgen.store.paths import image_name
from synthgen.store.run import Run
from synthgen.store.tables import LABEL_COLUMNS, VERDICT_SCHEMA
from synthgen.types import Annotation, Instances, Job, Record

_VERDICT = pa.schema(
    [VERDICT_SCHEMA.field(name) for name in ("image_id", "instance", "shard", "category_id", "verdict")]
)
NOT_MADE = REASONS[-1]
_NO_MORE = (sys.maxsize, _VERDICT.empty_table())  # shard, verdicts


def label_schema(rows: Sequence[Mapping[str, Any]]) -> pa.Schema:
    scores = sorted({name for row in rows for name in row} - set(LABEL_COLUMNS))
    return pa.schema([*LABEL_COLUMNS.items(), *((name, pa.float32()) for name in scores)])


def label_rows(image_id: int, instances: Instances) -> Iterator[dict[str, Any]]:
    """
    Raises:
        BackendError: a score has the name of another column.
    """
    if reserved := sorted(LABEL_COLUMNS.keys() & instances.scores.keys()):
        column = f"got a score called {reserved[0]!r}, which is a column of the table of labels"
        raise BackendError(f"{column}; takes another name")
    rles = encode_rle(instances.masks)
    areas = mask_areas(instances.masks)
    for i, rle in enumerate(rles):
        yield {
            "image_id": image_id,
            "instance": i,
            "category_id": int(instances.category_id[i]),
            "bbox_xyxy": instances.boxes[i].tolist(),
            "area": int(areas[i]),
            "height": rle["size"][0],
            "width": rle["size"][1],
            "rle": rle["counts"],
            **{name: float(values[i]) for name, values in instances.scores.items()},
        }


def instances_of(rows: Any, height: int, width: int) -> Instances:
    """The instances of one image.

    Args:
        rows: a DataFrame of the image's rows in the table of labels, in order of instance; None if it has none.
        height, width: of the image, px.

    Raises:
        ValueError: a mask does not have this size.
    """
    if rows is None:
        return Instances.empty(height, width)
    rles = [{"size": [height, width], "counts": counts} for counts in rows["rle"]]
    return Instances(
        decode_rle(rles, height, width),
        np.stack(rows["bbox_xyxy"].to_list()).astype(np.float32),
        rows["category_id"].to_numpy(np.int64),
        {name: rows[name].to_numpy(np.float32) for name in rows.columns if name not in LABEL_COLUMNS},
    )


def read_corrections(run: Run, image_ids: Collection[int] | None = None) -> pa.Table | None:
    """The labels of a run, or of some of its images, whose masks people gave, as the last judging had them; None if it
    had none."""
    judged = run.marks.read("judge")
    if judged is None or run.paths.corrections.name not in judged.files:
        return None
    return run.tables.read(run.paths.corrections, image_ids=image_ids)


def with_corrections(labels: pa.Table, corrections: pa.Table | None) -> pa.Table:
    """The labels of a shard, with the masks that people gave in place of the model's, and the labels that they added.

    A corrected mask has no scores. A label that people removed is there: the verdicts say that it is not kept, and they
    have the classes that people gave. The rows are in no order.

    Args:
        corrections: of images of this shard, see `read_corrections`.
    """
    if corrections is None or not len(corrections):
        return labels
    corrected = {*zip(*(corrections[name].to_pylist() for name in ("image_id", "instance")), strict=True)}
    left = pc.invert(pc.is_in(labels["image_id"], corrections["image_id"])).to_numpy()
    for row in np.flatnonzero(~left).tolist():
        left[row] = (labels["image_id"][row].as_py(), labels["instance"][row].as_py()) not in corrected
    return pa.concat_tables([labels.filter(left), corrections], promote_options="default")


def judged_images(run: Run, verdict: Literal["accepted", "rejected"]) -> pa.Table:
    """A row for each image of a run with this verdict: its image_id, shard, split and reasons."""
    return run.tables.read_rows(
        run.paths.verdicts,
        ["image_id", "shard", "split", "reasons", "instance", "verdict"],
        lambda rows: pc.and_(pc.is_null(rows["instance"]), pc.equal(rows["verdict"], verdict)),
    )


class Accepted:
    """See `backends.Records`. Each iteration reads the records shard by shard, and memory holds one shard.

    Args:
        jobs: gives the jobs of some images of a shard, in order of id, by the shard's mark of generating.
        first_annotation: id of the first label. The ids of labels count up over all splits, in the order of images.
        without: ids of accepted images to leave out.
        all_images: all images that could be made, with the labels that have them rejected; not the accepted ones alone.
        looked_for: see `Record`.
    """

    def __init__(
        self,
        run: Run,
        jobs: Callable[[int, Collection[int], Mark | None], Iterable[Job]],
        filters: Mapping[str, Filter[Any]],
        *,
        first_annotation: int = 1,
        without: Collection[int] = (),
        all_images: bool = False,
        looked_for: Callable[[Job], frozenset[int]] = lambda _: frozenset(),
    ) -> None:
        self._run, self._jobs, self._first = run, jobs, first_annotation
        self._measures = [n for n, f in filters.items() if f.scope == "image" and f.dtype is np.float32]
        self._unused = filters.keys() - set(self._measures)
        self._without = np.fromiter(without, np.int64)
        self._all, self._looked_for = all_images, looked_for

    def __iter__(self) -> Iterator[Record]:
        return self._read(None)

    def split(self, name: str) -> Iterator[Record]:
        return self._read(name)

    def _read(self, split: str | None) -> Iterator[Record]:
        run, first, masks = self._run, self._first, read_corrections(self._run)
        for shard, judged, labelled in self._verdicts():
            is_dropped = pc.equal(labelled["verdict"], "dropped")
            dropped = _classes_by_image(labelled.filter(is_dropped))
            kept = labelled.filter(pc.invert(is_dropped))
            images = judged["image_id"].to_numpy()
            holders = kept["image_id"].to_numpy()
            counts = np.searchsorted(holders, images, "right") - np.searchsorted(holders, images)
            held = dict(zip(images.tolist(), counts.tolist(), strict=True))
            labels = self._labels(shard, kept, masks, first)
            first += len(kept)
            rows = run.tables.read(run.paths.table("measures", shard), without=self._unused)
            rows = rows.filter(pc.is_null(rows["instance"]))
            measures = dict(zip(rows["image_id"].to_pylist(), rows.select(self._measures).to_pylist(), strict=True))
            fates = self._fates(judged)
            generated = run.marks.read("generate", shard)
            made = generated.files if generated else {}
            folder = run.paths.images(shard)
            inside, prefix = run.files.inside_of(folder), f"{run.paths.name(folder)}/"
            for job in self._jobs(shard, held, generated):
                annotations = tuple(islice(labels, held[job.id]))
                if split in {None, job.split}:
                    image = inside(name := image_name(job.id))
                    _, checksum = made.get(prefix + name, (0, ""))
                    verdict, reasons = fates.get(job.id, ("accepted", ()))
                    yield Record(
                        job, image, annotations, measures[job.id], checksum, verdict, reasons,
                        self._looked_for(job), dropped.get(job.id, frozenset()),
                    )  # fmt: skip

    def _fates(self, judged: pa.Table) -> dict[int, tuple[str, tuple[str, ...]]]:
        """Image id -> its verdict and reasons; empty if all images are accepted."""
        if not self._all:
            return {}
        columns = (judged[name].to_pylist() for name in ("image_id", "verdict", "reasons"))
        return {image: (verdict, tuple(reasons or ())) for image, verdict, reasons in zip(*columns, strict=True)}

    def _verdicts(self) -> Iterator[tuple[int, pa.Table, pa.Table]]:
        """For each shard with accepted images: its number, the verdicts on them, in order of id, and the verdicts on
        their labels, in order. The file has all images before all labels, so two readers go through it side by side."""
        held = self._shards(pc.is_valid, ["kept", "ignored", "dropped", *(["rejected"] if self._all else [])])
        number, labels = next(held, _NO_MORE)
        for shard, rows in self._shards(pc.is_null, ["accepted", *(["surplus", "rejected"] if self._all else [])]):
            while number < shard:
                number, labels = next(held, _NO_MORE)
            rows = rows.filter(np.isin(rows["image_id"].to_numpy(), self._without, invert=True)).sort_by("image_id")
            if self._all:
                rows = rows.filter(pa.array(NOT_MADE not in (r or ()) for r in rows["reasons"].to_pylist()))
            of_shard = labels if number == shard else _NO_MORE[1]
            of_shard = of_shard.filter(pc.is_in(of_shard["image_id"], rows["image_id"]))
            if len(rows):
                order = [("image_id", "ascending"), ("instance", "ascending")]
                yield shard, rows, of_shard.take(pc.sort_indices(of_shard, order))

    def _shards(self, of: Callable[[pa.ChunkedArray], Any], verdicts: list[str]) -> Iterator[tuple[int, pa.Table]]:
        """The number of each shard and the rows with these verdicts, in the order of the file.

        Args:
            of: selects rows by their column `instance`: images or labels.
        """
        rest, selected = None, pa.array(verdicts)
        names = [*_VERDICT.names, *(["reasons"] if self._all else [])]
        for rows in self._run.tables.read_batches(self._run.paths.verdicts, names):
            # An expression would start threads of its own, which keep memory until the process ends.
            rows = rows.filter(pc.and_(of(rows["instance"]), pc.is_in(rows["verdict"], selected)))
            rows = rows if rest is None else pa.concat_tables([rest, rows])
            shards = rows["shard"].to_numpy()
            begins = np.flatnonzero(np.diff(shards, prepend=-1))
            for begin, end in pairwise(begins.tolist()):
                yield int(shards[begin]), rows.slice(begin, end - begin)
            rest = rows.slice(begins[-1]) if len(begins) else rest  # The next rows may belong to the same shard.
        if rest is not None and len(rest):
            yield rest["shard"][0].as_py(), rest

    def _labels(self, shard: int, kept: pa.Table, masks: pa.Table | None, first: int) -> Iterator[Annotation]:
        """The kept labels of a shard. `masks`: see `read_corrections`. `first`: id of the first label."""
        table = self._run.tables.read(self._run.paths.table("labels", shard))
        if masks is not None:
            table = with_corrections(table, masks.filter(pc.is_in(masks["image_id"], kept["image_id"])))
        holders = table["image_id"].to_numpy()
        order = np.lexsort((table["instance"].to_numpy(), holders))
        # An image's instances are numbered from 0 without gaps, see `label_rows`.
        index = np.searchsorted(holders, kept["image_id"].to_numpy(), sorter=order) + kept["instance"].to_numpy()
        rows = table.take(order[np.minimum(index, len(order) - 1)]) if len(order) else table
        if any(not np.array_equal(rows[name].to_numpy(), kept[name].to_numpy()) for name in ("image_id", "instance")):
            raise RunError(f"the verdicts on shard {shard} are not on its labels; judge the run again")
        x0, y0, x1, y1 = rows["bbox_xyxy"].combine_chunks().flatten().to_numpy().reshape(-1, 4).T.astype(float)
        sizes = zip(rows["height"].to_pylist(), rows["width"].to_pylist(), strict=True)
        names = [name for name in rows.column_names if name not in LABEL_COLUMNS]
        scores = zip(*(rows[name].to_pylist() for name in names), strict=True) if names else repeat(())
        if any(rows[name].null_count for name in names):
            held = ({n: value for n, value in zip(names, row, strict=True) if value is not None} for row in scores)
        else:
            held = (dict(zip(names, row)) for row in scores)  # noqa: B905 - a check of each row takes a third longer
        # Rows become objects one at a time: a whole shard of objects would keep the garbage collector busy.
        return map(
            Annotation,
            range(first, first + len(kept)),
            kept["category_id"].to_pylist(),
            ({"size": [*size], "counts": counts} for size, counts in zip(sizes, rows["rle"].to_pylist(), strict=True)),
            zip(x0.tolist(), y0.tolist(), (x1 - x0).tolist(), (y1 - y0).tolist(), strict=True),
            rows["area"].to_pylist(),
            pc.equal(kept["verdict"], "ignored").to_pylist(),
            held,
            kept["instance"].to_pylist(),
        )


def _classes_by_image(labels: pa.Table) -> dict[int, frozenset[int]]:
    """Image id -> the ids of the classes of its labels."""
    found: dict[int, set[int]] = {}
    for image_id, category_id in zip(labels["image_id"].to_pylist(), labels["category_id"].to_pylist(), strict=True):
        found.setdefault(image_id, set()).add(category_id)
    return {image_id: frozenset(classes) for image_id, classes in found.items()}
