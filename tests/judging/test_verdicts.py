"""Small tables with known verdicts."""

import numpy as np
import pytest
from judged import PEARS, iou, lists, objects, of_images, of_instances, table

from synthgen.judging.counting import quality_of
from synthgen.judging.quality import ClassCount
from synthgen.judging.summary import headline, shortfall
from synthgen.judging.verdicts import select


@pytest.mark.parametrize(
    ("limits", "value", "kept"),
    [
        ({"min": 0.9}, 0.9, True),  # of float32, which lies below the float64 of that name
        ({"min": 0.9}, np.nextafter(np.float32(0.9), np.float32(0)), False),
        ({"min": None, "max": 0.3}, 0.3, True),  # of float32, which lies above
        ({"min": None, "max": 0.3}, np.nextafter(np.float32(0.3), np.float32(1)), False),
        ({"min": 0.2, "max": 0.2}, 0.2, True),
        ({"min": None, "max": None}, -1e30, True),
        ({"min": None}, None, False),  # could not be measured
        ({"min": 0.5}, None, False),
    ],
)
def test_thresholds_are_inclusive(limits, value, kept):
    found = table([iou(value)], {"predicted_iou": limits})
    assert of_images(found) == [("accepted", []) if kept else ("rejected", ["predicted_iou"])]


@pytest.mark.parametrize(
    ("on_fail", "image", "instances"),
    [
        ("reject", "rejected", ["kept", "rejected"]),
        ("ignore", "accepted", ["kept", "ignored"]),
        ("drop", "accepted", ["kept", "dropped"]),
    ],
)
def test_what_becomes_of_a_failed_instance(on_fail, image, instances):
    found = table([iou(0.95, 0.1)], {"predicted_iou": {"min": 0.9, "on_fail": on_fail}})
    assert [v for v, _ in of_images(found)] == [image]
    assert of_instances(found) == [(instances[0], []), (instances[1], ["predicted_iou"])]


@pytest.mark.parametrize(
    ("first", "second", "outcome"),
    [
        ("drop", "ignore", "ignored"),
        ("ignore", "drop", "ignored"),
        ("drop", "reject", "rejected"),
        ("reject", "ignore", "rejected"),
        ("drop", "drop", "dropped"),
    ],
)
def test_the_strictest_outcome_holds(first, second, outcome):
    filters = {"predicted_iou": {"min": 0.9, "on_fail": first}, "mask_area": {"min": 0.1, "on_fail": second}}
    found = table([{"objects": [{"predicted_iou": 0.1, "mask_area": 0.01}]}], filters)
    assert of_instances(found) == [(outcome, ["predicted_iou", "mask_area"])]
    rejecting = [n for n, o in (("predicted_iou", first), ("mask_area", second)) if o == "reject"]
    assert of_images(found) == [("rejected" if rejecting else "accepted", rejecting)]


@pytest.mark.parametrize("on_fail", ["reject", "ignore", "drop"])
def test_an_object_without_a_pixel_always_rejects(on_fail):
    """It was asked for or grounded, so it may stand there unlabelled."""
    filters = {"predicted_iou": {"min": 0.5, "on_fail": on_fail}}
    image = {"objects": [{"predicted_iou": 0.9}, {"predicted_iou": 0.9, "area": 0}]}
    found = table([image], filters)
    assert of_images(found) == [("rejected", ["empty_mask"])]
    assert of_instances(found) == [("kept", []), ("rejected", ["empty_mask"])]
    assert quality_of(found).reasons["empty_mask"].images == 1
    assert quality_of(found).reasons["empty_mask"].advice == ""


def test_every_reason_is_given_once():
    filters = {"predicted_iou": {"min": 0.9}, "sharpness": {"min": 50}, "mask_area": {"min": 0.1}}
    image = {"objects": [{"predicted_iou": 0.1, "mask_area": 0.5}] * 2, "sharpness": 3.0}
    found = table([image, {"sharpness": 99.0}], filters)
    assert of_images(found) == [("rejected", ["predicted_iou", "sharpness"]), ("accepted", [])]


def test_near_duplicates_are_sought_among_what_passes_in_order_of_id():
    filters = {"sharpness": {"min": 50}, "near_duplicate": {"max_distance": 0}}
    rows = [(1, 7), (99, 7), (99, 8), (99, 7), (99, 8)]  # sharpness, hash: the first is rejected for another reason
    found = table([{"sharpness": s, "near_duplicate": h} for s, h in rows], filters)
    assert of_images(found) == [
        ("rejected", ["sharpness"]),
        ("accepted", []),
        ("accepted", []),
        ("rejected", ["near_duplicate"]),
        ("rejected", ["near_duplicate"]),
    ]


def test_surplus_is_what_comes_after_the_count():
    found = table([{"sharpness": s} for s in (99, 1, 99, 99, 99, 1, 99)], {"sharpness": {"min": 50}})
    assert [v for v, _ in of_images(found)] == [
        "accepted", "rejected", "accepted", "accepted", "surplus", "rejected", "surplus",
    ]  # fmt: skip
    quality = quality_of(found)
    assert (quality.made, quality.accepted, quality.surplus, quality.rejected) == (7, 3, 2, 2)
    assert quality.passed == pytest.approx(5 / 7)
    assert quality.missing == 0
    assert quality.reasons["sharpness"].advice == ""  # nothing is missing


