"""What CVAT exports, read back: an export of ours, imported and exported again as CVAT does, with edits between."""

import re
import zipfile
from pathlib import Path
from random import Random
from xml.etree.ElementTree import Element, SubElement

import numpy as np
import pytest
from annotators import as_cvat, boxed, draw, exported_by_cvat, instances
from drawn import HEIGHT, HOSTILE, INFO, SHAPES, WIDTH, ListedRecords, export
from pycocotools import mask as coco_mask

from synthgen.errors import RunError
from synthgen.exporters.cvat import Backend, Config
from synthgen.masks import decode_rle
from synthgen.review.annotated import AnnotatedImage, AnnotatedObject
from synthgen.review.cvat import read_cvat
from synthgen.review.formats import read_annotations

NAMES = {c.id: c.name for c in INFO.categories}


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> ListedRecords:
    return boxed(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def exported(records: ListedRecords, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run") / "cvat"
    export(Backend(Config(use="cvat"), INFO.categories), records, root)
    return root / "annotations.xml"


def of(objects: tuple[AnnotatedObject, ...]) -> dict[int | None, AnnotatedObject]:
    return {o.instance: o for o in objects}


def pixels(found: AnnotatedObject) -> np.ndarray:
    assert found.rle
    return decode_rle([found.rle], HEIGHT, WIDTH)[0]


def require_same(records: ListedRecords, images: list[AnnotatedImage]) -> None:
    assert [image.image_id for image in images] == [record.job.id for record in records]
    for record, image in zip(records, images, strict=True):
        assert image.size == (HEIGHT, WIDTH) and image.tolerance_iou == 1.0 and image.is_numbered
        assert image.shown == {a.instance for a in record.annotations}
        found = of(image.objects)
        assert len(found) == len(image.objects) == len(record.annotations)
        for a in record.annotations:
            assert (found[a.instance].category, found[a.instance].ignore) == (NAMES[a.category_id], a.ignore)
            x, y, width, height = a.bbox_xywh
            assert found[a.instance].rle == (a.rle if a.area else None)
            assert found[a.instance].box_xyxy == (None if a.area else (x, y, x + width, y + height))


def test_what_nobody_touched_is_the_same(records: ListedRecords, exported: Path, tmp_path: Path) -> None:
    require_same(records, list(read_cvat(exported)))
    images = list(read_cvat(exported_by_cvat(exported, lambda _: None, tmp_path / "annotations.xml")))
    require_same(records, images)
    assert {(image.by, image.at) for image in images} == {("ann", "2026-03-01T08:00:00.500000+00:00")}
    assert {image.classes for image in images} == {frozenset(NAMES.values())}
    assert all(image.where.startswith("line ") for image in images)


TRIANGLE = [(10.5, 5.0), (40.25, 8.5), (22.0, 30.75)]


def test_edits_are_read(exported: Path, tmp_path: Path) -> None:
    def edit(images: dict[str, Element]) -> None:
        image = images["000000000012.png"]
        shapes = instances(image)
        shapes["12-0"].set("label", HOSTILE)  # another class
        for key, value in as_cvat(SHAPES["two parts"]).items():  # another mask
            shapes["12-1"].set(key, str(value))
        image.remove(shapes["12-5"])  # deleted
        image.remove(shapes["12-2"])  # drawn anew as a polygon: the attribute was typed again
        points = ";".join(f"{x:.2f},{y:.2f}" for x, y in TRIANGLE)
        draw(image, "polygon", "cup", points=points).find("attribute").text = "12-2"  # type: ignore[union-attr]
        draw(image, "box", "cup", xtl="1.50", ytl="2.00", xbr="20.25", ybr="9.00")  # added
        draw(image, "mask", "../con", **as_cvat(SHAPES["disc"]))

    (image, *_) = read_cvat(exported_by_cvat(exported, edit, tmp_path / "annotations.xml"))
    found = of(image.objects)
    assert found.keys() == {None, 0, 1, 2, 3, 4, 6, 7, 8} and len(image.objects) == 8 + 2
    assert found[0].category == HOSTILE and np.array_equal(pixels(found[0]), SHAPES["disc"])
    assert found[1].category == HOSTILE and np.array_equal(pixels(found[1]), SHAPES["two parts"])
    assert np.array_equal(pixels(found[2]), drawn_by_coco(TRIANGLE))
    box, mask = [o for o in image.objects if o.instance is None]
    assert (box.category, box.rle, box.box_xyxy) == ("cup", None, (1.5, 2.0, 20.25, 9.0))
    assert mask.category == "../con" and np.array_equal(pixels(mask), SHAPES["disc"])
    assert image.shown == frozenset(range(9))  # so label 5 was deleted


def drawn_by_coco(points: list[tuple[float, float]]) -> np.ndarray:
    flat = [v for point in points for v in point]
    return coco_mask.decode(coco_mask.frPyObjects([flat], HEIGHT, WIDTH))[..., 0].astype(bool)


def test_a_copy_is_another_object(exported: Path, tmp_path: Path) -> None:
    """CVAT copies an object with its attributes, also into other images."""

    def edit(images: dict[str, Element]) -> None:
        shapes = instances(images["000000000012.png"])
        copy = draw(images["000000000012.png"], "mask", "cup", **as_cvat(SHAPES["whole"]))
        copy.find("attribute").text = "12-4"  # type: ignore[union-attr]
        images["000000000013.png"].append(shapes["12-0"])

    first, second, _ = read_cvat(exported_by_cvat(exported, edit, tmp_path / "annotations.xml"))
    assert np.array_equal(pixels(of(first.objects)[4]), SHAPES["pixel"])
    assert np.array_equal(pixels(of(first.objects)[None]), SHAPES["whole"])
    assert [o.instance for o in second.objects] == [None]


def test_the_larger_part_of_an_object_that_was_cut_is_the_object(exported: Path, tmp_path: Path) -> None:
    def edit(images: dict[str, Element]) -> None:
        image = images["000000000012.png"]
        image.remove(instances(image)["12-3"])
        for part in (SHAPES["disc"], SHAPES["ring"]):
            draw(image, "mask", "CUP 'x'", **as_cvat(part)).find("attribute").text = "12-3"  # type: ignore[union-attr]

    (image, *_) = read_cvat(exported_by_cvat(exported, edit, tmp_path / "annotations.xml"))
    assert np.array_equal(pixels(of(image.objects)[3]), SHAPES["ring"])
    assert np.array_equal(pixels(of(image.objects)[None]), SHAPES["disc"])


def test_grouped_shapes_are_parts_of_an_object(exported: Path, tmp_path: Path) -> None:
    def edit(images: dict[str, Element]) -> None:
        image = images["000000000012.png"]
        shapes = instances(image)
        shapes["12-4"].set("group_id", "1")  # a pixel, of class `cup`, gets a part
        draw(image, "polygon", "cup", points=";".join(f"{x},{y}" for x, y in TRIANGLE), group_id=1)
        for one in ("12-0", "12-8"):  # two objects of the export stay two
            shapes[one].set("group_id", "2")
        draw(image, "mask", "../con", **as_cvat(SHAPES["disc"]), group_id=3)
        draw(image, "mask", HOSTILE, **as_cvat(SHAPES["disc"]), group_id=3)  # of another class

    (image, *_) = read_cvat(exported_by_cvat(exported, edit, tmp_path / "annotations.xml"))
    found = of(image.objects)
    assert len(image.objects) == 9 + 2
    assert np.array_equal(pixels(found[4]), SHAPES["pixel"] | drawn_by_coco(TRIANGLE))
    assert np.array_equal(pixels(found[0]), SHAPES["disc"]) and np.array_equal(pixels(found[8]), SHAPES["whole"])


def test_ellipses_and_what_says_nothing_of_objects(exported: Path, tmp_path: Path) -> None:
    def edit(images: dict[str, Element]) -> None:
        image = images["000000000013.png"]
        draw(image, "ellipse", "cup", cx=30, cy=20, rx=12, ry=5)
        draw(image, "ellipse", "cup", cx=30, cy=20, rx=5, ry=12, rotation=90)
        draw(image, "mask", "cup", **as_cvat(SHAPES["disc"]), outside=1)
        SubElement(image, "tag", {"label": "cup", "source": "manual"})
        for name in images:
            for tag in images[name].findall("tag[@label='image']"):
                images[name].remove(tag)

    _, image, _ = read_cvat(exported_by_cvat(exported, edit, tmp_path / "annotations.xml"))
    y, x = np.mgrid[0.5:HEIGHT, 0.5:WIDTH]
    expected = ((x - 30) / 12) ** 2 + ((y - 20) / 5) ** 2 <= 1
    assert [np.array_equal(pixels(o), expected) for o in image.objects] == [True, True]
    assert image.shown is None  # Somebody has removed the tag that says it.


def test_polygons_are_cut_at_the_border(exported: Path, tmp_path: Path) -> None:
    outside = [(-10.0, -3.0), (70.0, 20.0), (30.0, 60.0)]

    def edit(images: dict[str, Element]) -> None:
        draw(images["000000000013.png"], "polygon", "cup", points=";".join(f"{x},{y}" for x, y in outside))

    _, image, _ = read_cvat(exported_by_cvat(exported, edit, tmp_path / "annotations.xml"))
    shifted = [[v + (20, 30)[i % 2] for i, v in enumerate(v for p in outside for v in p)]]
    large = coco_mask.decode(coco_mask.frPyObjects(shifted, 120, 120))[..., 0].astype(bool)
    assert np.array_equal(pixels(image.objects[0]), large[30 : 30 + HEIGHT, 20 : 20 + WIDTH])


def zipped(to: Path, *members: tuple[str, bytes]) -> Path:
    with zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return to


def test_an_archive_is_read(records: ListedRecords, exported: Path, tmp_path: Path) -> None:
    data = exported.read_bytes()
    file = zipped(tmp_path / "task.zip", ("images/x.png", b"x"), ("annotations.xml", data), ("__MACOSX/._a.xml", b"?"))
    require_same(records, list(read_annotations(file)))
    require_same(records, list(read_annotations(exported)))


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ((), "holds 0 XML files"),
        ((("a.xml", b"<annotations/>"), ("b/a.xml", b"<annotations/>")), "holds 2 XML files"),
        ((("a.xml", b"<annotations>" + b" " * 2**27),), "is compressed more than 200 times"),
        ((("a.xml", b"<x/>"),), "its root is <x>"),
    ],
)
def test_archives_that_are_refused(members: tuple[tuple[str, bytes], ...], words: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=f"task.zip: .*{words}"):
        list(read_cvat(zipped(tmp_path / "task.zip", *members)))


