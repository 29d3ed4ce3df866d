"""Parameters of diffusers' classes, read from its source, so that `check` knows them without importing torch."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any


@lru_cache
def parameters(name: str, method: str, folder: str) -> Mapping[str, Any] | None:
    """The parameters of a method: name -> default (None if it has none, or if it is no literal).

    Args:
        name: the class, such as `FluxPipeline`.
        method: the method, such as `__call__`.
        folder: the folder of diffusers that has the class's file: `pipelines` or `schedulers`.

    Returns:
        None if there is no such class, or if the class itself does not define the method.
    """
    begin = f"class {name}("
    for file in _files(name, folder):
        source = file.read_text(encoding="utf-8")
        if begin not in source:
            continue
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                for item in node.body:
                    if isinstance(item, ast.FunctionDef) and item.name == method:
                        return _defaults(item.args)
    return None


def _files(name: str, folder: str) -> Iterator[Path]:
    """The files that may hold a class. The file with the name of the class, if there is one, comes first: it saves
    reading hundreds of files."""
    library = importlib.util.find_spec("diffusers")
    folders = [Path(path) / folder for path in (library and library.submodule_search_locations) or ()]
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()  # flux_pipeline
    subject, _, kind = words.rpartition("_")
    stem = f"{kind.replace('scheduler', 'scheduling')}_{subject}"  # pipeline_flux
    for pattern in (f"{stem}.py", f"*/{stem}.py", "**/*.py"):
        yield from (file for path in folders for file in sorted(path.glob(pattern)))


def _defaults(taken: ast.arguments) -> dict[str, Any]:
    named = [*taken.posonlyargs, *taken.args]
    defaults: list[ast.expr | None] = [None] * (len(named) - len(taken.defaults)) + list(taken.defaults)
    pairs = [*zip(named, defaults, strict=True), *zip(taken.kwonlyargs, taken.kw_defaults, strict=True)]
    return {arg.arg: _plain(default) for arg, default in pairs if arg.arg != "self"}


def _plain(default: ast.expr | None) -> Any:
    try:
        return None if default is None else ast.literal_eval(default)
    except ValueError:
        return None
