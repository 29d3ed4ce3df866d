"""Prompts: templates, and the values of their slots."""

from __future__ import annotations

from string import Formatter
from typing import Any

from pydantic import Field, field_validator, model_validator

from synthgen.base.wording import plain, shown
from synthgen.errors import WrongValue, listed, nearest
from synthgen.spec.section import MAX_ENTRIES, Section
from synthgen.spec.weights import MAX_WEIGHT, are_weights, require_texts, with_weights

MAX_VALUES = 10_000  # of a slot


class Template(Section):
    text: str = Field(
        min_length=1,
        max_length=20_000,
        description="`{objects}` stands for the requested objects; every other name in braces is a slot.",
    )
    weight: float = Field(
        1.0, gt=0, le=MAX_WEIGHT, description="How often it is used, compared with the other templates."
    )

    @field_validator("text")
    @classmethod
    def _plain_braces(cls, value: str) -> str:
        template_slots(value)
        return value


class PromptSpec(Section):
    """Prompts: templates with slots, each choice made in proportion to its weight."""

    templates: tuple[Template, ...] = Field(
        (), max_length=MAX_ENTRIES, description="For images with objects; each contains `{objects}`."
    )
    background_templates: tuple[Template, ...] = Field(
        (), max_length=MAX_ENTRIES, description="For images without objects."
    )
    slots: dict[str, dict[str, float]] = Field(
        {}, max_length=MAX_ENTRIES, description="The values of each slot, as a list or as value: weight."
    )
    negative_prompt: str = Field(
        "", max_length=20_000, description="What images should not show; the same for all images."
    )

    @field_validator("templates", "background_templates", mode="before")
    @classmethod
    def _plain_templates(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = [value]
        return [{"text": t} if isinstance(t, str) else t for t in value] if isinstance(value, list) else value

    @field_validator("slots", mode="before")
    @classmethod
    def _plain_slots(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        for slot, values in value.items():
            require_texts(values, slot)
        return {slot: with_weights(values) for slot, values in value.items()}

    @model_validator(mode="after")
    def _slots_fit(self) -> PromptSpec:
        for slot, values in self.slots.items():
            if slot == "objects" or not slot.isidentifier():
                message = f"got the name {shown(slot)}; takes letters, digits and _, and not 'objects'"
                raise WrongValue(message, "slots")
            if not are_weights(values.values()):
                raise WrongValue(
                    f"got {shown(values)}; takes at least one value, with weights of 0 or more, not all 0, and at most "
                    f"{MAX_WEIGHT:,}",
                    "slots",
                    slot,
                )
            longest = max(map(len, values))
            if len(values) > MAX_VALUES or longest > 1000:
                message = f"got {len(values):,} values of at most {longest:,} characters"
                raise WrongValue(f"{message}; takes at most {MAX_VALUES:,} of 1,000", "slots", slot)
        for i, template in enumerate(self.templates):
            if "objects" not in template_slots(template.text):
                raise WrongValue(f"{shown(template.text)} needs {{objects}}", "templates", i)
        for i, template in enumerate(self.background_templates):
            if "objects" in template_slots(template.text):
                message = f"{shown(template.text)} is for images without objects and takes no {{objects}}"
                raise WrongValue(message, "background_templates", i)
        for key in ("templates", "background_templates"):
            for i, template in enumerate(getattr(self, key)):
                for name in sorted(template_slots(template.text) - {"objects", *self.slots}):
                    raise WrongValue(
                        f"{shown(template.text)} names the slot {shown(name)}{nearest(name, self.slots)}; "
                        f"slots given: {listed(self.slots) or 'none'}",
                        key,
                        i,
                    )
        return self


def template_slots(text: str) -> set[str]:
    """The names in braces of a template. It takes plain names only: no attributes, indices, conversions or formats.

    Raises:
        ValueError: the braces hold anything else, or do not match.
    """
    try:
        pieces = list(Formatter().parse(text))
    except ValueError as error:
        raise ValueError(f"{error}; takes names in braces, and {{{{ and }}}} for braces themselves") from error
    for _, name, form, conversion in pieces:
        if name is not None and (not name.isidentifier() or form or conversion):
            raise ValueError(f"{{{plain(name)}}} is no slot; takes a plain name in braces")
    return {name for _, name, _, _ in pieces if name is not None}
