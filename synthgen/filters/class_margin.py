"""How sure it is which of two contradictory classes an object is of."""

from pydantic import Field

from synthgen.backends import ScoreFilter, ThresholdConfig


class Config(ThresholdConfig):
    """Options of `class_margin`."""

    min: float | None = Field(0.1, ge=-1, le=1, description="Least margin kept.")


class Backend(ScoreFilter[Config]):
    """The object's `grounding_score` minus the best score, in the same place, of a class that contradicts its class; 1
    for a class that contradicts none. It is of the `detector` grounder with `exclusive`.

    A detector that is asked for "person with helmet" and "person without helmet" may give the same person more than
    0.9 for both. So the score of one alone says little, and its distance from the other one says which it is.
    """

    score = "class_margin"
    given_by = "`use: detector` with `exclusive`"
