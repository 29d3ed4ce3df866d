"""Text that must match a pattern, and the words of the error where it does not."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field, TypeAdapter, ValidationError

from synthgen.base.pattern import Pattern
from synthgen.errors import SpecError
from synthgen.orchestration.profile import Profile, load_profile
from synthgen.spec import DatasetSpec
from synthgen.spec.schema import json_schema

SMALL = TypeAdapter(Annotated[str, Pattern("^[a-z]+$", "small letters")])
# pattern of a key -> a spec or profile that breaks it, and the line that a person reads.
BROKEN = {
    r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$": (
        {"name": "a b"},
        "name: got 'a b'; takes letters, digits, _ and -, at most 64 of them, a letter or digit first",
    ),
    r"^(auto|cpu|mps|cuda(:\d+)?)$": (
        {"generator": {"device": "cuda0"}},
        "generator.device: got 'cuda0'; takes auto, cpu, mps, cuda, or cuda: with a number, such as cuda:0",
    ),
    r"^[^{}]*\{\}[^{}]*$": (
        {"grounder": {"use": "detector", "prompt": "{a}"}},
        "grounder.prompt: got '{a}'; takes text with one {} in it, where the word goes",
    ),
    r"^(?!data$)[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$": (
        {"exporters": {"huggingface": {"config_name": "data"}}},
        "exporters.huggingface.config_name: got 'data'; takes letters, digits, _, . and -, at most 64 of them, a "
        "letter or digit first; not data",
    ),
    r"^\d{4}-\d{2}-\d{2}$": (
        {"publication": {"date": "today"}},
        "publication.date: got 'today'; takes a date such as 2026-11-28",
    ),
    r"^https?://\S+$": (
        {"publication": {"url": "example.org"}},
        "publication.url: got 'example.org'; takes an address that begins with https:// or http://",
    ),
    r"^(ray://)?[^\s:/]+:\d+$": (
        {"runner": "local", "address": "head"},
        "address: got 'head'; takes an address such as ray://head:10001 or head:6379",
    ),
}


@pytest.mark.parametrize("text", ["A", "", "aB", "a\n", "\na"])
def test_the_whole_text_must_match(text: str) -> None:
    with pytest.raises(ValidationError, match="takes small letters"):
        SMALL.validate_python(text)


def test_a_text_that_matches_stays_as_it_is() -> None:
    assert SMALL.validate_python("abc") == "abc"


def test_what_is_no_text_is_refused_as_such() -> None:
    with pytest.raises(ValidationError) as error:
        SMALL.validate_python(7)
    assert [e["type"] for e in error.value.errors()] == ["string_type"]


def test_the_json_schema_is_that_of_a_field_with_the_pattern() -> None:
    assert SMALL.json_schema() == TypeAdapter(Annotated[str, Field(pattern="^[a-z]+$")]).json_schema()


def patterns(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("pattern"), str):
            yield schema["pattern"]
        for value in schema.values():
            yield from patterns(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from patterns(value)


def test_every_pattern_of_a_spec_or_profile_has_words(good: dict[str, Any], tmp_path: Path) -> None:
    dotted = r"\."  # of a user's module; a name without dots is looked up instead
    assert {*patterns(json_schema()), *patterns(Profile.model_json_schema())} - {dotted} == set(BROKEN)
    for changes, line in BROKEN.values():
        with pytest.raises(SpecError) as error:
            if "address" in changes:
                (tmp_path / "profile.yaml").write_text("runner: local\naddress: head\n")
                load_profile(tmp_path / "profile.yaml")
            else:
                DatasetSpec.parse({**good, **changes})
        assert str(error.value) == line
