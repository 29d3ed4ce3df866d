"""The parameters of a run: one object that goes from the command line, or a deployment, to the stages."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from synthgen.orchestration.profile import Profile, load_profile
from synthgen.pipeline.check import check
from synthgen.pipeline.stages import Stages
from synthgen.spec import DatasetSpec, load_spec
from synthgen.store.location import local_folder
from synthgen.store.run import Run

_READ_ONCE = {"spec", "stages", "profile"}  # of a request, whatever the number of its run


@dataclass(frozen=True)
class BuildRequest:
    """The parameters of `synthgen.flow.build_dataset`, which documents them.

    The spec, its backends and the profile are read on first use and kept, so a command reads and checks each once.
    """

    spec_file: Path
    out: str | Path = Path("outputs")
    number: int = 1
    overrides: tuple[str, ...] = ()
    allow_mixed: bool = False
    strict: bool = False
    profile_file: Path | None = None

    @cached_property
    def spec(self) -> DatasetSpec:
        """The spec, with its overrides. Raises SpecError if it has problems."""
        return load_spec(self.spec_file, self.overrides)

    @cached_property
    def stages(self) -> Stages:
        """The backends of the spec, checked as by `synthgen check`. Raises SpecError if the spec cannot be run."""
        return check(self.spec, self.folder)

    @cached_property
    def profile(self) -> Profile:
        """Where the run is computed. Raises SpecError if the profile has problems."""
        return load_profile(self.profile_file) if self.profile_file else Profile()

    @property
    def folder(self) -> Path:
        """The folder of run folders on this machine: `out`, or the mirror of a URL."""
        return local_folder(self.out)

    @cached_property
    def run(self) -> Run:
        """The run folder. It is one object for the whole request, because the object holds the lock."""
        return Run.at(self.folder, self.spec.name, self.number)

    def check(self) -> None:
        """Reads and checks everything now, before work begins. Raises SpecError if there are problems."""
        _ = self.stages, self.profile

    def numbered(self, number: int) -> BuildRequest:
        """The same request for another run. It keeps what has been read."""
        other = replace(self, number=number)
        other.__dict__.update({name: value for name, value in self.__dict__.items() if name in _READ_ONCE})
        return other

    def __getstate__(self) -> dict[str, Any]:
        """Only the parameters: Prefect pickles them, with the flow, for workers. Locks cannot be pickled."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def parameters(self) -> dict[str, Any]:
        """The request as `build_dataset` takes it."""
        return {
            "spec": self.spec_file,
            "out": self.out,
            "run": self.number,
            "overrides": self.overrides,
            "allow_mixed": self.allow_mixed,
            "strict": self.strict,
            "profile": self.profile_file,
        }
