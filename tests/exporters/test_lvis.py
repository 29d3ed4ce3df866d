"""LVIS files, read by lvis-api."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import HOSTILE, INFO, SHAPES, ListedRecords, contents, disc, drawn, export, verified
from readers import run_reader

from synthgen.exporters.lvis import Backend, Config

FORMS = pytest.mark.parametrize("segmentation", ["polygon", "rle"])


@pytest.fixture
def records(tmp_path: Path) -> ListedRecords:
    """The grounder looked for the classes 1, 2 and 3 in the first image, for all in the second, and for none in the
    third. A label of class 2 was dropped in the first."""
    listed = drawn(
        tmp_path / "images",
        ("train", [(1, "nested"), (1, "two parts"), (4, "line"), (1, "empty")]),
        ("train", [(2, "ring"), (2, "diagonal"), (4, "border", True)]),
        ("train", [(3, "disc"), (3, "pixel"), (3, "whole")]),
        ("val", [(1, "disc")]),
    )
    known = [({1, 2, 3}, {2}), ({1, 2, 3, 4}, set()), (set(), set()), ({1, 3}, set())]
    return ListedRecords(
        [
            replace(record, looked_for=frozenset(looked_for), dropped=frozenset(dropped))
            for record, (looked_for, dropped) in zip(listed, known, strict=True)
        ]
    )


def exporter(**options: Any) -> Backend:
    return Backend(Config(use="lvis", **options), INFO.categories)


def read(root: Path, split: str = "train") -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((root / f"lvis_v1_{split}.json").read_bytes())
    return loaded


def test_images_say_what_is_known_of_the_classes_that_they_do_not_show(records: ListedRecords, tmp_path: Path) -> None:
    losses = export(exporter(), records, tmp_path / "out")
    images = [*read(tmp_path / "out")["images"], *read(tmp_path / "out", "val")["images"]]
    assert [(i["id"], i["neg_category_ids"], i["not_exhaustive_category_ids"]) for i in images] == [
        # 2 was dropped; 4 was seen and not looked for; and a label of 1 has no pixels.
        (1, [3], [1, 2, 4]),
        (2, [1, 3], [4]),
        (3, [], [3]),
        (4, [3], []),
    ]
    assert losses == [
        "regions to be ignored are left out, 1 in all; the images name their classes in `not_exhaustive_category_ids`",
        "1 of 10 objects are left out, since their masks are empty; the images name their classes in "
        "`not_exhaustive_category_ids`",
    ]


def test_detectron2_and_mmdetection_find_the_images(records: ListedRecords, tmp_path: Path) -> None:
    root = tmp_path / "out"
    export(exporter(images="jpeg"), records, root)
    for split in ("train", "val"):
        for image in read(root, split)["images"]:
            folder, name = image["coco_url"].split("/")[-2:]  # detectron2, `load_lvis_json`
            assert (root / folder / name).is_file() and name == image["file_name"]
            # MMDetection, `LVISV1Dataset`
            assert (root / image["coco_url"].replace("http://images.cocodataset.org/", "")).is_file()


def test_detectron2_takes_the_polygons(records: ListedRecords, tmp_path: Path) -> None:
    """The checks of `load_lvis_json`."""
    export(exporter(), records, tmp_path / "out")
    for annotation in read(tmp_path / "out")["annotations"]:
        assert annotation.get("ignore", 0) == 0
        polygons = annotation["segmentation"]
        assert polygons == [p for p in polygons if len(p) % 2 == 0 and len(p) >= 6] != []


def test_classes_are_counted_in_the_split_for_training(tmp_path: Path) -> None:
    """Rare, common and frequent, as https://www.lvisdataset.org has them: up to 10, up to 100 and more images."""
    images = [
        ("train", [(i, "line") for i, most in ((1, 10), (2, 11), (3, 100), (4, 101)) if n < most]) for n in range(101)
    ]
    images += [("val", [(1, "line")])] * 5
    images[0][1].append((1, "disc"))
    root = tmp_path / "out"
    export(exporter(), drawn(tmp_path / "images", *images), root)
    for split in INFO.splits:
        assert [(c["frequency"], c["image_count"], c["instance_count"]) for c in read(root, split)["categories"]] == [
            ("r", 10, 11), ("c", 11, 11), ("c", 100, 100), ("f", 101, 101),
        ]  # fmt: skip
    second = read(root)["categories"][1]
    assert (second["id"], second["name"], second["synonyms"]) == (2, HOSTILE, [HOSTILE, "seat"])
    named = replace(INFO, splits=("val", "exam"))
    listed = drawn(tmp_path / "more", ("val", [(1, "line")]), ("exam", [(2, "line")]))
    export(exporter(), listed, tmp_path / "other", named)
    assert [c["image_count"] for c in read(tmp_path / "other", "val")["categories"]] == [0, 1, 0, 0]
    assert verified(exporter(), listed, tmp_path / "other") == []


