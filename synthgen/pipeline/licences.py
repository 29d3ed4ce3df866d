"""The models of a spec or a run, with what their licences say of the images and labels that they make."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synthgen.backends import Stage
from synthgen.base.files import expand_home
from synthgen.base.wording import plain, shown
from synthgen.errors import BackendError, Problem, listed, nearest
from synthgen.models import ModelMissing
from synthgen.models.licences import OutputLicence, output_licence
from synthgen.spec import DatasetSpec


@dataclass(frozen=True, slots=True)
class UsedModel:
    """A model that makes, labels or measures images.

    Attributes:
        field: the option of the spec that names it, such as `generator.model`.
        name: as the spec names it; the backend, if the spec names no model.
        is_here: whether it is on this machine, so that it can say itself what its licence is.
    """

    field: str
    name: str
    revision: str | None
    licence: OutputLicence
    is_here: bool = True


def stated_by(stage: Stage[Any]) -> list[dict[str, Any]]:
    """The models of a backend that is made of no others, with the licences that they state, as `run.json` has them.
    `licences` is None for a model that is not on this machine."""
    found = []
    for model in stage.models():
        source = model.source()
        name, revision = (source.model, source.revision) if source else (stage.config.use, None)
        try:
            licences = [list(licence) for licence in model.stated_licences()]
        except (ModelMissing, BackendError):
            licences = None
        field = getattr(model, "field", ".model" if hasattr(stage.config, "model") else ".use")
        found.append({"field": field, "model": name, "revision": revision, "licences": licences})
    if not found and ((licences := [list(licence) for licence in stage.licences()]) or stage.identity()):
        found.append({"field": ".use", "model": stage.config.use, "revision": None, "licences": licences})
    return found


def used_models(stages: Mapping[str, Stage[Any]]) -> list[UsedModel]:
    """The models of backends that are made of no others. `stages`: key in the spec -> backend."""
    return [_used(key, one) for key, stage in stages.items() for one in stated_by(stage)]


def recorded_models(models: Mapping[str, Mapping[str, Any]]) -> list[UsedModel]:
    """The models of a run.

    Args:
        models: as `run.json` has them, see `Stages.models`. Earlier versions recorded a model for each backend.
    """
    return [
        _used(key, one)
        for key, model in models.items()
        for one in model.get("stated") or ([{**model, "field": ".model"}] if model else [])
    ]


def _used(key: str, one: Mapping[str, Any]) -> UsedModel:
    name = str(one["model"] or key)
    licence = output_licence(name, one["licences"] or ())
    return UsedModel(f"{key}{one['field']}", name, one.get("revision"), licence, one["licences"] is not None)


def public_name(model: str) -> str:
    """A model's name for other people: its id on the Hub, or the last part of its path: the rest is nobody's
    business."""
    if model == "mini":
        return "synthgen mini"
    is_path = model.startswith((".", "/", "~")) or model.count("/") > 1
    last = model.rstrip("/").rpartition("/")[2]
    return (last.strip(".") and last) or Path(model).resolve().name if is_path else model


def licensed_models(*runs: Mapping[str, Mapping[str, Any]]) -> tuple[tuple[str, str, str], ...]:
    """The models of runs for `DatasetInfo.models`.

    Args:
        runs: the models of each, as its `run.json` has them.
    """
    used = {(public_name(m.name), m.licence.name, m.licence.url) for run in runs for m in recorded_models(run)}
    return tuple(sorted(used))


def licence_lines(used: Iterable[UsedModel]) -> Iterator[str]:
    """A line for each model, with what it is used for."""
    fields: dict[tuple[str, str | None, OutputLicence], list[str]] = {}
    for model in used:
        fields.setdefault((model.name, model.revision, model.licence), []).append(model.field)
    for (name, revision, licence), its in fields.items():
        version = f" @ {plain(revision)}" if revision else ""
        yield f"{shown(name)}{version} ({listed(its, 5)}): {licence}"


def refused(spec: DatasetSpec, used: Iterable[UsedModel]) -> Iterator[Problem]:
    """The models that the key `licence` of a spec does not allow."""
    used = list(used)
    names = {_place(model.name): model.name for model in used}
    accepted = {_place(name) for name in spec.licence.accept}
    for index, name in enumerate(spec.licence.accept):
        if _place(name) not in names:
            takes = f"takes models as this spec names them: {listed(names.values())}"
            yield Problem(f"licence.accept.{index}", f"got {shown(name)}{nearest(name, names.values())}; {takes}")
    if not spec.licence.commercial:
        return
    for model in used:
        licence = model.licence
        if _place(model.name) in accepted or licence.commercial == "yes":
            continue
        if licence.commercial == "unknown" and not model.is_here:
            continue  # That it is missing is a problem of its own; once it is here, it can say what its licence is.
        named = f"its licence is {licence.named}" if licence.name else "it states no licence"
        message = f"got {shown(model.name)}, and `licence.commercial` is true; {named}"
        accept = f"add {shown(model.name)} to `licence.accept`"
        if licence.commercial == "no":
            message += f": images and labels may not be used commercially ({licence.words}); take another model, or "
            message += f"{accept} if its owner has given you the right"
        elif licence.commercial == "conditions":
            message += f": commercial use is {licence.words}; {accept} if that holds for you"
        else:
            message += f", and synthgen does not know what that allows; read it, and {accept} if it allows this"
        yield Problem(model.field, message)


def _place(model: str) -> str:
    """The same text for all names of a folder or a file; other names stay as they are."""
    with suppress(OSError, ValueError, RuntimeError):
        return str(expand_home(model).resolve()) if model.startswith((".", "/", "~")) else model
    return model
