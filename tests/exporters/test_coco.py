"""The export, read by its own consumers."""

import contextlib
import json
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.datasets import CocoDetection

from synthgen.base import json_stream
from synthgen.exporters.coco import Backend, Config
from synthgen.masks import encode_rle, mask_areas, mask_boxes
from synthgen.store.content import Content
from synthgen.store.export_folder import ExportedFolder, exporting
from synthgen.store.run import Run
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


def export(records: ListedRecords, root: Path, info: DatasetInfo = INFO, **options: Any) -> Backend:
    """Into a folder of this name in a run folder; -> the exporter."""
    exporter = Backend(Config(use="coco", **options), info.categories)
    with exporting(Run(root.parent), root.name, "inputs") as folder:
        exporter.export(info, Content(records, info.categories), folder)
    return exporter


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
    version = Content(records, INFO.categories).content_hash
    assert loaded["info"] == {
        "description": "Rooms.", "version": "1.0", "contributor": "synthgen", "content_hash": version
    }  # fmt: skip
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
        version = Content(ListedRecords(listed), INFO.categories).content_hash
        info = f'"info": {{"description":"Rooms.","version":"1.0","contributor":"synthgen","content_hash":"{version}"}}'
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


@pytest.mark.parametrize(("images", "is_link"), [("link", True), ("copy", False)])
def test_images_are_linked_or_copied(records: ListedRecords, tmp_path: Path, images: str, is_link: bool) -> None:
    export(records, tmp_path / "coco", images=images)
    for record in records:
        file = tmp_path / "coco" / record.job.split / f"{record.job.id:012d}.png"
        assert file.read_bytes() == record.image_path.read_bytes()
        assert file.samefile(record.image_path) == is_link


@pytest.mark.parametrize(("images", "ending", "magic"), [("jpeg", ".jpg", b"\xff\xd8\xff"), ("webp", ".webp", b"RIFF")])
def test_images_are_encoded_anew(
    records: ListedRecords, tmp_path: Path, images: str, ending: str, magic: bytes
) -> None:
    smooth = cv2.resize(np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8), (WIDTH, HEIGHT))
    for record in records:
        cv2.imwrite(str(record.image_path), smooth)
    export(records, tmp_path / "coco", images=images)
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
    export(records, tmp_path / "before")
    assert [{1: 53, 2: 62}[a["category_id"]] for a in load(tmp_path / "before").dataset["annotations"]] == [
        a["category_id"] for a in coco.dataset["annotations"]
    ]
    assert len(coco.getImgIds(catIds=[62])) == 4


# Reading back


def verified(exporter: Backend, records: ListedRecords, root: Path) -> list[tuple[str, str]]:
    return list(exporter.verify(ExportedFolder(Run(root.parent), root.name), records))


@FORMS
@pytest.mark.parametrize("images", ["link", "copy", "jpeg", "webp"])
@pytest.mark.parametrize("images_in", ["{split}", "images/{split}"])
def test_an_export_is_what_was_exported(
    records: ListedRecords, tmp_path: Path, segmentation: str, images: str, images_in: str
) -> None:
    exporter = export(records, tmp_path / "coco", segmentation=segmentation, images=images, images_in=images_in)
    assert verified(exporter, records, tmp_path / "coco") == []


@pytest.mark.parametrize("layout", [{}, {"indent": 2}, {"ensure_ascii": False, "separators": (",", ":")}])
def test_the_layout_of_the_file_does_not_matter(records: ListedRecords, tmp_path: Path, layout: Any) -> None:
    exporter = export(records, tmp_path / "coco")
    for file in (tmp_path / "coco" / "annotations").iterdir():
        content = json.loads(file.read_bytes())
        turned = dict(sorted(content.items(), key=lambda item: item[0] != "annotations"))  # which come first now
        file.write_bytes(json.dumps(turned, **layout).encode())
    assert verified(exporter, records, tmp_path / "coco") == []


def first(key: str, **changes: Any) -> Callable[[Any], Any]:
    return lambda content: content[key][0].update(changes)


