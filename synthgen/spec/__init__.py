"""The dataset spec: what a YAML file may say, checked whole.

A check finds every problem of a spec at once. Each problem is one line with the field, what it got and what it takes.
"""

from synthgen.spec.classes import ClassSpec
from synthgen.spec.dataset import MAX_CLASSES, DatasetSpec
from synthgen.spec.differences import differences
from synthgen.spec.layout import LayoutSpec
from synthgen.spec.licence import LicenceSpec
from synthgen.spec.load import load_spec, set_value
from synthgen.spec.names import MEASURE_COLUMNS, REASONS, RUN_FOLDERS
from synthgen.spec.problems import MAX_PROBLEMS, problems_of
from synthgen.spec.prompts import MAX_VALUES, PromptSpec, Template, template_slots
from synthgen.spec.provenance import ProvenanceSpec, SigningSpec
from synthgen.spec.publication import PublicationSpec

__all__ = [
    "MAX_CLASSES",
    "MAX_PROBLEMS",
    "MAX_VALUES",
    "MEASURE_COLUMNS",
    "REASONS",
    "RUN_FOLDERS",
    "ClassSpec",
    "DatasetSpec",
    "LayoutSpec",
    "LicenceSpec",
    "PromptSpec",
    "ProvenanceSpec",
    "PublicationSpec",
    "SigningSpec",
    "Template",
    "differences",
    "load_spec",
    "problems_of",
    "set_value",
    "template_slots",
]
