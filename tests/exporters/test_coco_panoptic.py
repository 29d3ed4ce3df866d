"""COCO's panoptic and stuff annotations, read by others."""

import contextlib
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from drawn import HEIGHT, HOSTILE, INFO, SHAPES, WIDTH, ListedRecords, contents, disc, drawn, export, verified
from PIL import Image
from pycocotools.coco import COCO
from readers import run_reader

from synthgen.backends import Request
from synthgen.exporters.coco import Backend, Config

BALL = disc(44, 10, 3)  # within the ring's edge
SKY = disc(20, 5, 12)
ROAD = {"panoptic": True, "stuff": ("CUP 'x'",)}


@pytest.fixture
def records(tmp_path: Path) -> ListedRecords:
    """Class 4 is stuff: two areas of it overlap, one is to be ignored, and one is under a disc. A disc hides a disc."""
    return drawn(
        tmp_path / "images",
        (
            "train",
            [
                (4, SKY), (1, "disc"), (4, "two parts"), (2, "ring"), (3, BALL), (1, "empty"), (2, "line", True),
                (2, "pixel", True), (4, "border", True), (4, "empty"),
            ],
        ),
        ("train", []),
        ("val", [(1, "disc"), (2, "disc"), (4, disc(14, 14, 4))]),
    )  # fmt: skip


def exporter(**options: Any) -> Backend:
    return Backend(Config(use="coco", **options), INFO.categories)


# What can be seen in each image: class, mask and whether it is a crowd; what was drawn last is on top.
SEEN: dict[str, list[tuple[int, np.ndarray, int]]] = {
    "train/1": [
        (4, (SKY & ~SHAPES["disc"]) | SHAPES["two parts"], 0),
        (1, SHAPES["disc"], 0),
        (2, SHAPES["ring"] & ~BALL & ~SHAPES["two parts"], 0),
        (3, BALL, 0),
        (2, (SHAPES["line"] | SHAPES["pixel"]), 1),
        (4, SHAPES["border"] & ~SHAPES["two parts"], 1),
    ],
    "train/2": [],
    "val/3": [(2, SHAPES["disc"] & ~disc(14, 14, 4), 0), (4, disc(14, 14, 4), 0)],
}


def segments(root: Path, split: str) -> dict[str, list[tuple[int, np.ndarray, int]]]:
    """As `rgb2id` of panopticapi and its evaluation read them, with its checks."""
    said = json.loads((root / "annotations" / f"panoptic_{split}.json").read_bytes())
    found = {}
    for annotation, image in zip(said["annotations"], said["images"], strict=True):
        assert annotation["image_id"] == image["id"]
        with Image.open(root / "annotations" / f"panoptic_{split}" / annotation["file_name"]) as opened:
            assert opened.mode == "RGB" and opened.size == (image["width"], image["height"])
            colours = np.asarray(opened).astype(np.int64)
        ids = colours[..., 0] + 256 * colours[..., 1] + 256**2 * colours[..., 2]
        infos = {segment["id"]: segment for segment in annotation["segments_info"]}
        assert {0, *infos} == {0, *np.unique(ids).tolist()}  # none is in one of the two alone
        crowds = [s["category_id"] for s in infos.values() if s["iscrowd"]]
        assert len(crowds) == len(set(crowds))  # panopticapi keeps one of a class
        for number, segment in infos.items():
            mask = ids == number
            assert segment["area"] == mask.sum()
            assert segment["bbox"] == list(cv2.boundingRect(mask.astype(np.uint8)))
        found[f"{split}/{image['id']}"] = [(s["category_id"], ids == n, s["iscrowd"]) for n, s in infos.items()]
    return found


def equal(found: list[tuple[int, np.ndarray, int]], expected: list[tuple[int, np.ndarray, int]]) -> bool:
    return len(found) == len(expected) and all(
        (f[0], f[2]) == (e[0], e[2]) and (f[1] == e[1]).all() for f, e in zip(found, expected, strict=True)
    )


