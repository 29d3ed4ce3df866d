"""The columns of a run, whatever order its rows stand in."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synthgen.errors import RunError
from synthgen.judging.counting import quality_of
from synthgen.judging.tables import Tables
from synthgen.pipeline.build import Build
from synthgen.pipeline.judge import judge_shards
from synthgen.store.run import Run


@pytest.fixture
def build(copied: Path) -> Build:
    (root,) = copied.glob("*/run-0001")
    return Build.open(Run(root))


def read(build: Build, **options: Any) -> Tables:
    return Tables.read(build.run, build.run.marks.shards(), build.stages.filters, **options)


def test_columns_are_those_of_the_files(build: Build) -> None:
    found = read(build, shown=True)
    jobs, labels, measures = (
        [row for f in sorted(build.run.root.glob(f"{kind}/*.parquet")) for row in pq.read_table(f).to_pylist()]
        for kind in ("jobs", "labels", "measures")
    )
    assert found.images["image_id"].tolist() == [job["image_id"] for job in jobs] == list(range(1, 9))
    assert found.images["shard"].tolist() == [0] * 4 + [1] * 4
    assert found.families.to_pylist() == [job["family"] for job in jobs]
    for lists, name in ((found.asked, "asked"), (found.layouts, "layout")):
        ends = zip(lists.offsets[:-1], lists.offsets[1:], strict=True)
        assert [lists.values[a:b].tolist() for a, b in ends] == [job[name] for job in jobs]
        assert lists.holder.tolist() == [i for i, job in enumerate(jobs) for _ in job[name]]
    assert (found.images["image_id"][found.holder] == [row["image_id"] for row in labels]).all()
    assert found.boxes.tolist() == [row["bbox_xyxy"] for row in labels]
    for name in ("instance", "category_id", "area"):
        assert found.labels[name].tolist() == [row[name] for row in labels]
    assert set(found.scores) == {"predicted_iou", "stability_score", "box_iou"}
    for name, values in found.scores.items():
        assert values.tolist() == [row[name] for row in labels]
    for name, f in build.stages.filters.items():
        rows = [m for m in measures if (m["instance"] is None) == (f.scope == "image")]
        assert found.measures[name].dtype == f.dtype and found.measures[name].tolist() == [m[name] for m in rows]
    last = labels[-1]
    place = found.label(last["image_id"], last["instance"])
    assert place == len(labels) - 1 and found.labels_of(last["image_id"]).stop == len(labels)


def test_what_only_figures_need_is_not_read_for_verdicts(build: Build) -> None:
    found = read(build)
    assert not len(found.boxes) and not found.scores and not len(found.layouts.values) and "width" not in found.images
    assert len(found.labels["area"]) == len(read(build, shown=True).boxes) > 0


def test_order_of_rows_decides_nothing(build: Build) -> None:
    before = judge_shards(build, build.run.marks.shards()).table()
    rng = np.random.default_rng(0)
    for file in build.run.root.glob("*/0*.parquet"):
        rows = pq.read_table(file)
        pq.write_table(rows.take(rng.permutation(len(rows))), file)
    assert judge_shards(build, [1, 0]).table().equals(before)


def test_a_score_that_some_shards_lack(build: Build) -> None:
    file = build.run.paths.table("labels", 0)
    rows = pq.read_table(file)
    pq.write_table(rows.drop_columns(["box_iou"]), file)
    found = read(build, shown=True)
    assert np.isnan(found.scores["box_iou"]).tolist() == [place < len(rows) for place in range(len(found.boxes))]


def test_vectors_are_rows_of_one_array(build: Build) -> None:
    class Vector:
        scope, dtype, vector, whole_dataset = "image", np.float16, True, True

    expected = []
    for shard in build.run.marks.shards():
        file = build.run.paths.table("measures", shard)
        rows = pq.read_table(file)
        vectors = [[row["image_id"], 0.5] if row["instance"] is None else None for row in rows.to_pylist()]
        expected += [v for v in vectors if v]
        pq.write_table(rows.append_column("vector", pa.array(vectors, pa.list_(pa.float16()))), file)
    found = Tables.read(build.run, build.run.marks.shards(), {"vector": Vector()})  # type: ignore[dict-item]
    assert found.measures["vector"].dtype == np.float16 and found.measures["vector"].tolist() == expected


def test_measures_of_other_labels_are_refused(build: Build) -> None:
    shutil.copy(build.run.paths.table("measures", 0), build.run.paths.table("measures", 1))
    with pytest.raises(RunError, match="the measures of shard 1 are not those of its labels; run the spec"):
        read(build)


def test_no_shard(build: Build) -> None:
    found = judge_shards(build, [])
    assert len(found.images) == len(found.instances) == found.table().num_rows == quality_of(found).made == 0
