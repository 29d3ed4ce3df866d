"""YOLO labels, read as their trainers and readers read them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from drawn import HEIGHT, HOSTILE, INFO, SHAPES, WIDTH, ListedRecords, contents, disc, drawn, export, verified
from PIL import Image
from readers import run_reader

from synthgen.exporters.yolo import Backend, Config
from synthgen.masks import decode_rle
from synthgen.types import DatasetInfo, Record

SIZE = np.array((WIDTH, HEIGHT), np.float32)
NARROW = np.zeros((HEIGHT, WIDTH), bool)  # a slanted line, one pixel wide
NARROW[np.arange(20), np.arange(20) + 30] = True


@pytest.fixture
def records(tmp_path: Path) -> ListedRecords:
    """Each shape in an image of its own, then several in one, and one without any."""
    alone = [("train", [(1 + i % 4, name)]) for i, name in enumerate(SHAPES)]
    several = [(1, "disc"), (2, "ring"), (4, "line", True), (3, NARROW), (2, "empty")]
    return drawn(tmp_path / "images", *alone, ("train", several), ("train", []), ("val", [(2, "nested")]))


def exporter(info: DatasetInfo = INFO, **options: Any) -> Backend:
    return Backend(Config(use="yolo", **options), info.categories)


def truths(record: Record) -> list[tuple[int, np.ndarray]]:
    """The place of each object's class, and its mask."""
    masks = [decode_rle([a.rle], HEIGHT, WIDTH)[0] for a in record.annotations]
    return [(a.category_id - 1, m) for a, m in zip(record.annotations, masks, strict=True) if m.any() and not a.ignore]


def box(mask: np.ndarray) -> list[int]:
    y, x = np.nonzero(mask)
    return [x.min(), y.min(), x.max() + 1, y.max() + 1]


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def seamless(mask: np.ndarray) -> bool:
    return cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0] == 2


def ultralytics(root: Path, split: str) -> dict[int, list[tuple[int, np.ndarray, np.ndarray]]]:
    """By image, each object's class, box and mask, as Ultralytics' `verify_image_label`, `resample_segments` (up to
    1000 points) and `polygon2mask` do at the image's own size. (AGPL: Ultralytics itself is no dependency.)"""
    found = {}
    for image in sorted((root / "images" / split).iterdir()):
        file = Path(str(image).replace("/images/", "/labels/")).with_suffix(".txt")
        rows = [line.split() for line in file.read_text("utf-8").strip().splitlines()]
        assert all(len(row) > 6 for row in rows)
        classes = np.array([row[0] for row in rows], np.float32)
        segments = [np.array(row[1:], np.float32).reshape(-1, 2) for row in rows]
        boxes = np.array([[*s.min(0), *s.max(0)] for s in segments], np.float32).reshape(-1, 4)
        assert (boxes >= 0).all() and (boxes <= 1).all()
        masks = []
        for segment in segments:
            closed = np.concatenate((segment, segment[:1]))
            at, known = np.linspace(0, len(closed) - 1, 1000 - len(closed)), np.arange(len(closed))
            at = np.insert(at, np.searchsorted(at, known), known)
            more = np.stack([np.interp(at, known, closed[:, i]) for i in range(2)], 1).astype(np.float32)
            masks.append(cv2.fillPoly(np.zeros((HEIGHT, WIDTH), np.uint8), [(more * SIZE).astype(np.int32)], 1) > 0)
        found[int(image.stem)] = list(zip(classes.astype(int).tolist(), boxes * np.tile(SIZE, 2), masks, strict=True))
    return found


def test_ultralytics_reads_the_same_objects(records: ListedRecords, tmp_path: Path) -> None:
    export(exporter(), records, tmp_path / "out")
    read = {**ultralytics(tmp_path / "out", "train"), **ultralytics(tmp_path / "out", "val")}
    assert sorted(read) == [record.job.id for record in records]
    overlaps = []
    for record in records:
        for (place, mask), (found_place, found_box, found_mask) in zip(
            truths(record), read[record.job.id], strict=True
        ):
            assert found_place == place
            assert np.abs(found_box - box(mask)).max() <= 0.52
            assert (found_mask >= mask).all()
            overlaps.append(overlap(found_mask, mask))
            if seamless(mask) and mask is not SHAPES["diagonal"] and not (mask == NARROW).all():
                assert (found_mask == mask).all()
    assert np.mean(overlaps) >= 0.98 - 0.1 * 2 / len(overlaps)  # Two shapes have parts that lie far apart.


