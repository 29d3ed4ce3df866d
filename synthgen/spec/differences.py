"""What differs between two specs, or between other records of plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from synthgen.base.wording import plain, shown


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The values that differ in two nested mappings, each as `key.path: old -> new`."""
    lines = []
    for key in sorted({*old, *new}, key=str):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += differences(a, b, f"{prefix}{plain(str(key))}.")
        elif a != b:
            lines.append(f"{prefix}{plain(str(key))}: {shown(a)} -> {shown(b)}")
    return lines
