"""Small tables with known verdicts."""

import re
from dataclasses import asdict
from typing import Any

import numpy as np
import orjson
import pytest
from judged import SPEC, lists, of_images, of_instances, table

from synthgen.judging.counting import quality_of
from synthgen.judging.quality import ClassCount, Quality
from synthgen.judging.summary import headline, shortfall
from synthgen.judging.verdicts import Verdicts, select
from synthgen.planning.jobs import split_of
from synthgen.spec import DatasetSpec


def iou(*values: float | None, **more: Any) -> dict[str, Any]:
    """An image with an object for each predicted IoU."""
    return {"objects": [{"predicted_iou": value} for value in values], **more}


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


def test_alone_counts_images_that_nothing_else_rejects():
    filters = {"predicted_iou": {"min": 0.9}, "sharpness": {"min": 50}}
    found = table([iou(0.1, sharpness=1), iou(0.1, sharpness=99), iou(0.95, sharpness=1), iou(sharpness=2)], filters)
    reasons = quality_of(found).reasons
    assert {n: (r.images, r.alone) for n, r in reasons.items()} == {"sharpness": (3, 2), "predicted_iou": (2, 1)}
    assert list(reasons) == ["sharpness", "predicted_iou"]  # the hungriest first


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


PEARS = {"classes": ["apple", {"name": "pear", "min_instances": 3}]}


def objects(*rows: tuple[int, float]) -> dict[str, Any]:
    """An image of (class, predicted IoU)."""
    return {"objects": [{"class": c, "predicted_iou": iou} for c, iou in rows]}


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


def test_what_a_class_lost_and_to_which_filters():
    """Of 9 pears that were asked for, 7 are lost; 2 more were found than were asked for."""
    filters = {
        "asked_found": {"min": 0.5},
        "predicted_iou": {"min": 0.5, "on_fail": "reject"},
        "mask_area": {"min": 0.1, "on_fail": "drop"},
    }
    pear = {"class": 2, "predicted_iou": 0.9, "mask_area": 0.5}
    apple, bad, small = {**pear, "class": 1}, {**pear, "predicted_iou": 0.1}, {**pear, "mask_area": 0.01}
    images = [
        {"objects": [pear]},
        {"objects": [bad, pear]},  # both are lost with their image
        {"objects": [{**apple, "predicted_iou": 0.1}, pear]},  # an apple's fault
        {"objects": [], "asked": [2], "asked_found": 0.0},
        {"objects": [bad], "asked": [2, 2], "asked_found": 0.4},  # for two reasons
        {"objects": [small, apple]},  # dropped
        {"objects": [pear] * 3 + [small] * 3, "asked": [2]},  # more than was asked for: no gain, and no loss
    ]
    found = table([{"asked_found": 1.0, **i} for i in images], filters, classes=["apple", "pear"], count=2,
                  min_instances_per_class=5)  # fmt: skip
    pears = quality_of(found).classes["pear"]
    assert (pears.asked, pears.accepted, pears.quota, pears.missing, pears.lost) == (9, 4, 5, 1, 7)
    assert pears.reasons == {"predicted_iou": 5, "asked_found": 3, "mask_area": 1}
    assert list(pears.reasons) == ["predicted_iou", "asked_found", "mask_area"]
    assert quality_of(found).classes["apple"] == ClassCount(2, 1, 5, 1, {"predicted_iou": 1})


def test_an_object_that_no_filter_missed():
    found = table([{**iou(0.9), "asked": [1, 1, 2]}], {"predicted_iou": {"min": 0.5}}, count=1)
    assert quality_of(found).classes == {
        "apple": ClassCount(2, 1, 0, 1, {"not_found": 1}),
        "pear": ClassCount(1, 0, 0, 1, {"not_found": 1}),
    }


SHORT = [objects((1, 0.9)), objects((2, 0.9)), objects((1, 0.9)), objects((2, 0.3), (1, 0.9)), objects((2, 0.2)),
         objects((1, 0.4))]  # fmt: skip


def test_a_short_class_is_told_with_what_ate_it():
    quality = quality_of(table(SHORT, {"predicted_iou": {"min": 0.5}}, **PEARS))
    assert (quality.missing, quality.is_short, list(quality.short)) == (0, True, ["pear"])
    assert list(shortfall(quality)) == [
        "1 of 2 classes are short, and the budget is spent (6 images made)",
        "pear: 1 of 3 instances; of 3 asked, 2 were lost: predicted_iou 2",
        "predicted_iou rejects 3 images, 3 of them alone; min: 0.2 would let 2 more with short classes through",
        # 2 pears at a yield of a third take 6, which are 6 / (7 / 6) images to the 6 that are made, of 3 wanted
        "raise `budget` to about 3.8, relax a filter, or ask for what the model makes well; "
        "then run the same command again",
    ]
    assert next(shortfall(quality, spent=False)) == "1 of 2 classes are short, and running the spec would add a round"
    assert not [line for line in shortfall(quality, spent=False) if "budget" in line]
    after = quality_of(table(SHORT, {"predicted_iou": {"min": 0.2}}, **PEARS))
    assert (after.accepted, after.is_short) == (quality.accepted + 2, False)  # as the advice says


def test_images_and_classes_may_both_be_short():
    quality = quality_of(table(SHORT, {"predicted_iou": {"min": 0.5}}, **PEARS, count=4))
    lines = list(shortfall(quality))
    assert "missing" in lines[0]
    assert lines[1].startswith("pear: 1 of 3 instances")
    assert lines[2].endswith("min: 0.4 would let 1 more through")  # an apple will do for an image


