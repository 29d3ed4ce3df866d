"""What annotators' verdicts do: classes, masks, labels that go and come, and images that they corrected."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from annotated import square
from judged import iou, objects, of_images, of_instances, table

from synthgen.base.sealed import sha256_json
from synthgen.errors import RunError
from synthgen.judging.corrections import corrected, corrections
from synthgen.judging.counting import label_precision, quality_of
from synthgen.judging.figures import asked_found
from synthgen.judging.reviews import PAGE_VERDICTS, Review, ReviewLog, Reviews, read_reviews
from synthgen.judging.samples import Margins

IMAGES = [iou(0.9, 0.4), iou(0.9), iou(0.9, 0.9), iou(0.4)]
FILTERS = {"predicted_iou": {"min": 0.8}}
MASK = square(8, 16, 10, 64, 64)["counts"]


def said(image_id: int, instance: int | None, verdict: str, category_id: int | None = None, rle: str | None = None,
         queue: str = "import") -> Review:  # fmt: skip
    return Review(image_id, instance, verdict, category_id, queue, "d", "now", "Ann", rle)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("verdicts", "images", "instances"),
    [
        ([said(1, 1, "removed")], "A A A R", "k d k k k r"),  # it was the only bad label of its image
        ([said(4, 0, "removed")], "R A A A", "k r k k k d"),
        ([said(1, 1, "bad_mask", rle=MASK)], "A A A R", "k k k k k r"),
        ([said(1, 1, "wrong_class", 2, MASK)], "A A A R", "k k k k k r"),
        ([said(2, 0, "ignored")], "R A A R", "k r i k k r"),
        ([said(1, 2, "added", 2, MASK)], "R A A R", "k r k k k k r"),
        ([said(1, 2, "added", 2, MASK), said(1, None, "corrected")], "A A A R", "k k k k k k r"),
        ([said(4, None, "corrected"), said(4, 0, "removed")], "R A A A", "k r k k k d"),
        ([said(1, 2, "reject", 2, MASK)], "R A A R", "k r r k k k r"),  # said on the page of a label that was added
        ([said(1, 2, "removed", 2, MASK), said(1, 1, "removed")], "A A A R", "k d d k k k r"),
    ],
)
def test_verdicts_of_annotators_override_filters(verdicts: list[Review], images: str, instances: str) -> None:
    found = table(IMAGES, FILTERS, reviews=verdicts, count=9)
    short = {"accepted": "A", "surplus": "S", "rejected": "R"}
    assert " ".join(short[v] for v, _ in of_images(found)) == images
    assert " ".join(v[0] for v, _ in of_instances(found)) == instances
    passed = found.instances["passed"].to_numpy()
    assert passed[~found.tables.added].tolist() == [False, False, True, True, True, False]
    assert not passed[found.tables.added].any()  # No filter has measured them.
    assert found.images["passed"].tolist() == [False, True, True, False]


def test_a_corrected_image_keeps_what_filters_drop_and_ignore() -> None:
    """Annotators were not shown dropped labels. What the filters say of the image itself counts no more, except that
    it is like another one."""
    images = [
        {"objects": [{"predicted_iou": 0.9, "mask_area": 0.1}, {"predicted_iou": 0.1, "mask_area": 0.1},
                     {"predicted_iou": 0.9, "mask_area": 0.9}], "sharpness": 0.1, "near_duplicate": 1},
        {"objects": [], "sharpness": 0.1, "near_duplicate": 1},
    ]  # fmt: skip
    filters = {
        "predicted_iou": {"min": 0.5, "on_fail": "drop"},
        "mask_area": {"min": None, "max": 0.5, "on_fail": "ignore"},
        "sharpness": {"min": 0.5},
        "near_duplicate": {},
    }
    found = table(images, filters, [said(1, None, "corrected"), said(2, None, "corrected")], count=9)
    assert of_images(found) == [("accepted", []), ("rejected", ["near_duplicate"])]
    assert [v for v, _ in of_instances(found)] == ["kept", "dropped", "ignored"]


def test_numbers_are_of_the_corrected_labels() -> None:
    """Image 1: an apple that is a pear; image 2: one apple goes and a pear comes, in a mask of 100 px."""
    images = [objects((1, 0.9)), objects((1, 0.9), (1, 0.2))]
    reviews = [said(1, 0, "wrong_class", 2), said(2, 1, "removed"), said(2, 2, "added", 2, MASK)]
    found = table(images, FILTERS, reviews, count=2)
    assert found.tables.labels["instance"].tolist() == [0, 0, 1, 2]
    assert found.categories.tolist() == [2, 1, 1, 2]
    assert found.tables.labels["area"].tolist() == [9, 9, 9, 100]
    assert found.tables.boxes.tolist()[-1] == [8, 16, 18, 26]
    assert np.isnan(found.tables.measures["predicted_iou"][3])
    quality = quality_of(found)
    assert (quality.accepted, quality.instances) == (2, 3)
    assert {name: c.accepted for name, c in quality.classes.items()} == {"apple": 1, "pear": 2}
    assert quality.classes["apple"].reasons == {"review_removed": 1, "not_found": 1}
    assert [(row["asked"], row["found"], row["instances"]) for row in asked_found(found)] == [
        ("apple", "apple", 1), ("apple", "pear", 2),
    ]  # fmt: skip
    margins = Margins.of(found.filters, found.tables)  # An added label is not the worst of its image.
    assert margins.label.tolist() == [0, 2]


def test_a_correction_of_a_sampled_label_says_that_it_was_wrong() -> None:
    """Even if somebody accepts it as corrected, and not if it was added: nobody has drawn it."""
    reviews = [
        said(3, 1, "bad_mask", rle=MASK, queue="random"), said(2, 0, "accept", queue="random"),
        said(3, 0, "accept", rle=MASK, queue="random"), said(3, 2, "added", 1, MASK, queue="random"),
    ]  # fmt: skip
    p = label_precision(table(IMAGES, FILTERS, reviews, count=9))
    assert (p.population, p.verdicts, p.right) == (3, 3, 1)


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(RunError, match="a mask of image 1 that does not fit it"):
        table(IMAGES, FILTERS, [said(1, 0, "bad_mask", rle=square(1, 1, 5, 32, 32)["counts"])])


def test_tables_are_not_changed_in_place() -> None:
    found = table(IMAGES, FILTERS, count=9)
    before = {name: values.copy() for name, values in found.tables.labels.items()}
    reviews = Reviews(
        {review.about: review for review in (said(1, 0, "wrong_class", 2, MASK), said(4, 1, "added", 1, MASK))}
    )
    masks = corrections(reviews, found.tables.category, 64, 64)
    assert len(corrected(found.tables, reviews, masks, found.filters).holder) == 7
    assert all(np.array_equal(found.tables.labels[name], values) for name, values in before.items())


def test_any_number_of_masks_is_taken() -> None:
    """pycocotools sums the pixels of at most 255 masks at once."""
    reviews = [said(2, k, "added", 1, MASK) for k in range(1, 300)]
    found = table(IMAGES, FILTERS, reviews, count=9)
    assert found.tables.labels["area"].tolist() == [9] * 3 + [100] * 299 + [9] * 3


# The log


def test_an_earlier_version_does_not_misread_a_log(tmp_path: Path) -> None:
    """It knows lines with a verdict's fields, of which it ignores others, and lines that take one back. A line with
    more than it knows has neither form, so that it says that the line is damaged."""
    path = tmp_path / "reviews.jsonl"
    known = said(1, 0, "accept", queue="random")
    new = [
        said(1, 0, "removed"),
        said(1, 0, "bad_mask", rle=MASK),
        said(1, 2, "added", 1, MASK),
        said(1, None, "corrected"),
    ]
    with ReviewLog.open(path) as log:
        log.add(known)
        for review in new:
            log.add(review)
        log.add(known, known)
    first, *others = (orjson.loads(line) for line in path.read_bytes().splitlines())
    assert first.keys() == {
        "image_id",
        "instance",
        "verdict",
        "category_id",
        "queue",
        "labels",
        "at",
        "by",
        "after",
        "seal",
    }
    assert first["verdict"] in PAGE_VERDICTS
    assert all(line.keys() == {"reviews", "after", "seal"} for line in others)
    found = read_reviews(path)
    assert len(found.lines) == 6 and found.of[1, 2] == new[2]
    with ReviewLog.open(path) as log:
        assert log.undo() == (known, known) and log.last == (new[3],)


def test_the_digest_of_a_log_of_an_earlier_version_stays(tmp_path: Path) -> None:
    path = tmp_path / "reviews.jsonl"
    with ReviewLog.open(path) as log:
        log.add(said(2, None, "reject", queue="borderline"))
        log.add(said(1, 0, "wrong_class", 3, queue="random"))
    rows = [[1, 0, "wrong_class", 3, "random", "d"], [2, None, "reject", None, "borderline", "d"]]
    assert read_reviews(path).digest() == sha256_json(rows)
    with ReviewLog.open(path) as log:
        log.add(said(2, 1, "bad_mask", rle=MASK))
    assert read_reviews(path).digest() == sha256_json([rows[0], [2, 1, "bad_mask", None, "import", "d", MASK], rows[1]])


def test_what_is_unknown_in_a_line_is_not_ignored(tmp_path: Path) -> None:
    """A later version may say more there."""
    path = tmp_path / "reviews.jsonl"
    with ReviewLog.open(path) as log:
        log._append({**said(1, 0, "accept", queue="random").record(), "depth": 3})
    with pytest.raises(RunError, match="line 1 is damaged"):
        read_reviews(path)


def test_reviews_say_the_same_whoever_gave_them() -> None:
    review = said(1, 0, "bad_mask", rle=MASK)
    assert review.says(replace(review, by="Ben", at="later", queue="random"))
    different: list[dict[str, Any]] = [{"rle": None}, {"category_id": 1}, {"labels": "e"}, {"verdict": "accept"}]
    assert not any(review.says(replace(review, **change)) for change in different)
