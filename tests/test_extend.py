"""The three backends of docs/extend.md: what each makes, by answers known by hand, and a dataset of all three."""

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from synthgen.backends import backend_module
from synthgen.masks import encode_rle
from synthgen.store.export_folder import exporting
from synthgen.store.run import Run
from synthgen.types import Annotation, Category, DatasetInfo, Instances, Job, Record, Sample

DOCS = Path(__file__).parent.parent / "docs" / "extend.md"
CATEGORIES = (Category(1, "apple"), Category(2, "sports ball", own_id=37))


def built(kind: str, name: str, **options: Any) -> Any:
    module = backend_module(kind, f"mylab.{name}")
    return module.Backend(module.Config(use=f"mylab.{name}", **options), CATEGORIES)


def job(number: int, split: str = "train", height: int = 6, width: int = 8) -> Job:
    return Job(number, 1, 1, number - 1, "f", split, "a photo", "", {}, (), None, 1000 + number, height, width)


def test_the_filter_measures_how_red_an_image_is() -> None:
    image = np.zeros((6, 8, 3), np.uint8)
    image[:, :4] = (200, 100, 60)  # 200 - 80 = 120, in one half of the image; the other is black
    number = built("filter", "redness").measure(Sample(job(1), image, Instances.empty(6, 8)))
    assert (number, number.dtype, number.shape) == (60, np.float32, ())
    filtered = built("filter", "redness", max=40)
    assert filtered.fails(np.float32([39, 40, 41, np.nan])).tolist() == [False, False, True, True]


def test_the_generator_makes_noise_of_the_job_s_own_seed() -> None:
    generator = built("generator", "noise", contrast=100)
    images = generator.generate([job(1), job(2)])
    assert (images.shape, images.dtype) == ((2, 6, 8, 3), np.uint8)
    (alone,) = generator.generate([job(2)])
    assert np.array_equal(images[1], alone) and not np.array_equal(images[0], images[1])
    (large,) = generator.generate([job(3, height=64, width=64)])
    assert (large.min(), large.max()) == (28, 228) and abs(large.mean() - 128) < 3


def test_the_exporter_writes_a_row_for_each_instance(tmp_path: Path) -> None:
    mask = np.zeros((1, 6, 8), bool)
    mask[0, 1:4, 2:7] = True
    (rle,) = encode_rle(mask)

    def annotation(number: int, category: int, ignore: bool) -> Annotation:
        return Annotation(number, category, rle, (2.0, 1.0, 5.0, 3.0), 15, ignore, {"predicted_iou": 0.9})

    records: Sequence[Record] = [
        Record(job(3), tmp_path / "3.png", (annotation(1, 2, False), annotation(2, 1, True)), {}),
        Record(job(4), tmp_path / "4.png", (), {}),
        Record(job(9, "val"), tmp_path / "9.png", (annotation(3, 1, False),), {"redness": 1.5}),
    ]
    info = DatasetInfo("lab", "", CATEGORIES, ("train", "val"), ())
    for delimiter in (",", "\t"):
        with exporting(Run(tmp_path / "run"), "table", f"inputs {delimiter}") as folder:
            built("exporter", "csv_table", delimiter=delimiter).export(info, records, folder)
        rows = [
            "image_id,split,class,x,y,width,height,area,ignore",
            "3,train,sports ball,2,1,5,3,15,0",
            "3,train,apple,2,1,5,3,15,1",
            "9,val,apple,2,1,5,3,15,0",
        ]
        expected = "".join(f"{row}\n".replace(",", delimiter) for row in rows)
        assert (tmp_path / "run" / "table" / "instances.csv").read_bytes() == expected.encode()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, migrated: Any) -> Path:
    """What docs/extend.md says to make: the spec, and the modules in a folder beside it."""
    lab = tmp_path_factory.mktemp("stranger") / "lab"
    migrated(lab.parent / "home" / "prefect")
    (lab / "mylab").mkdir(parents=True)
    text = DOCS.read_text(encoding="utf-8")
    shown = re.findall(r"`mylab/(\w+)\.py`:\n\n```python\n(.*?)```", text, re.DOTALL)
    assert [name for name, _ in shown] == ["redness", "csv_table", "noise"]
    for name, code in shown:
        (lab / "mylab" / f"{name}.py").write_text(code, encoding="utf-8")
    spec = text.partition("`noise.yaml`:\n\n<!-- noise -->\n```yaml\n")[2].partition("```")[0]
    (lab / "noise.yaml").write_text(spec, encoding="utf-8")
    return lab