# Quotas


@pytest.mark.parametrize(
    ("held", "count", "quotas", "accepted"),
    [
        # "-" is rejected; the letters are classes of kept instances
        ("a b a b", 2, {}, "11.."),
        ("a b a b", 2, {"b": 2}, "11.1"),  # the third holds nothing that is short
        ("- a - b", 2, {"b": 1}, ".1.1"),
        ("b b a b", 2, {"b": 2}, "11.."),  # met by the first images
        ("a a ab bb b", 1, {"a": 1, "b": 2}, "1.11."),  # 1 b after the third, 3 after the fourth
        ("a  b b b", 2, {"b": 2}, "1111."),  # an empty image is the second of two
        ("a c  b a b", 2, {"a": 2, "b": 1}, "11.11."),
        ("aa a", 1, {"a": 2}, "1."),
        ("a a a", 1, {"b": 1}, "1.."),  # never met
        ("- -", 1, {"a": 1}, ".."),
        ("", 1, {"a": 1}, "1"),
    ],
)
def test_images_are_selected_in_order(held, count, quotas, accepted):
    images = held.split(" ")
    classes = lists([["abc".index(c) + 1 for c in text if c != "-"] for text in images])
    least = {"abc".index(c) + 1: n for c, n in quotas.items()}
    found = select(np.array([text != "-" for text in images]), classes, count, least)
    assert "".join(".1"[take] for take in found.tolist()) == accepted


def test_later_images_never_change_what_is_accepted():
    for seed in range(40):
        rng = np.random.default_rng(seed)
        held = [rng.integers(0, 4, rng.integers(0, 4)).tolist() for _ in range(60)]
        passing = rng.random(60) < 0.6
        count, quotas = int(rng.integers(1, 20)), {c: int(rng.integers(0, 25)) for c in range(3)}
        whole = select(passing, lists(held), count, quotas)
        for n in (1, 7, 30, 59):
            np.testing.assert_array_equal(select(passing[:n], lists(held[:n]), count, quotas), whole[:n])
        # and what is accepted is `count` images and every quota, where there are as many
        assert sum(whole) >= min(count, sum(passing))
        for c, least in quotas.items():
            there = sum(row.count(c) for row, ok in zip(held, passing, strict=True) if ok)
            kept = sum(row.count(c) for row, take in zip(held, whole, strict=True) if take)
            assert kept >= min(least, there)


def test_a_quota_counts_kept_instances_of_accepted_images():
    """`count` is 3. A dropped pear and a rejected image's pear are none."""
    images = [
        objects((2, 0.9)),
        objects((2, 0.1), (1, 0.9)),  # its pear is dropped
        objects((1, 0.9)),
        objects((2, 0.1)),  # holds no kept pear
        objects((1, 0.9)),
        objects((2, 0.9), (1, 0.9)),
        {**objects((2, 0.9)), "sharpness": 1.0},
        objects((2, 0.9), (2, 0.9)),  # one is enough, and both are there
        objects((2, 0.9)),
    ]
    filters = {"predicted_iou": {"min": 0.5, "on_fail": "drop"}, "sharpness": {"min": 50}}
    found = table([{"sharpness": 99.0, **i} for i in images], filters, **PEARS)
    assert [v for v, _ in of_images(found)] == [
        "accepted", "accepted", "accepted", "surplus", "surplus", "accepted", "rejected", "accepted", "surplus",
    ]  # fmt: skip
    quality = quality_of(found)
    assert (quality.accepted, quality.wanted, quality.surplus, quality.instances) == (5, 3, 3, 7)
    assert quality.classes["pear"] == ClassCount(8, 4, 3, 3, {"predicted_iou": 2, "sharpness": 1})
    assert quality.classes["apple"] == ClassCount(4, 3)
    assert not quality.is_short and not quality.short and list(shortfall(quality)) == []
    assert headline(quality).startswith("3 of 3 images accepted, and 2 more for quotas, with 7 instances, 3 to spare;")


def test_no_instance_at_all():
    found = table([{"sharpness": 99.0}, {"sharpness": 1.0}], {"predicted_iou": None, "sharpness": {"min": 50}})
    assert of_images(found) == [("accepted", []), ("rejected", ["sharpness"])]
    assert len(found.instances) == 0
    assert quality_of(found).instances == 0
    assert found.table().num_rows == 2


def test_no_filters():
    found = table([iou(), {"objects": [{"area": 3}]}, {"objects": [{"area": 0}]}])
    assert of_images(found) == [("accepted", []), ("accepted", []), ("rejected", ["empty_mask"])]


def test_table_holds_images_and_instances():
    found = table([iou(0.95), iou(0.1), iou()], {"predicted_iou": {"min": 0.9}}).table().to_pylist()
    assert [(r["image_id"], r["instance"], r["verdict"], r["reasons"], r["category_id"]) for r in found] == [
        (1, None, "accepted", [], None),
        (2, None, "rejected", ["predicted_iou"], None),
        (3, None, "accepted", [], None),
        (1, 0, "kept", [], 1),
        (2, 0, "rejected", ["predicted_iou"], 1),
    ]
    assert {r["split"] for r in found[:3]} <= {"train", "val", "test"}
    assert [r["shard"] for r in found] == [0, 0, 1, 0, 0]
