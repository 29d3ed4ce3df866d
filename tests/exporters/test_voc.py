"""PASCAL VOC, read by its own consumers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import HEIGHT, HOSTILE, INFO, SHAPES, WIDTH, ListedRecords, contents, disc, drawn, export, verified
from PIL import Image
from readers import run_reader
from torchvision.datasets import VOCDetection, VOCSegmentation

from synthgen.backends import Request
from synthgen.errors import BackendError
from synthgen.exporters.voc import Backend, Config
from synthgen.masks import decode_rle
from synthgen.types import Annotation, Category, DatasetInfo, Record

REQUEST = Request(HEIGHT, WIDTH, has_layout=True, words=frozenset())
BALL = disc(44, 10, 3)  # within the ring's edge


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> ListedRecords:
    """Each shape in an image of its own, then several in one, and one without any."""
    alone = [("train", [(1 + i % 4, name)]) for i, name in enumerate(SHAPES)]
    several = [(2, "ring"), (1, "line", True), (3, BALL), (4, "pixel")]
    val = [(2, "nested"), (1, "border")]
    return drawn(tmp_path_factory.mktemp("images"), *alone, ("train", several), ("train", []), ("val", val))


@pytest.fixture(scope="module")
def exported(records: ListedRecords, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the default options, but for the year."""
    root = tmp_path_factory.mktemp("run") / "voc"
    export(exporter(year=2007), records, root)
    return root


@pytest.fixture
def few(tmp_path: Path) -> ListedRecords:
    return drawn(tmp_path / "images", ("train", [(1, "disc"), (2, "pixel")]), ("train", [(2, "ring")]), ("val", []))


def exporter(info: DatasetInfo = INFO, **options: Any) -> Backend:
    return Backend(Config(use="voc", **options), info.categories)


def listed(record: Record) -> list[Annotation]:
    return sorted((a for a in record.annotations if a.area), key=lambda a: a.ignore)


def box(annotation: Annotation) -> list[float]:
    x, y, width, height = annotation.bbox_xywh
    return [x, y, x + width, y + height]


def mask_of(annotation: Annotation) -> np.ndarray:
    return decode_rle([annotation.rle], HEIGHT, WIDTH)[0]


def class_name(annotation: Annotation) -> str:
    return INFO.categories[annotation.category_id - 1].name


def test_torchvision_reads_boxes_and_classes(records: ListedRecords, exported: Path) -> None:
    for split in ("train", "val"):
        dataset = VOCDetection(str(exported), year="2007", image_set=split)
        known = list(records.split(split))
        assert len(dataset) == len(known)
        for (image, target), record in zip(dataset, known, strict=True):
            read, objects = target["annotation"], target["annotation"]["object"]
            assert image.size == (WIDTH, HEIGHT) and read["size"] == {"width": "64", "height": "48", "depth": "3"}
            assert read["filename"] == f"{record.job.id:012d}.jpg" and read["segmented"] == "1"
            assert [o["name"] for o in objects] == [class_name(a) for a in listed(record)]
            for o, a in zip(objects, listed(record), strict=True):
                x0, y0, x1, y1 = (int(o["bndbox"][key]) for key in ("xmin", "ymin", "xmax", "ymax"))
                assert [x0 - 1, y0 - 1, x1, y1] == box(a)
                assert o["difficult"] == str(int(a.ignore))
                assert o["truncated"] == str(int(x0 == 1 or y0 == 1 or x1 == WIDTH or y1 == HEIGHT))


@pytest.mark.parametrize(("year", "split"), [(2007, "test"), (2012, "val")])
def test_torchvision_reads_the_splits_of_a_year(tmp_path: Path, year: int, split: str) -> None:
    export(exporter(year=year), drawn(tmp_path / "images", (split, [(1, "ring")])), tmp_path / "out")
    ((_, target),) = VOCDetection(str(tmp_path / "out"), year=str(year), image_set=split)
    assert target["annotation"]["object"][0]["name"] == "cup"


def test_torchvision_reads_masks_of_classes_and_their_objects(records: ListedRecords, exported: Path) -> None:
    dataset, known = VOCSegmentation(str(exported), year="2007", image_set="train"), list(records.split("train"))
    assert len(dataset) == len(known)
    for (_, target), file, record in zip(dataset, dataset.masks, known, strict=True):
        classes = np.array(target)
        objects = np.array(Image.open(file.replace("SegmentationClass", "SegmentationObject")))
        seen = np.zeros((HEIGHT, WIDTH), bool)
        for place, a in sorted(enumerate(listed(record), 1), key=lambda item: (item[1].ignore, item[1].area)):
            visible = mask_of(a) & ~seen  # what no smaller object is in front of
            assert (classes[visible] == (255 if a.ignore else a.category_id)).all()
            assert (objects[visible] == (255 if a.ignore else place)).all()
            seen |= visible
        assert (classes[~seen] == 0).all() and (objects[~seen] == 0).all()
        assert target.mode == "P" and target.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]
        assert target.getpalette()[-3:] == [224, 224, 192]


