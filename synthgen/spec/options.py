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
from synthgen.spec.unloaded import Recorded, UnloadedConfig, UnloadedFilterConfig


def parse_options(kind: str, field: str, raw: Any, default: str, unloaded: Mapping[str, Recorded] | None) -> Config:
    """Plain data, as YAML gives it -> the options of a backend.

    Args:
        kind: of `KINDS`.
        field: where the options stand in the spec, such as `filters.sharpness`.
        default: the backend, where the options have no `use`.
        unloaded: see `DatasetSpec.parse`.

    Raises:
        SpecError: with every problem of these options.
    """
    raw = {"use": raw} if isinstance(raw, str) else {} if raw is None else raw
    if not isinstance(raw, dict):
        raise SpecError([Problem(field, f"got {shown(raw)}; takes a name or a mapping of options")])
    if not isinstance(use := raw.get("use", default), str):
        raise SpecError([Problem(f"{field}.use", f"got {shown(use)}; takes a name")])
    try:
        if unloaded is not None and is_own(use):
            unread = UnloadedFilterConfig if kind == "filter" else UnloadedConfig
            return unread.of({**raw, "use": use}, unloaded.get(field))
        options = _options_class(kind, use)
        return options.model_validate({**raw, "use": use})
    except LookupError as error:
        named_by = f"{field}.use" if "use" in raw else field
        raise SpecError([Problem(named_by, plain(" ".join(str(error.args[0]).split()), 500))]) from error
    except ValidationError as error:
        problems = [replace(p, field=f"{field}.{p.field}") for _, p in problems_of(error, options)]
        raise SpecError(problems) from error


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
