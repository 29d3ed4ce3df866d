"""The options of a backend: the part of a spec that `use` gives to a module."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from synthgen.backends import Config, backend_module, is_own
from synthgen.base.wording import plain, shown
from synthgen.errors import Problem, SpecError
from synthgen.spec.problems import problems_of
from synthgen.spec.section import MAX_ENTRIES
from synthgen.spec.unloaded import Recorded, UnloadedConfig, UnloadedFilterConfig


def parse_options(
    kind: str, field: str, raw: Any, default: str | None, unloaded: Mapping[str, Recorded] | None
) -> Config:
    """Plain data, as YAML gives it -> the options of a backend.

    Args:
        kind: of `KINDS`.
        field: where the options stand in the spec, such as `filters.sharpness`.
        default: the backend, where the options have no `use`; None: they need one.
        unloaded: see `DatasetSpec.parse`.

    Raises:
        SpecError: with every problem of these options.
    """
    raw = {"use": raw} if isinstance(raw, str) else {} if raw is None else raw
    if not isinstance(raw, dict):
        raise SpecError([Problem(field, f"got {shown(raw)}; takes a name or a mapping of options")])
    if (use := raw.get("use", default)) is None and "use" not in raw:
        raise SpecError([Problem(f"{field}.use", "missing, and has no default")])
    if not isinstance(use, str):
        raise SpecError([Problem(f"{field}.use", f"got {shown(use)}; takes a name")])
    try:
        if unloaded is not None and (is_own(use) or any(map(is_own, _parts_used(use, kind, raw)))):
            unread = UnloadedFilterConfig if kind == "filter" else UnloadedConfig
            return unread.of({**raw, "use": use}, unloaded.get(field))
        options = _options_class(kind, use)
        parts = _parse_sections(options, field, raw, unloaded)
        return options.model_validate({**raw, **parts, "use": use})
    except LookupError as error:
        named_by = f"{field}.use" if "use" in raw else field
        raise SpecError([Problem(named_by, plain(" ".join(str(error.args[0]).split()), 500))]) from error
    except ValidationError as error:
        problems = [replace(p, field=f"{field}.{p.field}") for _, p in problems_of(error, options)]
        raise SpecError(problems) from error


def _parse_sections(
    options: type[Config], field: str, raw: Mapping[str, Any], unloaded: Mapping[str, Recorded] | None
) -> dict[str, list[Config]]:
    """The options that are lists of backends. Raises: SpecError: with every problem of theirs."""
    parts: dict[str, list[Config]] = {}
    problems: list[Problem] = []
    for name, kind in options.sections.items():
        given = raw.get(name)
        if not isinstance(given, list) or len(given) > MAX_ENTRIES:  # the checks of the option report it
            continue
        parts[name] = []
        for i, part in enumerate(given):
            try:
                parts[name].append(parse_options(kind, f"{field}.{name}.{i}", part, None, unloaded))
            except SpecError as error:
                problems += error.problems
    if problems:
        raise SpecError(problems)
    return parts


def _parts_used(use: str, kind: str, raw: Mapping[str, Any]) -> list[str]:
    """The backends that lists in the options of a built-in backend name."""
    parts = [
        part for name in _options_class(kind, use).sections if isinstance(raw.get(name), list) for part in raw[name]
    ]
    used = [part.get("use") if isinstance(part, dict) else part for part in parts]
    return [name for name in used if isinstance(name, str)]


def _options_class(kind: str, use: str) -> type[Config]:
    """The class of the options of the backend that `use` names.

    Raises:
        LookupError: there is no such module, or it is not a backend.
    """
    if len(use) > 200 or not all(part.isidentifier() for part in use.removeprefix(".").split(".")):
        raise LookupError(f"got {shown(use)}; takes the name of a built-in, or the dotted name of a module of yours")
    # To import a module is to run it, and no module of Python's own is a backend.
    if "." in use and use.partition(".")[0] in sys.stdlib_module_names:
        raise LookupError(
            f"{use!r} is no backend, but part of Python; a backend's module defines `Config` and `Backend`"
        )
    try:
        options = backend_module(kind, use).Config
    except SystemExit as error:
        raise LookupError(f"cannot import your module {use!r}: it ends the program") from error
    if not (isinstance(options, type) and issubclass(options, Config)):
        raise LookupError(f"{use!r} is no backend: its `Config` is no subclass of `synthgen.backends.Config`")
    return options
