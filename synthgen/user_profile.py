"""The user's Prefect profile, read without Prefect, which takes its settings when it is imported."""

from __future__ import annotations

import os
import tomllib
from contextlib import suppress
from pathlib import Path


def has_server() -> bool:
    """Whether the user's Prefect profile, as `prefect config set` writes it, names a server."""
    path = Path(os.environ.get("PREFECT_PROFILES_PATH", "~/.prefect/profiles.toml")).expanduser()
    with suppress(OSError, ValueError, AttributeError):  # there is none, or it is broken
        read = tomllib.loads(path.read_text(encoding="utf-8"))
        name = os.environ.get("PREFECT_PROFILE") or read.get("active", "")
        return bool(read.get("profiles", {}).get(name, {}).get("PREFECT_API_URL"))
    return False
