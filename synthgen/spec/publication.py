"""The keys that say who publishes a dataset, where and when."""

from __future__ import annotations

from datetime import date as calendar_date
from typing import Annotated

from pydantic import Field, field_validator

from synthgen.base.pattern import Pattern
from synthgen.spec.section import MAX_ENTRIES, Section

DATE = Pattern(r"^\d{4}-\d{2}-\d{2}$", "a date such as 2026-11-28")
ADDRESS = Pattern(r"^https?://\S+$", "an address that begins with https:// or http://")
Party = Annotated[str, Field(min_length=1, max_length=200)]


class PublicationSpec(Section):
    """What only those know who publish a dataset. Croissant asks for an address, a date and creators, so
    `croissant.json` has them; nothing else depends on them."""

    url: Annotated[str, ADDRESS, Field(max_length=2000)] | None = Field(None, description="The page of the dataset.")
    date: Annotated[str, DATE] | None = Field(None, description="The day on which it is published.")
    authors: tuple[Party, ...] = Field((), max_length=MAX_ENTRIES, description="The people who have made it.")
    organizations: tuple[Party, ...] = Field(
        (),
        max_length=MAX_ENTRIES,
        description="The organizations that have made it. Without any and without `authors`, synthgen is named.",
    )

    @field_validator("date")
    @classmethod
    def _exists(cls, value: str | None) -> str | None:
        try:
            calendar_date.fromisoformat(value or "2000-01-01")
        except ValueError as error:
            raise ValueError("takes a day of the calendar, such as 2026-11-28") from error
        return value