LVIS_API = """
import json, sys
import numpy as np
np.float = float  # lvis-api 0.5.3 is older than NumPy 1.24, which took it away
from lvis import LVIS, LVISEval, LVISResults
truth = LVIS(sys.argv[1])
masks = {i: truth.ann_to_mask(a).tolist() for i, a in truth.anns.items()}
own = [{"image_id": a["image_id"], "category_id": a["category_id"], "score": 0.9, "bbox": a["bbox"],
        "segmentation": truth.ann_to_rle(a)} for a in truth.anns.values()]
scores = {}
for name, more in json.loads(sys.argv[2]).items():
    for kind in ("bbox", "segm"):
        # The same box again, of another class, and surer than all others.
        extra = [{**own[0], "image_id": image, "category_id": c, "score": 0.95} for image, c in more]
        found = json.loads(json.dumps(own + extra, default=lambda b: b.decode()))
        scored = LVISEval(LVIS(sys.argv[1]), LVISResults(LVIS(sys.argv[1]), found), kind)
        scored.run()
        scores[f"{name} {kind}"] = scored.get_results()["AP"]
print(json.dumps({"masks": masks, "scores": scores}))
"""


@FORMS
def test_lvis_api_reads_the_masks_and_scores_by_what_is_known(
    records: ListedRecords, tmp_path: Path, segmentation: str
) -> None:
    export(exporter(segmentation=segmentation), records, tmp_path / "out")
    wrong = {"none": [], "known": [(1, 3)], "doubtful": [(1, 2), (2, 4), (3, 3), (1, 4)], "unknown": [(3, 1), (3, 2)]}
    found = run_reader(LVIS_API, tmp_path / "out" / "lvis_v1_train.json", json.dumps(wrong))
    shapes = {1: "nested", 2: "two parts", 3: "line", 5: "ring", 6: "diagonal", 8: "disc", 9: "pixel", 10: "whole"}
    assert found["masks"].keys() == {str(i) for i in shapes}
    for number, name in shapes.items():
        assert (np.array(found["masks"][str(number)], bool) == SHAPES[name]).all(), name
    for kind in ("bbox", "segm"):
        for free in ("none", "doubtful", "unknown"):
            assert found["scores"][f"{free} {kind}"] == pytest.approx(1.0), (free, kind)
        assert found["scores"][f"known {kind}"] < 0.95


@FORMS
@pytest.mark.parametrize("images", ["link", "webp"])
def test_the_same_bytes_again_and_read_back(
    records: ListedRecords, tmp_path: Path, segmentation: str, images: str
) -> None:
    made = exporter(segmentation=segmentation, images=images)
    for root in (tmp_path / "a", tmp_path / "b"):
        export(made, records, root)
        assert verified(made, records, root) == []
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert read(tmp_path / "a")["info"]["content_hash"] == records.content_hash
    assert len(contents(tmp_path / "a")) == 3 + 4


def test_an_export_without_losses_says_none(tmp_path: Path) -> None:
    assert export(exporter(), drawn(tmp_path / "i", ("train", [(1, disc(9, 9, 4))])), tmp_path / "out") == []


def test_what_was_edited_is_named(records: ListedRecords, tmp_path: Path) -> None:
    made, root = exporter(), tmp_path / "out"
    export(made, records, root)
    file = root / "lvis_v1_train.json"
    kept = file.read_bytes()

    def told(edit: Any) -> str:
        edit(content := json.loads(kept))
        file.write_text(json.dumps(content))
        ((name, said),) = verified(made, records, root)
        file.write_bytes(kept)
        assert name == file.name
        return said

    images, labels, classes = (
        f"does not have the {what}: " for what in ("accepted images", "labels that were kept", "classes of the spec")
    )
    assert told(lambda c: c["images"][0].update(neg_category_ids=[])) == (
        f"{images}image 1: neg_category_ids is [], expected [3]"
    )
    assert told(lambda c: c["images"][1].update(not_exhaustive_category_ids=[])).endswith("is [], expected [4]")
    assert told(lambda c: c["annotations"][1].update(area=3)).startswith(f"{labels}annotation 2: area is 3")
    assert told(lambda c: c["annotations"][1]["segmentation"].pop()) == f"{labels}annotation 2 has another mask"
    assert told(lambda c: c["annotations"].pop()) == f"{labels}annotation 10 is missing"
    assert told(lambda c: c["categories"][0].update(frequency="f")) == (
        f"{classes}class 'cup': frequency is 'f', expected 'r'"
    )
    assert told(lambda c: c["categories"].pop()) == f"{classes}class \"CUP 'x'\" is missing"
    file.unlink()
    file.write_bytes(b"x")
    assert verified(made, records, root)[0][1].startswith("is no COCO file")
