"""Reads a spec from a file."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from synthgen.backends import KINDS
from synthgen.base.files import expand_home
from synthgen.base.safe_yaml import load_yaml, read_yaml_text
from synthgen.base.wording import shown
from synthgen.errors import Problem, SpecError
from synthgen.spec.dataset import DatasetSpec


def load_spec(path: Path, overrides: Sequence[str] = ()) -> DatasetSpec:
    """Reads a spec from a file. A path that starts with `./` or `../`, of a model or a certificate, is relative to
    the folder of the spec.

    Args:
        overrides: `key.path=value`, each; the value is YAML.

    Raises:
        SpecError: the file cannot be read, or the spec has problems.
    """
    path = expand_home(path)
    try:
        raw = load_yaml(read_yaml_text(path))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SpecError([Problem("", f"cannot read the spec {str(path)!r}: {reason}")]) from error
    if not isinstance(raw, dict):
        got = "an empty file" if raw is None else type(raw).__name__
        raise SpecError([Problem("", f"a spec is a mapping of keys to values, got {got}")])
    for override in overrides:
        set_value(raw, override)
    for kind in KINDS.values():
        if not kind.many:
            _resolve_model(raw.get(kind.key), path.parent)
    if isinstance(provenance := raw.get("provenance"), dict):
        _resolve(provenance.get("c2pa"), ("certificate", "key"), path.parent)
    if isinstance(licence := raw.get("licence"), dict) and isinstance(accept := licence.get("accept"), list):
        licence["accept"] = [_absolute(model, path.parent) for model in accept]
    return DatasetSpec.parse(raw)


def _resolve_model(options: Any, folder: Path) -> None:
    """Makes a model that is beside the spec absolute, in place: of these options, and of those in their lists."""
    if not isinstance(options, dict):
        return
    _resolve(options, ("model",), folder)
    for value in options.values():
        for part in value if isinstance(value, list) else ():
            _resolve_model(part, folder)


def _resolve(options: Any, keys: Sequence[str], folder: Path) -> None:
    """Makes paths that start with `./` or `../` absolute, in place."""
    for key in keys if isinstance(options, dict) else ():
        if key in options:
            options[key] = _absolute(options[key], folder)


def _absolute(value: Any, folder: Path) -> Any:
    """A path that starts with `./` or `../`, absolute. A text that cannot be a path stays as it is, and `check` says
    that it does not exist."""
    if str(value).startswith(("./", "../")):
        with suppress(OSError, ValueError, RuntimeError):
            return str((folder / value).resolve())
    return value


def set_value(raw: dict[str, Any], override: str) -> None:
    """Puts one `key.path=value` into plain data, in place.

    Raises:
        SpecError: the override has another form, or its path leads through a value that is no mapping.
    """
    path, equals, text = override.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise SpecError(
            [Problem("--set", f"got {shown(override)}; it takes key.path=value, such as filters.sharpness.min=60")]
        )
    try:
        value = load_yaml(text)
    except SpecError as error:
        raise SpecError([Problem("--set", f"got {shown(override)}; {error}")]) from error
    kinds = {kind.key: kind for kind in KINDS.values()}
    outer = raw
    for depth, key in enumerate(keys[:-1]):
        inner, kind = outer.get(key), kinds.get(key)
        if inner is None:
            # A spec without filters has the default ones. Who changes one of them keeps the others.
            inner = outer[key] = dict.fromkeys(kind.defaults if kind and kind.many and depth == 0 else ())
        elif isinstance(inner, str) and kind and not kind.many:
            inner = outer[key] = {"use": inner}
        if not isinstance(inner, dict):
            raise SpecError([Problem("--set", f"got {shown(override)}; {shown(key)} is no mapping of options")])
        outer = inner
    outer[keys[-1]] = value
