"""The backends of a spec: constructed, not yet loaded."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from synthgen.backends import Exporter, Filter, Generator, Grounder, Segmenter, Stage, backend_module, is_own
from synthgen.errors import Problem, SpecError
from synthgen.models import ModelMissing
from synthgen.spec import STAGES, DatasetSpec
from synthgen.spec.unloaded import UnloadedConfig
from synthgen.spec.unloaded import backend as unloaded


@dataclass(frozen=True, slots=True)
class Stages:
    """The backends of a spec, constructed and not yet loaded."""

    generator: Generator[Any]
    grounder: Grounder[Any]
    segmenter: Segmenter[Any]
    filters: Mapping[str, Filter[Any]]
    exporters: Mapping[str, Exporter[Any]]

    @classmethod
    def of(cls, spec: DatasetSpec) -> Stages:
        def build(kind: str, config: Any) -> Any:
            if isinstance(config, UnloadedConfig):
                return unloaded(kind, config, spec.categories)
            return backend_module(kind, config.use).Backend(config, spec.categories)

        return cls(
            build("generator", spec.generator),
            build("grounder", spec.grounder),
            build("segmenter", spec.segmenter),
            {name: build("filter", config) for name, config in spec.filters.items()},
            {name: build("exporter", config) for name, config in spec.exporters.items()},
        )

    def named(self) -> dict[str, Stage[Any]]:
        """Key in the spec -> backend."""
        return {
            "generator": self.generator,
            "grounder": self.grounder,
            "segmenter": self.segmenter,
            **{f"filters.{name}": f for name, f in self.filters.items()},
            **{f"exporters.{name}": e for name, e in self.exporters.items()},
        }

    def models(self, recorded: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Key in the spec -> model, revision, exact weights and licences, of the backends that have a model.

        Args:
            recorded: what this gave when the run was made. With it, a run is judged and exported without models.

        Raises:
            SpecError: a model is neither here nor recorded under the same name.
        """
        models: dict[str, dict[str, Any]] = {}
        for key, stage in self.named().items():
            named = {name: getattr(stage.config, name, None) for name in ("model", "revision")}
            try:
                weights = stage.identity()
            except ModelMissing as error:
                known = recorded.get(key, {})
                if {**known, **named} != known:
                    raise SpecError([Problem(f"{key}.model", str(error))]) from error
                models[key] = known
            else:
                if weights:
                    models[key] = {**named, "weights": weights, "licences": [list(li) for li in stage.licences()]}
        return models


def own_modules(spec: DatasetSpec) -> dict[str, str]:
    """Key in the spec -> file, of the user's own modules that it names and that are imported."""
    configs = {
        **{kind: getattr(spec, kind) for kind in STAGES},
        **{f"filters.{name}": config for name, config in spec.filters.items()},
        **{f"exporters.{name}": config for name, config in spec.exporters.items()},
    }
    named = {key: config.use for key, config in configs.items() if is_own(config.use)}
    return {key: str(getattr(sys.modules.get(use), "__file__", use)) for key, use in named.items()}
