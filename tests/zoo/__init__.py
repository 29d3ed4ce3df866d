"""Tiny models of the pipeline classes of diffusers, at least one for each row of `synthgen.models.families`."""

import importlib
import pkgutil

from zoo.base import Animal

__all__ = ["REFUSED", "ZOO", "Animal"]

# Name -> model, and pipeline class -> why no model of it works, from every module here.
ZOO: dict[str, Animal] = {}
REFUSED: dict[str, str] = {}
for found in pkgutil.iter_modules(__path__, "zoo."):
    module = importlib.import_module(found.name)
    ZOO |= getattr(module, "ZOO", {})
    REFUSED |= getattr(module, "REFUSED", {})
