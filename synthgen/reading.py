"""YAML text becomes plain data, safely: no code, no duplicate keys, no aliases that stand for gigabytes."""

from __future__ import annotations

from typing import Any

import yaml

from synthgen.errors import Problem, SpecError

MAX_BYTES = 1_000_000
MAX_NODES = 100_000  # after aliases are expanded: a few kilobytes of them can stand for gigabytes


class _Loader(yaml.SafeLoader):
    """`yaml.safe_load`, refusing duplicate keys and alias bombs."""

    def compose_document(self) -> Any:
        node = super().compose_document()  # type: ignore[no-untyped-call]
        if _expanded(node, {}) > MAX_NODES:
            raise yaml.YAMLError(f"its aliases stand for more than {MAX_NODES:,} values")
        return node

    def construct_scalar(self, node: Any) -> Any:
        if any("\ud800" <= character <= "\udfff" for character in node.value):
            raise yaml.YAMLError(f"half a character (a lone surrogate) in line {node.start_mark.line + 1}")
        return super().construct_scalar(node)  # type: ignore[no-untyped-call]

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.YAMLError(f"the key {key.value!r} stands twice, again in line {key.start_mark.line + 1}")
            if isinstance(key.value, str):
                seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def _expanded(node: Any, sizes: dict[int, int | None]) -> int:
    """Values that a YAML node stands for once its aliases are written out.

    Raises:
        yaml.YAMLError: a node stands inside itself.
    """
    if id(node) in sizes:
        size = sizes[id(node)]
        if size is None:
            raise yaml.YAMLError(f"what stands in line {node.start_mark.line + 1} is an alias of itself")
        return size
    sizes[id(node)] = None
    total = 1
    if isinstance(node, yaml.SequenceNode):
        total += sum(_expanded(child, sizes) for child in node.value)
    elif isinstance(node, yaml.MappingNode):
        total += sum(_expanded(child, sizes) for pair in node.value for child in pair)
    sizes[id(node)] = min(total, MAX_NODES + 1)
    return min(total, MAX_NODES + 1)


def load_yaml(text: str) -> Any:
    """Plain data from YAML text.

    Raises:
        SpecError: not YAML, a duplicate key, too long, or aliases that stand for too much.
    """
    if len(text) > MAX_BYTES:
        raise SpecError([Problem("", f"a spec takes at most {MAX_BYTES:,} characters, got {len(text):,}")])
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f" in line {mark.line + 1}" if mark else ""
        raise SpecError([Problem("", f"not valid YAML: {error.problem}{line}")]) from error
    except RecursionError as error:
        raise SpecError([Problem("", "not valid YAML for a spec: nested too deeply")]) from error
    except (yaml.YAMLError, ValueError) as error:
        raise SpecError([Problem("", f"not valid YAML: {error}")]) from error
