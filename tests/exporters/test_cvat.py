"""The export for CVAT, read by datumaro and by CVAT's own library."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotators import OBJECTS, shown
from drawn import HEIGHT, HOSTILE, INFO, SHAPES, WIDTH, ListedRecords, contents, export, verified
from readers import run_reader

from synthgen.backends import Request
from synthgen.exporters.cvat import Backend, Config
from synthgen.types import Category

SAID = {12: "accepted", 13: "rejected, sharpness, stability", 14: "accepted"}
REQUEST = Request(HEIGHT, WIDTH, has_layout=False, words=frozenset())


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> ListedRecords:
    listed = shown(tmp_path_factory.mktemp("images"))
    last = listed[2]
    ring, empty, disc = last.annotations
    boxed = replace(empty, bbox_xywh=(4.25, 4.0, 8.5, 7.125), instance=4)  # Labels 1 to 3 were dropped.
    rejected = replace(listed[1], verdict="rejected", reasons=("sharpness", "stability"))
    return ListedRecords([listed[0], rejected, replace(last, annotations=(ring, boxed, replace(disc, instance=5)))])


@pytest.fixture(scope="module")
def root(records: ListedRecords, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "cvat"
    assert export(exporter(), records, folder) == []
    return folder


def exporter(**options: Any) -> Backend:
    return Backend(Config(use="cvat", **options), INFO.categories)


DATUMARO = """
import json, sys
import datumaro as dm
found = {}
dataset = dm.Dataset.import_from(sys.argv[1], "cvat")
labels = dataset.categories()[dm.AnnotationType.label]
for item in dataset:
    annotations = []
    for a in item.annotations:
        place = a.image.astype(int).tolist() if a.type == dm.AnnotationType.mask else (
            a.points if a.type == dm.AnnotationType.bbox else None)
        annotations.append([a.type.name, labels[a.label].name, place, a.attributes])
    found[item.id] = [item.subset, list(item.media.size), item.media.data[0, 0].tolist(), annotations]
print(json.dumps([[label.name for label in labels], found]))
"""


def test_datumaro_reads_the_same_labels(records: ListedRecords, root: Path) -> None:
    names, found = run_reader(DATUMARO, root)
    assert names == [*(c.name for c in INFO.categories), "image"]
    assert sorted(found) == ["000000000012", "000000000013", "000000000014"]
    for record in records:
        split, size, colour, annotations = found[f"{record.job.id:012d}"]
        assert (split, size, colour) == (record.job.split, [HEIGHT, WIDTH], [20 * record.job.id % 256] * 3)
        (tag,) = [a for a in annotations if a[0] == "label"]
        assert tag[3]["prompt"] == f"a cup on {HOSTILE}"
        assert (tag[3]["split"], tag[3]["verdict"]) == (record.job.split, SAID[record.job.id])
        shapes = {a[3]["instance"]: a for a in annotations if a[0] != "label"}
        assert len(shapes) == len(annotations) - 1 == len(record.annotations)
        for annotation in record.annotations:
            kind, name, place, attributes = shapes[f"{record.job.id}-{annotation.instance}"]
            assert name == INFO.categories[annotation.category_id - 1].name
            assert attributes["ignore"] == annotation.ignore
            assert attributes["predicted_iou"] == "0.9" and "clip" not in attributes
            if kind == "bbox":
                assert place == pytest.approx([4.25, 4.0, 12.75, 11.125], abs=0.01) and annotation.area == 0
            else:
                assert kind == "mask" and np.array_equal(place, mask_of(record.job.id, annotation.instance))


def mask_of(image_id: int, instance: int) -> np.ndarray:
    return SHAPES[OBJECTS[instance][1] if image_id == 12 else {0: "ring", 5: "disc"}[instance]]


def test_labels_that_were_shown_stand_in_the_tag(root: Path) -> None:
    text = (root / "annotations.xml").read_text(encoding="utf-8")
    assert '<attribute name="instances">0 4-5</attribute>' in text
    assert '<attribute name="instances"></attribute>' in text


CVAT = """
import json, sys
from defusedxml import ElementTree
from cvat_sdk import models
from cvat_sdk.attributes import attribute_value_validator
from cvat_sdk.masks import decode_mask
folder = sys.argv[1]
specs = {}
for label in json.load(open(folder + "/labels.json", encoding="utf-8")):
    of_type = [{**a, "input_type": models.InputTypeEnum(a["input_type"])} for a in label["attributes"]]
    attributes = [models.AttributeRequest(**a) for a in of_type]
    models.PatchedLabelRequest(**{**label, "attributes": attributes})
    specs[label["name"]] = {a.name: attribute_value_validator(a) for a in attributes}