def test_no_budget_is_named_where_the_yield_is_none():
    quality = quality_of(table([objects((1, 0.9))] * 3 + [objects((2, 0.1))], {"predicted_iou": {"min": 0.5}}, **PEARS))
    assert list(shortfall(quality))[-1].startswith("raise `budget`, relax a filter")


def test_quotas_survive_json():
    quality = quality_of(table(SHORT, {"predicted_iou": {"min": 0.5}}, **PEARS))
    assert Quality.read(orjson.loads(orjson.dumps(asdict(quality)))) == quality


def test_counts_of_classes_splits_and_objects():
    filters = {"predicted_iou": {"min": 0.5, "on_fail": "drop"}, "sharpness": {"min": 50}}
    images = [
        {"objects": [{"class": 1, "predicted_iou": 0.9}, {"class": 2, "predicted_iou": 0.1}], "sharpness": 99},
        {"objects": [{"class": 2, "predicted_iou": 0.9}], "sharpness": 1},  # rejected: asked, and not accepted
        {"objects": [], "sharpness": 99},
        {"objects": [{"class": 1, "predicted_iou": 0.9}], "sharpness": 99},
        {"objects": [{"class": 1, "predicted_iou": 0.9}], "sharpness": 99},  # surplus: not counted
    ]
    found = table(images, filters)
    quality = quality_of(found)
    assert {n: (c.asked, c.accepted) for n, c in quality.classes.items()} == {"apple": (3, 2), "pear": (2, 0)}
    assert quality.objects == {"0": 1, "1": 1, "2": 1}
    assert quality.instances == 2
    assert list(quality.splits) == ["train", "val", "test"] and sum(quality.splits.values()) == 3
    shares = DatasetSpec.parse(SPEC).splits
    assert found.images["split"].tolist() == [split_of(f"f{i}", shares) for i in range(1, 6)]
    assert found.images["shard"].tolist() == [0, 0, 1, 1, 2]
    assert found.instances["shard"].tolist() == [0, 0, 0, 1, 2]


def test_objects_counts_what_was_asked_not_what_was_found():
    """A detector may find another number of things."""
    quality = quality_of(table([iou(0.9, 0.9, asked=[1])], {"predicted_iou": {"min": 0.5}}))
    assert quality.objects == {"0": 0, "1": 1, "2": 0}
    assert quality.classes["apple"].asked == 1 and quality.classes["apple"].accepted == 2


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


def test_quality_survives_json():
    quality = quality_of(table([iou(0.95), iou(0.1)], {"predicted_iou": {"min": 0.9}}))
    assert Quality.read(orjson.loads(orjson.dumps(asdict(quality)))) == quality


# Advice


def advised(found: Verdicts, name: str) -> tuple[dict[str, float], int] | None:
    text = quality_of(found).reasons[name].advice
    if not text:
        return None
    match = re.fullmatch(r"(min|max): (\S+) would let (\d+) more through", text)
    assert match, text
    return {match[1]: float(match[2])}, int(match[3])


def test_advice_is_for_as_many_as_are_missing():
    found = table([{"sharpness": s} for s in (99, 10, 20, 30, 40)], {"sharpness": {"min": 50}})
    assert quality_of(found).reasons["sharpness"].advice == "min: 30 would let 2 more through"
    found = table([iou(0.95), iou(0.95, 0.1), iou(0.2, 0.3)], {"predicted_iou": {"min": 0.9}})
    assert quality_of(found).reasons["predicted_iou"].advice == "min: 0.1 would let 2 more through"


def test_no_advice_where_no_threshold_helps():
    filters = {"predicted_iou": {"min": 0.9}, "sharpness": {"min": 50}}
    found = table([iou(0.1, sharpness=1), iou(None, sharpness=99)], filters)
    assert {n: r.advice for n, r in quality_of(found).reasons.items()} == {"predicted_iou": "", "sharpness": ""}


LIMITS = [
    {"min": 0.5},
    {"min": None, "max": 0.5},
    {"min": 0.4, "max": 0.6},
    {"min": 0.5, "max": 0.5},
    {"min": None, "max": 0.0},
]


@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_advice_does_what_it_says(limits):
    """Over random tables of many scales, with ties, and numbers that could not be measured."""
    told = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        scale = float(10.0 ** rng.integers(-5, 6))

        def number(of: float, rng=rng) -> float | None:
            kind = rng.integers(0, 12)
            value = rng.choice([0.0, 0.45, 0.5, 0.55]) if kind == 0 else rng.normal(0.5, 0.5)
            return None if kind == 1 else float(np.float32(abs(value) * of))

        images = [
            {"objects": [{"predicted_iou": number(1.0)} for _ in range(rng.integers(0, 4))], "sharpness": number(scale)}
            for _ in range(rng.integers(1, 30))
        ]
        scaled = {k: None if v is None else v * scale for k, v in limits.items()}
        filters = {"predicted_iou": limits, "sharpness": scaled}
        found = table(images, filters, count=int(rng.integers(1, 30)))
        quality = quality_of(found)
        for name in quality.reasons:
            advice = advised(found, name)
            if advice is not None:
                told += 1
                threshold, more = advice
                after = quality_of(table(images, {**filters, name: {**filters[name], **threshold}}, count=10_000))
                assert 1 <= more == after.accepted - quality.accepted, (seed, name, threshold)
                alone = quality.reasons[name].alone
                assert more >= min(quality.missing, 1) and more <= alone
    assert told > 10