def test_panoptic_images_show_what_is_on_top(records: ListedRecords, tmp_path: Path) -> None:
    losses = export(exporter(**ROAD), records, tmp_path / "out")
    found = {**segments(tmp_path / "out", "train"), **segments(tmp_path / "out", "val")}
    assert found.keys() == SEEN.keys()
    for image, expected in SEEN.items():
        assert equal(found[image], expected), image
    objects = [a for r in records for a in r.annotations if not a.ignore]
    hidden = sum(
        int((a & b).sum())
        for a, b in (
            (SKY, SHAPES["disc"]), (SHAPES["ring"], BALL), (SHAPES["ring"], SHAPES["two parts"]),
            (SHAPES["disc"], SHAPES["disc"]), (SHAPES["disc"], disc(14, 14, 4)),
        )
    )  # fmt: skip
    assert losses == [
        "files of stuff have no regions to be ignored: 1 of 5 labels of stuff are left out",
        "1 of 5 labels of stuff are left out, since their masks are empty",
        f"panoptic images show one label a pixel, so the smaller object is on top: {hidden:,} of "
        f"{sum(a.area for a in objects):,} pixels of objects are under another one; 4 of {len(objects)} objects lose "
        "pixels, 1 of these all of them",
        f"panoptic images do not show 2 of {len(objects)} objects, whose masks are empty",
    ]


def test_categories_say_what_is_a_thing(records: ListedRecords, tmp_path: Path) -> None:
    export(exporter(**ROAD), records, tmp_path / "out")
    said = json.loads((tmp_path / "out" / "annotations" / "panoptic_test.json").read_bytes())
    assert said["annotations"] == said["images"] == []
    assert [(c["id"], c["name"], c["isthing"]) for c in said["categories"]] == [
        (1, "cup", 1), (2, HOSTILE, 1), (3, "../con", 1), (4, "CUP 'x'", 0),
    ]  # fmt: skip
    assert len({tuple(c["color"]) for c in said["categories"]}) == 4
    assert said["info"]["content_hash"] == records.content_hash


DATUMARO = """
import json, sys
import numpy as np
from datumaro.components.dataset import Dataset
from datumaro.components.annotation import AnnotationType
found = {}
for kind in sys.argv[2:]:
    dataset = Dataset.import_from(sys.argv[1], "coco_" + kind)
    names = [label.name for label in dataset.categories()[AnnotationType.label]]
    for item in dataset:
        found[f"{kind}/{item.subset}/{item.id}"] = [
            [names[a.label], np.asarray(a.image).astype(int).tolist(), int(a.attributes["is_crowd"])]
            for a in item.annotations if a.type == AnnotationType.mask
        ]
print(json.dumps(found))
"""


def test_datumaro_reads_the_same(records: ListedRecords, tmp_path: Path) -> None:
    export(exporter(**ROAD, images_in="images/{split}"), records, tmp_path / "out")
    found = run_reader(DATUMARO, tmp_path / "out", "panoptic", "stuff")
    names = {c.id: c.name for c in INFO.categories}
    for image, expected in SEEN.items():
        split, number = image.split("/")
        read = found[f"panoptic/{split}/{int(number):012d}"]
        assert equal([(c, np.array(mask, bool), crowd) for c, mask, crowd in read], [
            (names[c], mask, crowd) for c, mask, crowd in expected  # type: ignore[misc]
        ]), image  # fmt: skip
    ((name, mask, _),) = found["stuff/train/000000000001"]
    assert name == "CUP 'x'" and (np.array(mask, bool) == SKY | SHAPES["two parts"]).all()


def test_stuff_is_one_annotation_of_a_class_and_things_are_the_others(records: ListedRecords, tmp_path: Path) -> None:
    root = tmp_path / "out"
    export(exporter(stuff=("CUP 'x'",), segmentation="polygon"), records, root)
    assert not list(root.rglob("*panoptic*"))
    with contextlib.redirect_stdout(io.StringIO()):
        things, stuff = (COCO(str(root / "annotations" / f"{kind}_train.json")) for kind in ("instances", "stuff"))
    assert (sorted(things.cats), sorted(stuff.cats)) == ([1, 2, 3], [4])
    assert sorted(things.imgs) == sorted(stuff.imgs) == [1, 2]
    labels = records.listed[0].annotations
    assert sorted(things.anns) == [a.id for a in labels if a.category_id != 4]
    (only,) = stuff.anns.values()
    assert (stuff.annToMask(only).astype(bool) == SKY | SHAPES["two parts"]).all()
    assert only["area"] == (SKY | SHAPES["two parts"]).sum() and only["iscrowd"] == 0 and only["id"] == 1
    assert only["bbox"] == list(cv2.boundingRect((SKY | SHAPES["two parts"]).astype(np.uint8)))
    assert isinstance(only["segmentation"], list)


