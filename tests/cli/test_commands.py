"""The list of commands: there at once, and nothing behind it is imported before it is used."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from synthgen import cli
from synthgen.cli.commands import GROUPS

COMMANDS: dict[str, Any] = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
MODULES = {name: module for module, (_, summaries) in GROUPS.items() for name in summaries}


def imported(*arguments: str) -> set[str]:
    """The modules with commands that a command line imports."""
    code = (
        "import sys\nfrom synthgen import cli\n"
        "try: cli.main()\n"
        "finally: print(*(m for m in sys.modules if m.startswith('synthgen.')), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {module for module in GROUPS if f"synthgen.cli.{module}" in done.stderr.splitlines()[-1].split()}


def test_the_list_of_commands_imports_none_of_them() -> None:
    assert imported("--help") == set()


@pytest.mark.parametrize("name", ["show", "export"])
def test_a_command_imports_its_own_group_alone(name: str) -> None:
    assert imported(name, "--help") == {MODULES[name]}


def test_every_command_of_a_module_is_listed() -> None:
    """A public function that a module of commands defines is a command."""
    for module in GROUPS:
        functions = vars(sys.modules[COMMANDS[next(iter(GROUPS[module][1]))].load().callback.__module__])
        defined = {n for n, f in functions.items() if getattr(f, "__module__", "") == f"synthgen.cli.{module}"}
        assert {name for name in defined if not name.startswith("_")} == set(GROUPS[module][1])


def test_help_lists_commands_by_what_a_person_wants(synthgen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In 80 columns: a title for each group, and one line for each command."""
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = synthgen("--help")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    places = [out.index(title) for title, _ in GROUPS.values()]
    assert places == sorted(places)
    for _, summaries in GROUPS.values():
        for name, summary in summaries.items():
            (line,) = [line for line in out.splitlines() if line.strip("│ ").startswith(f"{name} ")]
            assert line.strip("│ ").split(maxsplit=1) == [name, summary]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_fits_into_80_columns(name: str, synthgen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = synthgen(name, "--help")
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out.replace("min=…", "")  # nothing is cut off


@pytest.mark.parametrize("name", COMMANDS)
def test_every_argument_and_option_says_what_it_is(name: str) -> None:
    for parameter in COMMANDS[name].load().params:
        assert len(parameter.help or "") > 8, parameter.name


def test_a_command_that_is_registered_besides_is_listed() -> None:
    app = typer.Typer(cls=type(typer.main.get_command(cli.app)))
    app.callback()(lambda: None)
    app.command("more")(lambda: print("more"))
    assert [*typer.main.get_command(app).commands] == [*MODULES, "more"]  # type: ignore[attr-defined]


def test_the_modules_are_where_the_list_says() -> None:
    files = {path.stem for path in Path(cli.__file__).parent.glob("*.py")}
    assert set(GROUPS) <= files
