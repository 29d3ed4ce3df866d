"""Rounds make up what is missing, within the budget."""

import json
from dataclasses import asdict, replace
from itertools import islice
from typing import Any

import pytest
from planned import jobs_of, spec_of

from synthgen.planning.jobs import plan_round
from synthgen.planning.rounds import IMAGES_PER_RUN, Round, first_round, next_round
from synthgen.spec import DatasetSpec


def test_the_first_round_asks_for_everything_alike(good: dict[str, Any]) -> None:
    round = first_round(spec_of(good))
    assert (round.number, round.start, round.count) == (1, 0, 8)
    assert round.classes == {1: 1.0, 2: 1.0, 3: 1.0}
    assert round.objects == {0: 1, 1: 3, 2: 2}


def test_next_round_makes_up_what_is_missing(good: dict[str, Any]) -> None:
    # 60 images with an object on average: 20 of each class; 10, 30 and 20 images of 0, 1 and 2 objects.
    spec = spec_of(good, count=60, objects_per_image={0: 1, 1: 3, 2: 2}, budget=3)
    each = 60 * (3 + 2 * 2) / 6 / 3
    round = next_round(spec, 2, 60, 40, {1: 9, 2: 30, 3: 50}, {1: 5, 2: 20, 3: 40}, {0: 10, 1: 12, 2: 18})
    assert round is not None
    assert (round.number, round.start) == (2, 60)
    assert round.classes == pytest.approx({1: each - 5, 2: each - 20, 3: 0})
    assert round.objects == pytest.approx({0: 0, 1: 18, 2: 2})
    assert 30 <= round.count <= 40  # 20 at a yield of 2/3, and a little more
    jobs = list(plan_round(spec, 1, round))
    assert {c for j in jobs for c in j.asked} == {1, 2}
    assert all(j.asked for j in jobs)


@pytest.mark.parametrize(
    ("made", "accepted", "count"),
    [
        (60, 60, None),  # nothing is missing
        (60, 61, None),
        (120, 40, None),  # the budget is spent
        (110, 40, 10),  # what is left of it
        (60, 0, 60),  # nothing came through so far: no division by 0
        (0, 0, 70),  # nothing was made
    ],
)
def test_next_round_keeps_to_the_budget(made: int, accepted: int, count: int | None, good: dict[str, Any]) -> None:
    round = next_round(spec_of(good, count=60, budget=2), 2, made, accepted, {}, {}, {})
    assert (round and round.count) == count


def test_next_round_when_only_the_number_is_missing(good: dict[str, Any]) -> None:
    """More of each class than wanted, and yet too few images: all alike again."""
    spec = spec_of(good, count=60)
    round = next_round(spec, 2, 60, 59, {}, {1: 99, 2: 99, 3: 99}, {0: 99, 1: 99, 2: 99})
    assert round is not None
    assert round.classes == {1: 1.0, 2: 1.0, 3: 1.0}
    assert round.objects == pytest.approx({0: 1 / 6, 1: 3 / 6, 2: 2 / 6})


# Quotas. 60 images of 7/6 objects on average, 7/5 on those that have any; 70/3 of each class.


def with_quotas(good: dict[str, Any], apple: int, orange: int = 0, **changes: Any) -> DatasetSpec:
    classes = [{"name": "apple", "min_instances": apple}, {"name": "orange", "min_instances": orange}, "tree"]
    return spec_of(good, **{"count": 60, "classes": classes, "budget": 10, **changes})


FULL = {0: 10, 1: 30, 2: 20}  # accepted images by number of objects


def test_the_first_round_knows_no_quotas(good: dict[str, Any]) -> None:
    assert jobs_of(with_quotas(good, 300)) == jobs_of(spec_of(good, count=60))


def test_a_round_for_a_quota_alone(good: dict[str, Any]) -> None:
    """6 apples are short, at a yield of a half: 1.15 * 12 of them are asked for, and nothing else is."""
    round = next_round(with_quotas(good, 26), 2, 60, 60, {1: 40, 2: 23, 3: 23}, {1: 20, 2: 23, 3: 23}, FULL)
    assert round is not None
    assert (round.number, round.start) == (2, 60)
    assert round.classes == pytest.approx({1: 13.8, 2: 0, 3: 0})
    assert round.count == 11  # 13.8 / 1.4 = 9.9, and one more
    assert {k: w / sum(round.objects.values()) for k, w in round.objects.items()} == pytest.approx(
        {0: 0, 1: 0.6, 2: 0.4}
    )
    jobs = list(plan_round(with_quotas(good, 26), 1, round))
    assert {c for j in jobs for c in j.asked} == {1}
    assert all(j.asked for j in jobs)
    assert sum(len(j.asked) for j in jobs) >= 12


