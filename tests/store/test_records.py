"""Labels as rows and back, and the accepted images as exporters read them."""

from __future__ import annotations

import functools
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pycocotools import mask as coco_mask

from synthgen.errors import BackendError
from synthgen.masks import encode_rle
from synthgen.store.marks import Mark
from synthgen.store.records import Accepted, instances_of, label_rows, label_schema
from synthgen.store.run import Run
from synthgen.types import Instances, Job, Record

HEIGHT, WIDTH = 32, 40
# Of 20 images in shards of 8, those of id 3k are rejected, and image 5 has no label.
IMAGES, SHARD, EMPTY = range(1, 21), 8, 5
FILTERS: dict[str, Any] = {
    "sharpness": SimpleNamespace(scope="image", dtype=np.float32),
    "near_duplicate": SimpleNamespace(scope="image", dtype=np.uint64),
    "stability": SimpleNamespace(scope="instance", dtype=np.float32),
}


def split_of(image_id: int) -> str:
    return ("train", "val")[image_id % 4 == 0]


def instances(image_id: int) -> Instances:
    """Squares of 1 to 3 px a side, one for each of three classes, from the left; the last one is not found."""
    masks = np.zeros((4, HEIGHT, WIDTH), bool)
    for i in range(3):
        masks[i, image_id : image_id + i + 1, 10 * i : 11 * i + 1] = True
    boxes = np.array(
        [(10 * i, image_id, 11 * i + 1, image_id + i + 1) for i in range(3)] + [(0.5, 0.25, 9.75, 8.5)], np.float32
    )
    scores = {"box_iou": np.array([0.1, 0.2, np.nan, 0.4], np.float32)}
    found = Instances(masks, boxes, np.array([1, 2, 3, 3]), scores)
    return found[np.zeros(4, bool)] if image_id == EMPTY else found


def job(image_id: int) -> Job:
    return Job(
        image_id, 1, 1, image_id - 1, f"{image_id:016x}", split_of(image_id), f"image {image_id}", "", {}, (1,), None,
        image_id, HEIGHT, WIDTH,
    )  # fmt: skip


