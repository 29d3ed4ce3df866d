"""Small tables with known verdicts, in numbers."""

import re
from dataclasses import asdict

import numpy as np
import orjson
import pytest
from judged import PEARS, SPEC, iou, objects, table

from synthgen.judging.counting import quality_of
from synthgen.judging.quality import ClassCount, Quality
from synthgen.judging.summary import shortfall
from synthgen.judging.verdicts import Verdicts
from synthgen.planning.jobs import split_of
from synthgen.spec import DatasetSpec


def test_alone_counts_images_that_nothing_else_rejects():
    filters = {"predicted_iou": {"min": 0.9}, "sharpness": {"min": 50}}
    found = table([iou(0.1, sharpness=1), iou(0.1, sharpness=99), iou(0.95, sharpness=1), iou(sharpness=2)], filters)
    reasons = quality_of(found).reasons
    assert {n: (r.images, r.alone) for n, r in reasons.items()} == {"sharpness": (3, 2), "predicted_iou": (2, 1)}
    assert list(reasons) == ["sharpness", "predicted_iou"]  # the hungriest first


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
