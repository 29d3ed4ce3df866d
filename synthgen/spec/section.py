"""What every mapping of a spec has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

MAX_ENTRIES = 100  # of a mapping or list of exporters, splits, slots, templates or texts


class Section(BaseModel):
    """A mapping of a spec. It refuses unknown keys and numbers that are not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
