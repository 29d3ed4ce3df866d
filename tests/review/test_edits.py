"""What annotators changed, compared with the labels of a run."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from annotated import TWO_EACH, exported_images, exported_labels, square
from pycocotools import mask as coco_mask

from synthgen.errors import RunError
from synthgen.judging.reviews import Review, ReviewLog, Reviews
from synthgen.masks import box_iou, decode_rle, encode_rle, mask_boxes, rle_runs
from synthgen.pipeline.build import Build
from synthgen.pipeline.judge import judge_run
from synthgen.pipeline.label import labels_digests
from synthgen.review.annotated import AnnotatedImage, AnnotatedObject
from synthgen.review.edits import Edits, edits_of
from synthgen.store.records import label_schema
from synthgen.store.run import Run
from synthgen.types import Grounding


@pytest.fixture(scope="module")
def made(run_through: Callable[..., Build], tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Only for reading."""
    return run_through(TWO_EACH, tmp_path_factory.mktemp("edits"))


@pytest.fixture(scope="module")
def images(made: Build) -> dict[int, AnnotatedImage]:
    return exported_images(made)


def with_object(image: AnnotatedImage, number: int, **changes: Any) -> AnnotatedImage:
    objects = list(image.objects)
    objects[number] = replace(objects[number], **changes)
    return replace(image, objects=tuple(objects))


def reviews(edits: Edits) -> list[tuple[int, int | None, str, int | None, bool]]:
    """Image, label, verdict, class, and whether there is a mask."""
    return [(r.image_id, r.instance, r.verdict, r.category_id, r.rle is not None) for r in edits.reviews]


def smaller(rle: Any) -> dict[str, Any]:
    """A mask without its topmost row."""
    mask = decode_rle([rle], 128, 128)
    mask[0, int(mask_boxes(mask)[0, 1])] = False
    return encode_rle(mask)[0]


def box_of(rle: Any) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = mask_boxes(decode_rle([rle], 128, 128))[0].tolist()
    return x0, y0, x1, y1


def test_what_is_unchanged_is_no_edit(made: Build, images: dict[int, AnnotatedImage]) -> None:
    """Not even if the RLE is written in other runs, or an object has only the box of its mask, in tenths of a pixel."""
    same = dict(images)
    split = images[1].objects[0].rle
    assert split
    first, *runs = rle_runs(split["counts"]).tolist()
    other = coco_mask.frPyObjects({**split, "counts": [first - 1, 0, 1, *runs]}, 128, 128)
    assert other["counts"].decode() != split["counts"]
    same[1] = with_object(images[1], 0, rle={**split, "counts": other["counts"].decode()})
    x0, y0, x1, y1 = box_of(images[2].objects[0].rle)
    same[2] = with_object(images[2], 0, rle=None, box_xyxy=(x0 + 0.4, y0 - 0.1, x1, y1 + 0.9))
    found = edits_of(made, same.values(), Reviews())
    assert found == Edits(6, 0, (), {}, 0)
    assert list(found.lines()) == ["images of the file: 6, changed: 0"]


def test_every_kind_of_edit_is_a_review(made: Build, images: dict[int, AnnotatedImage]) -> None:
    mask = smaller(images[2].objects[1].rle)
    changed = {
        1: with_object(images[1], 0, category="orange"),
        2: with_object(images[2], 1, rle=mask),
        3: with_object(images[3], 0, rle=smaller(images[3].objects[0].rle), category="tree"),
        4: replace(images[4], objects=images[4].objects[1:], by="Ann", at="2026-11-28T01:00:00+00:00"),
        5: replace(images[5], objects=(*images[5].objects, AnnotatedObject(None, "orange", square(5, 7, 9), None))),
        6: with_object(images[6], 1, ignore=True),
    }
    found = edits_of(made, changed.values(), Reviews(), by="Ben")
    assert reviews(found) == [
        (1, 0, "wrong_class", 2, False),
        (1, None, "corrected", None, False),
        (2, 1, "bad_mask", None, True),
        (2, None, "corrected", None, False),
        (3, 0, "wrong_class", 3, True),
        (3, None, "corrected", None, False),
        (4, 0, "removed", None, False),
        (4, None, "corrected", None, False),
        (5, 2, "added", 2, True),
        (5, None, "corrected", None, False),
        (6, 1, "ignored", None, False),
        (6, None, "corrected", None, False),
    ]
    assert found.reviews[2].rle == mask["counts"]
    assert {r.by for r in found.reviews if r.image_id != 4} == {"Ben"}
    assert {(r.by, r.at) for r in found.reviews if r.image_id == 4} == {("Ann", "2026-11-28T01:00:00+00:00")}
    assert {r.queue for r in found.reviews} == {"import"}
    assert list(found.lines()) == [
        "images of the file: 6, changed: 6",
        "2 labels: another class",
        "2 labels: another mask",
        "1 label: removed",
        "1 label: added",
        "1 label: to be ignored",
    ]
    standing = Reviews({review.about: review for review in found.reviews})
    assert edits_of(made, changed.values(), standing, by="Carl").reviews == ()  # The log has all of it.