SUPERVISION = """
import json, sys
import supervision as sv
root = sys.argv[1]
found = sv.DetectionDataset.from_pascal_voc(f"{root}/JPEGImages", f"{root}/Annotations")
read = {}
for path, image, objects in found:
    names = [found.classes[i] for i in objects.class_id]
    read[path.rsplit("/", 1)[1][:12]] = [image.shape, names, objects.xyxy.tolist()]
print(json.dumps(read))
"""


def test_supervision_reads_the_same_boxes(records: ListedRecords, exported: Path) -> None:
    read = run_reader(SUPERVISION, exported / "VOCdevkit" / "VOC2007")
    assert sorted(read) == [f"{record.job.id:012d}" for record in records]
    for record in records:
        shape, names, boxes = read[f"{record.job.id:012d}"]
        assert shape == [HEIGHT, WIDTH, 3] and names == [class_name(a) for a in listed(record)]
        assert boxes == [box(a) for a in listed(record)]


DATUMARO = """
import json, sys
from datumaro.components.annotation import AnnotationType
from datumaro.components.dataset import Dataset
root, form = sys.argv[1:]
found = Dataset.import_from(root, form, coordinate_mode="voc-one-based")
names = [c.name for c in found.categories()[AnnotationType.label].items]
read = {}
for item in found:
    boxes = [[names[a.label], *a.get_bbox()] for a in item.annotations if a.type == AnnotationType.bbox]
    masks = [[names[a.label], a.image.tolist()] for a in item.annotations if a.type == AnnotationType.mask]
    labels = [names[a.label] for a in item.annotations if a.type == AnnotationType.label]
    read[f"{item.subset}/{item.id}"] = [boxes, masks, sorted(labels)]
print(json.dumps([names, read]))
"""


def test_datumaro_reads_the_same_boxes_and_masks(tmp_path: Path) -> None:
    """Its `voc` format reads boxes, masks and the lists of classes in one go. It refuses a class called ../con."""
    plain = replace(INFO, categories=(*INFO.categories[:2], Category(3, "ignored"), Category(4, "CUP 'x'")))
    shapes = [(2, "ring"), (3, BALL), (4, "pixel"), (1, "line", True)]
    records = drawn(tmp_path / "images", ("train", shapes), ("train", []), ("val", [(1, "nested"), (2, "border")]))
    export(exporter(plain), records, tmp_path / "out", plain)
    names, read = run_reader(DATUMARO, tmp_path / "out", "voc")
    assert names == ["background", "cup", HOSTILE, "ignored", "CUP 'x'", "_ignored_"]
    assert sorted(read) == ["train/000000000001", "train/000000000002", "val/000000000003"]
    for record in records:
        boxes, masks, labels = read[f"{record.job.split}/{record.job.id:012d}"]
        assert boxes == [[plain.categories[a.category_id - 1].name, *a.bbox_xywh] for a in listed(record)]
        # It looks for lists under the names of classes, and finds those whose names file systems take as they are.
        shown = {plain.categories[a.category_id - 1].name for a in listed(record) if not a.ignore}
        assert labels == sorted(shown & {"cup", "ignored"})
        found = {name: np.array(mask, bool) for name, mask in masks if name != "background"}
        assert len(found) == len(listed(record))
        for a in listed(record):
            name = "_ignored_" if a.ignore else plain.categories[a.category_id - 1].name
            expected = (
                mask_of(a) & ~BALL
                if a.area > BALL.sum() and (mask_of(a) & BALL).any() and record.job.id == 1
                else mask_of(a)
            )
            assert (found[name] == expected).all()


def test_datumaro_reads_boxes_of_any_class(records: ListedRecords, tmp_path: Path) -> None:
    """And the run's PNGs."""
    said = export(exporter(task="detect", images="link"), records, tmp_path / "out")
    assert said == ["1 of 16 labels have neither a pixel nor a box and are left out"]
    _, read = run_reader(DATUMARO, tmp_path / "out", "voc_detection")
    for record in records:
        boxes, masks, _ = read[f"{record.job.split}/{record.job.id:012d}"]
        assert boxes == [[class_name(a), *a.bbox_xywh] for a in listed(record)] and masks == []


