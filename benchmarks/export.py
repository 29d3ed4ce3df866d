"""Time and memory of the COCO export of synthesised records.

    python benchmarks/export.py [--annotations 100000 1000000] [--beside 50000]

- `--annotations`: exports a run folder. The exporter reads verdicts, labels and measures, links the images, and writes
  annotations, the list of all files and the commit mark.
- `--beside`: exports the same annotations with synthgen, supervision and datumaro (`pip install supervision datumaro`).
  Every tool gets the annotations as its own objects in memory, and writes annotation files only, no images.

Every export has a process of its own. Prints one line for each export: wall time, CPU time, peak memory, the memory
before the export, and for the other tools their CPU time divided by synthgen's.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np

from synthgen.backends import ImageEncoding
from synthgen.bench.synthesis import synthesise
from synthgen.masks import decode_rle
from synthgen.pipeline.build import Build
from synthgen.pipeline.export import export_run
from synthgen.pipeline.judge import judge_run
from synthgen.store.content import Content
from synthgen.store.records import Accepted
from synthgen.store.run import Run
from synthgen.types import DatasetInfo, Record

PER_IMAGE = 5
SIDE_PX = 224  # At this size, five masks of a scene have 270 B of RLE each on average.


def make(folder: Path, annotations: int) -> Path:
    """Makes a judged run with about this many annotations in its accepted images; -> its folder."""
    count = annotations // PER_IMAGE
    build = synthesise(folder, int(1.6 * count), objects=PER_IMAGE, side=SIDE_PX, count=count)
    judge_run(build)
    return build.run.root


def run_folder(root: Path, out: Path) -> Callable[[], Any]:
    build = Build.open(Run(root))
    return lambda: export_run(build)


def synthgen(root: Path, out: Path) -> Callable[[], Any]:
    build = Build.open(Run(root))
    info = dataset_info(build)
    records = Content(Listed(list(accepted_images(build))), info.categories)
    return lambda: build.stages.exporters["coco"].export(info, records, AnnotationsOnly(out))


def supervision(root: Path, out: Path) -> Callable[[], Any]:
    """supervision, from dense masks as segmenters return them."""
    return _supervision(root, out, lambda record: {"mask": masks_of(record)})


def supervision_rle(root: Path, out: Path) -> Callable[[], Any]:
    """supervision, from RLEs as it reads them from a COCO file; it writes them unchanged."""
    from supervision.config import COCO_RAW_SEGMENTATION

    def segmentation(record: Record) -> dict[str, Any]:
        return {"data": {COCO_RAW_SEGMENTATION: np.array([dict(a.rle) for a in record.annotations], object)}}

    return _supervision(root, out, segmentation)


def _supervision(root: Path, out: Path, segmentation: Callable[[Record], dict[str, Any]]) -> Callable[[], Any]:
    import supervision as sv

    build, detections = Build.open(Run(root)), {}
    for record in accepted_images(build):
        boxes = np.array([a.bbox_xywh for a in record.annotations])
        boxes[:, 2:] += boxes[:, :2]
        classes = np.array([a.category_id - 1 for a in record.annotations])
        detections[str(record.image_path)] = sv.Detections(xyxy=boxes, class_id=classes, **segmentation(record))
    dataset = sv.DetectionDataset([c.name for c in build.spec.categories], list(detections), detections)
    return lambda: dataset.as_coco(annotations_path=str(out / "instances.json"))


def datumaro(root: Path, out: Path) -> Callable[[], Any]:
    import datumaro as dm

    build, items = Build.open(Run(root)), []
    for record in accepted_images(build):
        masks = [
            dm.RleMask({**a.rle, "counts": a.rle["counts"].encode()}, id=a.id, label=a.category_id - 1)
            for a in record.annotations
        ]
        image = dm.Image.from_file(str(record.image_path), size=(record.job.height, record.job.width))
        items.append(dm.DatasetItem(f"{record.job.id:012d}", subset=record.job.split, media=image, annotations=masks))
    dataset = dm.Dataset.from_iterable(items, categories=[c.name for c in build.spec.categories])
    return lambda: dataset.export(str(out / "coco"), "coco_instances", save_media=False)


CASES = {f.__name__: f for f in (run_folder, synthgen, supervision, supervision_rle, datumaro)}


class Listed:
    def __init__(self, records: list[Record]) -> None:
        self._records = records

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records)

    def split(self, name: str) -> Iterator[Record]:
        return (record for record in self._records if record.job.split == name)


class AnnotationsOnly:
    def __init__(self, root: Path) -> None:
        self._root = root

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        (self._root / name).parent.mkdir(parents=True, exist_ok=True)
        with open(self._root / name, "wb") as file:
            yield file

    def image(self, source: Path, name: str, *, encoding: ImageEncoding = "link") -> None:
        pass

    def scratch(self) -> IO[bytes]:
        return tempfile.TemporaryFile(dir=self._root)


def dataset_info(build: Build) -> DatasetInfo:
    return DatasetInfo(build.spec.name, "", build.spec.categories, tuple(build.spec.splits), ())


def accepted_images(build: Build) -> Accepted:
    return Accepted(build.run, build.jobs, build.stages.filters)


def masks_of(record: Record) -> np.ndarray[Any, Any]:
    """bool (N, H, W). Decodes each of the few scenes once, so that the masks of all images fit into memory."""
    return _decoded(tuple(a.rle["counts"] for a in record.annotations), record.job.height, record.job.width)


@cache
def _decoded(counts: tuple[str, ...], height: int, width: int) -> np.ndarray[Any, Any]:
    return decode_rle([{"size": [height, width], "counts": c} for c in counts], height, width)


def memory_mb(name: str) -> int:
    """`VmRSS`: the memory of this process now; `VmHWM`: its peak."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[name].split()[0]) // 1024


