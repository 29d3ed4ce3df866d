"""The user's Prefect settings, as far as they must be known before Prefect is imported and reads them."""

from __future__ import annotations

import os
import ssl
import tomllib
from collections.abc import Callable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

from synthgen.base.files import expand_home
from synthgen.errors import OutOfRoom, SynthgenError
from synthgen.models import cache_folder


def has_server() -> bool:
    """Whether the user's settings name a server. Reads them where Prefect does, in its order: the environment; `.env`,
    `prefect.toml` and `pyproject.toml` of the working directory; the active profile, as `prefect config set` writes
    it.

    Raises:
        SynthgenError: one of the files is damaged; names the file and what is wrong with it.
    """
    _check_certificates()
    variables = {name.upper(): value for name, value in {**_read(Path(".env"), _dotenv), **os.environ}.items()}
    prefect = _read(Path("prefect.toml"), tomllib.loads)
    project = _in(_read(Path("pyproject.toml"), tomllib.loads), "tool", "prefect") or {}
    named = variables.get("PREFECT_PROFILES_PATH") or _in(prefect, "profiles_path") or _in(project, "profiles_path")
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
    path = Path(named) if isinstance(named, str) else home / "profiles.toml"
    profiles = _read(path, tomllib.loads)
    known = profiles.get("profiles", {})
    if not isinstance(known, dict) or not all(isinstance(settings, dict) for settings in known.values()):
        raise SynthgenError(f"{path}: `profiles` holds something else than tables of settings")
    active = os.environ.get("PREFECT_PROFILE") or profiles.get("active", "")
    urls = (
        variables.get("PREFECT_API_URL"),
        _in(prefect, "api", "url"),
        _in(project, "api", "url"),
        _in(known, active, "PREFECT_API_URL"),
    )
    return bool(next((url for url in urls if url is not None), None))


def prefect_home() -> Path:
    """Makes the folder where Prefect keeps its files if its server is embedded, and returns it.

    Raises:
        OutOfRoom: the folder cannot be made.
    """
    path = expand_home(os.environ.get("PREFECT_HOME") or cache_folder() / "prefect").absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)  # Prefect does not make the folders above it.
    except OSError as error:
        raise no_room(path, error.strerror or str(error)) from error
    return path


def no_room(path: Path, why: str) -> OutOfRoom:
    """The error for a folder in which Prefect's files cannot be written."""
    return OutOfRoom(
        f"Prefect's files cannot be written to {path}: {why}; SYNTHGEN_HOME, or PREFECT_HOME, names another folder"
    )


def _read(path: Path, parse: Callable[[str], Mapping[str, Any]]) -> Mapping[str, Any]:
    """The content of a settings file. Empty if the file is missing."""
    try:
        return parse(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except OSError as error:
        raise SynthgenError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SynthgenError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error


def _dotenv(text: str) -> Mapping[str, Any]:
    return dotenv_values(stream=StringIO(text))


def _in(table: Any, *keys: Any) -> Any:
    """The value at a path of keys in nested tables, or None."""
    for key in keys:
        table = table.get(key) if isinstance(table, Mapping) else None
    return table


def _check_certificates() -> None:
    """Checks the file of certificates. httpx reads it when it is imported, and does not name it if that fails."""
    name = "SSL_CERT_FILE"
    try:
        if os.environ.get(name):
            ssl.create_default_context(cafile=os.environ[name])
    except OSError as error:  # Errors of ssl are OSErrors.
        raise SynthgenError(
            f"{name}: got {os.environ[name]!r}; takes a file of certificates ({error.strerror or error})"
        ) from error
