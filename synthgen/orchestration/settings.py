"""The settings of Prefect's clients while a flow runs: which server they use, and how they reach it."""

from __future__ import annotations

import json
import os
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import certifi
from prefect.context import SettingsContext, get_settings_context
from prefect.settings import Settings
from pydantic import BaseModel


@contextmanager
def using_server(url: str, password: str) -> Iterator[None]:
    """In its block, Prefect's clients use the server at `url`, whatever the user has set for a server of the user's.

    Every setting gets a value here, because Prefect looks for each that has none in `.env`, `prefect.toml` and
    `pyproject.toml` of the working directory, in this process and in those that it starts.
    """
    now = get_settings_context()
    values = now.settings.model_dump()
    values |= {name: _defaults(type(getattr(now.settings, name))) for name in ("api", "client", "cloud")}
    values["ui_url"] = ""  # The server has no pages.
    values["api"] |= {"url": url, "auth_string": password, "ssl_cert_file": certifi.where()}
    values["tasks"]["default_persist_result"] = False
    # This is text because Prefect would add the user's headers to a dictionary. It has the login because processes that
    # Prefect starts get the user's headers all the same, and the user's login must not be among them.
    login = b64encode(password.encode()).decode()
    values["client"]["custom_headers"] = json.dumps({"Authorization": f"Basic {login}"})
    with SettingsContext(profile=now.profile, settings=Settings(**values)):
        yield


def _defaults(kind: type[BaseModel]) -> dict[str, Any]:
    """The values of settings that nobody has set."""
    return {
        name: _defaults(field.annotation)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        else field.get_default(call_default_factory=True)
        for name, field in kind.model_fields.items()
    }


@contextmanager
def without_proxy(is_embedded: bool) -> Iterator[None]:
    """In its block, clients reach servers on this machine without the proxy of the environment.

    Args:
        is_embedded: whether Prefect's server is `embedded_server`. If so, proxies of other kinds than HTTP are hidden
            too: httpx prepares each of them even if it is not to be used, and fails if it cannot.
    """
    changed: dict[str, str | None] = {}
    known = [*filter(None, (os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")).split(","))]
    for name in ("NO_PROXY", "no_proxy"):
        changed[name] = ",".join([*known, "127.0.0.1", "localhost"])
    if is_embedded:
        names = [n for n in os.environ if n.lower() in ("all_proxy", "http_proxy", "https_proxy")]
        changed |= {n: None for n in names if re.match(r"(?!https?:)[^:]*://", os.environ[n], re.IGNORECASE)}
    before = {name: os.environ.get(name) for name in changed}
    _set(changed)
    try:
        yield
    finally:
        _set(before)


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
