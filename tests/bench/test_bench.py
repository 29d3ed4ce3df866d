"""`synthgen bench`: a whole run against a bare loop over its models, and what an export takes."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from synthgen.bench.compare import STAGES, Comparison, Pair, bare_loop, export_cost, in_turns, table
from synthgen.pipeline.build import Build
from synthgen.pipeline.generate import generate_shard
from synthgen.pipeline.label import label_shard
from synthgen.pipeline.measure import measure_shard
from synthgen.pipeline.plan import plan_shards
from synthgen.pipeline.stages import Stages
from synthgen.spec import DatasetSpec
from synthgen.store.run import Run
from synthgen.types import Job


def test_the_ratio_is_of_the_whole_and_its_spread_is_of_the_shards() -> None:
    bare_loops = [(2.0, 1.0, 1.0), (3.0, 1.0, 0.0), (1.0, 1.0, 0.0)]
    pairs = [Pair(dict(zip(STAGES, b, strict=True)), run) for b, run in zip(bare_loops, (2.0, 5.0, 2.5), strict=True)]
    found = Comparison(8, 6, pairs, dict.fromkeys(STAGES, 4.0), rest=1.0, start=7.0)
    assert (found.whole, found.ratio) == (10.5, pytest.approx(1.05))
    assert found.spread == (1.25, 0.5, 1.25)
    cells = [list(column.cells) for column in table(found).columns]
    assert cells[0] == ["generate", "label", "measure", "all"]
    assert cells[1] == ["6.0 s", "3.0 s", "1.0 s", "10.0 s"]
    assert cells[4] == ["2.00", "2.00", "2.00", "0.76"]  # images/s of the whole run
    assert cells[5][-1] == "0.57"


def test_the_run_and_the_bare_loop_make_the_same_images_in_turns(
    quick: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shard by shard, so that what else the machine does meets both; either is the first in every other shard."""
    spec = DatasetSpec.parse({**quick, "count": 6, "shard_size": 2})
    folder = Run.at(tmp_path / "out", spec.name, 1)
    order: list[tuple[str, int]] = []

    def looped(stages: Stages, jobs: Sequence[Job], into: Path) -> dict[str, float]:
        order.append(("bare", jobs[0].index // 2))
        return bare_loop(stages, jobs, into)

    with folder.lock():
        build = Build.start(folder, spec, Stages.of(spec))
        plan_shards(build)

        def make(shard: int) -> None:
            order.append(("run", shard))
            for stage in (generate_shard, label_shard, measure_shard):
                stage(build, shard)

        monkeypatch.setattr("synthgen.bench.compare.bare_loop", looped)
        pairs = list(in_turns(build, build.pending(), make, tmp_path))
        assert not build.pending()
    assert order == [("bare", 0), ("run", 0), ("run", 1), ("bare", 1), ("bare", 2), ("run", 2)]
    assert len(pairs) == 3
    for pair in pairs:
        assert set(pair.bare) == set(STAGES)
        assert pair.run > 0 and min(pair.bare.values()) > 0
    for image in folder.root.glob("images/*/*.png"):
        np.testing.assert_array_equal(cv2.imread(tmp_path / f"{int(image.stem)}.png"), cv2.imread(image))
    assert len(list(tmp_path.glob("*.png"))) == 6


def test_an_export_is_timed_in_a_process_of_its_own(tmp_path: Path) -> None:
    here = np.zeros(400_000_000, np.uint8)  # 400 MB that are none of the export's
    here[::4096] = 1
    cost = export_cost(200, tmp_path)
    assert 150 <= cost.annotations <= 200  # of so few, fewer than usual may pass
    assert cost.annotations % 5 == 0
    assert cost.seconds > 0
    assert 30 < cost.peak_mb < 400
    del here


@pytest.mark.slow
def test_bench_prints_everything_and_keeps_nothing(quick: dict[str, Any], tmp_path: Path, migrated: Any) -> None:
    migrated(tmp_path / "home" / "prefect")
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump(quick, sort_keys=False))
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    done = subprocess.run(
        [sys.executable, "-m", "synthgen.cli", "bench", spec, "--images", "4", "--set", "shard_size=2",
         "--annotations", "50"],
        capture_output=True, text=True, timeout=280, check=False, cwd=tmp_path,
        env={**kept, "SYNTHGEN_HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for line in (
        r"whole run / bare loop: \d+\.\d{3} \(\d+\.\d s / \d+\.\d s\)",
        r"shard by shard, in turns: median \d+\.\d{3}, from \d+\.\d{3} to \d+\.\d{3} \(2 shards\)",
        r"outside the shards \(plan, judge, export, report\): \d+\.\d s",
        r"start of Prefect, not counted above: \d+\.\d s",
        r"export of \d+ annotations: \d+\.\d s, \d+ MB at most",
    ):
        assert re.search(line, done.stdout), done.stdout
    assert all(stage in done.stdout for stage in STAGES)
    assert not list(tmp_path.glob("synthgen-bench-*"))
