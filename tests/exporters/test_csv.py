"""The table of objects, read by pandas."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from drawn import HEIGHT, HOSTILE, INFO, WIDTH, ListedRecords, contents, drawn, export, verified
from PIL import Image

from synthgen.exporters.csv import Backend, Config
from synthgen.masks import decode_rle
from synthgen.types import Category, DatasetInfo

COLUMNS = [
    "split", "file_name", "image_id", "width", "height", "seed", "prompt", "negative_prompt", "annotation_id",
    "instance", "class", "category_id", "bbox_x", "bbox_y", "bbox_width", "bbox_height", "area", "ignore", "rle",
]  # fmt: skip


@pytest.fixture
def records(tmp_path: Path) -> ListedRecords:
    return drawn(
        tmp_path / "images",
        ("train", [(1, "disc"), (2, "ring"), (4, "line", True)]),
        ("train", []),
        ("val", [(3, "empty"), (2, "two parts")]),
    )


def exporter(info: DatasetInfo = INFO, **options: Any) -> Backend:
    return Backend(Config(use="csv", **options), info.categories)


def read(root: Path) -> pd.DataFrame:
    """With classes and prompts as texts, whatever they look like."""
    texts = {"class": str, "prompt": str}
    return pd.read_csv(root / "objects.csv", na_values=[""], keep_default_na=False, dtype=texts)


def test_pandas_reads_every_object(records: ListedRecords, tmp_path: Path) -> None:
    assert export(exporter(), records, tmp_path / "out") == []
    table = read(tmp_path / "out")
    assert [*table.columns] == [*COLUMNS, "score_predicted_iou", "score_clip"]
    known = [(record, a) for record in records for a in record.annotations or (None,)]
    assert len(table) == len(known) == 6
    for (_, row), (record, a) in zip(table.iterrows(), known, strict=True):
        job = record.job
        assert (row.split, row.image_id, row.width, row.height) == (job.split, job.id, WIDTH, HEIGHT)
        assert (row.seed, row.prompt, row.negative_prompt) == (job.seed, f"a cup on {HOSTILE}", "blurry")
        with Image.open(tmp_path / "out" / row.file_name) as image:
            assert image.size == (WIDTH, HEIGHT)
        if a is None:
            assert row[COLUMNS[8:]].isna().all()
            continue
        category = INFO.categories[a.category_id - 1]
        assert (row["class"], row.category_id) == (category.name, category.id)
        assert (row.annotation_id, row.instance, row.area, row.ignore) == (a.id, a.instance, a.area, int(a.ignore))
        assert (row.bbox_x, row.bbox_y, row.bbox_width, row.bbox_height) == a.bbox_xywh
        assert row.score_predicted_iou == 0.9 and np.isnan(row.score_clip)
        (mask,) = decode_rle([{"size": [row.height, row.width], "counts": row.rle}], HEIGHT, WIDTH)
        assert (mask == decode_rle([a.rle], HEIGHT, WIDTH)[0]).all()


def test_own_ids_and_boxes_between_pixels(records: ListedRecords, tmp_path: Path) -> None:
    info = replace(INFO, categories=(Category(1, "NA", own_id=53), *INFO.categories[1:]))
    first = records.listed[0]
    boxed = replace(first.annotations[0], bbox_xywh=(-0.5, 1.25, 2.0, 1e-7))
    one = ListedRecords([replace(first, annotations=(boxed,))])
    export(exporter(info), one, tmp_path / "out", info)
    row = read(tmp_path / "out").iloc[0]
    assert row["class"] == "NA"
    assert (row.category_id, row.bbox_x, row.bbox_y, row.bbox_width, row.bbox_height) == (53, -0.5, 1.25, 2, 1e-7)


def test_scores_that_are_met_late_have_their_column(records: ListedRecords, tmp_path: Path) -> None:
    listed = list(records)
    some = replace(listed[2].annotations[1], scores={"late": 0.5, "clip": 0.25})
    listed[2] = replace(listed[2], annotations=(listed[2].annotations[0], some))
    one = exporter()
    export(one, ListedRecords(listed), tmp_path / "out")
    table = read(tmp_path / "out")
    assert [*table.columns] == [*COLUMNS, "score_predicted_iou", "score_clip", "score_late"]
    assert table.score_late.isna().tolist() == [True] * 5 + [False]
    assert table.iloc[-1].score_clip == 0.25 and np.isnan(table.iloc[-1].score_predicted_iou)
    assert verified(one, ListedRecords(listed), tmp_path / "out") == []


EVIL = ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1", "＝1", "'quoted"]


@pytest.mark.parametrize("text", EVIL)
def test_formulas_are_quoted_unless_they_are_to_be_kept(records: ListedRecords, tmp_path: Path, text: str) -> None:
    info = replace(INFO, categories=(Category(1, text), *INFO.categories[1:]))
    first = records.listed[0]
    one = ListedRecords([replace(first, job=replace(first.job, prompt=text), annotations=first.annotations[:1])])
    for formulas, expected in (("quote", f"'{text}"), ("keep", text)):
        backend = exporter(info, formulas=formulas)
        said = export(backend, one, tmp_path / formulas, info)
        row = read(tmp_path / formulas).iloc[0]
        assert (row["class"], row.prompt) == (expected, expected)
        assert verified(backend, one, tmp_path / formulas) == []
        quoted = (
            "2 cells of objects.csv have a ' in front, since a spreadsheet would compute them; "
            "`formulas: keep` leaves them as they are"
        )
        assert said == ([quoted] if formulas == "quote" else [])


def test_the_bytes_are_plain_and_the_same_each_time(records: ListedRecords, tmp_path: Path) -> None:
    for name in "ab":
        export(exporter(images="copy"), records, tmp_path / name)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    data = (tmp_path / "a" / "objects.csv").read_bytes()
    assert data.startswith(b"split,file_name,") and data.endswith(b"\n") and b"\r" not in data
    assert HOSTILE.replace('"', '""') in data.decode("utf-8")


def test_a_cell_may_be_longer_than_python_reads_by_default(records: ListedRecords, tmp_path: Path) -> None:
    first = records.listed[0]
    long = replace(first.annotations[0], rle={"size": [HEIGHT, WIDTH], "counts": "1" * 200_000})
    one = ListedRecords([replace(first, annotations=(long,))])
    export(exporter(), one, tmp_path / "out")
    assert len(read(tmp_path / "out").rle[0]) == 200_000
    assert verified(exporter(), one, tmp_path / "out") == []
    assert csv.field_size_limit() == 131_072


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (b",cup,", b",mug,", "has 'mug' as class in line 2, expected 'cup'"),
        (b",rle,", b",mask,", "has other columns, expected split, "),
        (b"train/000000000001", b"train/1", "has 'images/train/1.png' as file_name in line 2, expected"),
        (b"\ntrain", b"\n\ntrain", "has 0 cells in line 2, expected 21"),
        (b"score_clip", b"score_c", "has no column score_clip"),
        (b'"a cup', b'"a" cup', "is no CSV in UTF-8: "),
        (b"blurry", b"\xff", "is no CSV in UTF-8: "),
    ],
)
def test_what_was_edited_is_named(records: ListedRecords, tmp_path: Path, old: bytes, new: bytes, told: str) -> None:
    one = exporter()
    export(one, records, tmp_path / "out")
    assert verified(one, records, tmp_path / "out") == []
    path = tmp_path / "out" / "objects.csv"
    before = path.read_bytes()
    path.write_bytes(before.replace(old, new, 1))
    assert path.read_bytes() != before
    ((name, said),) = verified(one, records, tmp_path / "out")
    assert name == "objects.csv" and said.startswith(told)


def test_missing_and_further_rows_are_named(records: ListedRecords, tmp_path: Path) -> None:
    one, last = exporter(), records.listed[-1]
    export(one, records, tmp_path / "out")
    assert verified(one, ListedRecords(records.listed[:-1]), tmp_path / "out") == [
        ("objects.csv", "has line 6 besides, of an object that was not kept")
    ]
    more = replace(last, annotations=(*last.annotations, replace(last.annotations[0], id=99)))
    assert verified(one, ListedRecords([*records.listed[:-1], more]), tmp_path / "out") == [
        ("objects.csv", "ends before image 3")
    ]
    assert verified(exporter(images="jpeg"), records, tmp_path / "out") == [
        ("objects.csv", "has image 1, whose file images/train/000000000001.jpg is not among the exported files")
    ]
