"""The words of prompts."""

from dataclasses import replace
from math import inf
from typing import Any

import pytest
from planned import jobs_of, spec_of

from synthgen.errors import SpecError
from synthgen.planning.jobs import plan_round
from synthgen.planning.prompts import enumeration, with_article
from synthgen.planning.rounds import first_round


def test_a_class_is_named_in_prompts_by_its_own_words_as_often_as_their_weights_say(good: dict[str, Any]) -> None:
    spec = spec_of(good, classes=[{"name": "apple", "prompt": {"a red apple": 3, "an apple, green": 1}}, "orange"])
    prompts = [job.prompt for job in plan_round(spec, 1, replace(first_round(spec), count=400))]
    said = " ".join(prompts)
    apples = sum(job.asked.count(1) for job in plan_round(spec, 1, replace(first_round(spec), count=400)))
    assert said.count("a red apple") + said.count("an apple, green") == apples > 100
    assert abs(said.count("a red apple") - 0.75 * apples) < 2
    assert "an orange" in said and "a apple" not in said


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], ""),
        (["cat"], "a cat"),
        (["umbrella"], "an umbrella"),
        (["cat", "Orange"], "a cat and an Orange"),
        (["cat", "cat", "apple"], "a cat and a cat and an apple"),
    ],
)
def test_objects_are_named_with_articles(names: list[str], text: str) -> None:
    assert enumeration([with_article(name) for name in names]) == text


def test_braces_in_values_and_names_are_only_text(good: dict[str, Any]) -> None:
    hostile = ["{objects}", "{0}", "{ground.__class__}", "{", "}}", "%s", "{ground!r:>99999}"]
    prompts = {
        "templates": ["{{x}} {objects} on {ground}"],
        "slots": {"ground": hostile},
    }
    spec = spec_of(good, count=28, classes=["{ground}", "a}b"], prompts=prompts, objects_per_image=1)
    for job in jobs_of(spec):
        name = {1: "{ground}", 2: "a}b"}[job.asked[0]]
        article = "an" if name[0] in "aeiou" else "a"
        assert job.prompt == f"{{x}} {article} {name} on {job.slots['ground']}"
    assert {j.slots["ground"] for j in jobs_of(spec)} == set(hostile)


def test_weights_are_finite(good: dict[str, Any]) -> None:
    """An infinite weight would never let anything else come."""
    with pytest.raises(SpecError, match=r"objects_per_image.*takes a finite number"):
        spec_of(good, objects_per_image={1: inf})
