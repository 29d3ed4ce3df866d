"""Backends of the user's that are not imported. The run folder records what a command that only reads it needs to know.

A run folder may come from anybody, and to import a module is to run it. So commands that only read a run do not import
the modules that its spec names. `run.json` holds what these commands ask of such a backend.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn, Self

import numpy as np
from pydantic import ConfigDict, PrivateAttr

from synthgen.backends import KINDS, Config, Filter, FilterConfig, Grounder, Stage
from synthgen.base.wording import shown
from synthgen.errors import BackendError

Recorded = Mapping[str, Any]  # what `record` returns for one backend


def record(stage: Stage[Any], weights: str) -> dict[str, Any]:
    """What a command that only reads a run needs to know of a backend, as plain data.

    Args:
        weights: the `Stage.identity` of the weights that the backend has loaded.
    """
    config = stage.config
    found = {
        "use": config.use,
        "fingerprint": config.fingerprint(),
        "untouched": sorted(config.untouched()),
        "weights": weights,
    }
    if isinstance(stage, Filter):
        found |= {name: getattr(stage, name) for name in ("scope", "vector", "whole_dataset")}
        found["dtype"] = np.dtype(stage.dtype).name
    if isinstance(stage, Grounder):
        found["looks_for"] = stage.looks_for
    return found


class UnloadedConfig(Config):
    """The options of a backend as they stand in the spec. Nobody has checked them."""

    model_config = ConfigDict(extra="allow")
    _recorded: Recorded = PrivateAttr()

    @classmethod
    def of(cls, options: Mapping[str, Any], recorded: Any) -> Self:
        """
        Raises:
            LookupError: the run folder has no record of this backend.
        """
        use = options["use"]
        if not isinstance(recorded, Mapping) or recorded.get("use") != use or "fingerprint" not in recorded:
            raise LookupError(
                f"this run folder holds no record of your module {shown(use)}, and a command that only reads a run "
                "imports no module of yours; `synthgen judge` imports and records it"
            )
        config = cls.model_validate(options)
        config._recorded = recorded
        return config

    def fingerprint(self) -> dict[str, Any]:
        return dict(self._recorded["fingerprint"])

    def untouched(self) -> set[str]:
        return set(self._recorded.get("untouched", ()))

    @property
    def recorded(self) -> Recorded:
        return self._recorded


class UnloadedFilterConfig(UnloadedConfig, FilterConfig):
    """The options of a filter as they stand in the spec."""

    model_config = ConfigDict(extra="allow")


class _Unloaded(Stage[UnloadedConfig]):
    def identity(self) -> str:
        return str(self.config.recorded.get("weights", ""))

    def licences(self) -> Iterable[tuple[str, str]]:
        return ()

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise BackendError(
            f"a command that only reads a run does not import your module {self.config.use!r}; "
            "`synthgen judge` imports it"
        )


def backend(kind: str, config: UnloadedConfig, categories: Sequence[Any]) -> Stage[Any]:
    """A backend that knows what the run folder records of it. Its methods refuse to compute anything.

    Raises:
        BackendError: the record of a filter is damaged.
    """
    base = KINDS[kind].base
    known: dict[str, Any] = dict.fromkeys(base.__abstractmethods__, _Unloaded._refuse)
    if issubclass(base, Filter):
        scope, numbers = config.recorded.get("scope"), str(config.recorded.get("dtype"))
        if scope not in {"image", "instance"} or numbers not in _NUMBERS:
            raise BackendError(f"the run folder's record of {config.use!r} is damaged; `synthgen judge` writes it anew")
        known |= {name: bool(config.recorded.get(name)) for name in ("vector", "whole_dataset")}
        known |= {"scope": scope, "dtype": np.dtype(numbers).type}
    if issubclass(base, Grounder):
        known["looks_for"] = config.recorded.get("looks_for", base.looks_for)
    made: type[Stage[Any]] = type("Unloaded", (_Unloaded, base), known)
    return made(config, categories)


_NUMBERS = {np.dtype(code).name for code in "?bBhHiIqQefd"}
