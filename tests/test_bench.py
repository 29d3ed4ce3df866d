"""`synthgen bench`: a whole run against a bare loop over its models, and what an export takes."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from synthgen.bench import STAGES, Comparison, bare, export_cost, table
from synthgen.plan import first_round, plan_round
from synthgen.spec import DatasetSpec
from synthgen.stages import Stages


def test_the_ratio_is_of_the_whole_to_the_bare_loop() -> None:
    found = Comparison(8, 6, dict(zip(STAGES, (6.0, 3.0, 1.0), strict=True)), dict.fromkeys(STAGES, 4.0), 10.5, 7.0)
    assert found.ratio == pytest.approx(1.05)
    cells = [list(column.cells) for column in table(found).columns]
    assert cells[0] == ["generate", "label", "measure", "all"]
    assert cells[1] == ["6.0 s", "3.0 s", "1.0 s", "10.0 s"]
    assert cells[4] == ["2.00", "2.00", "2.00", "0.76"]  # images/s of the whole run
    assert cells[5][-1] == "0.57"


def test_the_bare_loop_makes_the_images_of_the_run(quick: dict[str, Any], finished: Any, tmp_path: Path) -> None:
    spec = DatasetSpec.parse(quick)
    stages = Stages.of(spec)
    jobs = list(plan_round(spec, 1, first_round(spec), stages.generator.aspect_ratios()))
    spent = bare(stages, jobs, tmp_path)
    assert set(spent) == set(STAGES)
    assert min(spent.values()) > 0
    for job in jobs:
        (made,) = finished.run.root.glob(f"images/*/{job.id:012d}.png")
        assert (tmp_path / f"{job.id}.png").read_bytes() == made.read_bytes()


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
        [sys.executable, "-m", "synthgen.cli", "bench", spec, "--images", "4", "--annotations", "50"],
        capture_output=True, text=True, timeout=280, check=False, cwd=tmp_path,
        env={**kept, "SYNTHGEN_HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for line in (
        r"whole run / bare loop: \d+\.\d{3} \(\d+\.\d s / \d+\.\d s\)",
        r"Prefect's start, counted apart: \d+\.\d s",
        r"export of \d+ annotations: \d+\.\d s, \d+ MB at most",
    ):
        assert re.search(line, done.stdout), done.stdout
    assert all(stage in done.stdout for stage in STAGES)
    assert not list(tmp_path.glob("synthgen-bench-*"))
