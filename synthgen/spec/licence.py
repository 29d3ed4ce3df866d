"""What a dataset is to be used for, as far as licences of models ask."""

from __future__ import annotations

from pydantic import Field

from synthgen.spec.section import MAX_ENTRIES, Section


class LicenceSpec(Section):
    """The use that the models' licences must allow."""

    commercial: bool = Field(
        False,
        strict=True,
        description="True refuses models whose images or labels may not be used commercially, or may be only under "
        "conditions, and models whose licence is not known.",
    )
    accept: tuple[str, ...] = Field(
        (),
        max_length=MAX_ENTRIES,
        description="Models that are taken all the same, as the spec names them: you have read their licences.",
    )
