"""Sealed records: JSON files with a checksum of themselves, so that damage shows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError

from synthgen.base.files import atomic

SEAL = "seal"


def sha256_json(value: Any) -> str:
    """sha256 of plain data, independent of the order of its keys."""
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)).hexdigest()


def write_sealed(path: Path, content: Mapping[str, Any]) -> bytes:
    """JSON with a checksum of its own, under `SEAL`; -> what has been written."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS
    data = orjson.dumps({**content, SEAL: sha256_json(content)}, option=options)
    with atomic(path) as file:
        file.write(data)
    return data


def read_sealed(path: Path) -> dict[str, Any] | None:
    """What `write_sealed` wrote; None if it is not there or not what was written."""
    try:
        content: dict[str, Any] = orjson.loads(path.read_bytes())
        seal = content.pop(SEAL)
        return content if seal == sha256_json(content) else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def validated(form: TypeAdapter[Any], raw: Any) -> Any:
    """Plain data in a form; None if it has another."""
    try:
        return form.validate_python(raw)
    except ValidationError:
        return None
