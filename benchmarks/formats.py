"""Time and memory of the export in each format.

    python benchmarks/formats.py [--images 100000] [--formats coco yolo …] [--beside 2000] [--kill]

- `--images`: images of a run, with three objects each, 224 px wide and high, that are exported in each format.
- `--beside`: images that supervision and datumaro export as COCO, YOLO and PASCAL VOC too. `make test` installs them in
  .venv/readers. They get images and masks as their own objects in memory, and only their call is timed; they write
  annotations alone. Ours reads the run, and links the images too.
- `--kill`: each export is killed when half of its time is over, and written again; says whether the bytes are the same.

Every export has a process of its own. Prints a line for each: wall time, CPU time, peak memory.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from synthgen.backends import builtin
from synthgen.base.files import sha256
from synthgen.bench.synthesis import synthesise
from synthgen.pipeline.build import Build
from synthgen.pipeline.export import export_to, with_exporters
from synthgen.pipeline.judge import judge_run
from synthgen.store.run import Run

OBJECTS, SIDE_PX = 3, 224
# What an exporter of ours is measured with besides its defaults.
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in builtin("exporter")},
    "coco_panoptic": ("coco", {"panoptic": True}),
    "yolo_detect": ("yolo", {"task": "detect"}),
    "voc_png": ("voc", {"images": "link"}),
}
# Ours, beside other tools and what they call it. datumaro's YOLO has boxes alone.
BESIDE = {
    "coco": {"supervision": "coco", "datumaro": "coco_instances"},
    "yolo": {"supervision": "yolo"},
    "yolo_detect": {"datumaro": "yolo"},
    "voc_png": {"supervision": "pascal_voc", "datumaro": "voc"},
}
READERS = Path(__file__).parents[1] / ".venv" / "readers" / "bin" / "python"
OTHERS = """
import json, sys, tempfile, time
from pathlib import Path
import numpy as np
from pycocotools import mask as coco_mask
tool, form, root = sys.argv[1:]
images, labels, names = {}, {}, None
for file in sorted((Path(root) / "annotations").glob("instances_*.json")):
    split, said = file.stem.removeprefix("instances_"), json.loads(file.read_bytes())
    names = [c["name"] for c in said["categories"]]
    for i in said["images"]:
        images[i["id"]] = split, Path(root) / split / i["file_name"], i["height"], i["width"]
    for label in said["annotations"]:
        labels.setdefault(label["image_id"], []).append(label)