@pytest.mark.parametrize("cut", [2, 30, 300, -10])
def test_damaged_archives(cut: int, exported: Path, tmp_path: Path) -> None:
    file = zipped(tmp_path / "task.zip", ("annotations.xml", exported.read_bytes()))
    data = file.read_bytes()
    file.write_bytes(data[:cut])
    with pytest.raises(RunError, match=r"task.zip is no archive that can be read"):
        list(read_cvat(file))
    file.write_bytes(data[:200] + bytes(100) + data[300:])
    with pytest.raises(RunError, match=r"task.zip"):
        list(read_cvat(file))


GOOD = (
    '<annotations><meta/><image id="0" name="000000000012.png" width="8" height="6">\n'
    '<mask label="cup" source="file" occluded="0" rle="1, 2, 3" left="1" top="2" width="3" height="2" z_order="0">\n'
    '<attribute name="instance">12-3</attribute></mask>\n'
    '<polygon label="cup" points="1,1;4,1;4,4"/><box label="cup" xtl="1" ytl="1" xbr="2" ybr="3"/>'
    '<ellipse label="cup" cx="3" cy="3" rx="1" ry="2"/>\n</image></annotations>'
)


def test_the_good_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "a.xml"
    file.write_text(GOOD)
    (image,) = read_cvat(file)
    assert [o.instance for o in image.objects] == [3, None, None, None]
    assert decode_rle([image.objects[0].rle or {}], 6, 8)[0].nonzero()[0].tolist() == [2, 2]


