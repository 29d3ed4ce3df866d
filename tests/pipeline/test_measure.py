"""How a shard is measured: in batches that fall the same whoever measures."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cheap
import numpy as np
import pyarrow.parquet as pq
import pytest
import runs
from cheap import write_parts

from synthgen.errors import BackendError
from synthgen.pipeline import measure

FILTERS = """
import numpy as np
from synthgen.backends import ThresholdConfig, ThresholdFilter
CALLS = []
class Config(ThresholdConfig):
    batch_size: int = 1
class Backend(ThresholdFilter[Config]):
    scope = "SCOPE"
    def measure(self, sample):
        value = np.float32(sample.image.mean())
        return value if self.scope == "image" else np.full(len(sample.instances), value)
    def measure_many(self, samples):
        CALLS.append([sample.job.id for sample in samples])
        return [self.measure(sample) for sample in samples]DROPPED
"""
SPEC: dict[str, Any] = {
    **cheap.SPEC,
    "count": 7,
    "budget": 1,
    "shard_size": 5,
    "objects_per_image": [1, 3],
    "filters": {
        "one": {"use": "cheap_parts.corner"},
        "pairs": {"use": "cheap_parts.brightness", "batch_size": 2},
        "threes": {"use": "cheap_parts.brightness_of_each", "batch_size": 3},
    },
    "exporters": {"lines": {"use": "cheap_parts.lines"}},
}


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, list[list[int]]]]:
    """Filter -> the ids of each batch that it was given."""
    write_parts(tmp_path)
    for name, scope, dropped in (
        ("brightness", "image", ""),
        ("brightness_of_each", "instance", ""),
        ("forgetful", "image", "[1:]"),
    ):
        text = FILTERS.replace("SCOPE", scope).replace("DROPPED", dropped)
        (tmp_path / "cheap_parts" / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    from cheap_parts import brightness, brightness_of_each  # type: ignore[import-not-found]

    yield {"pairs": brightness.CALLS, "threes": brightness_of_each.CALLS}
    for name in [name for name in sys.modules if name.partition(".")[0] == "cheap_parts"]:
        del sys.modules[name]


def test_each_filter_cuts_a_shard_into_batches_of_its_own(calls: Any, tmp_path: Path) -> None:
    build = runs.made(SPEC, tmp_path / "out")
    assert calls["pairs"] == [[1, 2], [3, 4], [5], [6, 7]]
    assert calls["threes"] == [[1, 2, 3], [4, 5], [6, 7]]
    for shard in (0, 1):
        generated = build.run.marks.read("generate", shard)
        rows = pq.read_table(build.run.paths.table("measures", shard)).to_pylist()
        for job in build.jobs(shard):
            image = build.run.images.read(shard, job.id, generated)
            own = [row for row in rows if row["image_id"] == job.id]
            assert [row["instance"] for row in own] == [None, *range(len(job.asked))]
            assert own[0]["one"] == image[0, 0, 0] and own[0]["pairs"] == np.float32(image.mean())
            assert own[0]["threes"] is None and all(row["pairs"] is None for row in own[1:])
            assert [row["threes"] for row in own[1:]] == [np.float32(image.mean())] * len(job.asked)


def test_memory_ends_a_batch(calls: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "MAX_BATCH_BYTES", 2 * 64 * 64 * 3)  # of images; there are masks besides
    spec = {**SPEC, "objects_per_image": 1, "filters": {"threes": SPEC["filters"]["threes"]}}
    runs.made(spec, tmp_path / "out")
    assert calls["threes"] == [[1, 2], [3, 4], [5], [6, 7]]


def test_a_filter_that_loses_a_sample(calls: Any, tmp_path: Path) -> None:
    spec = {**SPEC, "filters": {"lost": {"use": "cheap_parts.forgetful", "batch_size": 5}}}
    with pytest.raises(BackendError, match=r"filters\.lost: measured 4 samples of 5"):
        runs.made(spec, tmp_path / "out")
