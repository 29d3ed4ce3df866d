"""Where a run is computed: in this process, or by workers on one machine or many. A profile is no part of a spec and
does not change what is made."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from synthgen.base.files import expand_home
from synthgen.base.pattern import Pattern
from synthgen.base.safe_yaml import load_yaml, read_yaml_text
from synthgen.errors import Problem, SpecError
from synthgen.spec import problems_of

ADDRESS = Pattern(r"^(ray://)?[^\s:/]+:\d+$", "an address such as ray://head:10001 or head:6379")


class Profile(BaseModel):
    """The keys of a profile file."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    runner: Literal["local", "ray"] = Field(
        "local", description="`local` computes in this process, `ray` on workers of Ray."
    )
    address: Annotated[str, ADDRESS] | None = Field(
        None,
        description="Address of a Ray cluster, such as ray://head:10001. null starts workers on this machine.",
    )
    workers: int = Field(1, ge=1, le=4096, description="Number of workers, if `address` is null.")
    num_cpus: int = Field(1, ge=1, le=1024, description="CPU cores of a worker, and threads of its models.")
    num_gpus: int = Field(0, ge=0, le=64, description="GPUs of a worker.")
    shards_at_once: int = Field(
        16, ge=1, le=4096, description="Shards that a worker gets at once. It loads its models once for them."
    )

    def task_runner(self) -> Any:
        """Prefect's task runner for the profile. None for Prefect's default."""
        if self.runner == "local":
            return None
        from prefect_ray import RayTaskRunner

        logging.getLogger("ray").setLevel(logging.ERROR)
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self.address:
            return RayTaskRunner(address=self.address, init_kwargs=options)
        here = {"num_cpus": self.workers * self.num_cpus, "num_gpus": self.workers * self.num_gpus}
        return RayTaskRunner(init_kwargs={**options, **here, "include_dashboard": False})

    def options(self) -> AbstractContextManager[Any]:
        """In its block, tasks are submitted with the cores and GPUs that each takes."""
        if self.runner == "local":
            return nullcontext()
        from prefect_ray.context import remote_options

        context: AbstractContextManager[Any] = remote_options(num_cpus=self.num_cpus, num_gpus=self.num_gpus)
        return context


def load_profile(path: Path) -> Profile:
    """Reads a profile from a YAML file.

    Raises:
        SpecError: the file cannot be read, or it has problems.
    """
    path = expand_home(path)
    try:
        raw = load_yaml(read_yaml_text(path))
        profile = Profile.model_validate(raw if isinstance(raw, dict) else {"runner": raw})
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SpecError([Problem("", f"cannot read the profile {str(path)!r}: {reason}")]) from error
    except ValidationError as error:
        raise SpecError([problem for _, problem in problems_of(error, Profile)]) from error
    if profile.runner == "ray" and find_spec("prefect_ray") is None:
        raise SpecError([Problem("runner", "'ray' needs the package prefect-ray: pip install 'synthgen[ray]'")])
    return profile
