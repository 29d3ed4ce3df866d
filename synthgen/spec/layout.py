"""The keys that place objects before the image is made."""

from __future__ import annotations

from pydantic import Field, field_validator

from synthgen.spec.section import Section


class LayoutSpec(Section):
    """Where objects are placed, before the image is made."""

    size: tuple[float, float] = Field(
        (0.3, 0.55),
        description="Least and greatest long side of a box, as shares of the image's shorter side, from 0.02 to 1.",
    )
    max_overlap: float = Field(
        0.0, ge=0, le=1, description="How much two boxes may overlap, as a share of the smaller one."
    )
    margin: float = Field(0.02, ge=0, lt=0.5, description="Kept free at the image's borders, as a share of its side.")

    @field_validator("size")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0.02 <= value[0] <= value[1] <= 1:
            raise ValueError("takes [least, greatest], both from 0.02 to 1")
        return value
