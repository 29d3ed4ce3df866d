"""Figures: against the tables that they are made from."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
from builds import changed

from synthgen.judging.counting import quality_of
from synthgen.pipeline.judge import judge_shards


def test_quality_agrees_with_the_tables(finished):
    stored = orjson.loads(finished.run.paths.quality.read_bytes())
    counted = orjson.loads(orjson.dumps(asdict(quality_of(judge_shards(finished, finished.run.marks.shards())))))
    assert {name: stored[name] for name in counted} == counted
    rows = pq.read_table(finished.run.paths.verdicts).to_pandas()
    whole = rows[rows["instance"].isna()]
    assert stored["made"] == len(whole) == 8
    assert stored["accepted"] == (whole["verdict"] == "accepted").sum()
    asked = [c for shard in finished.run.marks.shards() for job in finished.jobs(shard) for c in job.asked]
    assert [c["asked"] for c in stored["classes"].values()] == [asked.count(i) for i in (1, 2, 3)]
    assert sum(stored["splits"].values()) == sum(stored["objects"].values()) == stored["accepted"]


def test_a_run_without_filters(quick, run_through, tmp_path):
    build = run_through({**quick, "filters": {}, "count": 4}, tmp_path)
    quality = build.quality()
    assert quality is not None and quality.accepted + quality.rejected == 4
    assert set(quality.reasons) <= {"empty_mask"}


def test_what_advice_says_comes_true(copied, quick, run_through):
    raw = changed(quick, {"filters.sharpness.min": 1e9})
    first = run_through(raw, copied).quality()
    assert first is not None
    words, _, rest = first.reasons["sharpness"].advice.partition(" would let ")
    then = run_through(changed(raw, {"filters.sharpness.min": float(words.removeprefix("min: "))}), copied).quality()
    assert then is not None
    duplicates = then.reasons["near_duplicate"].images if "near_duplicate" in then.reasons else 0
    assert then.accepted + then.surplus + duplicates == int(rest.split()[0])


def test_a_run_of_images_without_objects_warns_of_nothing(
    quick: dict[str, Any], run_through: Any, tmp_path: Path
) -> None:
    """Measures of instances have no numbers then, with thresholds all the same. Warnings are errors in all tests."""
    filters = dict.fromkeys(("predicted_iou", "stability", "mask_area", "box_agreement", "asked_found"))
    build = run_through({**quick, "count": 2, "objects_per_image": 0, "filters": filters}, tmp_path)
    quality = build.quality()
    assert (quality.made, quality.accepted, quality.instances, quality.reasons) == (2, 2, 0, {})
    assert build.spec.layout is not None