def measure(case: str, root: Path) -> None:
    """Exports once and prints times and memory as JSON. `measured` calls it in a process of its own."""
    with tempfile.TemporaryDirectory(dir=root.parent) as out:
        export = CASES[case](root, Path(out))
        before, start, cpu = memory_mb("VmRSS"), time.perf_counter(), time.process_time()
        export()
        used = {"wall": time.perf_counter() - start, "cpu": time.process_time() - cpu}
        print(json.dumps(used | {"before": before, "peak": memory_mb("VmHWM")}))


def measured(case: str, root: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--case", case, "--root", str(root)]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
    return dict(json.loads(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--beside", type=int, default=50_000, help="annotations that every tool exports; 0: none")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        measure(options.case, options.root)
        return
    for size in options.annotations:
        with tempfile.TemporaryDirectory() as folder:
            root = make(Path(folder), size)
            print(f"{size:9,} annotations of a run folder: {line(measured('run_folder', root))}", flush=True)
            shutil.rmtree(root / "coco")
    if options.beside:
        with tempfile.TemporaryDirectory() as folder:
            root = make(Path(folder), options.beside)
            ours = measured("synthgen", root)
            print(f"{options.beside:9,} annotations in memory, synthgen: {line(ours)}", flush=True)
            for case in ("supervision", "supervision_rle", "datumaro"):
                if not find_spec(case.partition("_")[0]):
                    print(f"{case}: not installed: pip install supervision datumaro")
                    continue
                found = measured(case, root)
                print(f"{case:>28}: {line(found)}; CPU time x {found['cpu'] / ours['cpu']:.1f}", flush=True)


def line(found: dict[str, float]) -> str:
    return (
        f"{found['wall']:6.1f} s, {found['cpu']:6.2f} s of CPU; peak {found['peak']:,.0f} MB "
        f"({found['before']:,.0f} MB before)"
    )


if __name__ == "__main__":
    main()
