"""The errors that pydantic finds in a spec, in words for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from synthgen.base.wording import plain, shown, takes
from synthgen.errors import Problem, WrongValue, listed, nearest

MAX_PROBLEMS = 50  # lines about one spec
Location = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class _More(Problem):
    """Stands for the problems that get no line of their own."""

    count: int = 0

    @classmethod
    def of(cls, count: int) -> _More:
        return cls("", f"and {count:,} problems more", count=count)


def first(problems: Sequence[Problem]) -> list[Problem]:
    """The first `MAX_PROBLEMS` lines; the last of them counts the problems that it stands for."""
    lines = [problem for problem in problems if not isinstance(problem, _More)]
    more = sum(problem.count for problem in problems if isinstance(problem, _More))
    if len(lines) + bool(more) <= MAX_PROBLEMS:
        return [*lines, _More.of(more)] if more else lines
    return [*lines[: MAX_PROBLEMS - 1], _More.of(more + len(lines) - MAX_PROBLEMS + 1)]


def problems_of(error: ValidationError, model: type[BaseModel]) -> list[tuple[Location, Problem]]:
    """pydantic's errors -> (location, problem), at most `MAX_PROBLEMS`.

    Args:
        model: the model that was validated.
    """
    errors = error.errors(include_url=False)
    left_out = errors[MAX_PROBLEMS - 1 :] if len(errors) > MAX_PROBLEMS else []
    errors = errors[: len(errors) - len(left_out)]
    above = {e["loc"][:depth] for e in errors for depth in range(len(e["loc"]))}
    mistyped = {
        (*e["loc"][:-1], key)
        for e in errors
        if e["type"] == "extra_forbidden"
        for key in _keys(model, e["loc"][:-1])
        if repr(key) in nearest(str(e["loc"][-1]), [key])
    }
    lengths = {e["loc"][:-1]: int(e["loc"][-1]) + 1 for e in errors if e["loc"] and isinstance(e["loc"][-1], int)}
    problems: list[tuple[Location, Problem]] = []
    for e in errors:
        loc, kind = e["loc"], e["type"]
        if (kind == "too_short" and loc in above) or (kind == "missing" and loc in mistyped):
            continue  # Another line is about the entries, or about the name of the key.
        field, message = loc, ""
        if kind == "missing" and isinstance(loc[-1], int):  # an entry of a list of fixed length
            if loc[-1] + 1 < lengths[loc[:-1]]:
                continue
            field, message = loc[:-1], f"got {shown(e['input'])}; takes {loc[-1] + 1} numbers"
        elif kind == "value_error" and isinstance(wrong := e["ctx"]["error"], WrongValue):
            field, message = (*loc, *wrong.loc), wrong.message
        message = " ".join((message or _message(e, model)).split())
        # A message of pydantic, of a check or of a user's own backend is cut to a few lines of a terminal.
        problems.append((loc, Problem(plain(_dotted(field), 200), plain(message, 500))))
    if left_out:
        problems.append(((), _More.of(len(left_out))))
    return problems


def _message(e: ErrorDetails, model: type[BaseModel]) -> str:
    loc, kind, got = e["loc"], e["type"], e["input"]
    if kind == "extra_forbidden":
        known = _keys(model, loc[:-1])
        return f"unknown key{nearest(str(loc[-1]), known)}; it takes: {listed(known)}"
    if kind == "missing":
        return "missing, and has no default"
    if kind == "value_error":
        return f"got {shown(got)}; {e['ctx']['error']}"
    choices = _choices(_annotation(model, loc))
    message = takes(kind, e.get("ctx", {}), got, choices) or f"{e['msg'][0].lower()}{e['msg'][1:]}"
    keys = listed(_keys(model, loc)) if kind.startswith("model") else ""
    return f"got {shown(got)}; {message}" + (f", which are: {keys}" if keys else "")


def _dotted(loc: Location) -> str:
    """`classes.0.name`. pydantic marks the key of a mapping, as against its value, with `[key]`."""
    return ".".join(plain(str(part)) for part in loc if part != "[key]")


def _annotation(model: type[BaseModel], loc: Location) -> Any:
    """The type of the key at `loc`. An entry of a list or mapping has the type of the whole."""
    annotation: Any = model
    for part in loc:
        inner = next(_models(annotation), None)
        if inner is not None and part in inner.model_fields:
            annotation = inner.model_fields[str(part)].annotation
    return annotation


def _keys(model: type[BaseModel], loc: Location) -> list[str]:
    """The keys that the mapping at `loc` takes; empty where it takes any."""
    inner = next(_models(_annotation(model, loc)), None)
    return list(inner.model_fields) if inner is not None else []


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    return (part for part in _nested(annotation) if isinstance(part, type) and issubclass(part, BaseModel))


def _choices(annotation: Any) -> list[str]:
    """The texts that a `Literal` allows."""
    literals = [part for part in _nested(annotation) if get_origin(part) is Literal]
    return [choice for literal in literals for choice in get_args(literal) if isinstance(choice, str)]


def _nested(annotation: Any) -> Iterator[Any]:
    """A type and every type that it is made of: `tuple[X, ...] | None` yields itself, `tuple[X, ...]`, X and None."""
    yield annotation
    for part in get_args(annotation):
        yield from _nested(part)
