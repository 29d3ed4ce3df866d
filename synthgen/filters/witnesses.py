"""How many of two grounders see an object."""

from pydantic import Field

from synthgen.backends import ScoreFilter, ThresholdConfig


class Config(ThresholdConfig):
    """Options of `witnesses`."""

    min: float | None = Field(2, ge=1, le=2, description="Least number of grounders that see it.")


class Backend(ScoreFilter[Config]):
    """2 if both grounders of `agreement` see the object, 1 if one of them does.

    With `on_fail: ignore`, what one alone sees is neither an object nor background to whoever trains on the dataset.
    """

    score = "witnesses"
    given_by = "`use: agreement`"