def mask(**changes: Any) -> Callable[[Any], Any]:
    return lambda content: content["annotations"][0]["segmentation"].update(changes)


def polygons(*points: Any) -> Callable[[Any], Any]:
    return first("annotations", segmentation=list(points))


IMAGES, LABELS, CLASSES = (
    f"does not have the {what}" for what in ("accepted images: ", "labels that were kept: ", "classes of the spec: ")
)
# What is done to the file of the training images, and what is said of it.
EDITED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "an image is gone": (lambda c: c["images"].pop(), f"{IMAGES}image 4 is missing"),
    "the first image is gone": (lambda c: c["images"].pop(0), f"{IMAGES}image 1: id is 2, expected 1"),
    "an image is there twice": (
        lambda c: c["images"].append(c["images"][-1]), f"{IMAGES}it has an entry with the id 4 besides",
    ),
    "an image is null": (lambda c: c["images"].append(None), f"{IMAGES}it has an entry without an id besides"),
    "images have other places": (lambda c: c["images"].reverse(), f"{IMAGES}image 1: id is 4, expected 1"),
    "an image has another file": (
        first("images", file_name="../../x.png"),
        f"{IMAGES}image 1: file_name is '../../x.png', expected '000000000001.png'",
    ),
    "an image has another size": (first("images", height=1), f"{IMAGES}image 1: height is 1, expected 48"),
    "an image is no mapping": (lambda c: c["images"].__setitem__(0, 5), f"{IMAGES}image 1: id is None, expected 1"),
    "a label is gone": (lambda c: c["annotations"].pop(), f"{LABELS}annotation 12 is missing"),
    "a label is there twice": (
        lambda c: c["annotations"].append(c["annotations"][-1]), f"{LABELS}it has an entry with the id 12 besides",
    ),
    "a label has another id": (first("annotations", id=99), f"{LABELS}annotation 1: id is 99, expected 1"),
    "a label is of another image": (
        first("annotations", image_id=2), f"{LABELS}annotation 1: image_id is 2, expected 1",
    ),
    "a label is of another class": (
        first("annotations", category_id=2), f"{LABELS}annotation 1: category_id is 2, expected 1",
    ),
    "a label has true for 1": (first("annotations", id=True), f"{LABELS}annotation 1: id is True, expected 1"),
    "a label has another area": (first("annotations", area=1), f"{LABELS}annotation 1: area is 1, expected "),
    "a label has another box": (
        first("annotations", bbox=[0, 0, 1, 1]), f"{LABELS}annotation 1: bbox is [0, 0, 1, 1], expected [4.0, 5.0, ",
    ),
    "a label is ignored": (first("annotations", iscrowd=1), f"{LABELS}annotation 1: iscrowd is 1, expected 0"),
    "a label has another mask": (mask(counts="0"), f"{LABELS}annotation 1 has another mask"),
    "a mask has another size": (mask(size=[1, 1]), f"{LABELS}annotation 1 has another mask"),
    "a label has no mask": (lambda c: c["annotations"][0].pop("segmentation"), f"{LABELS}annotation 1 has another"),
    "a class is gone": (lambda c: c["categories"].pop(), f"{CLASSES}class {HOSTILE!r} is missing"),
    "a class has another id": (first("categories", id=7), f"{CLASSES}class 'cup': id is 7, expected 1"),
    "a class has another name": (first("categories", name="mug"), f"{CLASSES}class 'cup': name is 'mug', expected"),
    "a class is there twice": (
        lambda c: c["categories"].append(c["categories"][0]), f"{CLASSES}it has an entry with the id 1 besides",
    ),
    "images are no list": (lambda c: c.update(images={}), "is no COCO file: its 'images' is no list"),
    "classes are gone": (lambda c: c.pop("categories"), "is no COCO file: it has no 'categories'"),
}  # fmt: skip


