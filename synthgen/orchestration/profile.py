"""Where a run is computed: in this process, or by workers on one machine or many. None of it is part of a spec, and
none of it changes what is made."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from synthgen.base.files import at_home
from synthgen.base.reading import load_yaml, read_text
from synthgen.errors import Problem, SpecError
from synthgen.spec import problems_of


class Profile(BaseModel):
    """What a profile file may say."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    runner: Literal["local", "ray"] = Field("local", description="`local`: this process. `ray`: workers of Ray.")
    address: str | None = Field(
        None,
        pattern=r"^(ray://)?[^\s:/]+:\d+$",
        description="Of a Ray cluster, such as ray://head:10001; null: workers on this machine, for the run.",
    )
    workers: int = Field(1, ge=1, le=4096, description="At work at once, where `address` is null.")
    num_cpus: int = Field(1, ge=1, le=1024, description="Cores of a worker, and threads of its models.")
    num_gpus: int = Field(0, ge=0, le=64, description="GPUs of a worker.")
    shards_at_once: int = Field(
        16, ge=1, le=4096, description="Given to a worker together: its models are loaded for each such lot."
    )

    def task_runner(self) -> Any:
        """Prefect's task runner for it, or None for the usual one."""
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
        """In it, tasks are submitted with what each of them takes."""
        if self.runner == "local":
            return nullcontext()
        from prefect_ray.context import remote_options

        context: AbstractContextManager[Any] = remote_options(num_cpus=self.num_cpus, num_gpus=self.num_gpus)
        return context


def load_profile(path: Path) -> Profile:
    """A profile from a YAML file.

    Raises:
        SpecError: it cannot be read, or it has problems.
    """
    path = at_home(path)
    try:
        raw = load_yaml(read_text(path))
        profile = Profile.model_validate(raw if isinstance(raw, dict) else {"runner": raw})
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SpecError([Problem("", f"cannot read the profile {str(path)!r}: {reason}")]) from error
    except ValidationError as error:
        raise SpecError([problem for _, problem in problems_of(error, Profile)]) from error
    if profile.runner == "ray" and find_spec("prefect_ray") is None:
        raise SpecError([Problem("runner", "'ray' needs the package prefect-ray: pip install 'synthgen[ray]'")])
    return profile
