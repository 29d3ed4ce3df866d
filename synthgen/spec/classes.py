"""The classes of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field, field_validator

from synthgen.base.wording import folded, shown
from synthgen.errors import WrongValue
from synthgen.spec.names import Word, is_printable
from synthgen.spec.section import MAX_ENTRIES, Section
from synthgen.spec.weights import MAX_WEIGHT, are_weights, require_texts, with_weights


class ClassSpec(Section):
    """A class of the dataset."""

    name: str = Field(min_length=1, max_length=200, description="Used in prompts, and as the COCO category's name.")
    synonyms: tuple[Word, ...] = Field(
        (), max_length=100, description="Other words for it; grounders look for them too."
    )
    prompt: dict[str, float] = Field(
        {},
        max_length=MAX_ENTRIES,
        description="How prompts name one, with the article: text, a list, or text: weight. Default: `a` or `an` and "
        "the name.",
    )
    id: int | None = Field(
        None, strict=True, ge=1, lt=2**31, description="Its category id in exports. Default: its position, from 1."
    )
    supercategory: str = Field("", max_length=200, description="The supercategory of its category in exports.")
    aspect_ratio: tuple[float, float] | None = Field(
        None,
        description="Least and greatest width over height of its layout boxes, from 0.05 to 20. Default: the model's.",
    )
    min_instances: int | None = Field(
        None,
        strict=True,
        ge=0,
        le=1_000_000_000,
        description="Its own quota: the least number of its instances in accepted images; 0 is no quota. Default: "
        "the dataset's `min_instances_per_class`.",
    )

    @field_validator("prompt", mode="before")
    @classmethod
    def _plain_prompt(cls, value: Any) -> Any:
        values = [value] if isinstance(value, str | int | float) else value
        require_texts(values, "prompt")
        return with_weights(values)

    @field_validator("prompt")
    @classmethod
    def _prompt_fits(cls, value: dict[str, float]) -> dict[str, float]:
        texts = all(text.strip() and len(text) <= 1000 and is_printable(text) for text in value)
        if not texts or (value and not are_weights(value.values())):
            raise ValueError(
                f"takes printable text of at most 1,000 characters, with weights of 0 or more, not all 0, and at most "
                f"{MAX_WEIGHT:,}"
            )
        return value

    @field_validator("aspect_ratio")
    @classmethod
    def _ordered(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not 0.05 <= value[0] <= value[1] <= 20:
            raise ValueError("takes [least, greatest], both from 0.05 to 20")
        return value


def require_distinct(classes: Sequence[ClassSpec]) -> None:
    """
    Raises:
        WrongValue: two classes share a name, a synonym or an id, or a name shows nothing.
    """
    seen: dict[str, str] = {}
    for c in classes:
        for word in (c.name, *c.synonyms):
            key = folded(word)
            if not key or not is_printable(word):
                raise WrongValue(f"got {shown(word)}; takes printable text")
            if key in seen:
                raise WrongValue(
                    f"got {shown(word)} twice, for {shown(seen[key])} and for {shown(c.name)}; "
                    "takes each name and synonym once"
                )
            seen[key] = c.name
    ids: dict[int, str] = {}
    for position, c in enumerate(classes, 1):
        category_id = c.id or position
        if other := ids.get(category_id):
            both = f"{shown(other)} and for {shown(c.name)}"
            raise WrongValue(f"got the id {category_id} twice, for {both}; a class without one has its position")
        ids[category_id] = c.name
