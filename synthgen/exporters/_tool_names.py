"""Names of classes that an annotation tool cannot hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from synthgen.backends import SubsetOptions
from synthgen.base.wording import shown
from synthgen.base.xml_stream import NO_XML
from synthgen.errors import Problem
from synthgen.types import Category


def refused_names(
    options: SubsetOptions, categories: Iterable[Category], fault: Callable[[str], str]
) -> Iterator[Problem]:
    """The names of an export's classes that its tool, or XML, cannot hold.

    Args:
        fault: what the tool has against a name: the end of a sentence that begins with `which`; "" for nothing.
    """
    for name in options.exported_names(categories):
        if what := "has a character that XML does not have" if NO_XML.search(name) else fault(name):
            yield Problem(".classes", f"got the class {shown(name)}, which {what}; takes a mapping with another name")
