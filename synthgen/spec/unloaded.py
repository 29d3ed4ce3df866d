"""Backends of the user's that are not imported: what a run folder says of them is enough for those who only read it.

A run folder may come from anybody, and importing a module is running it. So commands that only read a run import none
that its spec names: the folder's `run.json` holds what they ask of such a backend.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn, Self

import numpy as np
from pydantic import ConfigDict, PrivateAttr

from synthgen.backends import KINDS, Config, Filter, FilterConfig, Stage
from synthgen.base.wording import shown
from synthgen.errors import BackendError

Recorded = Mapping[str, Any]  # of one backend: see `record`


def record(stage: Stage[Any], weights: str) -> dict[str, Any]:
    """What others may ask of a backend without importing its module, as plain data.

    Args:
        weights: which it has loaded: `Stage.identity`.
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
    return found


class UnloadedConfig(Config):
    """Options as they stand in the spec, unchecked."""

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
                f"{shown(use)} is a module of yours, of which this run folder holds no record, and reading a run "
                "imports none; `synthgen judge` does, and records it"
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
    """Of a filter."""

    model_config = ConfigDict(extra="allow")


class _Unloaded(Stage[UnloadedConfig]):
    def identity(self) -> str:
        return str(self.config.recorded.get("weights", ""))

    def licences(self) -> Iterable[tuple[str, str]]:
        return ()

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise BackendError(
            f"{self.config.use!r} is a module of yours, which commands that only read a run do not import; "
            "`synthgen judge` does"
        )


def backend(kind: str, config: UnloadedConfig, categories: Sequence[Any]) -> Stage[Any]:
    """A backend that knows what is recorded of it, and can do nothing.

    Raises:
        BackendError: the record of a filter is not one.
    """
    base = KINDS[kind].base
    known: dict[str, Any] = dict.fromkeys(base.__abstractmethods__, _Unloaded._refuse)
    if issubclass(base, Filter):
        scope, numbers = config.recorded.get("scope"), str(config.recorded.get("dtype"))
        if scope not in {"image", "instance"} or numbers not in _NUMBERS:
            raise BackendError(f"the run folder's record of {config.use!r} is damaged; `synthgen judge` writes it anew")
        known |= {name: bool(config.recorded.get(name)) for name in ("vector", "whole_dataset")}
        known |= {"scope": scope, "dtype": np.dtype(numbers).type}
    made: type[Stage[Any]] = type("Unloaded", (_Unloaded, base), known)
    return made(config, categories)


_NUMBERS = {np.dtype(code).name for code in "?bBhHiIqQefd"}
