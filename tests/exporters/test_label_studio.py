"""The export for Label Studio, read by Label Studio's own library."""

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
from synthgen.exporters.label_studio import Backend, Config
from synthgen.types import Category

REQUEST = Request(HEIGHT, WIDTH, has_layout=False, words=frozenset())


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> ListedRecords:
    """An image of every shape, an empty one, and one with a region to be ignored and an object without pixels."""
    listed = shown(tmp_path_factory.mktemp("images"))
    ring, empty, disc = listed[2].annotations
    boxed = replace(empty, bbox_xywh=(4.25, 4.0, 8.5, 7.125), instance=4, scores={"predicted_iou": 0.25})
    rejected = replace(listed[1], verdict="rejected", reasons=("sharpness",))
    return ListedRecords(
        [listed[0], rejected, replace(listed[2], annotations=(ring, boxed, replace(disc, instance=5)))]
    )


@pytest.fixture(scope="module")
def root(records: ListedRecords, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "label_studio"
    assert export(exporter(), records, folder) == []
    return folder


def exporter(**options: Any) -> Backend:
    return Backend(Config(use="label_studio", **options), INFO.categories)


LABEL_STUDIO = """
import json, sys
import numpy as np
from label_studio_sdk.converter.brush import decode_from_annotation
from label_studio_sdk.label_interface import LabelInterface
from label_studio_sdk.label_interface.objects import TaskValue
folder = sys.argv[1]
interface = LabelInterface(open(folder + "/label_config.xml", encoding="utf-8").read())
interface.validate()
regions, tasks = {}, []
for task in json.load(open(folder + "/tasks.json", encoding="utf-8")):
    TaskValue(**task)
    (prediction,) = task["predictions"]
    assert interface.validate_prediction(prediction, return_errors=True) == []
    tasks.append([task["data"], prediction["model_version"], prediction.get("score")])
    for r in prediction["result"]:
        value, kind = r["value"], r["type"]
        place = [value.get(key) for key in ("x", "y", "width", "height")]
        if kind == "brushlabels":
            flat = {**value, "type": kind, **{key: r[key] for key in ("original_width", "original_height")}}
            (layer,) = decode_from_annotation("mask", [flat]).values()
            assert set(np.unique(layer)) <= {0, 255}
            place = (layer > 0).astype(int).tolist()
        regions[r["id"]] = [kind, value[kind], place, r["meta"], r.get("score")]
labels = [[label for label in control.labels] for control in interface.controls]
print(json.dumps([labels, tasks, regions]))
"""


def test_label_studio_reads_the_same_labels(records: ListedRecords, root: Path) -> None:
    labels, tasks, regions = run_reader(LABEL_STUDIO, root)
    assert labels == [[c.name for c in INFO.categories]] * 3  # brushes, rectangles and polygons
    assert [version for _, version, _ in tasks] == ["synthgen"] * 3
    assert [data for data, _, _ in tasks] == [
        {
            "image": f"/data/local-files/?d=images/{image_id:012d}.png",
            "image_id": image_id,
            "split": split,
            "verdict": "rejected" if image_id == 13 else "accepted",
            "reasons": ["sharpness"] if image_id == 13 else [],
            "prompt": f"a cup on {HOSTILE}",
            "instances": instances,
        }
        for image_id, split, instances in ((12, "train", [*range(9)]), (13, "val", []), (14, "train", [0, 4, 5]))
    ]
    assert [score for _, _, score in tasks] == [0.9, None, 0.25]
    assert len(regions) == 9 + 3
    for record in records:
        for annotation in record.annotations:
            kind, names, place, meta, score = regions[f"{record.job.id}-{annotation.instance}"]
            assert names == [INFO.categories[annotation.category_id - 1].name]
            assert meta == {"ignore": annotation.ignore, "predicted_iou": score}
            if annotation.area:
                expected = SHAPES[OBJECTS[annotation.instance][1] if record.job.id == 12 else
                                  {0: "ring", 5: "disc"}[annotation.instance]]  # fmt: skip
                assert kind == "brushlabels" and np.array_equal(place, expected) and score == 0.9
            else:
                assert kind == "rectanglelabels" and score == 0.25
                x, y, width, height = (v / 100 for v in place)
                box = (x * WIDTH, y * HEIGHT, width * WIDTH, height * HEIGHT)
                assert box == pytest.approx(annotation.bbox_xywh, abs=1e-9)


def test_images_urls_scores_and_versions_are_set(records: ListedRecords, tmp_path: Path) -> None:
    options = {"image_url": "s3://bucket/x/", "images": "webp", "model_version": "sam", "score": "clip"}
    export(exporter(**options), records, tmp_path / "ls")
    tasks = json.loads((tmp_path / "ls" / "tasks.json").read_bytes())
    assert [task["data"]["image"] for task in tasks] == [f"s3://bucket/x/{i:012d}.webp" for i in (12, 13, 14)]
    assert len(list((tmp_path / "ls" / "images").glob("*.webp"))) == 3
    (prediction,) = tasks[0]["predictions"]
    assert prediction["model_version"] == "sam" and "score" not in prediction  # `clip` could not be measured
    assert not any("score" in region for region in prediction["result"])


def test_equal_datasets_are_equal_bytes(records: ListedRecords, root: Path, tmp_path: Path) -> None:
    export(exporter(), records, tmp_path / "label_studio")
    again = contents(tmp_path / "label_studio")
    assert again == contents(root) and len(again) == 3 + 3
    about = json.loads(again["dataset.json"])
    assert about["content_hash"] == records.content_hash
    assert [c["name"] for c in about["classes"]] == [c.name for c in INFO.categories]


def test_a_whole_export_is_verified(records: ListedRecords, root: Path) -> None:
    assert verified(exporter(), records, root) == []


@pytest.mark.parametrize(
    ("file", "before", "after", "words"),
    [
        ("tasks.json", '"image_id":13', '"image_id":15', "image 13 is missing"),
        ("tasks.json", '"id":"12-4"', '"id":"12-9"', "image 12 has other regions"),
        ("tasks.json", '"brushlabels":["cup"]', '"brushlabels":["../con"]', "image 12 has other regions"),
        ("tasks.json", '"rle":[0,0,48,0', '"rle":[0,0,49,0', "image 12 has other regions"),
        ("tasks.json", '"ignore":true', '"ignore":false', "image 14 has other regions"),
        ("tasks.json", "\n]", ",{}]", "others besides"),
        ("tasks.json", "\n]", "", "is no list of tasks"),
        ("tasks.json", '"predictions":[', '"predictions":[1,', "image 12 has other regions"),
        ("label_config.xml", "cup", "mug", "the classes of the spec"),
    ],
)
def test_a_difference_is_found(
    records: ListedRecords, tmp_path: Path, file: str, before: str, after: str, words: str
) -> None:
    export(exporter(), records, tmp_path / "ls")
    path = tmp_path / "ls" / file
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after, 1), encoding="utf-8")
    ((name, fault),) = verified(exporter(), records, tmp_path / "ls")
    assert name == file and words in fault


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a $cup", "which has $cup, in which Label Studio sees a variable"),
        ("$", ""),
        ("a\ufffeb", "which has a character that XML does not have"),
    ],
)
def test_names_that_label_studio_cannot_hold_are_refused(name: str, words: str) -> None:
    problems = list(Backend(Config(use="label_studio"), (Category(1, name),)).check(REQUEST))
    assert [words in problem.message for problem in problems] == [True] * bool(words)
    renamed = Backend(Config(use="label_studio", classes={name: "cup"}), (Category(1, name),))
    assert list(renamed.check(REQUEST)) == []


def test_classes_of_the_tests_are_taken() -> None:
    assert list(exporter().check(REQUEST)) == []