masks = {}
for image in ElementTree.parse(folder + "/annotations.xml").getroot().iter("image"):
    for shape in image:
        for attribute in shape:
            assert specs[shape.get("label")][attribute.get("name")](attribute.text or "")
        if shape.tag == "mask":  # as CVAT's `load_anno` does
            points = [int(n) for n in shape.get("rle").split(",")]
            left, top, width, height = (int(shape.get(k)) for k in ("left", "top", "width", "height"))
            points += [left, top, left + width - 1, top + height - 1]
            size = {"image_width": int(image.get("width")), "image_height": int(image.get("height"))}
            masks[shape.find("attribute").text] = decode_mask(points, **size).astype(int).tolist()
print(json.dumps([list(specs), masks]))
"""


def test_cvat_reads_labels_attributes_and_masks(records: ListedRecords, root: Path) -> None:
    names, masks = run_reader(CVAT, root)
    assert names == [*(c.name for c in INFO.categories), "image"]
    expected = {(r.job.id, a.instance) for r in records for a in r.annotations if a.area}
    assert len(masks) == len(expected)
    for image_id, instance in expected:
        assert np.array_equal(masks[f"{image_id}-{instance}"], mask_of(image_id, instance))


def test_small_objects_are_on_top(root: Path) -> None:
    text = (root / "annotations.xml").read_text(encoding="utf-8").partition("</image>")[0]
    shapes = [line for line in text.split("\n") if line.startswith("<mask")]
    assert [f'z_order="{z}"' in line for z, line in enumerate(shapes)] == [True] * len(OBJECTS)
    assert ">12-8<" in shapes[0] and ">12-4<" in shapes[-1]  # the whole image, and a pixel


def test_the_image_label_is_of_no_class(records: ListedRecords, tmp_path: Path) -> None:
    categories = (replace(INFO.categories[0], name="image", supercategory="kitchen"), *INFO.categories[1:])
    info = replace(INFO, categories=categories)
    backend = Backend(Config(use="cvat"), categories)
    export(backend, records, tmp_path / "cvat", info)
    labels = {label["name"]: label for label in json.loads((tmp_path / "cvat" / "labels.json").read_bytes())}
    assert [label["type"] for label in labels.values()] == ["any"] * 4 + ["tag"]
    assert list(labels)[-1] == "image_"
    assert labels["image"]["attributes"][-1] == {
        "name": "supercategory", "mutable": False, "input_type": "select", "default_value": "kitchen",
        "values": ["kitchen"],
    }  # fmt: skip
    assert verified(backend, records, tmp_path / "cvat") == []


def test_equal_datasets_are_equal_bytes(records: ListedRecords, root: Path, tmp_path: Path) -> None:
    export(exporter(), records, tmp_path / "cvat")
    again = contents(tmp_path / "cvat")
    assert again == contents(root) and len(again) == 2 + 3
    assert INFO.name in again["annotations.xml"].decode() and records.content_hash in again["annotations.xml"].decode()


def test_a_whole_export_is_verified(records: ListedRecords, root: Path) -> None:
    assert verified(exporter(), records, root) == []


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ('name="000000000013.png"', 'name="000000000015.png"', "image 13 is missing"),
        ('left="0" top="0" width="64"', 'left="0" top="1" width="64"', "object 1 of image 12 differs"),
        ('xtl="4.25"', 'xtl="4.5"', "object 3 of image 14 differs"),
        ('label="cup"', 'label="../con"', "of image 12 differs"),
        ("<name>cup</name>", "<name>mug</name>", "has other classes"),
        ('<attribute name="ignore">true<', '<attribute name="ignore">false<', "of image 14 differs"),
        ("</annotations>", "</annotations>x", "is no file of CVAT: it is no XML"),
        ("</image>", '<box label="cup"/></image>', "image 12 has more"),
        ("</annotations>", '<image id="3" name="x"/></annotations>', "others besides"),
        ("</annotations>", "", "is no XML"),
    ],
)
def test_a_difference_is_found(records: ListedRecords, tmp_path: Path, before: str, after: str, words: str) -> None:
    export(exporter(), records, tmp_path / "cvat")
    file = tmp_path / "cvat" / "annotations.xml"
    text = file.read_text(encoding="utf-8")
    assert before in text
    file.write_text(text.replace(before, after, 1), encoding="utf-8")
    ((name, fault),) = verified(exporter(), records, tmp_path / "cvat")
    assert name == "annotations.xml" and words in fault


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("x" * 65, "which has 65 characters; CVAT takes at most 64"),
        ("a\ufffeb", "which has a character that XML does not have"),
    ],
)
def test_names_that_cvat_cannot_hold_are_refused(name: str, words: str) -> None:
    backend = Backend(Config(use="cvat"), (Category(1, name),))
    (problem,) = backend.check(REQUEST)
    assert words in problem.message
    renamed = Backend(Config(use="cvat", classes={name: "short"}), (Category(1, name),))
    assert list(renamed.check(REQUEST)) == []


def test_classes_of_the_tests_are_taken() -> None:
    assert list(exporter().check(REQUEST)) == []