@pytest.mark.parametrize(
    "missing", [{"missing": "keep"}, {"shown": frozenset({1})}, {"classes": frozenset({"tree"})}, {}]
)
def test_only_labels_that_annotators_saw_are_removed(
    made: Build, images: dict[int, AnnotatedImage], missing: dict[str, Any]
) -> None:
    """Image 3 has an orange, 0, and an apple."""
    keep = "keep" if missing.pop("missing", "") else "delete"
    image = replace(images[3], objects=images[3].objects[1:], **missing)
    if "classes" in missing:
        image = replace(image, objects=())
    found = edits_of(made, [image], Reviews(), missing=keep)
    assert bool(found.reviews) == (missing == {} and keep == "delete")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda i: [with_object(i, 0, category="aple")], "object 1: the spec has no class 'aple' (did you mean 'app"),
        (lambda i: [replace(i, image_id=77)], "image 1: {} has no image 77; is the file of another run?"),
        (lambda i: [with_object(i, 0, rle=square(1, 1, 5, 9, 9))], "object 1: the mask does not fit image 1: an RL"),
        (lambda i: [replace(i, size=(64, 48))], "image 1: image 1 has 48x64 px there, and images of the run have 128x"),
        (lambda i: [i, replace(i, where="image 9")], "image 9: image 1 is in the file twice; image 1 has it too"),
        (lambda i: [with_object(i, 0, rle=square(1, 1, 0))], "object 1: the mask has no pixel"),
        (lambda i: [with_object(i, 0, rle=None)], "object 1: it has neither a mask nor a box"),
        (lambda i: [with_object(i, 0, rle=None, box_xyxy=(-9, 3, 0, 9))], "object 1: the box has no area within the"),
    ],
)  # fmt: skip
def test_what_the_run_cannot_have_is_refused(
    made: Build, images: dict[int, AnnotatedImage], change: Callable[..., list[AnnotatedImage]], words: str
) -> None:
    with pytest.raises(RunError) as error:
        edits_of(made, change(images[1]), Reviews())
    assert str(error.value).startswith(words.format(made.run.address)) and "\n" not in str(error.value)


def test_objects_without_numbers_are_paired_by_iou(made: Build, images: dict[int, AnnotatedImage]) -> None:
    """In any order, whatever their class; one that is like none is added, and a label that no object is like goes."""
    apart = replace(images[1].objects[0], instance=None, rle=square(0, 0, 4))
    found = edits_of(
        made,
        [
            replace(
                images[3],
                is_numbered=False,
                objects=tuple(replace(o, instance=None, category="tree") for o in reversed(images[3].objects)),
            ),
            replace(images[1], is_numbered=False, objects=(apart, replace(images[1].objects[1], instance=None))),
        ],
        Reviews(),
    )
    assert [r for r in reviews(found) if r[1] is not None] == [
        (1, 2, "added", 1, True), (1, 0, "removed", None, False),
        (3, 1, "wrong_class", 3, False), (3, 0, "wrong_class", 3, False),
    ]  # fmt: skip


def test_of_equal_masks_the_one_of_the_same_class_is_the_label(made: Build, images: dict[int, AnnotatedImage]) -> None:
    """An apple and an orange in one place, drawn in another order: nothing is added, removed or of another class."""
    apple, tree = (replace(one, instance=None) for one in images[1].objects)
    orange = replace(apple, category="orange")
    image = replace(images[1], is_numbered=False, objects=(apple, tree, orange))
    added = edits_of(made, [image], Reviews()).reviews
    standing = Reviews({review.about: review for review in added})
    assert [r.instance for r in added] == [2, None]
    assert edits_of(made, [replace(image, objects=(orange, tree, apple))], standing).reviews == ()


def test_of_two_objects_with_one_number_one_is_added(made: Build, images: dict[int, AnnotatedImage]) -> None:
    twice = replace(images[1], objects=(*images[1].objects, replace(images[1].objects[0], rle=square(2, 2, 8))))
    assert [r[:3] for r in reviews(edits_of(made, [twice], Reviews()))] == [(1, 2, "added"), (1, None, "corrected")]


def test_a_format_that_loses_pixels_has_a_tolerance(made: Build, images: dict[int, AnnotatedImage]) -> None:
    rle = images[1].objects[1].rle
    before, after = decode_rle([rle, smaller(rle)], 128, 128)
    iou = (before & after).sum() / (before | after).sum()
    changed = with_object(images[1], 1, rle=smaller(rle))
    assert edits_of(made, [replace(changed, tolerance_iou=iou - 0.001)], Reviews()).reviews == ()
    assert edits_of(made, [replace(changed, tolerance_iou=iou + 0.001)], Reviews()).changed == 1


