"""What a stage's backend is, and how a spec's `use: name` becomes one.

A backend is one module with two names, `Config` (its options) and `Backend` (its work): `use: sam` of the
segmenter is `synthgen/segmenters/sam.py`; a dotted name, `use: acme.labels`, is the user's own module. Modules
import cheaply; a model's packages are imported, and its weights loaded, at first use. Constructing a backend
costs nothing, so `check` constructs them all.
"""

from __future__ import annotations

from synthgen.backends.config import (
    Config,
    FilterConfig,
    ModelConfig,
    ThresholdConfig,
    environment_of,
    nested_configs,
)
from synthgen.backends.exporters import (
    ClassName,
    ExportedFolder,
    Exporter,
    Folder,
    ImageEncoding,
    ImageOptions,
    RecordField,
    Records,
    RecordSet,
    SubsetOptions,
)
from synthgen.backends.filters import Filter, ScoreFilter, ThresholdFilter, measured
from synthgen.backends.kinds import KINDS, Kind, backend_module, builtin, is_own
from synthgen.backends.stages import Generator, Grounder, Model, Request, Segmenter, Source, Stage
from synthgen.base.xmp import DigitalSourceType

__all__ = [
    "KINDS",
    "ClassName",
    "Config",
    "DigitalSourceType",
    "ExportedFolder",
    "Exporter",
    "Filter",
    "FilterConfig",
    "Folder",
    "Generator",
    "Grounder",
    "ImageEncoding",
    "ImageOptions",
    "Kind",
    "Model",
    "ModelConfig",
    "RecordField",
    "RecordSet",
    "Records",
    "Request",
    "ScoreFilter",
    "Segmenter",
    "Source",
    "Stage",
    "SubsetOptions",
    "ThresholdConfig",
    "ThresholdFilter",
    "backend_module",
    "builtin",
    "environment_of",
    "is_own",
    "measured",
    "nested_configs",
]
