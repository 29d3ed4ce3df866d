"""The kinds of backends, and how a spec's `use: name` becomes a module."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from synthgen.backends.exporters import Exporter
from synthgen.backends.filters import Filter
from synthgen.backends.stages import Generator, Grounder, Segmenter, Stage
from synthgen.errors import listed, nearest


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of backend.

    Attributes:
        base: the class that backends of this kind extend.
        defaults: the built-in backends that a spec has if it names none.
        many: True: a spec has any number of them, each with a name. False: it has exactly one.
    """

    name: str
    base: type[Stage[Any]]
    defaults: tuple[str, ...]
    many: bool = False

    @property
    def key(self) -> str:
        """The key of the spec under which backends of this kind stand."""
        return f"{self.name}s" if self.many else self.name

    @property
    def package(self) -> str:
        """The package that holds the built-in backends."""
        return f"synthgen.{self.name}s"


DEFAULT_FILTERS = (
    "asked_found", "predicted_iou", "stability", "box_agreement", "mask_area", "mask_overlap", "class_agreement",
    "sharpness", "near_duplicate",
)  # fmt: skip
# A new kind is a row here, a package of its name, and a field of `DatasetSpec` and of `Stages` that bears its key.
KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("generator", Generator, ("diffusion",)),
        Kind("grounder", Grounder, ("layout",)),
        Kind("segmenter", Segmenter, ("sam",)),
        Kind("filter", Filter, DEFAULT_FILTERS, many=True),
        Kind("exporter", Exporter, ("coco",), many=True),
    )
}


def builtin(kind: str) -> list[str]:
    """Names of the built-in backends of a kind. A module whose name starts with `_` is a helper, and no backend."""
    package = importlib.import_module(KINDS[kind].package)
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def is_own(use: str) -> bool:
    """Whether `use` names a module of the user's."""
    return "." in use


def _own_module(use: str) -> ModuleType:
    """Imported; from the working folder, if it is nowhere else. Only then is that folder one that Python looks into."""
    here = str(Path.cwd())
    try:
        return importlib.import_module(use)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{use}.".startswith(f"{error.name}.") or here in sys.path:
            raise
    sys.path.append(here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(use)
    except ModuleNotFoundError:
        sys.path.remove(here)
        raise


def backend_module(kind: str, use: str) -> ModuleType:
    """The module that `use` names.

    Raises:
        LookupError: no such module, or it is not a backend; says what there is.
    """
    if is_own(use):
        try:
            if use.startswith("."):
                raise ImportError("a module's full name starts with no dot")
            module = _own_module(use)
        except Exception as error:  # whatever a user's module does when it is imported
            raise LookupError(f"cannot import your module {use!r}: {error}") from error
    elif use in builtin(kind):
        module = importlib.import_module(f"{KINDS[kind].package}.{use}")
    else:
        known = builtin(kind)
        raise LookupError(f"no {kind} is called {use!r}{nearest(use, known)}; there are: {listed(known)}")
    if not (hasattr(module, "Config") and hasattr(module, "Backend")):
        raise LookupError(f"{use!r} is no backend: a backend's module defines `Config` and `Backend`")
    return module