def test_lists_of_images_and_of_classes(records: ListedRecords, exported: Path) -> None:
    """Named so that every file system takes them."""
    sets = exported / "VOCdevkit" / "VOC2007" / "ImageSets"
    train = [record.job.id for record in records.split("train")]
    for folder in ("Main", "Segmentation"):
        assert (sets / folder / "train.txt").read_text() == "".join(f"{n:012d}\n" for n in train)
        assert (sets / folder / "val.txt").read_text() == f"{train[-1] + 1:012d}\n"
    names = sorted(path.name for path in (sets / "Main").iterdir())
    assert len(names) == 2 + 2 * 4 and len({name.casefold() for name in names}) == len(names)
    shown = dict(line.split() for line in (sets / "Main" / "cup_train.txt").read_text().splitlines())
    states = {}
    for record in records.split("train"):
        of_class = [a for a in record.annotations if a.category_id == 1]
        states[record.job.id] = "-1" if not of_class else str(int(any(not a.ignore for a in of_class)))
    assert shown == {f"{n:012d}": state for n, state in states.items()} and set(states.values()) == {"-1", "0", "1"}


def test_lists_have_names_of_their_own(tmp_path: Path) -> None:
    names = ("a_b", "a", "A", "x")
    info = replace(INFO, categories=tuple(replace(c, name=n) for c, n in zip(INFO.categories, names, strict=True)))
    splits = ("c", "b_c", "a_c")
    records = drawn(tmp_path / "images", *((split, [(1, "disc")]) for split in splits))
    one = exporter(info)
    export(one, records, tmp_path / "out", info)
    main = tmp_path / "out" / "VOCdevkit" / "VOC2012" / "ImageSets" / "Main"
    assert len(list(main.iterdir())) == len(splits) * (len(names) + 1)
    assert all((main / f"{split}.txt").read_text() == f"{n:012d}\n" for n, split in enumerate(splits, 1))
    assert verified(one, records, tmp_path / "out") == []


def test_what_the_format_cannot_hold_is_counted(tmp_path: Path) -> None:
    pixels = [(1, (np.arange(HEIGHT * WIDTH) == 8 * i).reshape(HEIGHT, WIDTH)) for i in range(256)]
    records = drawn(tmp_path / "images", ("train", [*pixels, (2, "whole"), (3, "empty")]), ("val", [(1, "ring")]))
    said = export(exporter(), records, tmp_path / "out")
    assert said == [
        "SegmentationClass and SegmentationObject show one label a pixel, so the smaller object is on top: 256 of "
        f"{256 + HEIGHT * WIDTH + SHAPES['ring'].sum():,} pixels of objects are under another one; 1 of 258 objects "
        "lose pixels, 0 of these all of them",
        "SegmentationObject shows 3 objects as 255: those after the 254th of an image",
        "1 of 259 labels have neither a pixel nor a box and are left out",
    ]
    folder = tmp_path / "out" / "VOCdevkit" / "VOC2012"
    objects = np.array(Image.open(folder / "SegmentationObject" / "000000000001.png"))
    assert set(np.unique(objects)) == set(range(1, 256))
    lossless = drawn(tmp_path / "lossless", ("train", [(1, "pixel"), (2, "ring"), (2, "disc", True)]))
    assert export(exporter(), lossless, tmp_path / "all") == []


def test_a_box_without_pixels_is_kept(tmp_path: Path) -> None:
    (record,) = drawn(tmp_path / "images", ("train", [(1, "empty"), (1, "disc")]))
    boxed = replace(record.annotations[0], bbox_xywh=(-3.5, 10.25, 12.0, 50.0))
    one = ListedRecords([replace(record, annotations=(boxed, record.annotations[1]))])
    assert export(exporter(), one, tmp_path / "out") == [
        "SegmentationClass and SegmentationObject do not show 1 of 2 objects, whose masks are empty"
    ]
    ((_, target),) = VOCDetection(str(tmp_path / "out"), year="2012", image_set="train")
    found = [{key: int(v) for key, v in o["bndbox"].items()} for o in target["annotation"]["object"]]
    assert found[0] == {"xmin": 1, "ymin": 11, "xmax": 9, "ymax": HEIGHT}
    objects = np.array(Image.open(tmp_path / "out/VOCdevkit/VOC2012/SegmentationObject/000000000001.png"))
    assert set(np.unique(objects)) == {0, 2}  # the place in the XML file


def test_more_classes_than_a_mask_holds_are_refused(tmp_path: Path) -> None:
    records = drawn(tmp_path / "images", ("train", [(1, "disc")]))
    many = replace(INFO, categories=tuple(Category(i, f"class {i}") for i in range(1, 256)))
    (problem,) = exporter(many).check(REQUEST)
    assert problem.field == "classes" and problem.message.startswith("got 255 classes; `voc` takes at most 254")
    with pytest.raises(BackendError, match="got 255 classes"):
        export(exporter(many), records, tmp_path / "out", many)
    assert list(exporter(many, task="detect").check(REQUEST)) == []
    assert list(exporter(replace(many, categories=many.categories[:254])).check(REQUEST)) == []


