"""What synthgen imports, its pyproject.toml names."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
SOURCES = {p.relative_to(ROOT).as_posix(): p.read_text(encoding="utf-8") for p in (ROOT / "synthgen").rglob("*.py")}


def names(requirements: list[str]) -> set[str]:
    """The distributions that requirements name, as packaging normalises them."""
    return {re.sub(r"[-_.]+", "-", re.split(r"[\s\[<>=!~;]", line)[0]).lower() for line in requirements}


def imports(source: str) -> Iterator[str]:
    """The top-level packages that a module imports, also within its functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def undeclared(sources: dict[str, str], declared: set[str]) -> dict[str, str]:
    """The imported packages that come from no declared distribution, each with a file that imports it."""
    packages = packages_distributions()
    found = {package: file for file, source in sources.items() for package in imports(source)}
    return {
        package: file
        for package, file in found.items()
        if package not in sys.stdlib_module_names | {"synthgen"} and not names(packages.get(package, [])) & declared
    }


def test_every_import_is_a_declared_dependency() -> None:
    extras = [line for name, lines in EXTRAS.items() if name not in {"dev", "docs"} for line in lines]
    assert undeclared(SOURCES, names(PROJECT["dependencies"] + extras)) == {}


@pytest.mark.parametrize("name", ["certifi", "python-dotenv", "typing-extensions", "pillow"])
def test_an_import_that_is_not_declared_is_found(name: str) -> None:
    declared = names(PROJECT["dependencies"] + [line for lines in EXTRAS.values() for line in lines])
    assert name in declared
    (package,) = undeclared(SOURCES, declared - {name})
    assert package == {"python-dotenv": "dotenv", "pillow": "PIL"}.get(name, name.replace("-", "_"))
