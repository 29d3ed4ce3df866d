"""Specs and run folders as commands take them, and the notes about them on stderr."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from synthgen.pipeline.build import Build
    from synthgen.spec import DatasetSpec
    from synthgen.store.run import Run


def note(text: object) -> None:
    print(f"note: {text}", file=sys.stderr)


def load(spec: Path, overrides: list[str]) -> DatasetSpec:
    """Reads a spec. Raises SpecError if it has problems."""
    from synthgen.spec import load_spec

    loaded = load_spec(spec, overrides)
    note_modules(loaded)
    return loaded


def note_modules(spec: DatasetSpec) -> None:
    """Prints which of the user's modules a spec has imported."""
    from synthgen.pipeline.stages import own_modules

    for key, file in own_modules(spec).items():
        note(f"{key}: imported your module from {file}")


def reopen(run: Run, overrides: list[str]) -> Build:
    """The build of a run folder, with keys of its spec changed."""
    from synthgen.pipeline.build import Build
    from synthgen.pipeline.stages import Stages
    from synthgen.spec import DatasetSpec, set_value

    raw = run.facts.read_spec()
    for override in overrides:
        set_value(raw, override)
    spec = DatasetSpec.parse(raw)
    note_modules(spec)
    return Build.start(run, spec, Stages.of(spec))