def test_characters_that_xml_cannot_hold_are_replaced(tmp_path: Path) -> None:
    info = replace(INFO, categories=(Category(1, "a\x01b\rc <&>"),))
    export(exporter(info), drawn(tmp_path / "images", ("train", [(1, "disc")])), tmp_path / "out", info)
    ((_, target),) = VOCDetection(str(tmp_path / "out"), year="2012", image_set="train")
    assert target["annotation"]["object"][0]["name"] == "a\ufffdb\rc <&>"


def test_equal_datasets_give_equal_bytes(few: ListedRecords, tmp_path: Path) -> None:
    for name in "ab":
        export(exporter(), few, tmp_path / name)
    first = contents(tmp_path / "a")
    assert first == contents(tmp_path / "b")
    assert all(data.isascii() for name, data in first.items() if name.endswith((".xml", ".txt")))


@pytest.mark.parametrize("task", ["segment", "detect"])
def test_an_untouched_export_is_whole(few: ListedRecords, tmp_path: Path, task: str) -> None:
    one = exporter(task=task)
    export(one, few, tmp_path / "out")
    assert verified(one, few, tmp_path / "out") == []


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        (
            "Annotations/000000000001.xml",
            b"cup",
            b"mug",
            "has '<name>mug</name>' in line 14, expected '<name>cup</name>'",
        ),
        ("Annotations/000000000001.xml", b"<xmin>5<", b"<xmin>4<", "has '<xmin>4</xmin>' in line "),
        ("Annotations/000000000001.xml", b"</annotation>\n", b"", "has nothing in line "),
        ("Annotations/000000000001.xml", b"</annotation>\n", b"</annotation>\nx", "has 'x' in line "),
        ("SegmentationClass/000000000002.png", b"", b"\x89PNG", "is no mask: "),
        ("ImageSets/Main/train.txt", b"000000000001\n", b"", "does not list the accepted images"),
        ("ImageSets/Segmentation/val.txt", b"\n", b"\n\n", "does not list the accepted images"),
        ("ImageSets/Main/cup_train.txt", b" 1\n", b"-1\n", "does not list the accepted images"),
        ("dataset_meta.json", b"cup", b"mug", "does not have the classes of the spec"),
        ("dataset_meta.json", b"{", b"", "is no JSON: "),
    ],
)
def test_what_was_edited_is_named(
    few: ListedRecords, tmp_path: Path, file: str, old: bytes, new: bytes, told: str
) -> None:
    one = exporter()
    export(one, few, tmp_path / "out")
    path = tmp_path / "out" / "VOCdevkit" / "VOC2012" / file
    before = path.read_bytes()
    path.write_bytes(before.replace(old, new, 1) if old else new)
    assert path.read_bytes() != before
    ((name, said),) = verified(one, few, tmp_path / "out")
    assert name == f"VOCdevkit/VOC2012/{file}" and said.startswith(told)


def test_another_mask_and_missing_or_further_images_are_named(few: ListedRecords, tmp_path: Path) -> None:
    one = exporter()
    export(one, few, tmp_path / "out")
    root, last = "VOCdevkit/VOC2012", few.listed[-1]
    more = ListedRecords([*few, replace(last, job=replace(last.job, id=99))])
    assert verified(one, more, tmp_path / "out")[0] == (
        f"{root}/Annotations/000000000099.xml", "is not among the exported files, and image 99 needs it"
    )  # fmt: skip
    fewer = ListedRecords(few.listed[:-1])
    assert verified(one, fewer, tmp_path / "out")[0] == (
        f"{root}/Annotations/{last.job.id:012d}.xml", "is of an image that is not among the accepted ones"
    )  # fmt: skip
    moved = ListedRecords([*few.listed[1:], few.listed[0]])
    assert verified(one, moved, tmp_path / "out")[0][1].startswith("stands before")
    other = exporter(images="copy")
    assert verified(other, few, tmp_path / "out")[0] == (
        f"{root}/JPEGImages/000000000001.png", "is not among the exported files, and image 1 needs it"
    )  # fmt: skip
    mask = tmp_path / "out" / root / "SegmentationObject" / "000000000002.png"
    mask.write_bytes((mask.parent / "000000000001.png").read_bytes())
    assert verified(one, few, tmp_path / "out") == [
        (f"{root}/SegmentationObject/000000000002.png", "does not show the labels of image 2 that were kept")
    ]