def synthgen(lab: Path, *arguments: object, fault: str = "") -> subprocess.CompletedProcess[str]:
    """The command, in the lab's folder."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    environment |= {"SYNTHGEN_HOME": str(lab.parent / "home"), "SYNTHGEN_FAULT": fault}
    return subprocess.run(
        [sys.executable, "-m", "synthgen.cli", *map(str, arguments)], cwd=lab, env=environment, capture_output=True,
        text=True, timeout=240, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def table(lab: Path) -> Path:
    """The CSV of a run that was killed half-way and resumed."""
    killed = synthgen(lab, "run", "noise.yaml", "--quiet", fault="after */table/instances.csv")
    assert killed.returncode != 0
    root = lab / "outputs" / "noise" / "run-0001"
    images = {path: path.stat().st_ino for path in root.glob("images/*/*.png")}
    assert len(images) == 8 and not (root / "commits" / "export-table.json").exists()
    done = synthgen(lab, "run", "noise.yaml", "--quiet")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("done: 8 of 8 images accepted with 16 instances; 8 made")
    assert {path: path.stat().st_ino for path in root.glob("images/*/*.png")} == images
    return root / "table" / "instances.csv"


def test_check_says_what_it_imports(lab: Path) -> None:
    done = synthgen(lab, "check", "noise.yaml")
    assert done.returncode == 0 and done.stdout.endswith("noise.yaml: good (8 images of 2 classes)\n")
    assert done.stdout in DOCS.read_text(encoding="utf-8")
    keys = {"generator": "noise", "filters.redness": "redness", "exporters.table": "csv_table"}
    notes = [f"note: {k}: imported your module from {lab / 'mylab' / f'{name}.py'}" for k, name in keys.items()]
    assert done.stderr.splitlines() == notes


def test_mistakes_are_told_as_the_page_says(lab: Path) -> None:
    lines = re.findall(r"^noise\.yaml: error: .*$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    changes = ("generator.contrast=0", "generator.use=mylab.nois", "filters.redness.mx=0")
    for line, change in zip(lines, changes, strict=True):
        done = synthgen(lab, "check", "noise.yaml", "--set", change)
        assert done.returncode == 2 and line in done.stderr.splitlines()


@pytest.mark.slow
def test_the_csv_has_what_the_coco_file_of_the_run_has(table: Path) -> None:
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter=";"))
    coco = [json.loads(p.read_bytes()) for p in sorted((table.parents[1] / "coco" / "annotations").glob("*.json"))]
    names = {c["id"]: c["name"] for c in coco[0]["categories"]}
    annotations = [
        (a["image_id"], names[a["category_id"]], *a["bbox"], a["area"]) for f in coco for a in f["annotations"]
    ]
    numbers = ("x", "y", "width", "height", "area")
    listed = [(int(row["image_id"]), row["class"], *(float(row[n]) for n in numbers)) for row in rows]
    assert sorted(listed) == sorted(annotations)
    assert len(rows) == 16 and {row["class"] for row in rows} == {"apple", "tree"}
    assert all(abs(image["measures"]["redness"]) < 2 for file in coco for image in file["images"])


def test_the_run_is_whole_and_a_damaged_export_is_written_again(lab: Path, table: Path) -> None:
    root, whole = table.parents[1], table.read_bytes()
    assert synthgen(lab, "run", "noise.yaml", "--quiet").stdout.startswith("nothing to do: 8 of 8 images accepted")
    assert synthgen(lab, "verify", root).returncode == 0
    table.write_bytes(whole.replace(b"apple", b"appel", 1))
    done = synthgen(lab, "verify", root)
    assert done.returncode == 2 and "damaged: table/instances.csv" in done.stderr
    done = synthgen(lab, "judge", root, "--set", "filters.redness.max=50", "--quiet")
    assert done.returncode == 0 and table.read_bytes() == whole
    assert synthgen(lab, "verify", root).returncode == 0


@pytest.mark.parametrize(
    ("error", "exit_code", "told"),
    [
        ("BackendError('redness: the lamp is off')", 2, "error: redness: the lamp is off"),
        ("ZeroDivisionError('no red')", 1, "error: ZeroDivisionError: no red (--debug shows where)"),
    ],
)
def test_an_error_of_one_s_own_is_one_line(lab: Path, table: Path, error: str, exit_code: int, told: str) -> None:
    code = (lab / "mylab" / "redness.py").read_text(encoding="utf-8")
    raised = f"        from synthgen.errors import BackendError\n        raise {error}\n"
    code = re.sub(r"(def measure\(self, sample\):\n)", rf"\1{raised}", code)
    (lab / "mylab" / "broken.py").write_text(code, encoding="utf-8")
    done = synthgen(lab, "judge", table.parents[1], "--set", "filters.more={use: mylab.broken}", "--quiet")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (exit_code, told), done.stderr
