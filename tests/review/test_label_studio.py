"""What Label Studio exports, read back: its own library makes the annotations of an export's predictions."""

import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from annotators import OBJECTS, annotated_tasks, boxed, exported_by_label_studio
from drawn import HEIGHT, HOSTILE, INFO, SHAPES, WIDTH, ListedRecords, export
from pycocotools import mask as coco_mask

from synthgen.base.brush_rle import encode_brush
from synthgen.errors import RunError
from synthgen.exporters.label_studio import Backend, Config
from synthgen.masks import decode_rle
from synthgen.review.annotated import AnnotatedImage, AnnotatedObject
from synthgen.review.formats import read_annotations
from synthgen.review.label_studio import read_label_studio

NAMES = {c.id: c.name for c in INFO.categories}
SIZE = {"original_width": WIDTH, "original_height": HEIGHT}
TRIANGLE = [(10.5, 5.0), (40.25, 8.5), (22.0, 30.75)]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> ListedRecords:
    return boxed(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def exported(records: ListedRecords, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run") / "label_studio"
    export(Backend(Config(use="label_studio"), INFO.categories), records, root)
    return root


@pytest.fixture(scope="module")
def annotated(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> list[AnnotatedImage]:
    """Images with every kind of edit: another class, other masks, deletions, additions."""
    soft = SHAPES["two parts"] * 255
    soft[0, :4] = 1, 127, 128, 254  # the edge of a round brush
    edits = {
        "12": {
            "rename": {"12-0": HOSTILE},
            "paint": {"12-1": soft.tolist()},
            "delete": ["12-5", "12-8"],
            "add": [
                {**SIZE, "id": "xY1", "from_name": "box", "type": "rectanglelabels", "value": {
                    "x": 12.5, "y": 25, "width": 50, "height": 12.5, "rotation": 0, "rectanglelabels": ["cup"]}},
                {**SIZE, "id": "xY2", "from_name": "polygon", "type": "polygonlabels", "value": {
                    "points": [[x / WIDTH * 100, y / HEIGHT * 100] for x, y in TRIANGLE], "closed": True,
                    "polygonlabels": ["../con"]}},
            ],
        },
        "14": {"delete": ["14-0", "14-1", "14-2"]},
    }  # fmt: skip
    file = tmp_path_factory.mktemp("annotated") / "project.json"
    return list(read_annotations(exported_by_label_studio(exported, edits, file)))


def of(objects: tuple[AnnotatedObject, ...]) -> dict[int | None, AnnotatedObject]:
    return {o.instance: o for o in objects}


def pixels(found: AnnotatedObject) -> np.ndarray:
    assert found.rle
    return decode_rle([found.rle], HEIGHT, WIDTH)[0]


def test_edits_are_read(annotated: list[AnnotatedImage]) -> None:
    image, empty, last = annotated
    assert [i.image_id for i in annotated] == [12, 13, 14]
    assert {(i.by, i.at) for i in annotated} == {("user 3", "2026-03-02T08:00:00.500000+00:00")}
    assert [i.size for i in annotated] == [(HEIGHT, WIDTH), None, None]
    assert (empty.objects, empty.shown) == ((), frozenset())
    assert (last.objects, last.shown) == ((), {0, 1, 2})  # all deleted
    found = of(image.objects)
    assert found.keys() == {None, 0, 1, 2, 3, 4, 6, 7} and image.shown == frozenset(range(9))
    assert found[0].category == HOSTILE and np.array_equal(pixels(found[0]), SHAPES["disc"])
    painted = SHAPES["two parts"].copy()
    painted[0, :4] = False, False, True, True
    assert found[1].category == HOSTILE and np.array_equal(pixels(found[1]), painted)
    for i in (2, 3, 4, 6, 7):
        assert found[i].category == NAMES[OBJECTS[i][0]] and np.array_equal(pixels(found[i]), SHAPES[OBJECTS[i][1]])
    box, polygon = [o for o in image.objects if o.instance is None]
    assert (box.category, box.rle, box.box_xyxy) == ("cup", None, pytest.approx((8, 12, 40, 18)))
    flat = [v for point in TRIANGLE for v in point]
    expected = coco_mask.decode(coco_mask.frPyObjects([flat], HEIGHT, WIDTH))[..., 0].astype(bool)
    assert polygon.category == "../con" and np.array_equal(pixels(polygon), expected)
    assert image.where == "task 100" and polygon.where == "region xY2"


def read(tasks: Any, folder: Path) -> list[AnnotatedImage]:
    (folder / "tasks.json").write_text(json.dumps(tasks))
    return list(read_label_studio(folder / "tasks.json"))


def test_what_nobody_touched_is_the_same(records: ListedRecords, exported: Path, tmp_path: Path) -> None:
    for record, image in zip(records, read(annotated_tasks(exported), tmp_path), strict=True):
        found = of(image.objects)
        assert image.image_id == record.job.id and image.tolerance_iou == 1.0
        assert len(found) == len(image.objects) == len(record.annotations)
        for a in record.annotations:
            assert (found[a.instance].category, found[a.instance].ignore) == (NAMES[a.category_id], a.ignore)
            x, y, width, height = a.bbox_xywh
            assert found[a.instance].rle == (a.rle if a.area else None)
            box = found[a.instance].box_xyxy
            assert box is None if a.area else box == pytest.approx((x, y, x + width, y + height), abs=1e-9)


def test_the_annotation_that_counts(exported: Path, tmp_path: Path) -> None:
    (task, *_) = annotated_tasks(exported)
    (annotation,) = task["annotations"]

    def by(*made: dict[str, Any]) -> list[str]:
        return [i.by for i in read([{**task, "annotations": [{**annotation, **m} for m in made]}], tmp_path)]

    early, late = {"updated_at": "2026-01-01T00:00:00Z"}, {"updated_at": "2026-01-02T00:00:00+05:00"}
    latest = {"updated_at": "2026-01-01T20:00:00.5Z", "completed_by": {"id": 3, "email": "ann@example.org"}}
    assert by() == []  # Nobody has looked at it.
    assert by({"was_cancelled": True}) == []
    assert by({**late, "completed_by": 1}, {**early, "completed_by": 2}) == ["user 1"]
    assert by({**late, "completed_by": 1}, latest, {**early, "completed_by": 2}) == ["ann@example.org"]
    assert by({**early, "completed_by": 4, "ground_truth": True}, latest) == ["user 4"]
    assert by({**early, "completed_by": 4}, {**latest, "was_cancelled": True}) == ["user 4"]


def brush(region: str, mask: np.ndarray, label: str, **more: Any) -> dict[str, Any]:
    edges = np.flatnonzero(np.diff(mask.reshape(-1).astype(int), prepend=0))
    rle = encode_brush(np.diff(edges, prepend=0, append=mask.size))
    value = {"format": "rle", "rle": rle, "brushlabels": [label]}
    size = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    return {
        "id": region,
        "type": "brushlabels",
        "from_name": "mask",
        "to_name": "image",
        **size,
        "value": value,
        **more,
    }


def test_regions_below_another_are_parts_of_it(tmp_path: Path) -> None:
    regions = [
        brush("12-0", SHAPES["disc"], "cup"),
        brush("a", SHAPES["ring"], "cup", parentID="12-0"),
        brush("b", SHAPES["pixel"], "cup", parentID="a"),
        brush("c", SHAPES["line"], "../con", parentID="12-0"),  # of another class
        brush("d", SHAPES["border"], "cup", parentID="d"),
        brush("e", SHAPES["line"], "cup"),
    ]
    task = {"id": 1, "data": {"image_id": 12}, "annotations": [{"result": regions}]}
    (image,) = read([task], tmp_path)
    assert [o.instance for o in image.objects] == [0, None, None, None]
    union = SHAPES["disc"] | SHAPES["ring"] | SHAPES["pixel"]
    masks = [union, SHAPES["line"], SHAPES["border"], SHAPES["line"]]
    assert all(np.array_equal(pixels(o), mask) for o, mask in zip(image.objects, masks, strict=True))
    assert image.shown is None


def test_other_ways_to_say_it(tmp_path: Path) -> None:
    """A configuration with <Labels> beside <Brush>, ellipses, and results that are no regions."""
    mask = brush("12-0", SHAPES["disc"], "cup")
    plain = {**mask, "type": "brush", "value": {k: v for k, v in mask["value"].items() if k != "brushlabels"}}
    labels = {**mask, "type": "labels", "value": {**plain["value"], "labels": ["../con"]}}
    ellipse = {**mask, "id": "x", "type": "ellipselabels", "value": {
        "x": 50, "y": 50, "radiusX": 25, "radiusY": 12.5, "rotation": 0, "ellipselabels": ["cup"]}}  # fmt: skip
    others = [
        {"type": "relation", "from_id": "12-0", "to_id": "x", "direction": "right"},
        {"id": "y", "type": "choices", "from_name": "c", "to_name": "image", "value": {"choices": ["good"]}},
    ]
    task = {"id": 1, "data": {"image_id": 12}, "annotations": [{"result": [plain, labels, ellipse, *others]}]}
    (image,) = read([task], tmp_path)
    first, second = image.objects
    assert (first.instance, first.category) == (0, "../con") and np.array_equal(pixels(first), SHAPES["disc"])
    y, x = np.mgrid[0.5:HEIGHT, 0.5:WIDTH]
    assert np.array_equal(pixels(second), ((x - 32) / 16) ** 2 + ((y - 24) / 6) ** 2 <= 1)


SMALL = {"original_width": 3, "original_height": 2, "image_rotation": 0, "to_name": "image"}
GOOD: list[Any] = [
    {
        "id": 7,
        "data": {"image_id": 12, "image": "x.png"},
        "annotations": [
            {
                "result": [
                    {"id": "12-0", "type": "brushlabels", **SMALL, "value": {
                        "format": "rle", "rle": encode_brush(np.array([2, 3, 1])), "brushlabels": ["cup"]}},
                    {"id": "12-1", "type": "rectanglelabels", **SMALL, "value": {
                        "x": 10, "y": 20, "width": 50, "height": 60, "rotation": 0, "rectanglelabels": ["cup"]}},
                    {"id": "12-2", "type": "polygonlabels", **SMALL, "value": {
                        "points": [[0, 0], [99, 0], [99, 99]], "polygonlabels": ["cup"]}},
                ]
            }
        ],
    }
]  # fmt: skip
RESULT = ("annotations", 0, "result")
REMOVED = object()


def test_the_good_file_is_read(tmp_path: Path) -> None:
    (image,) = read(GOOD, tmp_path)
    assert [o.instance for o in image.objects] == [0, 1, 2]


@pytest.mark.parametrize(
    ("at", "value", "words"),
    [
        (("data",), REMOVED, "entry 1: it has no `data` with an `image_id`|task 7: it has no `data`"),
        (("data", "image_id"), "12", "no `data` with an `image_id`"),
        (("data", "image_id"), True, "no `data` with an `image_id`"),
        (("annotations",), {}, "its annotations are no list of mappings"),
        (("annotations", 0, "result"), REMOVED, "its annotation has no list of results"),
        ((*RESULT, 0, "original_width"), 10**9, "expected an image of|of images of different sizes"),
        ((*RESULT, 0, "original_width"), None, "region '12-0' has no original_height and original_width"),
        ((*RESULT, 0, "original_height"), 3, "its regions are of images of different sizes"),
        ((*RESULT, 0, "image_rotation"), 90, "its image was rotated"),
        ((*RESULT, 0, "value"), 3, "region '12-0': it has 0 classes"),
        ((*RESULT, 0, "value", "brushlabels"), ["a", "b"], "region '12-0': it has 2 classes, expected one"),
        ((*RESULT, 0, "value", "rle"), [1, 2], "region '12-0': an RLE that is cut short"),
        ((*RESULT, 0, "value", "rle"), [300], "an RLE that is no list of bytes"),
        ((*RESULT, 0, "value", "rle"), REMOVED, "it is a brush without RLE"),
        ((*RESULT, 0, "type"), "keypointlabels", "region '12-0' is a keypoint; takes brushes, rectangles, polygons"),
        ((*RESULT, 0, "type"), "bitmasklabels", "is a bitmask; takes"),
        ((*RESULT, 1, "id"), "12-0", "region '12-0': it stands in the annotation twice"),
        ((*RESULT, 1, "value", "rotation"), 15, "it is rotated, and a box of a dataset is not"),
        ((*RESULT, 1, "value", "x"), "NaN", "x is 'NaN', expected a finite number"),
        ((*RESULT, 1, "value", "x"), True, "x is True, expected a finite number"),
        ((*RESULT, 1, "value", "width"), 1e9, "a box from"),
        ((*RESULT, 1, "value", "width"), REMOVED, "width is None, expected a finite number"),
        ((*RESULT, 2, "value", "points"), [[0, 0], [1, 1]], "a polygon of 2 points"),
        ((*RESULT, 2, "value", "points"), [[0, 0], [1]], "its points are no list of pairs"),
        ((*RESULT, 2, "value", "points"), [[0, 0], [1e9, 0], [1, 1]], "reaches far beyond the image"),
    ],
)
def test_hostile_files_are_one_sentence(at: tuple[Any, ...], value: Any, words: str, tmp_path: Path) -> None:
    tasks = deepcopy(GOOD)
    inner = tasks[0]
    for key in at[:-1]:
        inner = inner[key]
    if value is REMOVED:
        del inner[at[-1]]
    else:
        inner[at[-1]] = value
    with pytest.raises(RunError, match=words) as error:
        read(tasks, tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'tasks.json'}: task 7: ") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it is no JSON"),
        ("[{}", "entry 1: it has no `data`"),
        ("[3]", "entry 1: it has no `data`"),
        ("[", "it is no JSON"),
        ('[{"id": NaN}]', "NaN is no number"),
        ('[{"image": "x", "annotator": 1, "annotation_id": 3, "mask": []}]', "it is of JSON-MIN, which does not say"),
        ("[" * 100_000, "nested too deep"),
    ],
)
def test_files_that_are_no_export(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "tasks.json").write_text(text)
    with pytest.raises(RunError, match=words):
        list(read_label_studio(tmp_path / "tasks.json"))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be read: No such file"):
        list(read_label_studio(tmp_path / "tasks.json"))


VALUES = [None, True, -1, 0, 1, 2**40, 10**30, 1.5, 1e308, "", "x", "nan", "12-0", [], {}, [1], [[1, 2]], {"a": 1}]


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every mapping and list within a value, each with every key of it."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield value, key
        yield from places(one)


def test_garbled_files_are_refused_or_read(tmp_path: Path) -> None:
    random, refused = Random(3), 0
    for _ in range(300):
        tasks = deepcopy(GOOD)
        for _ in range(random.randint(1, 3)):
            holder, key = random.choice([*places(tasks)])
            holder[key] = random.choice(VALUES)
        try:
            read(tasks, tmp_path)
        except RunError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 500
    assert 100 < refused < 300
