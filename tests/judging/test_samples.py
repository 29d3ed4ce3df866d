"""The images that a report shows, of tables with known numbers."""

from typing import Any

import pytest
from judged import table

from synthgen.judging.samples import SHOWN, Margins, duplicates, samples
from synthgen.judging.verdicts import Compared


def test_margins_known_by_hand() -> None:
    """0.9, 0.5, 0.7, 0.3 have quartiles 0.45 and 0.75; the threshold is 0.6."""
    images = [{"objects": [{"predicted_iou": v}]} for v in (0.9, 0.5, 0.7, 0.3)]
    found = table(images, {"predicted_iou": {"min": 0.6}}, count=99)
    listed = samples(found, Margins.of(found.filters, found.tables))
    assert [row["image_id"] for row in listed["worst"]] == [4, 2]
    margins = {row["image_id"]: row["nearest"]["margin"] for kind in listed.values() for row in kind}
    assert margins == pytest.approx({1: 0.3 / 0.3, 2: -0.1 / 0.3, 3: 0.1 / 0.3, 4: -0.3 / 0.3}, rel=1e-5)
    assert listed["worst"][0]["nearest"]["instance"] == 0


def test_every_reason_has_its_turn_among_the_worst() -> None:
    images: list[dict[str, Any]] = [{"objects": [{"predicted_iou": 0.01 * k, "stability": 0.9}]} for k in range(60)]
    images += [{"objects": [{"predicted_iou": 0.9, "stability": 0.4}]}]
    found = table(images, {"predicted_iou": {"min": 0.8}, "stability": {"min": 0.5}}, count=99)
    worst = [row["image_id"] for row in samples(found, Margins.of(found.filters, found.tables))["worst"]]
    assert worst[:3] == [1, 61, 2] and len(worst) == SHOWN


def test_duplicates_stand_beside_what_they_are_like() -> None:
    images = [{"near_duplicate": v} for v in (0b0, 0xFF00, 0b1, 0xFF01, 0xFFFF0000)]
    found = table(images, {"near_duplicate": {"max_distance": 2}}, count=99)
    assert duplicates(found) == [
        {"filter": "near_duplicate", "image_id": 3, "like": 1}, {"filter": "near_duplicate", "image_id": 4, "like": 2},
    ]  # fmt: skip
    compared = found.compared["near_duplicate"]
    assert isinstance(compared, Compared) and compared.failed.tolist() == [False, False, True, True, False]
