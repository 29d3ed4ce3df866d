"""What two grounders see. An object that only one of them sees is known as such, and the filter `witnesses` judges it.

A model that is sure may be wrong, and two models of different kinds are seldom wrong in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, SerializeAsAny, WithJsonSchema, field_validator

from synthgen import backends, masks
from synthgen.backends import Grounder, Model, Request, backend_module
from synthgen.errors import Problem, WrongValue
from synthgen.types import Category, Grounding, Job

OPTIONS = {"anyOf": [{"type": "string"}, {"type": "object", "title": "a grounder of yours"}]}


class Config(backends.Config):
    """Options of `agreement`."""

    sections: ClassVar[Mapping[str, str]] = {"of": "grounder"}

    of: tuple[Annotated[SerializeAsAny[backends.Config], WithJsonSchema(OPTIONS)], ...] = Field(
        min_length=2,
        max_length=2,
        description="Two grounders, each with its options. Where both see an object, the box of the first is taken.",
    )
    min_iou: float = Field(
        0.5, gt=0, le=1, description="Two boxes of a class are of the same object if they overlap as much as this."
    )

    @field_validator("of", mode="before")
    @classmethod
    def _built(cls, value: Any) -> Any:
        """A spec gives options that are built already; code may give plain data."""
        if not isinstance(value, list | tuple):
            return value
        plain = [{"use": one} if isinstance(one, str) else one for one in value]
        return tuple(
            backend_module("grounder", str(one["use"])).Config(**one) if isinstance(one, dict) and "use" in one else one
            for one in plain
        )

    @field_validator("of")
    @classmethod
    def _of_others(cls, value: tuple[backends.Config, ...]) -> tuple[backends.Config, ...]:
        for i, config in enumerate(value):
            if config.use == "agreement":
                raise WrongValue("got 'agreement'; takes another grounder", i, "use")
        return value


class Backend(Grounder[Config]):
    """Scores: `witnesses`, 2 for what both see and 1 for what one sees; `grounding_score` of the first grounder and
    `witness_score` of the second, 0 where it does not see the object and 1 where it gives no score; and all other
    scores of both."""

    def __init__(self, config: Config, categories: Sequence[Category]) -> None:
        super().__init__(config, categories)
        self._grounders: list[Grounder[Any]] = [
            backend_module("grounder", one.use).Backend(one, categories) for one in config.of
        ]
        scopes = {grounder.looks_for for grounder in self._grounders}
        self.looks_for = "everything" if "everything" in scopes else "asked" if "asked" in scopes else "nothing"

    def nested(self) -> Mapping[str, Grounder[Any]]:
        return {f"of.{i}": grounder for i, grounder in enumerate(self._grounders)}

    def score_names(self) -> frozenset[str] | None:
        found = frozenset({"witnesses", "grounding_score", "witness_score"})
        for grounder in self._grounders:
            if (own := grounder.score_names()) is None:
                return None
            found |= own
        return found

    def models(self) -> Sequence[Model]:
        return [model for grounder in self._grounders for model in grounder.models()]

    def identity(self) -> str:
        return " ".join(filter(None, (grounder.identity() for grounder in self._grounders)))

    def check(self, request: Request) -> Iterable[Problem]:
        if request.judged is not None and "witnesses" not in request.judged:
            message = (
                "needs the filter `witnesses`, which says what becomes of objects that only one of them sees; add "
            )
            yield Problem(".of", message + "`witnesses: {on_fail: ignore}`, or reject, or drop, to `filters`")
        for key, grounder in self.nested().items():
            yield from (_of_part(key, problem) for problem in grounder.check(request))

    def advice(self, request: Request) -> Iterable[Problem]:
        for key, grounder in self.nested().items():
            yield from (_of_part(key, note) for note in grounder.advice(request))

    def ground(self, jobs: Sequence[Job], images: Sequence[NDArray[np.uint8]]) -> list[Grounding]:
        """Images uint8 (H, W, 3), RGB -> the boxes that the first grounder finds, in its order, and then those that
        only the second finds.

        Raises:
            BackendError: a model cannot be loaded, or cannot be asked what a job asks for.
        """
        first, second = (grounder.ground(jobs, images) for grounder in self._grounders)
        return [agreement(*both, self.config.min_iou) for both in zip(first, second, strict=True)]


def _of_part(key: str, problem: Problem) -> Problem:
    return replace(problem, field=f".{key}{problem.field}") if problem.field.startswith(".") else problem


def agreement(first: Grounding, second: Grounding, min_iou: float) -> Grounding:
    """What two grounders see of one image -> see `Backend`."""
    pairs = matched(first, second, min_iou)
    alone = np.setdiff1d(np.arange(len(second)), list(pairs.values()))
    # For each object: its position in each of the two; -1 where it is not seen.
    in_first = np.concatenate([np.arange(len(first)), np.full(len(alone), -1)]).astype(np.int64)
    in_second = np.concatenate([[pairs.get(i, -1) for i in range(len(first))], alone]).astype(np.int64)
    boxes = np.concatenate([first.boxes, second.boxes[alone]])
    category_id = np.concatenate([first.category_id, second.category_id[alone]])
    own = [dict(g.scores) for g in (first, second)]
    sure = [
        one.pop("grounding_score", np.ones(len(g), np.float32)) for one, g in zip(own, (first, second), strict=True)
    ]
    scores = {
        "witnesses": ((in_first >= 0).astype(np.float32) + (in_second >= 0)).astype(np.float32),
        "grounding_score": _at(sure[0], in_first),
        "witness_score": _at(sure[1], in_second),
    }
    for name in dict.fromkeys((*own[0], *own[1])):
        values = [_at(one[name], at) for one, at in zip(own, (in_first, in_second), strict=True) if name in one]
        seen = [at >= 0 for one, at in zip(own, (in_first, in_second), strict=True) if name in one]
        scores[name] = np.where(seen[0], values[0], values[-1])
    return Grounding(boxes, category_id, scores)


def _at(values: NDArray[np.float32], positions: NDArray[np.int64]) -> NDArray[np.float32]:
    """The values at positions; 0 where a position is -1."""
    return np.append(values, np.float32(0))[positions]


def matched(first: Grounding, second: Grounding, min_iou: float) -> dict[int, int]:
    """Position of a box of `first` -> position of that of `second` on the same object: each at most once, those that
    overlap most before others, ties in order."""
    iou = masks.box_iou(first.boxes, second.boxes)
    iou[first.category_id[:, None] != second.category_id] = 0
    pairs: dict[int, int] = {}
    for place in np.argsort(-iou, axis=None, kind="stable").tolist():
        i, j = divmod(place, len(second))
        if iou[i, j] < np.float32(min_iou):
            break
        if i not in pairs and j not in pairs.values():
            pairs[i] = j
    return pairs
