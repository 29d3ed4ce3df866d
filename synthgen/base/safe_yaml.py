"""A safe reader of YAML: it runs no code, and refuses duplicate keys and aliases that stand for gigabytes.

Only plain decimals are numbers. Text that looks like a number or a date only to YAML 1.1 stays text: 12:00 is not read
as 720, 0100 not as 64, 0x10 not as 16, 2024-01-01 not as a date. (YAML 1.2 has removed base 60, dates and octal numbers
that start with 0: https://yaml.org/spec/1.2.2/ext/changes/.)
"""

from __future__ import annotations

import re
from math import isfinite
from pathlib import Path
from typing import Any

import yaml

from synthgen.base.wording import plain, shown
from synthgen.errors import Problem, SpecError

MAX_BYTES = 1_000_000
MAX_WRITTEN = 40_000  # values in the text: to read more takes longer than a `check` should
MAX_NODES = 100_000  # values once aliases are expanded: a few kilobytes of them can stand for gigabytes
MAX_DIGITS = 100  # of a number: to read or show one of 100,000 digits takes minutes or fails
TAG = "tag:yaml.org,2002:"
# Text for PyYAML (1e3, say) is text here too: PyYAML wrote the specs in run folders, and quotes only what it would not
# read as text itself.
_WHOLE = re.compile(r"[-+]?(?:0|[1-9][0-9]*)$")
_DECIMAL = re.compile(
    r"(?:[-+]?(?:0|[1-9][0-9]*)\.[0-9]*|\.[0-9]+)(?:[eE][-+][0-9]+)?$|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
)


class _Int(int):
    """A whole number that Python would write in another way, such as +5."""

    written: str

    def __repr__(self) -> str:
        return self.written


class _Float(float):
    """A number that Python would write in another way, such as 1.40."""

    written: str

    def __repr__(self) -> str:
        return self.written


def as_written(value: str | float) -> str:
    """Text, or a number the way the YAML text writes it."""
    return value.written if isinstance(value, _Int | _Float) else str(value)


class _Loader(yaml.SafeLoader):
    """`yaml.SafeLoader` that refuses duplicate keys, alias bombs and tags that are not plain data. Every error has its
    line and column."""

    times = 1  # the factor on all limits
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
            # PyYAML tries to build whatever a tag or a pattern promises: `!!int x`, 2024-13-01.
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
            raise _error(node, "its tag says that it is a mapping, and it is none")
        seen: set[Any] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _error(key, "a key that is a list or a mapping")
            if key.tag == TAG + "merge":
                continue
            same = {key.value, self.construct_object(key)}  # 1.4 and 1.40 are the same key, and so are 1 and true
            if same & seen:
                raise _error(key, f"the key {shown(key.value)} stands twice, again")
            seen |= same
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping

    def construct_yaml_int(self, node: Any) -> Any:
        return _number(self.construct_scalar(node), _WHOLE, int, _Int)

    def construct_yaml_float(self, node: Any) -> Any:
        return _number(self.construct_scalar(node), _DECIMAL, float, _Float)


def _number(text: str, form: re.Pattern[str], kind: type[Any], written: type[Any]) -> Any:
    if not form.match(text):
        raise ValueError(text)
    number = kind(text.replace(".", "") if text[-1] in "fFnN" else text)
    if str(number) == text or not isfinite(number):
        return number
    number = written(number)
    number.written = text
    return number


for _kind in ("binary", "set", "omap", "pairs"):  # neither JSON nor pydantic keeps these types
    _Loader.add_constructor(TAG + _kind, _Loader.construct_undefined)  # type: ignore[type-var]
_Loader.add_constructor(TAG + "int", _Loader.construct_yaml_int)
_Loader.add_constructor(TAG + "float", _Loader.construct_yaml_float)
_FORMS = {"int": _WHOLE, "float": _DECIMAL, "timestamp": None, "value": None}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, its in resolvers if (form := _FORMS.get(tag.removeprefix(TAG), its))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _error(node: Any, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def _expanded(node: Any, sizes: dict[int, int | None], most: int) -> int:
    """The number of values that a YAML node stands for once its aliases are expanded; at most `most + 1`.

    Raises:
        yaml.YAMLError: a node contains itself.
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
    """Reads YAML text as plain data. `times`: the factor on the limits of a user's spec.

    Raises:
        SpecError: the text is not YAML, is too long, has a duplicate key, or aliases that stand for too many values.
    """
    if len(text) > MAX_BYTES * times:
        raise SpecError([Problem("", f"a spec takes at most {MAX_BYTES * times:,} characters, got {len(text):,}")])
    try:
        loader = _Loader(text)
        loader.times = times
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark, problem = error.problem_mark, str(error.problem)
        if problem.startswith("but "):  # as in "expected a single document", "but found another document"
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
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # PyYAML does not check the number of an escaped character, or of a version.
        mark = loader.get_mark()  # type: ignore[no-untyped-call]
        where = f"in line {mark.line + 1}, column {mark.column + 1}"
        raise SpecError([Problem("", f"not valid YAML: {plain(str(error), 300)} {where}")]) from error


def read_yaml_text(path: Path, times: int = 1) -> str:
    """Reads a file's text, but no more of it than `load_yaml` takes.

    Raises:
        OSError, UnicodeDecodeError: the file cannot be read.
        SpecError: the file is too long.
    """
    most = 4 * MAX_BYTES * times  # UTF-8 takes at most four bytes for a character
    with open(path, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise SpecError([Problem("", f"a spec takes at most {MAX_BYTES * times:,} characters; {str(path)!r} has more")])
    return data.decode("utf-8")
