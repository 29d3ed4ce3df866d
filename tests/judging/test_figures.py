"""The figures of `quality.json`, computed again in another way from a run's parquet files."""

from collections import Counter
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pyarrow.parquet as pq
import pytest

from synthgen.judging.figures import EDGES, GRID
from synthgen.pipeline.build import Build


@pytest.fixture(scope="module")
def mixed(finished: Any, run_through: Any, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """A run of which some images are rejected, for two reasons."""
    from conftest import QUICK

    rows = pd.concat(pq.read_table(f).to_pandas() for f in sorted(finished.run.root.glob("measures/*.parquet")))
    low = float(rows["sharpness"].dropna().quantile(0.4))
    area = float(rows["mask_area"].dropna().quantile(0.7))
    filters = {**QUICK["filters"], "sharpness": {"min": low}, "mask_area": {"min": None, "max": area}}
    return run_through({**QUICK, "filters": filters}, tmp_path_factory.mktemp("mixed"))


@pytest.fixture(scope="module")
def read(mixed: Build) -> dict[str, Any]:
    root = mixed.run.root

    def every(kind: str) -> list[dict[str, Any]]:
        return [row for f in sorted(root.glob(f"{kind}/*.parquet")) for row in pq.read_table(f).to_pylist()]

    verdicts = pq.read_table(root / "verdicts.parquet").to_pylist()
    return {
        "quality": orjson.loads((root / "quality.json").read_bytes()),
        "jobs": every("jobs"), "labels": every("labels"), "measures": every("measures"),
        "images": {v["image_id"]: v for v in verdicts if v["instance"] is None},
        "instances": {(v["image_id"], v["instance"]): v for v in verdicts if v["instance"] is not None},
        "names": {c.id: c.name for c in mixed.spec.categories},
    }  # fmt: skip


@pytest.fixture
def kept(read: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        row
        for row in read["labels"]
        if read["instances"][row["image_id"], row["instance"]]["verdict"] == "kept"
        and read["images"][row["image_id"]]["verdict"] == "accepted"
    ]


def test_headline(read: dict[str, Any], kept: list[dict[str, Any]]) -> None:
    q, verdicts = read["quality"], Counter(v["verdict"] for v in read["images"].values())
    assert 0 < verdicts["accepted"] < len(read["jobs"]) == 8
    assert [q[k] for k in ("made", "accepted", "rejected", "surplus")] == [
        8, verdicts["accepted"], verdicts["rejected"], verdicts["surplus"],
    ]  # fmt: skip
    assert q["yield"] == (8 - verdicts["rejected"]) / 8
    assert q["instances"] == len(kept)
    accepted = Counter(v["split"] for v in read["images"].values() if v["verdict"] == "accepted")
    assert q["splits"] == {name: accepted[name] for name in ("train", "val", "test")}
    passed = [v for v in read["instances"].values() if v["passed"]]
    assert q["precision"]["population"] == len(passed) > 0 == q["precision"]["verdicts"]
    assert all(read["images"][v["image_id"]]["passed"] for v in passed)


def test_funnel(read: dict[str, Any]) -> None:
    rejected = [v["reasons"] for v in read["images"].values() if v["verdict"] == "rejected"]
    steps = {s["step"]: s for s in read["quality"]["funnel"]}
    assert [*steps][:1] == ["made"] and [*steps][-1:] == ["accepted"]
    left = 8
    for name in ("mask_area", "sharpness"):
        first = sum(reasons[0] == name for reasons in rejected)
        left -= first
        assert steps[name] == {
            "step": name, "left": left, "first": first, "images": sum(name in reasons for reasons in rejected),
            "alone": sum(reasons == [name] for reasons in rejected),
        }  # fmt: skip
        assert steps[name]["images"] > 0
    assert steps["accepted"]["left"] == read["quality"]["accepted"] == left


def test_asked_and_found(read: dict[str, Any]) -> None:
    cells: Counter[tuple[str | None, str | None]] = Counter()
    for job in read["jobs"]:
        found = Counter(
            row["category_id"] for row in read["labels"] if row["image_id"] == job["image_id"] and row["area"]
        )
        asked = Counter(job["asked"])
        for c, n in (asked & found).items():
            cells[read["names"][c], read["names"][c]] += n
        lost, more = sorted((asked - found).elements()), sorted((found - asked).elements())
        for k in range(max(len(lost), len(more))):
            cells[
                read["names"][lost[k]] if k < len(lost) else None, read["names"][more[k]] if k < len(more) else None
            ] += 1
    assert {(c["asked"], c["found"]): c["instances"] for c in read["quality"]["asked_found"]} == dict(cells)
    assert sum(n for (asked, _), n in cells.items() if asked) == sum(len(job["asked"]) for job in read["jobs"])


def test_classes_and_counts(read: dict[str, Any], kept: list[dict[str, Any]]) -> None:
    d, names = read["quality"]["distributions"], read["names"]
    asked = Counter(c for job in read["jobs"] for c in job["asked"])
    labelled = Counter(row["category_id"] for row in read["labels"] if row["area"])
    accepted = Counter(row["category_id"] for row in kept)
    assert d["classes"] == [
        {"class": names[c], "asked": asked[c], "labelled": labelled[c], "accepted": accepted[c], "quota": 0}
        for c in names
    ]
    chosen = [i for i, v in read["images"].items() if v["verdict"] == "accepted"]
    held = Counter(row["image_id"] for row in kept)
    have = Counter(held[i] for i in chosen)
    planned = Counter(len(job["asked"]) for job in read["jobs"])
    assert [(c["objects"], c["asked"], c["accepted"]) for c in d["counts"]] == [
        (n, planned[n], have[n]) for n in (0, 1, 2)
    ]
    assert [c["wanted"] for c in d["counts"]] == pytest.approx([1 / 6, 3 / 6, 2 / 6], rel=1e-5)


def test_sizes_and_positions(read: dict[str, Any], kept: list[dict[str, Any]]) -> None:
    d = read["quality"]["distributions"]
    for kind, boxes in (
        ("asked", [b for job in read["jobs"] for b in job["layout"]]),
        ("accepted", [r["bbox_xyxy"] for r in kept]),
    ):
        longest = np.zeros(len(EDGES) - 1, int)
        grid = np.zeros((GRID, GRID), int)
        for x0, y0, x1, y1 in boxes:
            longest[min(19, int(np.searchsorted(EDGES, max(x1 - x0, y1 - y0) / 128, "right")) - 1)] += 1
            grid[int((y0 + y1) / 2 / 128 * GRID), int((x0 + x1) / 2 / 128 * GRID)] += 1
        assert d["sizes"][kind] == longest.tolist()
        assert d["positions"][kind] == grid.tolist()
    areas = [row["area"] for row in kept]
    assert d["sizes"]["coco"] == {
        "small": sum(a < 1024 for a in areas), "medium": sum(1024 <= a < 9216 for a in areas),
        "large": sum(a >= 9216 for a in areas),
    }  # fmt: skip
    assert d["sizes"]["wanted"] == [0.34, 0.5]


def test_scores(mixed: Build, read: dict[str, Any]) -> None:
    scores = {s["score"]: s for s in read["quality"]["scores"]}
    assert set(scores) == set(mixed.spec.filters) - {"near_duplicate"} | {"box_iou"} - (
        {"box_iou"} if "box_agreement" in mixed.spec.filters else set()
    )
    for name, s in scores.items():
        if name not in mixed.spec.filters:
            continue
        values = [m[name] for m in read["measures"] if (m["instance"] is None) == (s["scope"] == "image")]
        low, high = (-np.inf if s["min"] is None else s["min"]), (np.inf if s["max"] is None else s["max"])
        fails = [not (np.float32(low) <= v <= np.float32(high)) for v in values]
        assert (s["values"], s["fails"], s["unmeasured"]) == (len(values), sum(fails), 0)
        assert s["median"] == pytest.approx(float(np.median(values)), rel=1e-5)
        assert sum(s["kept"]) == len(values) - sum(fails) and sum(s["failed"]) == sum(fails)
        inner = [
            sum(a <= v < b for v in values)
            for a, b in zip(s["edges"][1:-2], s["edges"][2:-1], strict=True)  # the outer bars hold what lies beyond
        ]
        assert np.abs(np.subtract(np.add(s["kept"], s["failed"])[1:-1], inner)).sum() <= 2  # edges have six digits


def test_times(mixed: Build, read: dict[str, Any]) -> None:
    marks = {
        stage: [orjson.loads(f.read_bytes()) for f in sorted(mixed.run.root.glob(f"commits/{stage}-*.json"))]
        for stage in ("generate", "label", "measure")
    }
    t = read["quality"]["timings"]
    for row in t["stages"]:
        seconds = sum(m["seconds"] for m in marks[row["stage"]])
        assert row["seconds"] == pytest.approx(seconds, abs=2e-3) and row["images"] == 8
        assert row["images_per_second"] == pytest.approx(8 / seconds, rel=0.05)
    assert t["seconds"] == pytest.approx(sum(row["seconds"] for row in t["stages"]), abs=2e-3)


def test_samples(read: dict[str, Any]) -> None:
    found, jobs = read["quality"]["samples"], {job["image_id"]: job for job in read["jobs"]}
    accepted = {i for i, v in read["images"].items() if v["verdict"] == "accepted"}
    assert {row["image_id"] for row in found["worst"]} == set(jobs) - accepted
    assert {row["image_id"] for row in found["random"]} == accepted
    near = [abs(row["nearest"]["margin"]) for row in found["borderline"]]
    assert near == sorted(near) and len(near) == 8
    for kind in found.values():
        for row in kind:
            job = jobs[row["image_id"]]
            assert (row["prompt"], row["seed"]) == (job["prompt"], job["seed"])
            assert row["reasons"] == read["images"][row["image_id"]]["reasons"]
