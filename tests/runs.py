"""Runs without Prefect, from the plan to the report, and what they made, to be compared.

`python runs.py SPEC OUT` makes one in a process of its own, for tests that kill it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import orjson

from synthgen.base.safe_yaml import load_yaml
from synthgen.pipeline.build import Build
from synthgen.pipeline.check import check
from synthgen.pipeline.export import export_run
from synthgen.pipeline.generate import generate_shard
from synthgen.pipeline.judge import judge_run
from synthgen.pipeline.label import label_shard
from synthgen.pipeline.measure import measure_shard
from synthgen.pipeline.plan import add_round, plan_shards
from synthgen.report.page import write
from synthgen.spec import DatasetSpec
from synthgen.store.run import Run

HOW = ("commits/", "run.json", "spec.yaml", "report.html")  # what says how a run was made, and holds times


def made(raw: Any, out: Path, number: int = 1, *, allow_mixed: bool = False) -> Build:
    """Does what the flow does: plain data of a spec, folder of run folders, run number -> the finished run."""
    spec = DatasetSpec.parse(raw)
    folder = Run.at(out, spec.name, number)
    with folder.lock():
        build = Build.start(folder, spec, check(spec, out))
        while True:
            plan_shards(build)
            for shard in build.pending():
                generate_shard(build, shard, allow_mixed)
                label_shard(build, shard, allow_mixed)
                measure_shard(build, shard)
            judge_run(build)
            if not add_round(build):
                break
        export_run(build)
        write(build)
    return build


def results(root: Path, without: tuple[str, ...] = HOW) -> dict[str, bytes]:
    """All that a run is for, name -> bytes, without times; `without`: how the names of what is left out begin."""
    files = {p.relative_to(root).as_posix(): p for p in root.rglob("*") if p.is_file() and p.name != ".lock"}
    found = {name: path.read_bytes() for name, path in files.items() if not name.startswith(without)}
    numbers = orjson.loads(found["quality.json"])
    assert numbers.pop("timings")
    return {**found, "quality.json": orjson.dumps(numbers)}


def images(root: Path) -> dict[str, bytes]:
    """Name -> bytes of every image of a run folder."""
    return {p.name: p.read_bytes() for p in root.glob("images/*/*.png")}


if __name__ == "__main__":
    made(load_yaml(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2]))
