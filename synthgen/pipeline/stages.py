"""The backends of a spec, constructed and not yet loaded."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from synthgen.backends import (
    KINDS,
    Config,
    Exporter,
    Filter,
    Generator,
    Grounder,
    Segmenter,
    Stage,
    backend_module,
    is_own,
    nested_configs,
)
from synthgen.errors import Problem, SpecError
from synthgen.models import ModelMissing
from synthgen.pipeline.licences import stated_by
from synthgen.spec import DatasetSpec
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

        stages: dict[str, Any] = {}
        for kind in KINDS.values():
            config = getattr(spec, kind.key)
            if kind.many:
                stages[kind.key] = {name: build(kind.name, one) for name, one in config.items()}
            else:
                stages[kind.key] = build(kind.name, config)
        return cls(**stages)

    def named(self) -> dict[str, Stage[Any]]:
        """Key in the spec -> backend."""
        return _by_key(self)

    def leaves(self) -> dict[str, Stage[Any]]:
        """Key in the spec, such as `grounder.of.0` -> backend. In place of one that is made of others, it has those."""
        return dict(_leaves(self.named()))

    def models(self, recorded: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Key in the spec -> model, revision, exact weights, licences and what `stated_by` says, of the backends that
        have a model. Those of nested backends have keys of their own, such as `grounder.of.0`.

        Args:
            recorded: what this gave when the run was made. With it, a run is judged and exported without models.

        Raises:
            SpecError: a model is neither here nor recorded under the same name.
        """
        models: dict[str, dict[str, Any]] = {}
        for key, stage in self.leaves().items():
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
                    licences = [list(licence) for licence in stage.licences()]
                    stated = (
                        recorded.get(key, {}).get("stated", [])
                        if isinstance(stage.config, UnloadedConfig)
                        else stated_by(stage)
                    )
                    models[key] = {**named, "weights": weights, "licences": licences, "stated": stated}
        return models


def _leaves(named: Mapping[str, Stage[Any]]) -> Iterator[tuple[str, Stage[Any]]]:
    for key, stage in named.items():
        if nested := stage.nested():
            yield from _leaves({f"{key}.{place}": part for place, part in nested.items()})
        else:
            yield key, stage


def _by_key(owner: Stages | DatasetSpec) -> dict[str, Any]:
    """Key in the spec, such as `generator` or `filters.sharpness` -> the owner's value."""
    by_key: dict[str, Any] = {}
    for kind in KINDS.values():
        value = getattr(owner, kind.key)
        by_key |= {f"{kind.key}.{name}": one for name, one in value.items()} if kind.many else {kind.key: value}
    return by_key


def own_modules(spec: DatasetSpec) -> dict[str, str]:
    """Key in the spec -> file, for each module of the user's that the spec names."""
    configs: dict[str, Config] = {}
    for key, config in _by_key(spec).items():
        configs |= {key: config, **{f"{key}.{place}": part for place, part in nested_configs(config).items()}}
    named = {key: config.use for key, config in configs.items() if is_own(config.use)}
    return {key: str(getattr(sys.modules.get(use), "__file__", use)) for key, use in named.items()}