@pytest.mark.parametrize(
    ("asked", "accepted", "asks", "count"),
    [
        (20, 20, 6.9, 6),  # 6.9 / 1.4 = 4.9
        (80, 20, 27.6, 21),  # 19.7
        (0, 20, 6.9, 6),  # found though not asked for: no division by 0
        (90, 0, 299.0, 215),  # 26 are short, at a tenth: 213.6
    ],
)
def test_a_round_follows_the_yield_of_the_class(
    asked: int, accepted: int, asks: float, count: int, good: dict[str, Any]
) -> None:
    counts = {1: asked, 2: 23, 3: 23}, {1: accepted, 2: 23, 3: 23}
    round = next_round(with_quotas(good, 26), 2, 60, 60, *counts, FULL)
    assert round is not None
    assert round.classes[1] == pytest.approx(asks)
    assert round.count == count


def test_a_round_weighs_short_classes_by_what_they_take(good: dict[str, Any]) -> None:
    """10 short at a yield of 1, and 10 at a quarter."""
    spec = with_quotas(good, 30, 30)
    round = next_round(spec, 2, 60, 60, {1: 20, 2: 80, 3: 23}, {1: 20, 2: 20, 3: 23}, FULL)
    assert round is not None
    assert round.classes == pytest.approx({1: 11.5, 2: 46.0, 3: 0})


def test_images_that_are_missing_serve_a_quota_first(good: dict[str, Any]) -> None:
    """14 images of 1.5 objects are made for the 10 that are missing; 4.6 of their 21 objects are for the quota, and the
    other 16.4 for what each class lacks of its share: for apples, what a full quota leaves."""
    counts = {1: 16, 2: 23, 3: 20}, {1: 16, 2: 23, 3: 20}
    round = next_round(with_quotas(good, 20), 2, 60, 50, *counts, {0: 10, 1: 25, 2: 15})
    assert round is not None
    assert round.count == 15
    third = 10 / 3
    rest = 16.4 / 7
    assert round.classes == pytest.approx({1: 4.6 + third * rest, 2: rest / 3, 3: third * rest})
    assert round.objects[0] == 0 and round.objects[1] == pytest.approx(round.objects[2])


def test_a_quota_that_missing_images_cannot_hold_takes_further_ones(good: dict[str, Any]) -> None:
    """42 apples are to be asked for; 14 missing images hold 21, and 15 further ones of 1.4 the rest."""
    apples = 42 / 1.15
    counts = {1: 100, 2: 23, 3: 20}, {1: 100 - round(apples), 2: 23, 3: 20}
    found = next_round(with_quotas(good, 100), 2, 60, 50, *counts, {0: 10, 1: 25, 2: 15})
    assert found is not None
    asks = 1.15 * round(apples) / (counts[1][1] / 100)
    further = (asks - 21) / 1.4
    assert found.classes == pytest.approx({1: asks, 2: 0, 3: 0})
    assert found.objects == pytest.approx({0: 0, 1: 7 + 0.6 * further, 2: 7 + 0.4 * further})
    assert found.count == -int(-(14 + further) // 1) + 1


@pytest.mark.parametrize(
    ("made", "apples", "count"),
    [(60, 26, None), (60, 27, None), (60, 25, 2), (120, 0, None), (117, 0, 3)],
)
def test_rounds_for_quotas_end(made: int, apples: int, count: int | None, good: dict[str, Any]) -> None:
    """With the quota met, or the budget spent."""
    spec = with_quotas(good, 26, budget=2)
    found = next_round(spec, 2, made, 60, {1: 26}, {1: apples}, FULL)
    assert (found and found.count) == count


def test_a_recorded_round_is_planned_alike(good: dict[str, Any]) -> None:
    """Its weights are written down and read back; neither what was accepted nor the quota is asked again."""
    spec = with_quotas(good, 31, 29)
    round = next_round(spec, 2, 60, 55, {1: 37, 2: 31, 3: 20}, {1: 11, 2: 13, 3: 19}, FULL)
    assert round is not None
    raw = json.loads(json.dumps(asdict(round)))
    read = Round(**{k: {int(i): w for i, w in v.items()} if isinstance(v, dict) else v for k, v in raw.items()})
    assert list(plan_round(with_quotas(good, 0), 1, read)) == list(plan_round(spec, 1, round))


def test_ids_of_a_run_never_reach_the_next_run(good: dict[str, Any]) -> None:
    spec = spec_of(good, count=9_999_999, budget=1000)
    round = next_round(spec, 9, IMAGES_PER_RUN - 3, 5, {}, {}, {})
    assert round is not None
    last = list(plan_round(spec, 1, round))[-1]
    assert last.id == IMAGES_PER_RUN
    assert next(islice(plan_round(spec, 2, first_round(spec)), 1)).id == IMAGES_PER_RUN + 1


def test_rounds_of_a_run_differ(good: dict[str, Any]) -> None:
    spec = spec_of(good, count=40)
    first = first_round(spec)
    second = list(plan_round(spec, 1, replace(first, number=2)))
    assert [j.prompt for j in second] != [j.prompt for j in plan_round(spec, 1, first)]
