"""The progress of a download, and what `synthgen models` refuses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from synthgen.cli import needs
from synthgen.models.transfer import Progress


@pytest.mark.parametrize(
    ("progress", "seconds", "line"),
    [
        # Half of it was here before: the speed is that of what has come, and the rest comes at this speed.
        (Progress(7_000_000_000, 10_000_000_000, 2_000_000_000), 20, "7.00 of 10.00 GB, 100.0 MB/s, about 0:30 left"),
        (Progress(1_500_000, 3_000_000, 1_500_000), 1, "1.5 of 3.0 MB, 1.5 MB/s, about 0:01 left"),
        (Progress(1_500_000, 3_000_000, 0), 1, "1.5 of 3.0 MB, 0.0 MB/s"),
    ],
)
def test_a_line_of_progress(progress: Progress, seconds: float, line: str) -> None:
    assert needs.progress_line("fetching me/model", progress, seconds) == f"fetching me/model: {line}"


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_is_drawn_on_a_terminal_and_else_printed_in_lines(
    is_terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: is_terminal)
    for name in ("LINE_SECONDS", "REDRAW_SECONDS"):
        monkeypatch.setattr(needs, name, 0.0)
    with needs.showing_progress("fetching me/model") as report:
        report(Progress(0, 5_000_000, 0))
        report(Progress(5_000_000, 5_000_000, 5_000_000))
    err = capsys.readouterr().err
    shown = err.replace("\x1b[K", "").split("\r")[1:] if is_terminal else err.splitlines()
    assert len(shown) == 3 and shown[0].startswith("fetching me/model: 0.0 of 5.0 MB")
    assert shown[-1].startswith("fetching me/model: 5.0 of 5.0 MB, ")
    assert err.count("\n") == (1 if is_terminal else 3) and err.endswith("\n")


def test_progress_of_what_is_fetched_at_once_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with needs.showing_progress("fetching me/model") as report:
        report(Progress(5, 5, 5))
    assert capsys.readouterr().err == ""


def test_a_spec_shows_the_embedded_models_and_missing_packages(
    good: dict[str, Any], spec_file: Callable[..., Path], synthgen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = spec_file(good)
    code, out, _ = synthgen("models", file)
    rows = [line.split() for line in out.splitlines()]
    assert code == 0 and [row[:2] + row[3:] for row in rows if row[0] == "generator"] == [
        ["generator", "mini", "Apache-2.0", "embedded"]
    ]
    assert "fetch" not in out
    assert synthgen("models", "--download", file)[:2] == (0, f"{file}: all its models are here\n")
    good["filters"] = {"unsafe": {}}
    monkeypatch.setattr("synthgen.models.named.find_spec", lambda name: None)
    monkeypatch.setattr("synthgen.models.named.version", lambda name: missing(name))
    lack = "filters.unsafe: 'unsafe' needs nudenet: pip install 'synthgen[unsafe]'"
    file = spec_file(good)
    assert synthgen("models", file)[1].splitlines()[-1] == lack
    assert synthgen("models", "--download", file) == (2, "", f"error: {lack}\n")  # no hub has packages


def missing(name: str) -> str:
    from importlib.metadata import PackageNotFoundError

    raise PackageNotFoundError(name)


def test_a_spec_says_revisions_itself(good: dict[str, Any], spec_file: Callable[..., Path], synthgen: Any) -> None:
    code, _, err = synthgen("models", "--download", spec_file(good), "--revision", "v1")
    message = "--revision, --variant and --file belong to a model; a spec says its own"
    assert (code, err) == (2, f"error: {message}\n")