def test_segments_are_as_many_as_labels(tmp_path: Path) -> None:
    """More than a byte can number, and each of its own colour."""
    objects = [(1, (np.arange(HEIGHT * WIDTH) == i).reshape(HEIGHT, WIDTH)) for i in range(0, 3000, 3)]
    export(exporter(panoptic=True), drawn(tmp_path / "images", ("train", objects)), tmp_path / "out")
    (found,) = segments(tmp_path / "out", "train").values()
    assert equal(found, [(1, mask, 0) for _, mask in objects])


def test_stuff_is_of_the_classes_that_are_exported() -> None:
    request = Request(HEIGHT, WIDTH, False, frozenset())
    assert not list(exporter(stuff=("cup",)).check(request))
    (problem,) = exporter(stuff=("cups",)).check(request)
    assert str(problem).startswith(".stuff: got 'cups' (did you mean 'cup'?); takes classes of the export: cup, ")
    assert not list(exporter(stuff=("mug",), classes={"cup": "mug"}).check(request))
    (problem,) = exporter(stuff=("cup",), classes={"cup": "mug"}).check(request)
    assert problem.field == ".stuff"
    assert [p.field for p in exporter(stuff=("cup",), classes=["../con"]).check(request)] == [".stuff"]


def test_exports_without_them_have_the_fingerprint_that_runs_have_recorded() -> None:
    assert exporter().config.fingerprint() == {"use": "coco", "segmentation": "rle", "images": "link"}
    assert exporter(**ROAD).config.fingerprint().items() >= {"panoptic": True, "stuff": ["CUP 'x'"]}.items()


def test_the_same_bytes_again_and_read_back(records: ListedRecords, tmp_path: Path) -> None:
    made = exporter(**ROAD)
    for root in (tmp_path / "a", tmp_path / "b"):
        export(made, records, root)
        assert verified(made, records, root) == []
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert len(contents(tmp_path / "a")) == 9 + 3 + 3


def test_what_was_edited_is_named(records: ListedRecords, tmp_path: Path) -> None:
    made, root = exporter(**ROAD), tmp_path / "out"
    export(made, records, root)
    panoptic, stuff = (root / "annotations" / f"{kind}_train.json" for kind in ("panoptic", "stuff"))
    png = root / "annotations" / "panoptic_train" / "000000000001.png"
    kept = {path: path.read_bytes() for path in (panoptic, stuff, png)}

    def told(path: Path, edit: Any) -> str:
        path.write_bytes(edit(kept[path]))
        ((name, said),) = verified(made, records, root)
        path.write_bytes(kept[path])
        assert root / name == (panoptic if path == png else path)
        return said

    one = "does not have the labels that were kept: "
    pixels = cv2.imread(str(png))
    pixels[0, 0, 0] ^= 1
    assert told(png, lambda _: cv2.imencode(".png", pixels)[1].tobytes()) == (
        f"{one}image 1 has other pixels in 000000000001.png"
    )
    assert told(png, lambda _: b"x").endswith("has other pixels in 000000000001.png")
    assert told(panoptic, lambda b: b.replace(b'"iscrowd":1', b'"iscrowd":0', 1)).startswith(
        f"{one}image 1: segments_info is "
    )
    assert told(panoptic, lambda b: b.replace(b'"isthing":0', b'"isthing":1')) == (
        "does not have the classes of the spec: class \"CUP 'x'\": isthing is 1, expected 0"
    )
    assert told(stuff, lambda b: re.sub(rb'"area":\d+', b'"area":7', b)).startswith(f"{one}annotation 1: area is 7")
    assert told(stuff, lambda b: b.replace(b'"file_name":"0', b'"file_name":"1')).startswith("does not have the accept")
    more = ListedRecords([*records, replace(records.listed[0], job=replace(records.listed[0].job, id=9))])
    assert {name: said[:30] for name, said in verified(made, more, root)} == {
        f"annotations/{kind}_train.json": "does not have the accepted ima"
        for kind in ("instances", "panoptic", "stuff")
    }
