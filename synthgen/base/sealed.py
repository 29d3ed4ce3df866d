"""Sealed records: JSON files with a checksum of themselves, so that damage shows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError

from synthgen.base.files import atomic

SEAL = "seal"  # the key of the checksum


def sha256_json(value: Any) -> str:
    """The sha256, in hex, of plain data as JSON with sorted keys: the order of keys does not matter."""
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)).hexdigest()


def write_sealed(path: Path, content: Mapping[str, Any]) -> bytes:
    """Writes `content` as JSON with its checksum under `SEAL`, and returns the bytes written."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS
    data = orjson.dumps({**content, SEAL: sha256_json(content)}, option=options)
    with atomic(path) as file:
        file.write(data)
    return data


def read_sealed(path: Path) -> dict[str, Any] | None:
    """The content that `write_sealed` wrote; None if the file is missing, unreadable or damaged."""
    try:
        content: dict[str, Any] = orjson.loads(path.read_bytes())
        seal = content.pop(SEAL)
        return content if seal == sha256_json(content) else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def validated(form: TypeAdapter[Any], raw: Any) -> Any:
    """The data as the form's type; None if it does not have that form."""
    try:
        return form.validate_python(raw)
    except ValidationError:
        return None
