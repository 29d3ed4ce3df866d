"""YAML text becomes plain data, safely: no code, no duplicate keys, no aliases that stand for gigabytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from synthgen.errors import Problem, SpecError
from synthgen.wording import plain, shown

MAX_BYTES = 1_000_000
MAX_WRITTEN = 40_000  # values as they are written: reading more takes longer than a `check` should
MAX_NODES = 100_000  # after aliases are expanded: a few kilobytes of them can stand for gigabytes
MAX_DIGITS = 100  # of a number: reading, and showing, one of 100,000 digits takes minutes or fails
TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """`yaml.safe_load`, refusing duplicate keys, alias bombs, and what is no plain data. Whatever is wrong has its line
    and column."""

    times = 1
    written = 0

    def compose_document(self) -> Any:
        node = super().compose_document()  # type: ignore[no-untyped-call]
        most = MAX_NODES * self.times
        if _expanded(node, {}, most) > most:
            raise _error(node, f"its aliases stand for more than {most:,} values")
        return node

    def compose_node(self, parent: Any, index: Any) -> Any:
        node = super().compose_node(parent, index)  # type: ignore[no-untyped-call]
        self.written += 1
        if self.written > MAX_WRITTEN * self.times:
            raise _error(node, f"more than {MAX_WRITTEN * self.times:,} values")
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)  # type: ignore[no-untyped-call]
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
            # PyYAML takes tags and what looks like a number or a date at their word: `!!int x`, 2024-13-01.
            raise _error(node, f"got {shown(node.value)}, which is no {node.tag.removeprefix(TAG)}") from error

    def construct_scalar(self, node: Any) -> Any:
        value = node.value
        if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
            raise _error(node, "half a character (a lone surrogate)")
        if node.tag in {TAG + "int", TAG + "float"} and len(value) > MAX_DIGITS:
            raise _error(node, f"got {shown(value)}; a number takes at most {MAX_DIGITS} digits")
        return super().construct_scalar(node)  # type: ignore[no-untyped-call]

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise _error(node, "a tag that calls it a mapping")
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _error(key, "a key that is a list or a mapping")
            if key.value in seen and key.tag != TAG + "merge":
                raise _error(key, f"the key {shown(key.value)} stands twice, again")
            seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


for _kind in ("binary", "set", "omap", "pairs"):  # neither JSON nor pydantic gives them back as they were
    _Loader.add_constructor(TAG + _kind, _Loader.construct_undefined)  # type: ignore[type-var]


def _error(node: Any, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def _expanded(node: Any, sizes: dict[int, int | None], most: int) -> int:
    """Values that a YAML node stands for once its aliases are written out; counted no further than `most`.

    Raises:
        yaml.YAMLError: a node stands inside itself.
    """
    if id(node) in sizes:
        size = sizes[id(node)]
        if size is None:
            raise _error(node, "an alias that is part of itself")
        return size
    sizes[id(node)] = None
    total = 1
    if isinstance(node, yaml.SequenceNode):
        total += sum(_expanded(child, sizes, most) for child in node.value)
    elif isinstance(node, yaml.MappingNode):
        total += sum(_expanded(child, sizes, most) for pair in node.value for child in pair)
    sizes[id(node)] = total = min(total, most + 1)
    return total


def load_yaml(text: str, times: int = 1) -> Any:
    """Plain data from YAML text; `times` as much of it as a person's spec may have.

    Raises:
        SpecError: not YAML, a duplicate key, too long, or aliases that stand for too much.
    """
    if len(text) > MAX_BYTES * times:
        raise SpecError([Problem("", f"a spec takes at most {MAX_BYTES * times:,} characters, got {len(text):,}")])
    try:
        loader = _Loader(text)
        loader.times = times
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark, problem = error.problem_mark, str(error.problem)
        if problem.startswith("but "):  # "expected a single document", "but found another document"
            problem = f"{error.context}, {problem}"
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise SpecError([Problem("", f"not valid YAML: {plain(problem, 300)}{where}")]) from error
    except RecursionError as error:
        raise SpecError([Problem("", "not valid YAML for a spec: nested too deeply")]) from error
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        where = f"in line {before.count(chr(10)) + 1}, column {error.position - before.rfind(chr(10))}"
        message = f"not valid YAML: the character U+{ord(text[error.position]):04X} {where}"
        raise SpecError([Problem("", message)]) from error
    except (yaml.YAMLError, ValueError) as error:
        raise SpecError([Problem("", f"not valid YAML: {plain(str(error), 300)}")]) from error


def read_text(path: Path, times: int = 1) -> str:
    """A file's text, of which no more is read than `load_yaml` takes.

    Raises:
        OSError, UnicodeDecodeError: it cannot be read.
        SpecError: too long.
    """
    most = 4 * MAX_BYTES * times  # UTF-8 takes at most so much for a character
    with open(path, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise SpecError([Problem("", f"a spec takes at most {MAX_BYTES * times:,} characters; {str(path)!r} has more")])
    return data.decode("utf-8")
