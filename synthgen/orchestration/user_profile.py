"""What has to be known of the user's Prefect settings before Prefect is imported, which takes them then."""

from __future__ import annotations

import os
import ssl
import tomllib
from collections.abc import Callable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

from synthgen.base.files import at_home
from synthgen.errors import OutOfRoom, SynthgenError
from synthgen.models import cache_folder


def has_server() -> bool:
    """Whether the user's settings name a server. They are looked for where Prefect looks for them, in its order: the
    environment; `.env`, `prefect.toml` and `pyproject.toml` of the working directory; the profile that is active, as
    `prefect config set` writes it.

    Raises:
        SynthgenError: one of the files is not what it has to be; says which, and what is wrong with it.
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
    found = (
        variables.get("PREFECT_API_URL"),
        _in(prefect, "api", "url"),
        _in(project, "api", "url"),
        _in(known, active, "PREFECT_API_URL"),
    )
    return bool(next((url for url in found if url is not None), None))


def own_home() -> Path:
    """The folder, which is made, where Prefect keeps its files if its server is ours.

    Raises:
        OutOfRoom: it cannot be made.
    """
    path = at_home(os.environ.get("PREFECT_HOME") or cache_folder() / "prefect").absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)  # Prefect makes no parents
    except OSError as error:
        raise no_room(path, error.strerror or str(error)) from error
    return path


def no_room(path: Path, why: str) -> OutOfRoom:
    """What is told where Prefect's files cannot be written."""
    return OutOfRoom(
        f"Prefect's files cannot be written to {path}: {why}; SYNTHGEN_HOME, or PREFECT_HOME, names another folder"
    )


def _read(path: Path, parse: Callable[[str], Mapping[str, Any]]) -> Mapping[str, Any]:
    """What a file of settings says; nothing where there is no such file."""
    try:
        return parse(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except OSError as error:
        raise SynthgenError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SynthgenError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error


def _dotenv(text: str) -> Mapping[str, Any]:
    return dotenv_values(stream=StringIO(text))


def _in(table: Any, *keys: Any) -> Any:
    """What tables within tables hold, or None."""
    for key in keys:
        table = table.get(key) if isinstance(table, Mapping) else None
    return table


def _check_certificates() -> None:
    """httpx reads this file when it is imported, and does not say its name where that fails."""
    name = "SSL_CERT_FILE"
    try:
        if os.environ.get(name):
            ssl.create_default_context(cafile=os.environ[name])
    except OSError as error:  # as are those of ssl
        raise SynthgenError(
            f"{name}: got {os.environ[name]!r}; takes a file of certificates ({error.strerror or error})"
        ) from error
