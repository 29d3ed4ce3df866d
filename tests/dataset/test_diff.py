"""Datasets that differ in one thing, and what is said of them: exactly that."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builds import changed, numbers

from synthgen.dataset.diff import Diff, diff
from synthgen.dataset.growth import grow
from synthgen.dataset.labels import Object, changes
from synthgen.dataset.sides import side_of
from synthgen.errors import RunError
from synthgen.judging.reviews import Review, ReviewLog, labels_digest
from synthgen.masks import encode_rle
from synthgen.pipeline.build import Build
from synthgen.pipeline.export import content_hash

COUNT = 300  # images of the test of memory


def compare(a: Path, b: Path, by: Any = None) -> Diff:
    return diff(side_of(a), side_of(b), by)


def ids(images: Any) -> set[int]:
    return {image.id for image in images}


def verdicts(build: Build) -> Any:
    return build.run.tables.read(build.run.paths.verdicts).to_pandas()


def accepted(build: Build) -> dict[int, str]:
    """Image id -> split."""
    rows = verdicts(build)
    rows = rows[rows["instance"].isna() & (rows["verdict"] == "accepted")]
    return dict(zip(rows["image_id"], rows["split"], strict=True))


@pytest.fixture
def other(copied: Path, run_through: Callable[..., Any], finished: Build) -> Callable[..., Build]:
    """A copy of the finished run, with keys of its spec changed."""
    return lambda changes: run_through(changed(finished.run.facts.read_spec(), changes), copied)


def test_a_copy_is_equal(finished: Build, copied: Path) -> None:
    found = compare(finished.run.root, copied / "fruit" / "run-0001")
    assert found.is_equal and found.by == "content"
    assert found.a.content_hash == found.b.content_hash == content_hash(finished)
    assert found.a.images == len(accepted(finished)) > 0 and found.a.objects == found.b.objects > 0
    assert found.classes.total_variation == found.sizes.total_variation == 0
    assert {spread.wasserstein for spread in found.scores.values()} == {0.0}


def test_another_threshold_takes_images_away_and_nothing_else(finished: Build, other: Callable[..., Build]) -> None:
    sharp = float(np.median(numbers(finished, "sharpness")))
    changed_run = other({"filters.sharpness.min": sharp})
    found = compare(finished.run.root, changed_run.run.root)
    gone = accepted(finished).keys() - accepted(changed_run).keys()
    assert gone and ids(found.removed) == gone
    assert (found.added, found.relabelled, found.moved) == ((), (), ())
    assert found.a.content_hash != found.b.content_hash == content_hash(changed_run)
    assert not found.is_equal and found.b.images == found.a.images - len(gone)
    back = compare(changed_run.run.root, finished.run.root)
    assert ids(back.added) == gone and back.removed == ()


def test_another_order_of_splits_moves_images_and_nothing_else(finished: Build, other: Callable[..., Build]) -> None:
    splits = finished.spec.splits
    moved_run = other({"splits": dict(reversed(list(splits.items())))})
    found = compare(finished.run.root, moved_run.run.root)
    before, after = accepted(finished), accepted(moved_run)
    expected = {i: (before[i], after[i]) for i in before if before[i] != after[i]}
    assert expected and {p.a.id: (p.a.split, p.b.split) for p in found.moved} == expected
    assert (found.added, found.removed, found.relabelled) == ((), (), ())
    assert found.classes.total_variation == 0 < (found.splits.total_variation or 0)


def test_a_review_changes_one_label_and_nothing_else(finished: Build, other: Callable[..., Build]) -> None:
    build = other({})
    rows = build.run.tables.read(build.run.paths.table("labels", 0)).to_pylist()
    row = next(r for r in rows if r["image_id"] in accepted(build))
    of_image = [r for r in rows if r["image_id"] == row["image_id"]]
    right = 1 + row["category_id"] % 3
    with ReviewLog.open(build.run.paths.reviews) as log:
        log.add(Review(row["image_id"], row["instance"], "wrong_class", right, "random", labels_digest(of_image)))
    with pytest.raises(
        RunError, match="has not been judged by its spec and reviews yet; judge it first: synthgen judge"
    ):
        compare(finished.run.root, build.run.root)
    build = other({})
    found = compare(finished.run.root, build.run.root)
    assert (found.added, found.removed, found.moved) == ((), (), ())
    (pair,) = found.relabelled
    (change,) = pair.changes
    assert pair.a.id == pair.b.id == row["image_id"] and change.kinds == ("class",) and change.iou == 1
    names = {c.id: c.name for c in build.spec.categories}
    assert (change.a and change.a.category, change.b and change.b.category) == (names[row["category_id"]], names[right])
    assert found.classes.counts[names[right]][1] == found.classes.counts[names[right]][0] + 1


# COCO files


def coco(folder: Path, images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> Path:
    """A COCO file of the classes cup (7) and car (3), with the annotations before all else."""
    categories = [{"id": 7, "name": "cup"}, {"id": 3, "name": "car"}]
    size = {"height": 20, "width": 30}
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "labels.json"
    content = {"annotations": annotations, "images": [{**size, **i} for i in images], "categories": categories}
    file.write_text(json.dumps(content))
    return file


@cache
def rle(x: int, y: int, width: int, height: int) -> dict[str, Any]:
    mask = np.zeros((1, 20, 30), bool)
    mask[0, y : y + height, x : x + width] = True
    return encode_rle(mask)[0]


def label(number: int, image: int, category: int, *box: int, **more: Any) -> dict[str, Any]:
    """A rectangle, x, y, width and height in px."""
    about = {"id": number, "image_id": image, "category_id": category, "bbox": [*box], "area": box[2] * box[3]}
    return {**about, "iscrowd": 0, "segmentation": rle(*box), **more}


@pytest.mark.parametrize("segmentation", ["rle", "polygon"])
def test_a_run_equals_its_own_export(finished: Build, other: Callable[..., Build], segmentation: str) -> None:
    """Polygons are other words for the same masks."""
    build = other({"exporters.coco": {"segmentation": segmentation}})
    found = compare(finished.run.root, build.run.root / "coco")
    assert found.is_equal and found.by == "content" and found.a.objects == found.b.objects > 0


def test_ids_names_and_order_do_not_matter(tmp_path: Path) -> None:
    for place, names in (("a", ("p", "q")), ("b", ("r", "s"))):
        (tmp_path / place).mkdir()
        for name, content in zip(names, (b"one", b"two"), strict=True):
            (tmp_path / place / f"{name}.png").write_bytes(content)
    first = [{"id": 1, "file_name": "p.png"}, {"id": 2, "file_name": "q.png"}]
    second = [{"id": 90, "file_name": "s.png"}, {"id": 80, "file_name": "r.png"}]
    labels = [label(1, 1, 7, 2, 2, 5, 5), label(2, 1, 3, 9, 9, 4, 4), label(3, 2, 7, 0, 0, 3, 3)]
    others = [label(5, 90, 7, 0, 0, 3, 3), label(6, 80, 3, 9, 9, 4, 4), label(7, 80, 7, 2, 2, 5, 5)]
    a, b = coco(tmp_path / "a", first, labels), coco(tmp_path / "b", second, others)
    assert compare(a, b).is_equal
    by_name = compare(a, b, "name")
    assert {i.name for i in by_name.removed} == {"p", "q"} and {i.name for i in by_name.added} == {"r", "s"}
    (tmp_path / "b" / "r.png").write_bytes(b"three")
    found = compare(a, b)
    assert (ids(found.removed), ids(found.added), found.alike) == ({1}, {80}, 0)


def test_the_same_picture_several_times(tmp_path: Path) -> None:
    """Those with the same labels go together: one is relabelled and one is gone, though all have the same bytes."""
    names = ("p", "q", "r")
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        for name in names:
            (tmp_path / place / f"{name}.png").write_bytes(b"one")
    images = [{"id": i, "file_name": f"{name}.png"} for i, name in enumerate(names)]
    labels = [label(1, 0, 7, 1, 1, 3, 3), label(2, 1, 7, 5, 5, 5, 5), label(3, 2, 7, 9, 9, 6, 6)]
    a = coco(tmp_path / "a", images, labels)
    images[2]["id"] = 5
    b = coco(tmp_path / "b", images[1:], [label(8, 5, 7, 9, 9, 6, 6), label(9, 1, 3, 5, 5, 5, 5)])
    found = compare(a, b)
    (pair,) = found.relabelled
    assert (pair.a.id, pair.b.id) == (1, 1) and [c.kinds for c in pair.changes] == [("class",)]
    assert ids(found.removed) == {0} and found.added == ()


def test_without_images_names_match(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "train/p.jpg"}]
    a = coco(tmp_path / "a", images, [label(1, 1, 7, 1, 1, 9, 9)])
    b = coco(tmp_path / "b", [{"id": 4, "file_name": "p.png"}], [label(1, 4, 7, 1, 1, 9, 9, iscrowd=1)])
    found = compare(a, b)
    assert found.by == "name" and [c.kinds for p in found.relabelled for c in p.changes] == [("ignore",)]
    assert (found.a.objects, found.b.objects, found.b.ignored) == (1, 0, 1)
    with pytest.raises(RunError, match="has no images beside its annotations; add --match name"):
        compare(a, b, "content")


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"images": [{"id": 1, "file_name": "../p.png"}]}, r"takes names of files within its folder"),
        ({"images": [{"id": "1", "file_name": "p.png"}]}, "'id' of an entry of 'images' is '1'; takes a whole number"),
        ({"images": [{"id": 1, "file_name": "p"}] * 2}, "has two images with the id 1"),
        ({"annotations": [label(1, 2, 7, 1, 1, 2, 2)]}, "has labels of image 2, which is not among its images"),
        ({"annotations": [label(1, 1, 9, 1, 1, 2, 2)]}, "has an annotation of category 9, which its 'categories' lack"),
        ({"annotations": 3}, "is no COCO file: its 'annotations' is no list"),
    ],
)
def test_a_broken_coco_file_is_one_clear_line(tmp_path: Path, broken: dict[str, Any], message: str) -> None:
    good = coco(tmp_path / "a", [{"id": 1, "file_name": "p.png"}], [])
    bad = coco(tmp_path / "b", [{"id": 1, "file_name": "p.png"}], [])
    bad.write_text(json.dumps(json.loads(bad.read_text()) | broken))
    with pytest.raises(RunError, match=message):
        compare(good, bad)


def test_memory_is_bounded_by_two_kilobytes_an_image(tmp_path: Path) -> None:
    """With three labels and two scores each, all of which change."""

    def many(place: str, shift: int) -> Path:
        images = [{"id": i, "file_name": f"{i}.png"} for i in range(COUNT)]
        scores = {"scores": {"iou": 0.5, "clip": 0.25}}
        boxes = [(1 + shift, 1, 9, 9), (12 + shift, 1, 8, 8), (5, 11 + shift, 6, 6)]
        labels = [label(3 * i + k, i, 7, *box, **scores) for i in range(COUNT) for k, box in enumerate(boxes)]
        return coco(tmp_path / place, images, labels)

    a, b = many("a", 0), many("b", 1)
    tracemalloc.start()
    found = compare(a, b)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found.relabelled) == COUNT and len(found.relabelled[0].changes) == 3
    assert peak < 2**21 + COUNT * 2 * 2048


# A grown dataset


def test_a_grown_dataset_against_its_only_run(finished: Build, other: Callable[..., Build]) -> None:
    build = other({"grow": True})
    grow(build)
    merged = build.run.root.parent / "dataset"
    found = compare(finished.run.root, merged)
    assert found.is_equal and found.a.objects == found.b.objects > 0
    other({"grow": True, "filters.sharpness.min": 1e9})
    with pytest.raises(RunError, match="have changed since they were merged; run the spec again to merge them"):
        compare(finished.run.root, merged)


# Objects of an image


def squares(*boxes: tuple[int, int, int, int], category: str = "cup", ignore: bool = False) -> list[Object]:
    return [Object(category, tuple(map(float, box)), ignore, rle(*box)) for box in boxes]  # type: ignore[arg-type]


A, MOVED, FAR = (2, 2, 10, 10), (3, 2, 10, 10), (16, 12, 6, 6)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (squares(A, FAR), squares(FAR, A), []),
        (squares(A, A), squares(A), [("removed",)]),
        (squares(A), squares(A, FAR), [("added",)]),
        (squares(A), squares(FAR), [("removed",), ("added",)]),
        (squares(A), squares(MOVED), [("mask",)]),
        (squares(A), squares(MOVED, category="car", ignore=True), [("class", "mask", "ignore")]),
        # Of two that overlap an object alike, the one of its class is the same object.
        (squares(A), squares(A, category="car") + squares(A, ignore=True), [("ignore",), ("added",)]),
        (
            [Object("cup", (2.0, 2.0, 10.0, 10.0), False, None)],
            [Object("cup", (2.0, 2.004, 10.0, 10.0), False, None)],
            [],
        ),
        (
            [Object("cup", (2.0, 2.0, 10.0, 10.0), False, None)],
            [Object("cup", (2.0, 3.0, 10.0, 10.0), False, None)],
            [("box",)],
        ),
        (squares(A), [Object("cup", (2.0, 2.0, 10.0, 10.0), False, None)], [("mask",)]),
        # The same pixels in other words: the first run has a length of zero.
        (
            [Object("cup", (0.0, 0.0, 1.0, 20.0), False, {"size": [20, 30], "counts": [0, 20, 580]})],
            squares((0, 0, 1, 20)),
            [],
        ),
        (
            [Object("cup", (0.0, 0.0, 9.0, 9.0), False, {"size": [9, 9], "counts": "garbled"})],
            squares((0, 0, 9, 9)),
            [("mask",)],
        ),
    ],
)
def test_what_changed_in_an_image(before: list[Object], after: list[Object], expected: list[tuple[str, ...]]) -> None:
    assert [change.kinds for change in changes(before, after, 20, 30)] == expected


def test_the_iou_of_a_changed_mask() -> None:
    (change,) = changes(squares(A), squares(MOVED), 20, 30)
    assert change.iou == pytest.approx(90 / 110)


# The command


def test_the_command_says_it_in_lines_and_its_exit_code(
    finished: Build, other: Callable[..., Build], synthgen: Callable[..., tuple[int, str, str]]
) -> None:
    run = finished.run.root
    code, out, _ = synthgen("diff", run, run)
    assert code == 0 and out.splitlines()[-1] == "equal: the same images, labels, splits and classes"
    sharp = float(np.median(numbers(finished, "sharpness")))
    build = other({"filters.sharpness.min": sharp})
    code, out, _ = synthgen("diff", run, build.run.root)
    gone = len(accepted(finished)) - len(accepted(build))
    assert code == 1 and out.splitlines()[-1] == f"different: {gone} images removed"
    assert f"the specs differ: filters.sharpness.min: None -> {sharp}" in out
    assert out.count("\nremoved: ") == gone
    code, out, _ = synthgen("diff", run, build.run.root, "--json")
    found = json.loads(out)
    assert code == 1 and not found["equal"] and len(found["removed"]) == gone and found["moved"] == []
    code, _, err = synthgen("diff", run, run.parent)
    assert code == 2 and err.startswith("error: ") and "cannot be compared; takes a run folder" in err
