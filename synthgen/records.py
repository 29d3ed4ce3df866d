"""Labels as rows of a table and back, and the accepted images as exporters read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from synthgen.backends import Filter
from synthgen.masks import decode_rle, encode_rle, mask_areas
from synthgen.store import Run
from synthgen.types import Annotation, Instances, Job, Record

LABEL_COLUMNS = {
    "image_id": pa.int64(),
    "instance": pa.int32(),
    "category_id": pa.int32(),
    "bbox_xyxy": pa.list_(pa.float32(), 4),
    "area": pa.int64(),
    "height": pa.int32(),
    "width": pa.int32(),
    "rle": pa.string(),
}


def label_schema(rows: Sequence[Mapping[str, Any]]) -> pa.Schema:
    scores = sorted({name for row in rows for name in row} - set(LABEL_COLUMNS))
    return pa.schema([*LABEL_COLUMNS.items(), *((name, pa.float32()) for name in scores)])


def label_rows(image_id: int, instances: Instances) -> Iterator[dict[str, Any]]:
    areas, rles = mask_areas(instances.masks), encode_rle(instances.masks)
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
    """A DataFrame of label rows of one image, or None -> its instances."""
    if rows is None:
        return Instances.empty(height, width)
    rles = [{"size": [height, width], "counts": counts} for counts in rows["rle"]]
    return Instances(
        decode_rle(rles, height, width),
        np.stack(rows["bbox_xyxy"].to_list()).astype(np.float32),
        rows["category_id"].to_numpy(np.int64),
        {name: rows[name].to_numpy(np.float32) for name in rows.columns if name not in LABEL_COLUMNS},
    )


class Accepted:
    """Accepted images with their labels, read shard by shard as they are iterated."""

    def __init__(self, run: Run, jobs: Callable[[int], list[Job]], filters: Mapping[str, Filter[Any]]) -> None:
        self._run, self._jobs = run, jobs
        self._measures = [n for n, f in filters.items() if f.scope == "image" and f.dtype is np.float32]
        rows = run.read_table(run.verdicts_file).to_pandas()
        images = rows[rows["instance"].isna() & (rows["verdict"] == "accepted")]
        self._images = images.sort_values("image_id")
        kept = rows[
            rows["instance"].notna()
            & rows["verdict"].isin(["kept", "ignored"])
            & rows["image_id"].isin(images["image_id"])
        ]
        kept = kept.sort_values(["image_id", "instance"])
        # Annotation ids run over all splits, in the order of images.
        columns = (kept["image_id"], kept["instance"].astype(int), kept["category_id"].astype(int), kept["verdict"])
        self._labels = {
            (image_id, instance): (number, category_id, verdict == "ignored")
            for number, (image_id, instance, category_id, verdict) in enumerate(zip(*columns, strict=True), 1)
        }

    def __iter__(self) -> Iterator[Record]:
        return self._read(self._images)

    def split(self, name: str) -> Iterator[Record]:
        return self._read(self._images[self._images["split"] == name])

    def _read(self, images: Any) -> Iterator[Record]:
        run = self._run
        for shard, chosen in images.groupby("shard", sort=True):
            wanted = set(chosen["image_id"])
            labels = run.read_table(run.table_file("labels", shard)).to_pylist()
            measures = run.read_table(run.table_file("measures", shard)).to_pylist()
            by_image: dict[int, list[dict[str, Any]]] = {}
            for row in labels:
                by_image.setdefault(row["image_id"], []).append(row)
            whole = {m["image_id"]: m for m in measures if m["instance"] is None}
            for job in self._jobs(shard):
                if job.id in wanted:
                    annotations = tuple(
                        self._annotation(row)
                        for row in by_image.get(job.id, [])
                        if (job.id, row["instance"]) in self._labels
                    )
                    yield Record(
                        job, run.image_file(shard, job.id), annotations, {n: whole[job.id][n] for n in self._measures}
                    )

    def _annotation(self, row: dict[str, Any]) -> Annotation:
        number, category_id, ignored = self._labels[row["image_id"], row["instance"]]
        x0, y0, x1, y1 = row["bbox_xyxy"]
        rle = {"size": [row["height"], row["width"]], "counts": row["rle"]}
        scores = {name: value for name, value in row.items() if name not in LABEL_COLUMNS and value is not None}
        return Annotation(number, category_id, rle, (x0, y0, x1 - x0, y1 - y0), row["area"], ignored, scores)