def who(task_id: int, name: str, role: str = "assignee") -> str:
    person = f"<{role}><username>{name}</username></{role}>" if name else f"<{role}></{role}>"
    return f"<id>{task_id}</id><updated>2026-03-0{task_id} 10:00:00+00:00</updated>{person}"


@pytest.mark.parametrize(
    ("meta", "task_id", "by", "day"),
    [
        (f"<task>{who(1, 'ann')}</task>", None, "ann", 1),
        (f"<task>{who(1, 'boss', 'owner')}</task>", None, "boss", 1),
        (f"<job>{who(2, 'ann')}</job>", None, "ann", 2),
        (f"<project>{who(1, 'boss', 'owner')}<tasks><task>{who(2, 'ann')}</task><task>{who(3, 'bob')}</task></tasks>"
         "</project>", 3, "bob", 3),
        (f"<project>{who(1, 'boss', 'owner')}<tasks><task>{who(2, 'ann')}</task></tasks></project>", 7, "boss", 1),
        (f"<task>{who(1, '')}</task>", None, "", 1),
        ("<task/>", None, "", 0),
    ],
)  # fmt: skip
def test_who_and_when(meta: str, task_id: int | None, by: str, day: int, tmp_path: Path) -> None:
    of_task = f' task_id="{task_id}"' if task_id else ""
    file = tmp_path / "a.xml"
    file.write_text(GOOD.replace("<meta/>", f"<meta>{meta}</meta>").replace("<image ", f"<image{of_task} "))
    (image,) = read_cvat(file)
    assert (image.by, image.at) == (by, f"2026-03-0{day}T10:00:00+00:00" if day else "")


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ('name="000000000012.png"', 'name="cat.png"', "its name is 'cat.png', expected the name that the export gave"),
        ('name="000000000012.png" ', "", "its name is ''"),
        ('width="8"', 'width="800000000"', "expected an image of at most 50,000,000 px"),
        ('width="8"', 'width="0"', "expected an image of"),
        ('width="8"', 'width="8.5"', "width is '8.5', expected a whole number"),
        ('height="6"', 'height="' + "9" * 5000 + '"', "expected a whole number"),
        ('rle="1, 2, 3"', 'rle="1, 2, 4"', r"the mask in line 2: its rle does not sum to 3 x 2 px"),
        ('rle="1, 2, 3"', 'rle="1, 2, -3, 6"', "does not sum"),
        ('rle="1, 2, 3"', f'rle="{2**62}, {2**62}, {2**62}, {2**62}, 6"', "does not sum"),
        ('rle="1, 2, 3"', f'rle="{2**80}"', "is no list of whole numbers"),
        ('rle="1, 2, 3"', 'rle="1, x"', "is no list of whole numbers"),
        ('rle="1, 2, 3"', "", "is no list of whole numbers"),
        ('left="1"', 'left="6"', r"it lies at \(6, 2\) and is 3 x 2 px, in an image of 8 x 6 px"),
        ('left="1"', 'left="-1"', "left is '-1', expected a whole number"),
        ('points="1,1;4,1;4,4"', 'points="1,1;4,1"', "a polygon of 2 points"),
        ('points="1,1;4,1;4,4"', 'points="1,1;4,nan;4,4"', "a point is 'nan', expected a finite number"),
        ('points="1,1;4,1;4,4"', 'points="1,1;4,1e9;4,4"', "reaches far beyond the image"),
        ('points="1,1;4,1;4,4"', 'points="1,1;4"', "a point is '1', expected|a point is '', expected"),
        ('xtl="1"', 'xtl="inf"', "xtl is 'inf', expected a finite number"),
        ('xtl="1"', 'xtl="3"', r"a box from \(3, 1\) to \(2, 3\)"),
        ('xtl="1"', 'rotation="12.5" xtl="1"', "it is rotated, and a box of a dataset is not"),
        ('ry="2"', 'ry="0"', "an ellipse without area"),
        ('ry="2"', 'ry="1e308"', "an ellipse that reaches far beyond the image"),
        ('cx="3"', 'cx="-1e300"', "an ellipse that reaches far beyond the image"),
        ("<box ", "<polyline ", "takes masks, boxes, polygons and ellipses"),
        ('source="file"', 'source="file" group_id="x"', "group_id is 'x'"),
        ("<meta/>", "<meta/><track/>", "not for video"),
        ("<annotations>", "<!DOCTYPE x><annotations>", "it has a DOCTYPE"),
        ("</annotations>", "", "it is no XML"),
    ],
)
def test_hostile_files_are_one_sentence(before: str, after: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "a.xml"
    assert before in GOOD
    file.write_text(GOOD.replace(before, after, 1))
    with pytest.raises(RunError, match=words) as error:
        list(read_cvat(file))
    assert str(error.value).startswith(f"{file}: ") and "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for reader in (read_cvat, read_annotations):
        with pytest.raises(RunError, match="cannot be read: No such file"):
            list(reader(tmp_path / "a.xml"))


@pytest.mark.parametrize("data", [b"", b" \n", b"\x89PNG", b"image,label\n"])
def test_files_of_no_tool(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(RunError, match="is of no annotation tool that is known; takes CVAT for images"):
        list(read_annotations(tmp_path / "x"))


VALUES = [
    "",
    "0",
    "-1",
    "1e9",
    "1e308",
    "nan",
    "9" * 30,
    "1.5",
    "x",
    "true",
    "٣",
    "0x10",
    "1,1",
    "1;1",
    "12-3",
    "\u202e",
]


def test_garbled_files_are_refused_or_read(tmp_path: Path) -> None:
    random, file, refused = Random(2), tmp_path / "a.xml", 0
    for _ in range(300):
        text = GOOD
        for _ in range(random.randint(1, 3)):
            match = random.choice([*re.finditer(r'(?<==")[^"]*(?=")|<[^>]*>', text)])
            text = text[: match.start()] + random.choice([*VALUES, match[0] * 2]) + text[match.end() :]
        file.write_text(text, encoding="utf-8")
        try:
            list(read_cvat(file))
        except RunError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 500
    assert 100 < refused < 300