def jobs(shard: int, image_ids: Collection[int] = IMAGES, generated: Mark | None = None) -> list[Job]:
    return [job(i) for i in IMAGES if (i - 1) // SHARD == shard and i in image_ids]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Of each image the first instance is kept, the second dropped, the third ignored, the fourth kept and said to be
    of class 2."""
    run = Run.at(tmp_path, "squares", 1)
    images, labels, more = [], [], {"reasons": [], "passed": True}
    for shard in range(3):
        rows = [row for j in jobs(shard) for row in label_rows(j.id, instances(j.id))]
        run.tables.write(run.paths.table("labels", shard), pa.Table.from_pylist(rows, label_schema(rows)))
        whole = [
            {"image_id": j.id, "instance": None, "sharpness": j.id / 4, "near_duplicate": 2**64 - j.id}
            for j in jobs(shard)
        ]
        each = [{"image_id": r["image_id"], "instance": r["instance"], "stability": 0.5} for r in rows]
        schema = pa.schema(
            [("image_id", pa.int64()), ("instance", pa.int32()), ("sharpness", pa.float32()),
             ("near_duplicate", pa.uint64()), ("stability", pa.float32())]
        )  # fmt: skip
        run.tables.write(run.paths.table("measures", shard), pa.Table.from_pylist(each + whole, schema))
        for j in jobs(shard):
            verdict = "accepted" if j.id % 3 else "rejected"
            images.append({"image_id": j.id, "shard": shard, "split": j.split, "verdict": verdict, **more})
        for row in rows:
            category = row["category_id"] if row["instance"] < 3 else 2
            verdict = ("kept", "dropped", "ignored", "kept")[row["instance"]]
            labels.append({**{k: row[k] for k in ("image_id", "instance")}, "category_id": category, "shard": shard,
                           "verdict": verdict, **more})  # fmt: skip
    schema = pa.schema(
        [("image_id", pa.int64()), ("instance", pa.int32()), ("shard", pa.int32()), ("split", pa.string()),
         ("category_id", pa.int32()), ("verdict", pa.string()), ("reasons", pa.list_(pa.string())),
         ("passed", pa.bool_())]
    )  # fmt: skip
    run.tables.write(run.paths.verdicts, pa.Table.from_pylist(images + labels, schema))
    return run


def accepted(run: Run, **options: Any) -> Accepted:
    return Accepted(run, jobs, FILTERS, **options)


def ids(records: list[Record]) -> list[int]:
    return [annotation.id for record in records for annotation in record.annotations]


def test_accepted_images_with_their_labels(run: Run) -> None:
    found = list(accepted(run))
    assert [record.job for record in found] == [job(i) for i in IMAGES if i % 3]
    assert [record.image_path for record in found] == [
        run.paths.image((r.job.id - 1) // SHARD, r.job.id) for r in found
    ]
    assert [record.measures for record in found] == [{"sharpness": r.job.id / 4} for r in found]
    for record in found:
        i = record.job.id
        if i == EMPTY:
            assert record.annotations == ()
            continue
        first, ignored, _ = record.annotations
        assert [a.category_id for a in record.annotations] == [1, 3, 2]
        assert [a.ignore for a in record.annotations] == [False, True, False]
        assert [a.area for a in record.annotations] == [1, 9, 0]
        assert [a.bbox_xywh for a in record.annotations] == [(0, i, 1, 1), (20, i, 3, 3), (0.5, 0.25, 9.25, 8.25)]
        assert first.scores == {"box_iou": float(np.float32(0.1))} and np.isnan(ignored.scores["box_iou"])
        for annotation, k in zip(record.annotations, (0, 2, 3), strict=True):
            assert (coco_mask.decode(dict(annotation.rle)).astype(bool) == instances(i).masks[k]).all()
            assert type(annotation.area) is int and type(annotation.category_id) is int
    assert ids(found) == list(range(1, 3 * 13 + 1))


def test_records_say_of_which_classes_labels_are_left_out_and_which_were_looked_for(run: Run) -> None:
    found = list(accepted(run, looked_for=lambda job: frozenset({job.id})))
    assert {r.job.id: r.dropped for r in found} == {i: {2} if i != EMPTY else set() for i in IMAGES if i % 3}
    assert all(r.looked_for == {r.job.id} for r in found)
    assert all(r.looked_for == set() for r in accepted(run))


def test_as_often_as_wanted_and_split_by_split(run: Run) -> None:
    records = accepted(run)
    both = list(records)
    assert list(map(str, both)) == list(map(str, records))
    for name in ("train", "val"):
        assert list(map(str, records.split(name))) == [str(r) for r in both if r.job.split == name]
    assert list(records.split("test")) == []


def test_a_further_run_goes_on_with_other_ids_and_without_some_images(run: Run) -> None:
    whole, some = accepted(run), accepted(run, first_annotation=101, without={1, EMPTY, 6, 20})
    left = [record for record in whole if record.job.id not in {1, EMPTY, 20}]
    assert [record.job for record in some] == [record.job for record in left]
    assert ids(list(some)) == list(range(101, 134))
    assert list(accepted(run, without=np.array(IMAGES))) == []


@pytest.mark.parametrize("count", [1, 7, 16, 1000])
def test_verdicts_are_read_a_few_at_a_time(run: Run, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    expected = list(map(str, accepted(run)))
    read = functools.partialmethod(pq.ParquetFile.iter_batches, batch_size=count)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", read)
    assert list(map(str, accepted(run))) == expected


def test_tables_in_another_order_are_the_same_records(run: Run) -> None:
    before = list(map(str, accepted(run)))
    files = [run.paths.table(kind, s) for kind in ("labels", "measures") for s in range(3)]  # type: ignore[arg-type]
    for file in files:
        table = run.tables.read(file)
        run.tables.write(file, table.take(np.random.default_rng(0).permutation(len(table))))
    assert list(map(str, accepted(run))) == before


def test_scores_that_a_label_has_not(run: Run) -> None:
    file = run.paths.table("labels", 0)
    table = run.tables.read(file)
    run.tables.write(
        file, table.set_column(table.column_names.index("box_iou"), "box_iou", pa.nulls(len(table), "float"))
    )
    scores = [annotation.scores for record in accepted(run) for annotation in record.annotations]
    assert scores[0] == {} and scores[-1] == {"box_iou": float(np.float32(0.4))}
    run.tables.write(file, table.drop_columns(["box_iou"]))
    assert next(iter(accepted(run))).annotations[0].scores == {}


def test_a_run_without_a_label(run: Run) -> None:
    for shard in range(3):
        file = run.paths.table("labels", shard)
        run.tables.write(file, run.tables.read(file)[:0])
    table = run.tables.read(run.paths.verdicts)
    run.tables.write(run.paths.verdicts, table.filter(table["instance"].is_null()))
    assert [record.annotations for record in accepted(run)] == [()] * 14


def test_rows_and_back() -> None:
    before = instances(7)
    rows = list(label_rows(7, before))
    assert [row["area"] for row in rows] == before.masks.sum((1, 2)).tolist() == [1, 4, 9, 0]
    assert [row["rle"] for row in rows] == [rle["counts"] for rle in encode_rle(before.masks)]
    table = pa.Table.from_pylist(rows, label_schema(rows))
    after = instances_of(table.to_pandas(), HEIGHT, WIDTH)
    assert (after.masks == before.masks).all()
    assert (after.boxes == before.boxes).all()
    assert (after.category_id == before.category_id).all()
    np.testing.assert_array_equal(after.scores["box_iou"], before.scores["box_iou"])
    assert list(label_rows(EMPTY, instances(EMPTY))) == []
    assert len(instances_of(None, HEIGHT, WIDTH)) == 0


@pytest.mark.parametrize("name", ["area", "instance", "rle"])
def test_a_score_does_not_take_the_place_of_a_column(name: str) -> None:
    before = replace(instances(7), scores={name: np.ones(len(instances(7)), np.float32)})
    with pytest.raises(BackendError, match=f"got a score called '{name}', which is a column"):
        list(label_rows(7, before))


def test_an_image_has_any_number_of_labels() -> None:
    """pycocotools sums the pixels of at most 255 masks at once."""
    masks = np.zeros((300, 4, 5), bool)
    masks[:, 0, :2] = True
    many = Instances(masks, np.tile(np.float32([0, 0, 2, 1]), (300, 1)), np.ones(300, np.int64))
    rows = list(label_rows(1, many))
    assert [row["instance"] for row in rows] == list(range(300)) and {row["area"] for row in rows} == {2}
