"""The user's Prefect settings, as they are read before Prefect is imported."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import Settings

from synthgen.errors import SynthgenError
from synthgen.orchestration.user_profile import has_server

URL = "http://127.0.0.1:4999/api"
PROFILE = f'active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "{URL}"\n'


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory; the home is `home` in it."""
    for name in list(os.environ):
        if name.startswith("PREFECT_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home" / ".prefect").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "text", "variables", "is_found"),
    [
        (".env", f"PREFECT_API_URL={URL}\n", {}, True),
        (".env", f"prefect_api_url = '{URL}'\n", {}, True),
        ("prefect.toml", f"[api]\nurl = '{URL}'\n", {}, True),
        ("pyproject.toml", f"[tool.prefect.api]\nurl = '{URL}'\n", {}, True),
        ("home/.prefect/profiles.toml", PROFILE, {"PREFECT_HOME": "other"}, False),
        ("profiles.toml", PROFILE, {"PREFECT_HOME": "."}, True),
        ("p.toml", PROFILE, {"PREFECT_PROFILES_PATH": "p.toml"}, True),
        ("p.toml", PROFILE, {"PREFECT_PROFILES_PATH": "p.toml", "PREFECT_PROFILE": "other"}, False),
        ("p.toml", PROFILE, {"PREFECT_PROFILES_PATH": "p.toml", "PREFECT_API_URL": ""}, False),
        ("pyproject.toml", "[project]\nname = 'theirs'\n", {}, False),
        ("none", "", {"PREFECT_API_URL": URL}, True),
        ("none", "", {}, False),
    ],
)
def test_what_is_found_is_what_prefect_finds(
    file: str, text: str, variables: dict[str, str], is_found: bool, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / file).write_text(text)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert has_server() == is_found
    assert bool(Settings().api.url) == is_found


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("home/.prefect/profiles.toml", b"active = [", "cannot be read: "),
        ("home/.prefect/profiles.toml", b"\xff", "cannot be read: "),
        ("home/.prefect/profiles.toml", b"profiles = 3", "holds something else than tables"),
        ("home/.prefect/profiles.toml", b"[profiles]\nmine = 3", "holds something else than tables"),
        ("prefect.toml", b"url = ", "cannot be read: "),
        ("pyproject.toml", b"[tool", "cannot be read: "),
        (".env", b"A=\xff", "cannot be read: "),
    ],
)
def test_a_file_that_is_broken_is_told_in_a_line(file: str, content: bytes, words: str, place: Path) -> None:
    (place / file).write_bytes(content)
    with pytest.raises(SynthgenError) as stop:
        has_server()
    assert f"{file}: " in str(stop.value) and words in str(stop.value) and "\n" not in str(stop.value)
    assert stop.value.exit_code == 2


def test_certificates_that_are_not_there_are_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere")
    with pytest.raises(SynthgenError, match=r"^SSL_CERT_FILE: got '/nowhere'; takes a file of certificates \(No such"):
        has_server()


def test_the_command_says_it_before_prefect_stumbles(place: Path, spec_file: Any, quick: Any) -> None:
    file = place / "home" / ".prefect" / "profiles.toml"
    file.write_text("active = [")
    done = subprocess.run(
        [sys.executable, "-m", "synthgen.cli", "run", spec_file(quick)], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PREFECT_API_URL": URL},
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {file}: cannot be read: ") and done.stderr.count("\n") == 1
