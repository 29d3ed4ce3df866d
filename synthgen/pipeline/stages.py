"""The backends of a spec, checked together before anything is made."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any

from synthgen.backends import (
    Exporter,
    Filter,
    Generator,
    Grounder,
    Request,
    Segmenter,
    Stage,
    backend_module,
    is_own,
)
from synthgen.base.files import at_home, free_bytes, require_writable
from synthgen.base.wording import shown
from synthgen.errors import Problem, SpecError
from synthgen.models import ModelMissing, cache_folder
from synthgen.planning.plan import Round, first_round, one, phrase, plan_round
from synthgen.spec import STAGES, DatasetSpec
from synthgen.spec.unloaded import UnloadedConfig
from synthgen.spec.unloaded import backend as unloaded
from synthgen.types import PromptForm


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


def own_modules(spec: DatasetSpec) -> dict[str, str]:
    """Key in the spec -> file, of the modules of the user's that it names, which are imported."""
    configs = {
        **{kind: getattr(spec, kind) for kind in STAGES},
        **{f"filters.{name}": config for name, config in spec.filters.items()},
        **{f"exporters.{name}": config for name, config in spec.exporters.items()},
    }
    named = {key: config.use for key, config in configs.items() if is_own(config.use)}
    return {key: str(getattr(sys.modules.get(use), "__file__", use)) for key, use in named.items()}


def request_of(spec: DatasetSpec) -> Request:
    prompts = spec.prompts
    texts = [t.text for t in (*prompts.templates, *prompts.background_templates)]
    texts = [re.sub(r"\{\w+\}", " ", text) for text in texts]
    texts += [value for values in prompts.slots.values() for value in values]
    texts += [prompts.negative_prompt, *(text for c in spec.classes for text in c.prompt or (c.name,))]
    words = {word for text in texts for word in re.findall(r"\w+|[^\w\s]+", text.lower())}
    forms = tuple(_form(t.text, spec) for t in (*prompts.templates, *prompts.background_templates))
    return Request(
        spec.height, spec.width, spec.layout is not None, frozenset(words), forms, spec.prompts.negative_prompt
    )


def _form(template: str, spec: DatasetSpec) -> PromptForm:
    """A template's prompts in pieces. Things asked for: of one class each, or as many as an image has at most, those
    with the longest names."""
    names = sorted((text for c in spec.classes for text in c.prompt or {one(c.name): 1.0}), key=len, reverse=True)
    objects = (phrase((names * spec.max_objects)[: spec.max_objects]), *names)
    pieces: list[tuple[str, ...]] = []
    needed = 0
    for text, field, _, _ in Formatter().parse(template):
        pieces.append((text,))
        if field is not None:
            pieces.append(objects if field == "objects" else tuple(spec.prompts.slots[field]))
        if field == "objects":
            needed = len(pieces)
    return PromptForm(tuple(pieces), needed)


def problems_of(named: Mapping[str, Stage[Any]], request: Request) -> list[Problem]:
    """What backends have to say, in fields of the spec. `named`: key in the spec -> backend."""
    problems: list[Problem] = []
    unknown: set[str] = set()  # classes that the generator does not know: told once, whoever else does not
    for key, stage in named.items():
        for problem in stage.check(request):
            if problem.field == "classes":
                unknown.update(re.findall(r"got ('.*?')", problem.message))
            elif any(f"does not know {name}" in problem.message for name in unknown):
                continue
            problems.append(Problem(key + problem.field, problem.message) if problem.field.startswith(".") else problem)
    return problems