@pytest.mark.parametrize("what", EDITED)
@pytest.mark.parametrize("layout", [{}, {"indent": 1}])
def test_what_was_edited_is_named(records: ListedRecords, tmp_path: Path, what: str, layout: Any) -> None:
    exporter = export(records, tmp_path / "coco")
    file = tmp_path / "coco" / "annotations" / "instances_train.json"
    edit, said = EDITED[what]
    edit(content := json.loads(file.read_bytes()))
    file.write_text(json.dumps(content, **layout))
    ((name, told),) = verified(exporter, records, tmp_path / "coco")
    assert name == "annotations/instances_train.json" and told.startswith(said)


@pytest.mark.parametrize(
    "edit",
    [
        polygons([0, 0, 5, 0, 5, 5, 0, 5]),
        polygons(),
        polygons([]),
        polygons([1, 1, 2, 2]),
        polygons([0, 0, 5, 0, 5, 5, 1]),
        polygons(["a"] * 6),
        polygons([0, 0, 1e300, 0, 5, 5]),
        polygons([0, 0, 10**400, 0, 5, 5]),
        polygons(5),
        first("annotations", segmentation=None),
    ],
)
def test_another_polygon_is_named_and_none_is_drawn_outside_the_image(
    records: ListedRecords, tmp_path: Path, edit: Callable[[Any], Any]
) -> None:
    exporter = export(records, tmp_path / "coco", segmentation="polygon")
    file = tmp_path / "coco" / "annotations" / "instances_train.json"
    edit(content := json.loads(file.read_bytes()))
    file.write_text(json.dumps(content))
    said = [
        ("annotations/instances_train.json", "does not have the labels that were kept: annotation 1 has another mask")
    ]
    assert verified(exporter, records, tmp_path / "coco") == said


def test_every_split_has_its_first_fault_told(records: ListedRecords, tmp_path: Path) -> None:
    exporter = export(records, tmp_path / "coco")
    folder = tmp_path / "coco" / "annotations"
    (folder / "instances_train.json").write_bytes(b"[]")
    (folder / "instances_val.json").write_bytes((folder / "instances_val.json").read_bytes()[:-3])
    (folder / "instances_test.json").write_bytes(b"\xff")
    assert [(name, told.partition(": ")[0]) for name, told in verified(exporter, records, tmp_path / "coco")] == [
        (f"annotations/instances_{split}.json", "is no COCO file") for split in ("test", "train", "val")
    ]


def test_files_that_are_not_on_the_list_are_named(records: ListedRecords, tmp_path: Path) -> None:
    exporter = export(records, tmp_path / "coco")
    list_file = Run(tmp_path).paths.export_list("coco")
    lines = [n for n in list_file.read_bytes().splitlines(keepends=True) if b"instances_val" not in n]
    list_file.write_bytes(b"".join(n for n in lines if b"000000000003.png" not in n))
    assert verified(exporter, records, tmp_path / "coco") == [
        (
            "annotations/instances_train.json",
            "has image 3, whose file train/000000000003.png is not among the exported files",
        ),
        ("annotations/instances_val.json", "is not among the exported files"),
    ]


class ManyRecords(ListedRecords):
    """The same image and labels again and again, made as they are iterated."""

    def __init__(self, record: Record, count: int) -> None:
        self.record, self.count = record, count

    def __iter__(self) -> Iterator[Record]:
        for i in range(self.count):
            n = len(self.record.annotations)
            labels = tuple(replace(a, id=i * n + k + 1) for k, a in enumerate(self.record.annotations))
            yield replace(self.record, job=replace(self.record.job, id=i + 1), annotations=labels)


def test_memory_of_reading_back_does_not_grow(
    records: ListedRecords, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_stream, "CHUNK_BYTES", 1024)

    def peak(count: int) -> int:
        many, root = ManyRecords(next(iter(records)), count), tmp_path / f"{count}" / "coco"
        exporter = export(many, root)
        folder = ExportedFolder(Run(root.parent), root.name)
        tracemalloc.start()
        assert list(exporter.verify(folder, many)) == []
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(1250) - peak(250) < 1000 * 100  # bytes an image; its line in the file has ten times as many
