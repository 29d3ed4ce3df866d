"""The export, read by its own consumers."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.datasets import CocoDetection

from synthgen.errors import BackendError
from synthgen.exporters.coco import Backend, Config
from synthgen.masks import encode_rle, mask_areas, mask_boxes
from synthgen.types import Annotation, Category, DatasetInfo, Job, Record

HEIGHT, WIDTH = 48, 64
HOSTILE = 'chaise "longue" </script>\\ \n\u2028 日本語 😀'
INFO = DatasetInfo(
    name="rooms",
    description="Rooms.",
    categories=(Category(1, "cup"), Category(2, HOSTILE, ("seat",))),
    splits=("train", "val", "test"),
    licences=(("CreativeML Open RAIL-M", "https://example.org/licence"), ("Apache-2.0", "https://example.org/apache")),
)


class ListedRecords:
    def __init__(self, records: list[Record]) -> None:
        self._records = records

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records)

    def split(self, name: str) -> Iterator[Record]:
        return (record for record in self._records if record.job.split == name)


class PlainFolder:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.copies: list[bool] = []

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        with open(self.root / name, "wb") as file:
            yield file

    def read(self, source: Path) -> bytes:
        return source.read_bytes()

    def image(self, source: Path, name: str, *, copy: bool = False) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        self.copies.append(copy)
        shutil.copyfile(source, self.root / name)


def masks_of(number: int) -> np.ndarray:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    disc = (x - 14) ** 2 + (y - 14 - number) ** 2 <= 10**2
    ring = ((x - 45) ** 2 + (y - 25) ** 2 <= 15**2) & ((x - 45) ** 2 + (y - 25) ** 2 > 9**2)
    pixel = (x == 63) & (y == 47)
    return np.stack([disc, ring, pixel])


@pytest.fixture
def records(tmp_path: Path) -> ListedRecords:
    """Five images, four of them for training; each a disc, a ring and a pixel to be ignored."""
    listed, annotation_id = [], 1
    for number in range(1, 6):
        path = tmp_path / f"{number:06d}.png"
        cv2.imwrite(str(path), np.full((HEIGHT, WIDTH, 3), 40 * number, np.uint8))
        split = "val" if number == 5 else "train"
        prompt = f"a cup on {HOSTILE}"
        job = Job(
            number, 1, 0, number - 1, "f", split, prompt, "blurry", {"place": HOSTILE}, (1, 2), None, 2**62 + number,
            HEIGHT, WIDTH,
        )  # fmt: skip
        masks = masks_of(number)
        annotations = []
        for i, (rle, box, area) in enumerate(zip(encode_rle(masks), mask_boxes(masks), mask_areas(masks), strict=True)):
            x1, y1, x2, y2 = box.tolist()
            scores = {"predicted_iou": float(np.float32(0.9)), "clip": float("nan")}
            annotations.append(
                Annotation(annotation_id, 1 + i % 2, rle, (x1, y1, x2 - x1, y2 - y1), int(area), i == 2, scores)
            )
            annotation_id += 1
        measures = {"sharpness": float(np.float32(123.456789)), "near_duplicate": 2**64 - 1}
        listed.append(Record(job, path, tuple(annotations), measures))
    return ListedRecords(listed)


def export(records: ListedRecords, root: Path, info: DatasetInfo = INFO, **options: Any) -> PlainFolder:
    folder = PlainFolder(root)
    Backend(Config(use="coco", **options), info.categories).export(info, records, folder)
    return folder


def load(root: Path, split: str = "train") -> COCO:
    with contextlib.redirect_stdout(None):
        return COCO(str(root / "annotations" / f"instances_{split}.json"))


FORMS = pytest.mark.parametrize("segmentation", ["rle", "polygon"])


@FORMS
def test_pycocotools_reads_the_same_masks(records: ListedRecords, tmp_path: Path, segmentation: str) -> None:
    export(records, tmp_path / "coco", segmentation=segmentation)
    coco = load(tmp_path / "coco")
    assert sorted(coco.anns) == list(range(1, 13))
    assert sorted(coco.imgs) == [1, 2, 3, 4]
    for record in records.split("train"):
        for annotation, mask in zip(record.annotations, masks_of(record.job.id), strict=True):
            loaded = coco.anns[annotation.id]
            assert (coco.annToMask(loaded).astype(bool) == mask).all()
            assert loaded["area"] == mask.sum()
            assert loaded["bbox"] == list(annotation.bbox_xywh)
            assert loaded["image_id"] == record.job.id
            assert loaded["iscrowd"] == int(annotation.ignore)
            polygons = segmentation == "polygon" and not annotation.ignore
            assert isinstance(loaded["segmentation"], list if polygons else dict)
            assert loaded.get("polygon_iou") == (1.0 if polygons else None)


@FORMS
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_truth_against_itself_scores_1(records: ListedRecords, tmp_path: Path, segmentation: str, kind: str) -> None:
    export(records, tmp_path / "coco", segmentation=segmentation)
    truth = load(tmp_path / "coco")
    found = [
        {
            "image_id": a["image_id"],
            "category_id": a["category_id"],
            "score": 1.0,
            "bbox": a["bbox"],
            **({"segmentation": truth.annToRLE(a)} if kind == "segm" else {}),
        }
        for a in truth.anns.values()
        if not a["iscrowd"]
    ]
    with contextlib.redirect_stdout(None):
        scored = COCOeval(truth, truth.loadRes(found), kind)
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    assert scored.stats[0] == pytest.approx(1.0)


@FORMS
def test_torchvision_iterates(records: ListedRecords, tmp_path: Path, segmentation: str) -> None:
    export(records, tmp_path / "coco", segmentation=segmentation)
    with contextlib.redirect_stdout(None):
        dataset = CocoDetection(
            str(tmp_path / "coco" / "train"), str(tmp_path / "coco" / "annotations" / "instances_train.json")
        )
    assert len(dataset) == 4
    for number, (image, targets) in enumerate(dataset, 1):
        assert image.size == (WIDTH, HEIGHT)
        assert np.asarray(image)[0, 0].tolist() == [40 * number] * 3
        assert len(targets) == 3


def test_keys_and_hostile_words(records: ListedRecords, tmp_path: Path) -> None:
    export(records, tmp_path / "coco")
    loaded = json.loads((tmp_path / "coco" / "annotations" / "instances_val.json").read_bytes())
    assert list(loaded) == ["info", "licenses", "categories", "images", "annotations"]
    assert loaded["info"] == {"description": "Rooms.", "version": "1.0", "contributor": "synthgen"}
    assert [licence["id"] for licence in loaded["licenses"]] == [1, 2]
    assert loaded["categories"] == [
        {"id": 1, "name": "cup", "supercategory": ""},
        {"id": 2, "name": HOSTILE, "supercategory": ""},
    ]
    assert loaded["images"] == [
        {
            "id": 5,
            "file_name": "000000000005.png",
            "height": HEIGHT,
            "width": WIDTH,
            "license": 1,
            "prompt": f"a cup on {HOSTILE}",
            "negative_prompt": "blurry",
            "seed": 2**62 + 5,
            "slots": {"place": HOSTILE},
            "measures": {"sharpness": 123.457, "near_duplicate": 2**64 - 1},
        }
    ]
    assert loaded["annotations"][0]["scores"] == {"predicted_iou": 0.9, "clip": None}


def test_the_file_is_what_json_makes_of_the_records(records: ListedRecords, tmp_path: Path) -> None:
    """Byte for byte, over splits that take turns."""
    listed = [replace(r, job=replace(r.job, split=INFO.splits[r.job.id % 2])) for r in records]
    export(ListedRecords(listed), tmp_path / "coco")

    def lines(key: str, items: list[dict[str, Any]]) -> str:
        return f'"{key}": [\n' + ",\n".join(json.dumps(item, separators=(",", ":")) for item in items) + "\n]"

    for split in ("train", "val"):
        chosen = [r for r in listed if r.job.split == split]
        licences = [{"id": i, "name": name, "url": url} for i, (name, url) in enumerate(INFO.licences, 1)]
        categories = [{"id": c.id, "name": c.name, "supercategory": ""} for c in INFO.categories]
        images = [
            {"id": r.job.id, "file_name": f"{r.job.id:012d}.png", "height": HEIGHT, "width": WIDTH, "license": 1,
             "prompt": r.job.prompt, "negative_prompt": "blurry", "seed": r.job.seed, "slots": {"place": HOSTILE},
             "measures": {"sharpness": 123.457, "near_duplicate": 2**64 - 1}}
            for r in chosen
        ]  # fmt: skip
        annotations = [
            {"id": a.id, "image_id": r.job.id, "category_id": a.category_id, "bbox": list(a.bbox_xywh),
             "area": a.area, "iscrowd": int(a.ignore), "segmentation": a.rle,
             "scores": {"predicted_iou": 0.9, "clip": None}}
            for r in chosen for a in r.annotations
        ]  # fmt: skip
        info = '"info": {"description":"Rooms.","version":"1.0","contributor":"synthgen"}'
        parts = [info, lines("licenses", licences), lines("categories", categories), lines("images", images)]
        expected = "{\n" + ",\n".join([*parts, lines("annotations", annotations)]) + "\n}\n"
        assert (tmp_path / "coco" / "annotations" / f"instances_{split}.json").read_text("ascii") == expected


def test_one_record_a_line_in_ascii(records: ListedRecords, tmp_path: Path) -> None:
    export(records, tmp_path / "coco")
    text = (tmp_path / "coco" / "annotations" / "instances_train.json").read_bytes()
    assert text.isascii()
    lines = text.decode().split("\n")
    assert sum(line.startswith('{"id":') for line in lines) == 2 + 2 + 4 + 12
    assert [json.loads(line.rstrip(",")) for line in lines if line.startswith('{"id":')]


def test_ids_are_unique_over_splits(records: ListedRecords, tmp_path: Path) -> None:
    export(records, tmp_path / "coco")
    both = [load(tmp_path / "coco", split) for split in ("train", "val")]
    for ids in ([list(c.anns) for c in both], [list(c.imgs) for c in both]):
        flat = [i for part in ids for i in part]
        assert sorted(flat) == list(range(1, len(flat) + 1))


@FORMS
def test_an_empty_split_loads(records: ListedRecords, tmp_path: Path, segmentation: str) -> None:
    export(records, tmp_path / "coco", segmentation=segmentation)
    coco = load(tmp_path / "coco", "test")
    assert (coco.imgs, coco.anns) == ({}, {})
    assert sorted(coco.cats) == [1, 2]


def test_without_licence(records: ListedRecords, tmp_path: Path) -> None:
    export(records, tmp_path / "coco", replace(INFO, licences=()))
    loaded = json.loads((tmp_path / "coco" / "annotations" / "instances_train.json").read_bytes())
    assert loaded["licenses"] == []
    assert "license" not in loaded["images"][0]


def test_an_empty_mask_is_rle_among_polygons(records: ListedRecords, tmp_path: Path) -> None:
    (first, *_) = records
    (rle,) = encode_rle(np.zeros((1, HEIGHT, WIDTH), bool))
    nothing = Annotation(1, 1, rle, (4.0, 4.0, 8.0, 8.0), 0, False, {})
    export(ListedRecords([replace(first, annotations=(nothing,))]), tmp_path / "coco", segmentation="polygon")
    coco = load(tmp_path / "coco")
    assert coco.annToMask(coco.anns[1]).sum() == 0


@FORMS
def test_equal_datasets_are_equal_bytes(records: ListedRecords, tmp_path: Path, segmentation: str) -> None:
    roots = [tmp_path / "a", tmp_path / "b"]
    for root in roots:
        export(records, root, segmentation=segmentation)
    first, second = ({p.relative_to(r): p.read_bytes() for p in r.rglob("*") if p.is_file()} for r in roots)
    assert first == second
    assert len(first) == 3 + 5


@pytest.mark.parametrize(("images", "copy"), [("link", False), ("copy", True)])
def test_images_are_linked_or_copied(records: ListedRecords, tmp_path: Path, images: str, copy: bool) -> None:
    assert export(records, tmp_path / "coco", images=images).copies == [copy] * 5


@pytest.mark.parametrize(("images", "ending", "magic"), [("jpeg", ".jpg", b"\xff\xd8\xff"), ("webp", ".webp", b"RIFF")])
def test_images_are_encoded_anew(
    records: ListedRecords, tmp_path: Path, images: str, ending: str, magic: bytes
) -> None:
    smooth = cv2.resize(np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8), (WIDTH, HEIGHT))
    for record in records:
        cv2.imwrite(str(record.image_path), smooth)
    assert export(records, tmp_path / "coco", images=images).copies == []
    for split in INFO.splits:
        own = list(records.split(split))
        loaded = CocoDetection(tmp_path / "coco" / split, tmp_path / "coco" / "annotations" / f"instances_{split}.json")
        assert len(loaded) == len(own) == len(list((tmp_path / "coco" / split).glob("*")))
        for image, _ in loaded:
            assert abs(np.asarray(image).astype(int) - smooth[:, :, ::-1]).mean() < 4
    files = sorted((tmp_path / "coco").glob(f"*/*{ending}"))
    assert len(files) == 5 and all(file.read_bytes().startswith(magic) for file in files)


@pytest.mark.parametrize("images", ["link", "jpeg"])
def test_images_lie_where_datumaro_looks_for_them(records: ListedRecords, tmp_path: Path, images: str) -> None:
    export(records, tmp_path / "coco", images=images, images_in="images/{split}")
    for file in (tmp_path / "coco" / "annotations").glob("instances_*.json"):
        split = file.stem.removeprefix("instances_")
        for image in json.loads(file.read_bytes())["images"]:
            assert (tmp_path / "coco" / "images" / split / image["file_name"]).is_file()


@pytest.mark.parametrize("value", ["", "/x", "../x", "a//b", "annotations", "annotations/{split}", "{name}", "a\\b"])
def test_images_lie_in_a_folder_of_the_export(value: str) -> None:
    with pytest.raises(ValueError, match="takes a folder within the export"):
        Config(use="coco", images_in=value)


def test_an_image_that_cannot_be_encoded_anew(records: ListedRecords, tmp_path: Path) -> None:
    next(iter(records)).image_path.write_bytes(b"no image")
    with pytest.raises(BackendError, match="is no readable image; delete it and run again"):
        export(records, tmp_path / "coco", images="jpeg")


def test_an_option_that_older_exports_had_not_changes_nothing_at_its_default() -> None:
    """Else every finished run would have its export made anew by the first version that has the option."""
    fingerprint = Config(use="coco").fingerprint()
    assert fingerprint == {"use": "coco", "segmentation": "rle", "images": "link"}
    assert Config(use="coco", images_in="images/{split}").fingerprint() == {
        **fingerprint, "images_in": "images/{split}",
    }  # fmt: skip


def test_categories_have_the_ids_that_the_spec_gives_them(records: ListedRecords, tmp_path: Path) -> None:
    """As in a dataset that this one is to be joined to."""
    cup, chair = INFO.categories
    given = (replace(cup, own_id=53, supercategory="kitchen"), replace(chair, own_id=62, supercategory="furniture"))
    export(records, tmp_path / "out", replace(INFO, categories=given))
    coco = load(tmp_path / "out")
    names = [(c["id"], c["name"], c["supercategory"]) for c in coco.loadCats([53, 62])]
    assert names == [(53, "cup", "kitchen"), (62, HOSTILE, "furniture")]
    before = export(records, tmp_path / "before").root
    assert [{1: 53, 2: 62}[a["category_id"]] for a in load(before).dataset["annotations"]] == [
        a["category_id"] for a in coco.dataset["annotations"]
    ]
    assert len(coco.getImgIds(catIds=[62])) == 4