def advice(spec: DatasetSpec, stages: Stages) -> list[Problem]:
    """What a spec may say, and hardly means, in fields of the spec."""
    request = request_of(spec)
    found = [(key, p) for key, stage in stages.named().items() for p in stage.advice(request)]
    if odd := [c.name for c in spec.classes if not c.prompt and set(c.name) & set("_/")]:
        more = f", and {len(odd) - 1:,} more of the kind" if len(odd) > 1 else ""
        said = f"got {shown(odd[0])}{more}, and prompts say {one(odd[0])!r}; a class takes other words as its `prompt`"
        found.append(("", Problem("classes", said)))
    return [Problem(key + p.field, p.message) if p.field.startswith(".") else p for key, p in found]


def check(spec: DatasetSpec, out: Path) -> Stages:
    """Everything that would fail later and can be known now, in about a second, without torch.

    Raises:
        SpecError: with every problem found.
    """
    stages = Stages.of(spec)
    problems = problems_of(stages.named(), request_of(spec))
    for name, f in stages.filters.items():
        if f.scope == "image" and f.config.on_fail != "reject":
            problems.append(
                Problem(f"filters.{name}.on_fail", f"got {f.config.on_fail!r}; it measures images, and takes 'reject'")
            )
    possible = spec.max_images * spec.max_objects
    if (wanted := sum(spec.quotas.values())) > possible:
        problems.append(
            Problem(
                "min_instances_per_class" if spec.min_instances_per_class else "classes",
                f"got quotas of {wanted:,} instances in all; takes at most {possible:,}, which is `budget` "
                f"{spec.budget:g} x `count` {spec.count:,} x {spec.max_objects} objects an image",
            )
        )
    if not problems:
        ratios = stages.generator.aspect_ratios()
        # A round for a quota may have images of one class alone, which may fit worse.
        rounds = [first_round(spec)]
        rounds += [Round(2, spec.count, 10, {c: 1.0}, {spec.max_objects: 1.0}) for c in spec.quotas]
        try:
            for round in rounds:
                for _ in zip(range(200), plan_round(spec, 1, round, ratios), strict=False):
                    pass
        except SpecError as error:
            problems += error.problems
    home = os.environ.get("PREFECT_HOME")  # else Prefect's is in the cache
    cache = {"PREFECT_HOME": at_home(home)} if home else {"SYNTHGEN_HOME": cache_folder()}
    # Trying leaves nothing, and yet it is a deed: a spec that is refused for something else has done none.
    for name, folder in {"--out": out, **cache}.items() if not problems else ():
        try:
            require_writable(folder)
        except OSError as error:
            problems.append(Problem(name, f"cannot write in {folder}: {error.strerror}; takes a folder where one can"))
    need, free = disk_bytes(spec), free_bytes(out)
    if need > free:
        images = f"{spec.count:,} images of {spec.width}x{spec.height} px"
        room = f"need about {need / 1e9:.1f} GB in {out}, which has {free / 1e9:.1f} GB free"
        problems.append(Problem("count", f"{images} {room}"))
    if problems:
        raise SpecError(problems)
    return stages


def disk_bytes(spec: DatasetSpec) -> int:
    """About how much room a run takes: half of the raw pixels as PNG, and 4 kB of records, for one image and half as
    many again thrown away."""
    return int(1.5 * spec.count * (spec.height * spec.width * 3 / 2 + 4096))


def models_of(stages: Stages, recorded: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Key in the spec -> model, revision and exact weights, of the stages that have a model.

    Args:
        recorded: what this gave when the run was made: a run can be judged and exported where its models are not.

    Raises:
        SpecError: a model is neither here nor recorded under the same name.
    """
    found: dict[str, dict[str, Any]] = {}
    for key, stage in stages.named().items():
        named = {"model": getattr(stage.config, "model", None), "revision": getattr(stage.config, "revision", None)}
        try:
            weights = stage.identity()
        except ModelMissing as error:
            known = recorded.get(key, {})
            if {**known, **named} != known:
                raise SpecError([Problem(f"{key}.model", str(error))]) from error
            found[key] = known
        else:
            if weights:
                found[key] = {**named, "weights": weights, "licences": [list(li) for li in stage.licences()]}
    return found
