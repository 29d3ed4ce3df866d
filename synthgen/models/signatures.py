"""Facts about diffusers' classes, read from its source, so that `check` knows them without importing torch."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

OF_BASES = ("Pipeline", "Model")  # how the names of classes end that other classes of the same folder build upon


def parameters(name: str, method: str, folder: str) -> Mapping[str, Any] | None:
    """The parameters of a method: name -> default (None if it has none, or if it is no literal).

    Args:
        name: the class, such as `FluxPipeline`.
        method: the method, such as `__call__`.
        folder: the folder of diffusers that has the class's file: `pipelines`, `schedulers`, `models` or `hooks`.

    Returns:
        None if there is no such class, or if the class itself does not define the method.
    """
    function = _method(name, method, folder)
    return None if function is None else _defaults(function.args)


def types_taken(name: str, method: str, folder: str) -> Mapping[str, str]:
    """The types of a method's parameters as its source writes them; see `parameters`. Empty if there is no such
    method."""
    function = _method(name, method, folder)
    taken = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs] if function else []
    return {arg.arg: ast.unparse(arg.annotation) for arg in taken if arg.annotation}


def fields(name: str, folder: str) -> Mapping[str, Any]:
    """The attributes of a class that its body, or that of a base in the same folder of diffusers, sets to literals."""
    values: dict[str, Any] = {}
    for base in reversed(_bases(name, folder)):
        values |= fields(base, folder) if base.endswith(OF_BASES) else {}
    found = definition(name, folder)
    for item in found[1].body if found else ():
        if isinstance(item, ast.Assign | ast.AnnAssign) and item.value is not None:
            targets = item.targets if isinstance(item, ast.Assign) else [item.target]
            values |= {target.id: _plain(item.value) for target in targets if isinstance(target, ast.Name)}
    return values


def bases(name: str, folder: str) -> frozenset[str]:
    """The names of a class's bases, and of their bases as far as the same folder of diffusers defines them."""
    own = _bases(name, folder)
    return frozenset(own).union(*(bases(base, folder) for base in own if base.endswith(OF_BASES)))


def source(name: str, folder: str) -> str:
    """The text of the file that defines a class; "" if there is none."""
    found = definition(name, folder)
    return found[0] if found else ""


@lru_cache
def definition(name: str, folder: str) -> tuple[str, ast.ClassDef] | None:
    """The text of the file that defines a class, and the class in it."""
    begin = re.compile(rf"^class {re.escape(name)}[(:]", re.MULTILINE)
    for file in _files(name, folder):
        text = file.read_text(encoding="utf-8")
        if not begin.search(text):
            continue
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                return text, node
    return None


def _method(name: str, method: str, folder: str) -> ast.FunctionDef | None:
    found = definition(name, folder)
    functions = [item for item in found[1].body if isinstance(item, ast.FunctionDef)] if found else []
    return next((function for function in functions if function.name == method), None)


def _bases(name: str, folder: str) -> list[str]:
    found = definition(name, folder)
    return [ast.unparse(base).rpartition(".")[2] for base in found[1].bases] if found else []


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
