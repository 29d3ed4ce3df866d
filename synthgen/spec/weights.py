"""Texts with weights: `[sand, snow]`, or `{sand: 3, snow: 1}`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from synthgen.base.safe_yaml import as_written
from synthgen.base.wording import looked_at, shown, takes
from synthgen.errors import WrongValue

MAX_WEIGHT = 1_000_000


def are_weights(weights: Iterable[float]) -> bool:
    """Whether each of them is from 0 to `MAX_WEIGHT`, and not all are 0."""
    weights = list(weights)
    return all(0 <= weight <= MAX_WEIGHT for weight in weights) and sum(weights) > 0


def require_texts(values: Any, name: str) -> None:
    """Checks a list of texts, or the keys of a mapping. Any other value passes.

    Args:
        name: what the error calls the list or mapping.

    Raises:
        WrongValue: one of them is not text, or stands there twice.
    """
    seen: set[str] = set()
    for value in values if isinstance(values, list | dict) else ():
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise WrongValue(f"got {shown(value)} for {shown(name)}; {takes('string', {}, value)}")
        if (text := looked_at(as_written(value))) in seen:
            raise WrongValue(f"got {shown(value)} more than once for {shown(name)}; takes `value: weight` for that")
        seen.add(text)


def with_weights(values: Any) -> Any:
    """A list of texts, or a mapping of texts to weights -> each text as it is written, with its weight. Any other value
    stays as it is."""
    if isinstance(values, list):
        return {as_written(value): 1.0 for value in values}
    return {as_written(value): weight for value, weight in values.items()} if isinstance(values, dict) else values