def test_a_seam_shows_the_fewest_pixels_and_the_export_says_so(tmp_path: Path) -> None:
    """Two parts, five pixels apart: the seam shows these five."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:20, 10:20] = mask[4:30, 25:35] = True
    records = drawn(tmp_path / "images", ("train", [(1, "disc"), (1, mask)]), ("val", [(2, "ring")]))
    said = export(exporter(), records, tmp_path / "out")
    worst = mask.sum() / (mask.sum() + 5)
    assert said == [
        "1 of 3 polygons show pixels of seams between parts that lie apart: the mean IoU of all polygons with their "
        f"masks is {(2 + worst) / 3:.4f}, the worst {worst:.4f} (annotation 2 of image 1)"
    ]
    (_, (_, _, found)) = ultralytics(tmp_path / "out", "train")[1]
    added = np.argwhere(found & ~mask)
    assert len(added) == 5 and set(added[:, 1]) == set(range(20, 25)) and len(set(added[:, 0])) == 1


def test_what_the_format_cannot_hold_is_counted(tmp_path: Path) -> None:
    twins = [(1, "ring"), (1, disc(44, 24, 15)), (2, "ring")]
    records = drawn(tmp_path / "images", ("train", [*twins, (1, "line", True), (1, "empty")]), ("holdout", []))
    said = export(exporter(), records, tmp_path / "out")
    assert said == [
        "1 of 5 labels are regions to be ignored and are left out: trainers take them for background",
        "1 of 5 labels have no pixel and are left out",
        "1 of 5 labels have the class and box of another one in their image: Ultralytics takes such a pair for one "
        "label",
        "data.yaml has no key `val`, since no image is in that split: Ultralytics needs `train` and `val`",
        "data.yaml does not name the splits holdout: Ultralytics knows `train`, `val` and `test` alone",
    ]
    whole = drawn(tmp_path / "whole", ("train", [(1, "nested"), (2, "whole")]), ("valid", [(1, "ring"), (1, "border")]))
    assert "annotation 1 of image 1" in export(exporter(), whole, tmp_path / "more")[0]
    lossless = drawn(tmp_path / "lossless", ("train", [(1, "pixel"), (2, "ring")]), ("valid", []))
    assert export(exporter(), lossless, tmp_path / "all") == []


def test_masks_of_noise_keep_every_pixel_of_their_parts_and_holes(tmp_path: Path) -> None:
    rng, masks = np.random.default_rng(0), []
    for share in (0.05, 0.3, 0.6, 0.9, 0.98):
        for side in (1, 2, 4):
            noise = rng.random((HEIGHT // side, WIDTH // side)).repeat(side, 0).repeat(side, 1)
            masks.append(noise < share)
    parts = [cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)[1:3] for mask in masks]
    single = [labels == stats[1:, 4].argmax() + 1 for labels, stats in parts]  # the largest part, with its holes
    images = [("train", [(1, mask)]) for mask in [*masks, *single]]
    said = export(exporter(), drawn(tmp_path / "images", *images, ("val", [])), tmp_path / "out")
    assert len(said) == 1
    rows = (tmp_path / "out" / "labels" / "train").iterdir()
    for row, mask in zip(sorted(rows), [*masks, *single], strict=True):
        (line,) = row.read_text().splitlines()
        corners = (np.array(line.split()[1:], np.float32).reshape(-1, 2) * SIZE).astype(np.int32)
        found = cv2.fillPoly(np.zeros((HEIGHT, WIDTH), np.uint8), [corners], 1) > 0
        assert (found >= mask).all() and (seamless(mask) == (found == mask).all())


SUPERVISION = """
import json, sys
import supervision as sv
root, split, masks, kept = sys.argv[1:]
found = sv.DetectionDataset.from_yolo(f"{root}/images/{split}", f"{root}/labels/{split}", f"{root}/data.yaml")
read = {}
for path, _, objects in found:
    mask = objects.mask.tolist() if masks == "1" and len(objects) else []
    read[path.rsplit("/", 1)[1][:12]] = [objects.class_id.tolist(), objects.xyxy.tolist(), mask]
print(json.dumps([found.classes, read]))
"""


def test_supervision_reads_the_same_masks(records: ListedRecords, tmp_path: Path) -> None:
    export(exporter(), records, tmp_path / "out")
    classes, read = run_reader(SUPERVISION, tmp_path / "out", "train", 1, "")
    assert classes == [category.name for category in INFO.categories]
    assert sorted(read) == [f"{record.job.id:012d}" for record in records.split("train")]
    for record in records.split("train"):
        places, boxes, masks = read[f"{record.job.id:012d}"]
        known = truths(record)
        assert places == [place for place, _ in known]
        for (_, mask), found_box, found in zip(known, boxes, np.array(masks, bool), strict=True):
            assert np.abs(np.array(found_box) - box(mask)).max() <= 0.52
            assert (found >= mask).all() and ((found == mask).all() or not seamless(mask))


DATUMARO = """
import json, sys
from datumaro.components.dataset import Dataset
found = Dataset.import_from(sys.argv[1], "yolo")
labels = [c.name for c in found.categories()[next(iter(found.categories()))].items]
read = {}
for item in found:
    read[item.id] = [item.subset, item.media.size, [[b.label, *b.get_bbox()] for b in item.annotations]]
