"""Checks a spec and its backends together, before anything is made."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from string import Formatter
from typing import Any

from synthgen.backends import Request, ScoreFilter, Stage
from synthgen.base.disk import free_bytes, require_writable
from synthgen.base.files import expand_home
from synthgen.base.wording import shown
from synthgen.errors import Problem, SpecError
from synthgen.models import cache_folder
from synthgen.pipeline.licences import refused, used_models
from synthgen.pipeline.signing import signing_problems
from synthgen.pipeline.stages import Stages
from synthgen.planning.jobs import plan_round
from synthgen.planning.prompts import enumeration, with_article
from synthgen.planning.rounds import Round, first_round
from synthgen.spec import DatasetSpec
from synthgen.types import PromptForm

JOBS_TRIED = 200  # jobs of a round that are planned to see whether their objects fit into an image


def check(spec: DatasetSpec, out: Path) -> Stages:
    """Finds everything that would fail later and can be known now. It takes about a second and imports no torch.

    Args:
        out: the folder of the run folders.

    Raises:
        SpecError: with every problem.
    """
    stages = Stages.of(spec)
    problems = [*problems_of(stages.named(), _request(spec, stages)), *_wrong_scopes(stages), *_quotas_too_large(spec)]
    problems += refused(spec, used_models(stages.leaves()))
    problems += signing_problems(spec)
    problems = problems or _layouts_too_full(spec, stages)
    # This check writes a file into the folder. So it comes last: a spec that is refused otherwise leaves no trace.
    problems = problems or [*_folders_not_writable(out)]
    problems += _room_missing(spec, out)
    if problems:
        raise SpecError(problems)
    return stages


def advice(spec: DatasetSpec, stages: Stages) -> list[Problem]:
    """What a spec may say but probably does not mean, each with its field of the spec."""
    request = _request(spec, stages)
    notes = [
        _in_spec(key, note)
        for key, stage in stages.leaves().items()
        for model in stage.models()
        for note in model.advice()
    ]
    notes += [_in_spec(key, note) for key, stage in stages.named().items() for note in stage.advice(request)]
    if odd := [c.name for c in spec.classes if not c.prompt and set(c.name) & set("_/")]:
        more = f", and {len(odd) - 1:,} more like it" if len(odd) > 1 else ""
        words = f"prompts say {with_article(odd[0])!r}; a class takes other words as its `prompt`"
        notes.append(Problem("classes", f"got {shown(odd[0])}{more}, and {words}"))
    return notes


def _request(spec: DatasetSpec, stages: Stages) -> Request:
    """What a spec will ask of its backends, and which scores they give and judge."""
    judged = frozenset(f.score for f in stages.filters.values() if isinstance(f, ScoreFilter))
    return replace(request_of(spec), scores=stages.grounder.score_names(), judged=judged)


def request_of(spec: DatasetSpec) -> Request:
    """What a spec will ask of its backends."""
    prompts = spec.prompts
    texts = [t.text for t in (*prompts.templates, *prompts.background_templates)]
    texts = [re.sub(r"\{\w+\}", " ", text) for text in texts]
    texts += [value for values in prompts.slots.values() for value in values]
    texts += [prompts.negative_prompt, *(text for c in spec.classes for text in c.prompt or (c.name,))]
    words = {word for text in texts for word in re.findall(r"\w+|[^\w\s]+", text.lower())}
    forms = tuple(_form(t.text, spec) for t in (*prompts.templates, *prompts.background_templates))
    return Request(
        spec.height,
        spec.width,
        spec.layout is not None,
        frozenset(words),
        forms,
        spec.prompts.negative_prompt,
        spec.max_objects,
        splits=tuple(spec.splits),
    )


def _form(template: str, spec: DatasetSpec) -> PromptForm:
    """The prompts of a template in pieces. The piece `objects` may be one object of any class, or as many objects as an
    image can have, of the classes with the longest names."""
    names = sorted(
        (text for c in spec.classes for text in c.prompt or {with_article(c.name): 1.0}), key=len, reverse=True
    )
    objects = (enumeration((names * spec.max_objects)[: spec.max_objects]), *names)
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
    """The problems that backends find, each with its field of the spec. A class that several backends do not know is
    one problem.

    Args:
        named: key in the spec -> backend.
    """
    problems: list[Problem] = []
    unknown: set[str] = set()
    for key, stage in named.items():
        for problem in stage.check(request):
            if problem.subject and problem.field == "classes":
                unknown.add(problem.subject)
            elif problem.subject in unknown:
                continue
            problems.append(_in_spec(key, problem))
    return problems


def _in_spec(key: str, problem: Problem) -> Problem:
    """A backend's problem with its field of the spec. A backend names its own options with a dot at the start."""
    return replace(problem, field=key + problem.field) if problem.field.startswith(".") else problem


def _wrong_scopes(stages: Stages) -> Iterator[Problem]:
    for name, f in stages.filters.items():
        if f.scope == "image" and f.config.on_fail != "reject":
            message = f"got {f.config.on_fail!r}; it measures images, and takes 'reject'"
            yield Problem(f"filters.{name}.on_fail", message)


def _quotas_too_large(spec: DatasetSpec) -> Iterator[Problem]:
    possible = spec.max_images * spec.max_objects
    if (total := sum(spec.quotas.values())) > possible:
        yield Problem(
            "min_instances_per_class" if spec.min_instances_per_class else "classes",
            f"got quotas of {total:,} instances in all; takes at most {possible:,}, which is `budget` "
            f"{spec.budget:g} x `count` {spec.count:,} x {spec.max_objects} objects an image",
        )


def _layouts_too_full(spec: DatasetSpec, stages: Stages) -> list[Problem]:
    ratios = stages.generator.aspect_ratios()
    # A round for a quota may have images of a single class, whose boxes may fit worse.
    rounds = [first_round(spec), *(Round(2, spec.count, 10, {c: 1.0}, {spec.max_objects: 1.0}) for c in spec.quotas)]
    try:
        for round in rounds:
            for _ in zip(range(JOBS_TRIED), plan_round(spec, 1, round, ratios), strict=False):
                pass
    except SpecError as error:
        return list(error.problems)
    return []


def _folders_not_writable(out: Path) -> Iterator[Problem]:
    home = os.environ.get("PREFECT_HOME")  # without it, Prefect keeps its files in the cache folder
    cache = {"PREFECT_HOME": expand_home(home)} if home else {"SYNTHGEN_HOME": cache_folder()}
    for name, folder in {"--out": out, **cache}.items():
        try:
            require_writable(folder)
        except OSError as error:
            yield Problem(name, f"cannot write in {folder}: {error.strerror}; takes a folder in which you may write")


def _room_missing(spec: DatasetSpec, out: Path) -> Iterator[Problem]:
    need, free = disk_bytes(spec), free_bytes(out)
    if need > free:
        images = f"{spec.count:,} images of {spec.width}x{spec.height} px"
        yield Problem("count", f"{images} need about {need / 1e9:.1f} GB in {out}, which has {free / 1e9:.1f} GB free")


def disk_bytes(spec: DatasetSpec) -> int:
    """About how many bytes a run takes. The PNG of an image takes half of the bytes of its pixels, and its records take
    4 kB. A run makes half as many images again as it accepts."""
    return int(1.5 * spec.count * (spec.height * spec.width * 3 / 2 + 4096))