def test_moved_and_added_boxes_are_cut_out_by_the_segmenter(made: Build, images: dict[int, AnnotatedImage]) -> None:
    x0, y0, x1, y1 = box_of(images[1].objects[0].rle)
    box, far = (x0 + 3, y0, x1, y1), (-20.0, 32.0, 140.0, 64.0)  # The second reaches beyond the image.
    image = with_object(images[1], 0, rle=None, box_xyxy=box)
    image = replace(image, objects=(*image.objects, AnnotatedObject(None, "tree", None, far)))
    found = edits_of(made, [image], Reviews())
    picture = made.run.images.read(0, 1, made.run.marks.read("generate", 0))
    asked = Grounding(np.float32([box, (0, 32, 128, 64)]), np.array([1, 3]))
    masks = encode_rle(made.stages.segmenter.segment([picture], [asked])[0].masks)
    assert {r.instance: r.rle for r in found.reviews if r.rle} == {k: masks[i]["counts"] for i, k in ((0, 0), (1, 2))}
    assert box_iou(mask_boxes(decode_rle([masks[1]], 128, 128)), np.float32([[0, 32, 128, 64]]))[0, 0] < 0.5
    assert found.cut == 2 and list(found.lines())[-1] == "2 boxes cut out by the run's segmenter"
    standing = Reviews({review.about: review for review in found.reviews})
    assert edits_of(made, [image], standing).reviews == ()


def test_a_box_in_which_the_segmenter_finds_nothing_is_refused(
    made: Build, images: dict[int, AnnotatedImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    segment = type(made.stages.segmenter).segment

    def nothing(*arguments: Any) -> Any:
        (found,) = segment(*arguments)
        return [replace(found, masks=np.zeros_like(found.masks))]

    monkeypatch.setattr(type(made.stages.segmenter), "segment", nothing)
    image = replace(
        images[1], objects=(*images[1].objects, AnnotatedObject(None, "tree", None, (1, 1, 9, 9), where="x"))
    )
    with pytest.raises(RunError, match=r"^x: the segmenter finds no object in the box; draw its mask instead$"):
        edits_of(made, [image], Reviews())


def test_a_label_without_pixels_comes_back_as_its_box(made: Build, tmp_path: Path) -> None:
    """As somebody has accepted it, and CVAT has no empty masks."""
    build = Build.open(Run(copytree(made.run.root.parent, tmp_path / "many") / "run-0001"))
    file, mark = build.run.paths.table("labels", 0), build.run.marks.read("label", 0)
    rows = build.run.tables.read(file).to_pylist()
    rows[0] |= {"rle": square(0, 0, 0)["counts"], "area": 0}
    build.run.tables.write(file, pa.Table.from_pylist(rows, label_schema(rows)))
    assert mark and rows[0]["image_id"] == 1
    build.run.marks.commit("label", 0, mark.inputs, [file])
    with ReviewLog.open(build.run.paths.reviews) as log:
        log.add(Review(1, None, "accept", None, "borderline", labels_digests(build, 0, {1})[1]))
        standing = log.standing()
    with build.run.lock():
        judge_run(build)
    (image,) = (image for image in exported_images(build).values() if image.image_id == 1)
    box = tuple(rows[0]["bbox_xyxy"])
    assert edits_of(build, [with_object(image, 0, rle=None, box_xyxy=box)], standing).reviews == ()
    assert edits_of(build, [image], standing).reviews == ()


def test_a_verdict_of_the_page_on_the_image_stays(made: Build, images: dict[int, AnnotatedImage]) -> None:
    image = with_object(images[1], 0, category="orange")
    digest = edits_of(made, [image], Reviews()).reviews[0].labels
    rejected = Review(1, None, "reject", None, "borderline", digest)
    assert [r[:3] for r in reviews(edits_of(made, [image], Reviews({rejected.about: rejected})))] == [
        (1, 0, "wrong_class")
    ]


def test_a_file_of_before_the_last_judging_is_compared_with_what_is_now(
    made: Build, images: dict[int, AnnotatedImage], tmp_path: Path
) -> None:
    """An added object has no number in the file; it is the label that it has become. What is as the models made it is
    accepted."""
    root = copytree(made.run.root.parent, tmp_path / "many") / "run-0001"
    build = Build.open(Run(root))
    image = with_object(images[1], 0, category="orange", rle=smaller(images[1].objects[0].rle))
    image = replace(image, objects=(*image.objects, AnnotatedObject(None, "orange", square(5, 7, 9), None)))
    with ReviewLog.open(build.run.paths.reviews) as log:
        log.add(*edits_of(build, [image], log.standing()).reviews)
        with build.run.lock():
            judge_run(build)
        standing = log.standing()
    after = {(i, c) for i, c, _ in exported_labels(build)}
    assert (1, "orange") in after
    assert edits_of(build, [image], standing).reviews == ()
    taken_back = edits_of(build, [exported_images(build)[1]], Reviews())  # The run will not have the label.
    assert reviews(taken_back) == [(1, 2, "added", 2, True), (1, None, "corrected", None, False)]
    found = edits_of(build, [images[1]], standing)  # the export of before the edits
    assert [r for r in reviews(found) if r[1] is not None] == [
        (1, 0, "accept", None, False),
        (1, 2, "removed", 2, True),
    ]