out = tempfile.mkdtemp(dir=Path(root).parent)
if tool == "supervision":
    import supervision as sv
    found = {}
    for key, (_, path, height, width) in images.items():
        boxes = np.array([l["bbox"] for l in labels.get(key, [])], float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        masks = np.array([coco_mask.decode(l["segmentation"]) for l in labels.get(key, [])], bool)
        masks = masks.reshape(-1, height, width)
        classes = np.array([l["category_id"] - 1 for l in labels.get(key, [])], int)
        found[str(path)] = sv.Detections(xyxy=boxes, mask=masks, class_id=classes)
    dataset = sv.DetectionDataset(names, list(found), found)
    calls = {
        "coco": lambda: dataset.as_coco(annotations_path=f"{out}/instances.json"),
        "yolo": lambda: dataset.as_yolo(annotations_directory_path=f"{out}/labels", data_yaml_path=f"{out}/data.yaml"),
        "pascal_voc": lambda: dataset.as_pascal_voc(annotations_directory_path=f"{out}/Annotations"),
    }
    call = calls[form]
else:
    import datumaro as dm
    items = []
    for key, (split, path, height, width) in images.items():
        objects = []
        for l in labels.get(key, []):
            if form == "yolo":
                objects.append(dm.Bbox(*l["bbox"], label=l["category_id"] - 1))
            else:
                rle = {**l["segmentation"], "counts": l["segmentation"]["counts"].encode()}
                objects.append(dm.RleMask(rle, label=l["category_id"] - 1, id=l["id"], group=l["id"]))
        image = dm.Image.from_file(str(path), size=(height, width))
        items.append(dm.DatasetItem(path.stem, subset=split, media=image, annotations=objects))
    dataset = dm.Dataset.from_iterable(items, categories=names)
    call = lambda: dataset.export(f"{out}/export", form, save_media=False)
wall, cpu = time.perf_counter(), time.process_time()
call()
print(json.dumps({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}))
"""


def export(case: str, root: Path, out: Path) -> None:
    """Exports once and prints times and memory as JSON."""
    name, options = OPTIONS[case]
    build = with_exporters(Build.open(Run(root)), {name: options})
    wall, cpu = time.perf_counter(), time.process_time()
    export_to(build, Run(out))
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    used = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    print(json.dumps(used | {"peak": int(status["VmHWM"].split()[0]) // 1024}))


def command(case: str, root: Path, out: Path) -> list[str]:
    return [sys.executable, __file__, "--case", case, "--root", str(root), "--out", str(out)]


def measured(line: list[str]) -> dict[str, float]:
    found = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
    return dict(json.loads(found))


def contents(out: Path) -> dict[str, str]:
    """Name -> checksum of the files of an export, without marks, which hold times."""
    files = (
        p for p in sorted(out.rglob("*")) if p.is_file() and p.relative_to(out).parts[0] not in {"commits", ".lock"}
    )
    return {p.relative_to(out).as_posix(): sha256(p) for p in files}


def killed(case: str, root: Path, folder: Path, seconds: float) -> bool:
    """Whether an export that is killed in the middle and written again has the bytes of one that is not."""
    process = subprocess.Popen(command(case, root, folder / "again"), stdout=subprocess.DEVNULL)
    time.sleep(seconds)
    process.kill()
    process.wait()
    measured(command(case, root, folder / "again"))
    return contents(folder / "again") == contents(folder / "out")


def run_of(folder: Path, images: int) -> Path:
    """A judged run with this many accepted images; -> its folder."""
    build = synthesise(folder, int(1.6 * images), objects=OBJECTS, side=SIDE_PX, count=images)
    judge_run(build)
    return build.run.root


def shown(found: dict[str, float]) -> str:
    peak = f"; peak {found['peak']:,.0f} MB" if "peak" in found else ""
    return f"{found['wall']:7.1f} s, {found['cpu']:7.1f} s of CPU{peak}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--formats", nargs="*", choices=OPTIONS, default=list(OPTIONS))
    parser.add_argument("--beside", type=int, default=2_000, help="images that every tool exports; 0: none")
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--case", choices=OPTIONS, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        export(options.case, options.root, options.out)
        return
    if options.images:
        with tempfile.TemporaryDirectory() as folder:
            root = run_of(Path(folder), options.images)
            for case in options.formats:
                found = measured(command(case, root, Path(folder) / "out"))
                line = f"{options.images:,} images, {case:>15}: {shown(found)}"
                if options.kill:
                    same = killed(case, root, Path(folder), 1 + found["wall"] / 2)
                    line += "; killed and written again: " + ("the same bytes" if same else "OTHER BYTES")
                print(line, flush=True)
                for name in ("out", "again"):
                    shutil.rmtree(Path(folder) / name, ignore_errors=True)
    if options.beside:
        with tempfile.TemporaryDirectory() as folder:
            root = run_of(Path(folder), options.beside)
            for case, forms in BESIDE.items():
                ours = measured(command(case, root, Path(folder) / case))
                print(f"{options.beside:,} images, {case:>15}: {shown(ours)}", flush=True)
                for tool, form in forms.items():
                    what = [str(READERS), "-W", "ignore", "-c", OTHERS, tool, form, str(Path(folder) / "coco" / "coco")]
                    found = measured(what)
                    ratio = found["cpu"] / ours["cpu"]
                    print(f"{tool:>29}, {form}: {shown(found)}; CPU time x {ratio:.1f}", flush=True)


if __name__ == "__main__":
    main()
