"""Every format, read back by its own consumers: what is left of 300 images of hard shapes, in numbers.

`python tests/exporters/test_formats.py` writes docs/formats.json, from which the documentation makes its table.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest does, for when this file is run

import hard
from consumers import CASES, Case

from synthgen.backends import builtin
from synthgen.masks import mask_boxes
from synthgen.pipeline.build import Build
from synthgen.pipeline.export import export_to, with_exporters
from synthgen.store.marks import Mark
from synthgen.store.run import Run

# webdataset 1.0 leaves the files open that it has read.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <_io.FileIO:pytest.PytestUnraisableExceptionWarning"
)
FIGURES = Path(__file__).parents[2] / "docs" / "formats.json"


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    return hard.made(tmp_path_factory.mktemp("drawn"))  # type: ignore[no-any-return]


def exported(build: Build, case: Case, out: Path) -> tuple[Path, Mark]:
    """The folder of an export, and its mark."""
    (mark,) = export_to(with_exporters(build, {case.exporter: case.options}), Run(out)).values()
    return out / case.exporter, mark


def measured(build: Build, case: Case, root: Path) -> dict[str, Any]:
    """What the consumer finds of what was drawn, in numbers."""
    jobs = {job.id: job for shard in build.run.marks.shards() for job in build.jobs(shard)}
    wanted = {
        (job.id, hard.CLASSES[category_id - 1]): mask
        for job in jobs.values()
        for category_id, mask, iou in hard.objects_of(job.index)
        if (iou > 0.5 or case.ignored) and (mask.any() or case.empty)
    }
    images = wrong = 0
    sides, ious = [], []
    missing = set(wanted)
    for split in build.spec.splits:
        images += case.images(root, split)
        for found in case.read(root, split):
            key = (found.image_id, found.name)
            if key not in missing or jobs[found.image_id].split != split:
                wrong += 1
                continue
            missing.remove(key)
            mask = wanted[key]
            if found.box is not None and mask.any():
                sides.append(float(np.abs(np.subtract(found.box, mask_boxes(mask[None])[0])).max()))
            if found.mask is not None:
                assert found.mask.shape == mask.shape
                union = (found.mask | mask).sum()
                ious.append(float((found.mask & mask).sum() / union) if union else 1.0)
    return {
        "consumer": case.consumer,
        "images": images,
        "objects": len(wanted) - len(missing),
        "missing": len(missing),
        "wrong": wrong,
        **({"box_px": round(max(sides), 2)} if sides else {}),
        **({"mean_iou": round(float(np.mean(ious)), 4), "worst_iou": round(min(ious), 4)} if ious else {}),
    }


# webdataset 1.0 leaves the files open that it has read.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <_io.FileIO:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", CASES)
def test_a_consumer_finds_what_was_drawn(name: str, build: Build, tmp_path: Path) -> None:
    case = CASES[name]
    root, mark = exported(build, case, tmp_path)
    found = measured(build, case, root)
    assert (found["missing"], found["wrong"], found["images"]) == (0, 0, case.expected)
    assert found.get("box_px", 0) <= case.box_px
    assert found.get("mean_iou", 1) >= (1 if case.exact else 0.98)
    known = json.loads(FIGURES.read_text(encoding="utf-8"))
    assert known[name] == {**found, "losses": mark.notes.get("losses", [])}, "run this file to measure again"


# Exports a run in each format, in a process of its own that is killed when it has read half of the images.
KILLED = """
import os, signal, sys
from pathlib import Path
from synthgen.pipeline import export
from synthgen.pipeline.build import Build
from synthgen.store.run import Run
build, out, whole = Build.open(Run(Path(sys.argv[1]))), Run(Path(sys.argv[2])), export.accepted_images
class Half:
    def __init__(self, records):
        self._records = records
    def __iter__(self):
        for number, record in enumerate(self._records):
            if number == 150 and os.environ["PASS"] == str(passes[0]):
                os.kill(os.getpid(), signal.SIGKILL)
            yield record
        passes[0] += 1
    def split(self, name):
        return self._records.split(name)
export.accepted_images = lambda *args, **options: Half(whole(*args, **options))
for name in sys.argv[3:]:
    changed = export.with_exporters(build, {name: {}})
    for count in range(3):  # Some formats go through the records more than once.
        passes = [0]
        os.environ["PASS"] = str(count)
        if not (child := os.fork()):
            export.export_to(changed, out)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(name, os.WIFSIGNALED(status), flush=True)
"""


def test_killed_and_written_again_it_has_the_same_bytes(build: Build, tmp_path: Path) -> None:
    formats = builtin("exporter")
    command = [sys.executable, "-c", KILLED, str(build.run.root), str(tmp_path / "killed"), *formats]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert done.returncode == 0, done.stderr
    kills = [line.split() for line in done.stdout.splitlines()]
    assert {name for name, was_killed in kills if was_killed == "True"} == set(formats)
    for name in formats:
        for out in ("killed", "whole"):
            export_to(with_exporters(build, {name: {}}), Run(tmp_path / out))
    killed, whole = (
        {p.relative_to(tmp_path / out): p.read_bytes() for p in (tmp_path / out).rglob("*") if p.is_file()}
        for out in ("killed", "whole")
    )
    times = {path for path in whole if path.suffix == ".json" and path.parent.name == "commits"}
    assert len(times) == len(formats) and killed.keys() == whole.keys()
    assert all(killed[path] == whole[path] for path in whole.keys() - times)


def main() -> None:
    with TemporaryDirectory() as folder:
        build, figures = hard.made(Path(folder) / "runs"), {}
        for name, case in CASES.items():
            root, mark = exported(build, case, Path(folder) / name.replace(" ", "_"))
            figures[name] = {**measured(build, case, root), "losses": mark.notes.get("losses", [])}
            print(name, figures[name])
    FIGURES.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