print(json.dumps([labels, read]))
"""


def test_supervision_and_datumaro_read_the_same_boxes(records: ListedRecords, tmp_path: Path) -> None:
    said = export(exporter(task="detect"), records, tmp_path / "out")
    assert len(said) == 2  # one region to be ignored, and two objects without a box
    labels, read = run_reader(DATUMARO, tmp_path / "out")
    classes, also = run_reader(SUPERVISION, tmp_path / "out", "train", 0, "")
    assert labels == classes == [category.name for category in INFO.categories]
    assert sorted(read) == [f"{record.job.id:012d}" for record in records]
    for record in records:
        split, size, objects = read[f"{record.job.id:012d}"]
        known = [[place, *box(mask)] for place, mask in truths(record)]
        assert (split, size) == (record.job.split, [HEIGHT, WIDTH])
        corners = [[place, x, y, x + w, y + h] for place, x, y, w, h in objects]
        np.testing.assert_allclose(corners, known, atol=1e-3)
        if split == "train":
            places, boxes, _ = also[f"{record.job.id:012d}"]
            np.testing.assert_allclose([[p, *b] for p, b in zip(places, boxes, strict=True)], known, atol=1e-3)


def test_the_description_says_what_is_where(records: ListedRecords, tmp_path: Path) -> None:
    """Without `path`, for which Ultralytics would take the working folder."""
    own = replace(INFO, categories=(replace(INFO.categories[0], own_id=53), *INFO.categories[1:]), subset="Half.")
    export(exporter(own), records, tmp_path / "out", own)
    written = (tmp_path / "out" / "data.yaml").read_bytes()
    assert written.isascii() and yaml.safe_load(written) == {
        "train": "images/train",
        "val": "images/val",
        "names": {0: "cup", 1: HOSTILE, 2: "../con", 3: "CUP 'x'"},
        "class_ids": {0: 53, 1: 2, 2: 3, 3: 4},
        "dataset": {"name": "rooms", "content_hash": records.content_hash, "subset": "Half."},
    }
    empty = tmp_path / "out" / "labels" / "train" / f"{len(SHAPES) + 2:012d}.txt"
    assert empty.read_bytes() == b""


def test_equal_datasets_give_equal_bytes_and_images_are_encoded_again(records: ListedRecords, tmp_path: Path) -> None:
    for name in "ab":
        export(exporter(images="jpeg"), records, tmp_path / name)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    for record in records:
        with Image.open(tmp_path / "a" / "images" / record.job.split / f"{record.job.id:012d}.jpg") as image:
            assert (image.format, image.size) == ("JPEG", (WIDTH, HEIGHT))


def test_an_untouched_export_is_whole(records: ListedRecords, tmp_path: Path) -> None:
    for task in ("segment", "detect"):
        one = exporter(task=task)
        export(one, records, tmp_path / task)
        assert verified(one, records, tmp_path / task) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        ("labels/train/000000000001.txt", b"0 0.", b"1 0.", "has '1 0."),
        ("labels/train/000000000001.txt", b"\n", b"\n0 0.1 0.1 0.2 0.2 0.3 0.3\n", "has '0 0.1 0.1 0.2 0.2 0.3 0.3'"),
        ("labels/train/000000000011.txt", b"\n1 ", b"\n2 ", "has '2 0."),
        ("labels/train/000000000012.txt", b"", b"0 0.5 0.5 0.1 0.1\n", "has '0 0.5 0.5 0.1 0.1' in line 1, and no "),
        ("labels/val/000000000013.txt", b"1 ", b"", "has '0."),
        ("data.yaml", b"cup", b"mug", "does not have the classes of the spec"),
        ("data.yaml", b"images/val", b"images/test", "does not have the splits"),
        ("data.yaml", b"names:", b"names: {", "is no YAML"),
        ("data.yaml", b"train: ", b"- train ", "is no YAML"),
    ],
)  # fmt: skip
def test_what_was_edited_is_named(
    records: ListedRecords, tmp_path: Path, file: str, old: bytes, new: bytes, told: str
) -> None:
    one = exporter()
    export(one, records, tmp_path / "out")
    path = tmp_path / "out" / file
    before = path.read_bytes()
    path.write_bytes(before.replace(old, new, 1) if old else new)
    assert path.read_bytes() != before
    ((name, said),) = verified(one, records, tmp_path / "out")
    assert name == file and said.startswith(told)


def test_missing_and_further_images_are_named(records: ListedRecords, tmp_path: Path) -> None:
    one = exporter()
    export(one, records, tmp_path / "out")
    fewer = ListedRecords(records.listed[:-1])
    more = ListedRecords([*records, replace(records.listed[-1], job=replace(records.listed[-1].job, id=99))])
    assert verified(one, fewer, tmp_path / "out") == [
        ("labels/val/000000000013.txt", "holds labels of an image that is not among the accepted ones")
    ]
    assert verified(one, more, tmp_path / "out") == [
        ("labels/val/000000000099.txt", "is not among the exported files, and image 99 needs it")
    ]
    moved = ListedRecords([*records.listed[1:], records.listed[0]])
    assert verified(one, moved, tmp_path / "out")[0][0] == "labels/train/000000000001.txt"
    other = exporter(images="webp")
    assert verified(other, records, tmp_path / "out")[0][1].startswith("is of image 1, whose file images/train/")
