"""What the shell is offered."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SHELLS = ["bash", "zsh", "fish"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder with specs and run folders."""
    for name in ("fruit.yaml", "specs/street.yaml", "specs/notes.txt", "outputs/fruit/run-0001/spec.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "outputs" / "fruit" / "dataset").mkdir()
    (tmp_path / "outputs" / "fruit" / "run-0002").mkdir()
    return tmp_path


def run(folder: Path, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "synthgen.cli"], cwd=folder, env={**os.environ, **variables}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout


def offered(folder: Path, line: str) -> list[str]:
    """What bash offers at the end of a command line."""
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    return run(folder, _SYNTHGEN_COMPLETE="complete_bash", **words).split()


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_of_a_shell_is_printed(shell: str, folder: Path) -> None:
    script = run(folder, _SYNTHGEN_COMPLETE=f"source_{shell}")
    assert "_SYNTHGEN_COMPLETE=complete_" in script and "synthgen" in script


def test_show_completion_prints_the_script_of_the_shell_that_asks(folder: Path) -> None:
    command = f"{sys.executable} -m synthgen.cli --show-completion; exit $?"
    bash = shutil.which("bash")
    assert bash
    done = subprocess.run([bash, "-c", command], cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "complete -o default -F _synthgen_completion synthgen" in done.stdout


def test_install_completion_writes_to_the_users_home(folder: Path, tmp_path: Path) -> None:
    command = f"{sys.executable} -m synthgen.cli --install-completion; exit $?"
    done = subprocess.run(
        [shutil.which("bash") or "bash", "-c", command], env={**os.environ, "HOME": str(tmp_path)}, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    (script,) = (tmp_path / ".bash_completions").iterdir()
    assert "_synthgen_completion" in script.read_text() and script.name in (tmp_path / ".bashrc").read_text()


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("synthgen ru", ["run", "runs"]),
        ("synthgen run f", ["fruit.yaml"]),
        ("synthgen run ", ["fruit.yaml", "specs/street.yaml"]),
        ("synthgen check fruit.yaml specs/", ["specs/street.yaml"]),
        ("synthgen show ", ["outputs/fruit/run-0001", "outputs/fruit/run-0002"]),
        ("synthgen status outputs/fruit/run-0001", ["outputs/fruit/run-0001"]),
        ("synthgen verify nowhere/", []),
        ("synthgen run fruit.yaml --set filters.sha", ["filters.sharpness."]),
        ("synthgen run fruit.yaml --set grounder.use=l", ["grounder.use=layout"]),
        ("synthgen run fruit.yaml --set cou", ["count="]),
        ("synthgen models --download vit_h", ["vit_h"]),
        ("synthgen review outputs/fruit/run-0001 --queue b", ["borderline"]),
        ("synthgen show s3://nowhere/x/run-0001 --rej", ["--rejected"]),
    ],
)
def test_what_is_offered(line: str, values: list[str], folder: Path) -> None:
    assert offered(folder, line) == values
