"""The dataset spec: what a YAML file may say, checked whole.

Every problem of a spec is found in one pass, each as one line with the field, what it got and what it takes.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from synthgen.backends import KINDS, Config, FilterConfig, backend_module, is_own
from synthgen.base.files import at_home
from synthgen.base.reading import as_written, load_yaml, read_text
from synthgen.base.wording import folded, looked_at, plain, shown, takes
from synthgen.errors import Problem, SpecError, listed, nearest
from synthgen.spec.unloaded import Recorded, UnloadedConfig, UnloadedFilterConfig
from synthgen.types import Category

# Far above what anybody needs, and low enough that a spec of this size is checked in a moment.
MAX_CLASSES = 2000
MAX_FILTERS = 50  # of an image's 64 reasons, see `reasons`
MAX_ENTRIES = 100  # of exporters, splits, slots and templates
MAX_VALUES = 10_000  # of a slot
MAX_WEIGHT = 1_000_000
MAX_PROBLEMS = 50  # lines that are told of one spec

# Why an image or a label may be lost where no filter rejects it; `review_…` too.
REASONS = ("empty_mask", "not_found", "not_made")
# Names that a run folder and its tables have already: an exporter writes into the folder of its name, and a filter's
# numbers are the column of its name.
RUN_FOLDERS = ("commits", "images", "jobs", "labels", "measures")
MEASURE_COLUMNS = ("image_id", "instance")

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
Word = Annotated[str, Field(max_length=200)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ClassSpec(_Strict):
    """A class of the dataset."""

    name: str = Field(min_length=1, max_length=200, description="Used in prompts, and as the COCO category's name.")
    synonyms: tuple[Word, ...] = Field(
        (), max_length=100, description="Other words for it; grounders look for them too."
    )
    prompt: dict[str, float] = Field(
        {},
        max_length=MAX_ENTRIES,
        description="How prompts name one, with the article: text, a list, or text: weight. Default: `a` or `an` and "
        "the name.",
    )
    id: int | None = Field(
        None, strict=True, ge=1, lt=2**31, description="Its category id in exports. Default: its position, from 1."
    )
    supercategory: str = Field("", max_length=200, description="The supercategory of its category in exports.")
    aspect_ratio: tuple[float, float] | None = Field(
        None,
        description="Least and greatest width over height of its layout boxes, from 0.05 to 20. Default: the model's.",
    )
    min_instances: int | None = Field(
        None,
        strict=True,
        ge=0,
        le=1_000_000_000,
        description="Its own quota: the least number of its instances in accepted images; 0 is no quota. Default: "
        "the dataset's `min_instances_per_class`.",
    )

    @field_validator("prompt", mode="before")
    @classmethod
    def _plain_prompt(cls, value: Any) -> Any:
        values = [value] if isinstance(value, str | int | float) else value
        _require_texts(values, "prompt")
        return _weights(values)

    @field_validator("prompt")
    @classmethod
    def _prompt_fits(cls, value: dict[str, float]) -> dict[str, float]:
        texts = all(text.strip() and len(text) <= 1000 and not any(map(_moves, text)) for text in value)
        weights = all(0 <= w <= MAX_WEIGHT for w in value.values())
        if not texts or not weights or (value and sum(value.values()) <= 0):
            raise ValueError(
                f"takes printable text of at most 1,000 characters, with weights of 0 or more, not all 0, and at most "
                f"{MAX_WEIGHT:,}"
            )
        return value

    @field_validator("aspect_ratio")
    @classmethod
    def _ordered(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not 0.05 <= value[0] <= value[1] <= 20:
            raise ValueError("takes [least, greatest], both from 0.05 to 20")
        return value


class Template(_Strict):
    text: str = Field(
        min_length=1,
        max_length=20_000,
        description="`{objects}` stands for the requested objects; every other name in braces is a slot.",
    )
    weight: float = Field(
        1.0, gt=0, le=MAX_WEIGHT, description="How often it is used, compared with the other templates."
    )

    @field_validator("text")
    @classmethod
    def _plain_braces(cls, value: str) -> str:
        template_slots(value)
        return value


class PromptSpec(_Strict):
    """Prompts: templates with slots, each choice made in proportion to its weight."""

    templates: tuple[Template, ...] = Field(
        (), max_length=MAX_ENTRIES, description="For images with objects; each contains `{objects}`."
    )
    background_templates: tuple[Template, ...] = Field(
        (), max_length=MAX_ENTRIES, description="For images without objects."
    )
    slots: dict[str, dict[str, float]] = Field(
        {}, max_length=MAX_ENTRIES, description="The values of each slot, as a list or as value: weight."
    )
    negative_prompt: str = Field(
        "", max_length=20_000, description="What images should not show; the same for all images."
    )

    @field_validator("templates", "background_templates", mode="before")
    @classmethod
    def _plain_templates(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = [value]
        return [{"text": t} if isinstance(t, str) else t for t in value] if isinstance(value, list) else value

    @field_validator("slots", mode="before")
    @classmethod
    def _plain_slots(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        for slot, values in value.items():
            _require_texts(values, slot)
        return {slot: _weights(values) for slot, values in value.items()}

    @model_validator(mode="after")
    def _slots_fit(self) -> PromptSpec:
        for slot, values in self.slots.items():
            if slot == "objects" or not slot.isidentifier():
                raise ValueError(f"slots: got the name {shown(slot)}; takes letters, digits and _, and not 'objects'")
            if not values or not all(0 <= w <= MAX_WEIGHT for w in values.values()) or sum(values.values()) <= 0:
                raise ValueError(
                    f"slots.{slot}: got {shown(values)}; takes at least one value, with weights of 0 or more, not all "
                    f"0, and at most {MAX_WEIGHT:,}"
                )
            if len(values) > MAX_VALUES or any(len(value) > 1000 for value in values):
                longest = max(map(len, values))
                raise ValueError(
                    f"slots.{slot}: got {len(values):,} values of at most {longest:,} characters; "
                    f"takes at most {MAX_VALUES:,} of 1,000"
                )
        for key, templates in (("templates", self.templates), ("background_templates", self.background_templates)):
            for i, template in enumerate(templates):
                names = template_slots(template.text)
                if ("objects" in names) != (key == "templates"):
                    wants = "needs" if key == "templates" else "is for images without objects and takes no"
                    raise ValueError(f"{key}.{i}: {shown(template.text)} {wants} {{objects}}")
                for name in names - {"objects"}:
                    if name not in self.slots:
                        raise ValueError(
                            f"{key}.{i}: {shown(template.text)} names the slot {shown(name)}"
                            f"{nearest(name, self.slots)}; "
                            f"slots given: {listed(self.slots) or 'none'}"
                        )
        return self


def _require_texts(values: Any, name: str) -> None:
    """
    Raises:
        ValueError: one of a list, or of the keys of a mapping, is no text, or stands there twice.
    """
    seen: set[str] = set()
    for v in values if isinstance(values, list | dict) else ():
        if isinstance(v, bool) or not isinstance(v, str | int | float):
            raise ValueError(f"got {shown(v)} for {shown(name)}; {takes('string', {}, v)}")
        if (text := looked_at(as_written(v))) in seen:
            raise ValueError(f"got {shown(v)} more than once for {shown(name)}; takes `value: weight` for that")
        seen.add(text)


def _weights(values: Any) -> Any:
    """Texts, each as it is written -> its weight."""
    if isinstance(values, list):
        return {as_written(v): 1.0 for v in values}
    return {as_written(v): w for v, w in values.items()} if isinstance(values, dict) else values


def template_slots(text: str) -> set[str]:
    """Names in braces. Only plain names: no attributes, indices, conversions or formats."""
    try:
        parts = list(Formatter().parse(text))
    except ValueError as error:
        raise ValueError(f"{error}; takes names in braces, and {{{{ and }}}} for braces themselves") from error
    for _, name, form, conversion in parts:
        if name is not None and (not name.isidentifier() or form or conversion):
            raise ValueError(f"{{{plain(name)}}} is no slot; takes a plain name in braces")
    return {name for _, name, _, _ in parts if name is not None}


class LayoutSpec(_Strict):
    """Where objects are put, before the image is made."""

    size: tuple[float, float] = Field(
        (0.3, 0.55),
        description="Least and greatest long side of a box, as shares of the image's shorter side, from 0.02 to 1.",
    )
    max_overlap: float = Field(
        0.0, ge=0, le=1, description="How much two boxes may overlap, as a share of the smaller one."
    )
    margin: float = Field(0.02, ge=0, lt=0.5, description="Kept free at the image's borders, as a share of its side.")

    @field_validator("size")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0.02 <= value[0] <= value[1] <= 1:
            raise ValueError("takes [least, greatest], both from 0.02 to 1")
        return value


class DatasetSpec(_Strict):
    """A dataset: what is in it, how it is made, labelled, filtered, split and exported."""

    version: Literal[1] = Field(1, description="The version of this format.")
    name: Name = Field(description="Names the dataset and its folder.")
    description: str = Field("", max_length=10_000, description="Exports show it; default: the name.")
    seed: int = Field(0, strict=True, ge=0, lt=2**63, description="Another seed makes another dataset.")
    count: int = Field(strict=True, ge=1, le=9_999_999, description="The number of accepted images.")
    budget: float = Field(4.0, ge=1, le=1000, description="At most `count` times `budget` images are made.")
    min_instances_per_class: int = Field(
        0,
        strict=True,
        ge=0,
        le=1_000_000_000,
        description="The quota of every class that has none of its own: the least number of its instances in accepted "
        "images. A quota may accept more than `count` images. 0 is no quota.",
    )
    height: int = Field(strict=True, ge=64, le=4096, multiple_of=8, description="The images' height in px.")
    width: int = Field(strict=True, ge=64, le=4096, multiple_of=8, description="The images' width in px.")
    classes: tuple[ClassSpec, ...] = Field(
        min_length=1, max_length=MAX_CLASSES, description="Each class is a name, or a mapping with `name`."
    )
    objects_per_image: dict[int, float] = Field(
        {1: 1.0},
        description="A number; [least, most], all equally likely; or number: weight. 0 makes background images.",
    )
    prompts: PromptSpec = Field(description="Templates of the prompts.")
    layout: LayoutSpec | None = Field(
        None, description="Places objects before the image is made. Null: the prompt alone places them."
    )
    generator: SerializeAsAny[Config] = Field(description="Makes an image of each prompt; default: `diffusion`.")
    grounder: SerializeAsAny[Config] = Field(description="Says which object is where; default: `layout`.")
    segmenter: SerializeAsAny[Config] = Field(description="Makes a mask of each box; default: `sam`.")
    filters: dict[Name, SerializeAsAny[FilterConfig]] = Field(
        max_length=MAX_FILTERS,
        description="The options of each filter, by its name. Given filters replace the default ones.",
    )
    splits: dict[Name, float] = Field(
        {"train": 0.8, "val": 0.1, "test": 0.1},
        max_length=MAX_ENTRIES,
        description="The share of each split; the shares sum to 1.",
    )
    exporters: dict[Name, SerializeAsAny[Config]] = Field(
        max_length=MAX_ENTRIES, description="The options of each exporter, by its name; default: `coco`."
    )
    shard_size: int = Field(64, strict=True, ge=1, le=4096, description="Images committed together.")
    grow: bool = Field(
        False, strict=True, description="Every run, at its end, merges all finished runs into one dataset."
    )

    @property
    def categories(self) -> tuple[Category, ...]:
        return tuple(Category(i, c.name, c.synonyms, c.supercategory, c.id) for i, c in enumerate(self.classes, 1))

    @property
    def max_images(self) -> int:
        """The budget in images."""
        return int(self.count * self.budget)

    @property
    def max_objects(self) -> int:
        """Most objects that an image is asked for."""
        return max(k for k, w in self.objects_per_image.items() if w > 0)

    @property
    def quotas(self) -> dict[int, int]:
        """Category id -> least number of instances kept in accepted images, of the classes that have one."""
        own = {i: c.min_instances for i, c in enumerate(self.classes, 1)}
        return {i: n for i, own_n in own.items() if (n := self.min_instances_per_class if own_n is None else own_n)}

    @field_validator("classes", mode="before")
    @classmethod
    def _plain_classes(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        return [c if isinstance(c, dict | list | ClassSpec) else {"name": c} for c in value]

    @field_validator("classes")
    @classmethod
    def _distinct_classes(cls, classes: tuple[ClassSpec, ...]) -> tuple[ClassSpec, ...]:
        seen: dict[str, str] = {}
        for c in classes:
            for word in (c.name, *c.synonyms):
                key = folded(word)
                if not key or any(_moves(ch) for ch in word):
                    raise ValueError(f"got {shown(word)}; takes printable text")
                if key in seen:
                    raise ValueError(
                        f"got {shown(word)} twice, for {shown(seen[key])} and for {shown(c.name)}; "
                        "takes each name and synonym once"
                    )
                seen[key] = c.name
        ids: dict[int, str] = {}
        for place, c in enumerate(classes, 1):
            if other := ids.get(own := c.id or place):
                both = f"{shown(other)} and for {shown(c.name)}"
                raise ValueError(f"got the id {own} twice, for {both}; a class without one has its place")
            ids[own] = c.name
        return classes

    @field_validator("objects_per_image", mode="before")
    @classmethod
    def _plain_objects(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            return {value: 1.0}
        if isinstance(value, list):
            if (
                len(value) != 2
                or not all(isinstance(v, int) and not isinstance(v, bool) for v in value)
                or value[0] > value[1]
            ):
                raise ValueError("takes a number, [least, most], or number: weight")
            if not 0 <= value[0] <= value[1] <= 64:
                raise ValueError("takes numbers of objects from 0 to 64")
            return dict.fromkeys(range(value[0], value[1] + 1), 1.0)
        if not isinstance(value, dict):
            raise ValueError("takes a number, [least, most], or number: weight")
        return value

    @field_validator("objects_per_image")
    @classmethod
    def _objects_in_range(cls, value: dict[int, float]) -> dict[int, float]:
        if (
            not value
            or not all(0 <= k <= 64 and 0 <= w <= MAX_WEIGHT for k, w in value.items())
            or sum(value.values()) <= 0
        ):
            raise ValueError(
                "takes numbers of objects from 0 to 64, with weights of 0 or more, not all 0, and at most "
                f"{MAX_WEIGHT:,}"
            )
        return value

    @field_validator("filters", "splits", "exporters")
    @classmethod
    def _names_free(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        """Some file systems take `train` and `Train` for one."""
        seen: dict[str, str] = {}
        for name in value:
            if what := _taken(str(info.field_name), name.casefold()):
                raise ValueError(f"got {name!r}, which is {what}; takes another name")
            if other := seen.get(name.casefold()):
                raise ValueError(
                    f"got {other!r} and {name!r}, which some file systems take for one; takes another name"
                )
            seen[name.casefold()] = name
        return value

    @field_validator("splits")
    @classmethod
    def _splits_sum(cls, value: dict[str, float]) -> dict[str, float]:
        total = sum(value.values())
        if not value or min(value.values()) <= 0 or abs(total - 1) > 1e-6:
            raise ValueError(f"takes shares above 0 that sum to 1; these sum to {total:g}")
        return value

    @model_validator(mode="after")
    def _parts_fit(self) -> DatasetSpec:
        if any(k > 0 and w > 0 for k, w in self.objects_per_image.items()) and not self.prompts.templates:
            raise ValueError("prompts.templates: got none; takes at least one template, such as 'a photo of {objects}'")
        if self.objects_per_image.get(0, 0) > 0 and not self.prompts.background_templates:
            raise ValueError(
                "prompts.background_templates: got none; takes at least one template, "
                "since `objects_per_image` allows images without objects"
            )
        return self

    @classmethod
    def parse(cls, raw: Any, unloaded: Mapping[str, Recorded] | None = None) -> DatasetSpec:
        """Plain data, as YAML gives it -> a spec.

        Args:
            unloaded: key in the spec -> what is recorded of a backend of the user's, of which none is imported then.

        Raises:
            SpecError: with every problem found.
        """
        if not isinstance(raw, dict):
            raise SpecError([Problem("", f"a spec is a mapping of keys to values, got {type(raw).__name__}")])
        data = dict(raw)
        problems: list[Problem] = []
        failed: set[tuple[str, ...]] = set()
        for kind in KINDS.values():
            key = kind.key
            if not kind.many:
                data[key] = _parse_stage(kind.name, (key,), data.get(key), kind.defaults[0], unloaded, problems, failed)
                continue
            given = data.get(key, dict.fromkeys(kind.defaults))
            if isinstance(given, dict) and len(given) <= MAX_ENTRIES:  # the model's own checks report a longer one
                data[key] = {
                    n: _parse_stage(kind.name, (key, str(n)), v, str(n), unloaded, problems, failed)
                    for n, v in given.items()
                }
        try:
            spec = cls.model_validate(data)
        except ValidationError as error:
            # A stage that did not parse is there as None, and has been spoken of.
            problems += [p for loc, p in problems_of(error, cls) if not any(loc[: len(f)] == f for f in failed)]
            raise SpecError(_first(problems)) from error
        if problems:
            raise SpecError(_first(problems))
        return spec

    def dump(self) -> dict[str, Any]:
        """Plain data that `parse` reads back to an equal spec."""
        return self.model_dump(mode="json")


def _parse_stage(
    kind: str,
    where: tuple[str, ...],
    raw: Any,
    default: str,
    unloaded: Mapping[str, Recorded] | None,
    problems: list[Problem],
    failed: set[tuple[str, ...]],
) -> Config | None:
    field = ".".join(map(plain, where))
    raw = {"use": raw} if isinstance(raw, str) else {} if raw is None else raw
    if not isinstance(raw, dict):
        problems.append(Problem(field, f"got {shown(raw)}; takes a name or a mapping of options"))
    elif not isinstance(use := raw.get("use", default), str):
        problems.append(Problem(f"{field}.use", f"got {shown(use)}; takes a name"))
    else:
        own = f"{field}.use" if "use" in raw else field
        try:
            if unloaded is not None and is_own(use):
                unread = UnloadedFilterConfig if kind == "filter" else UnloadedConfig
                return unread.of({**raw, "use": use}, unloaded.get(field))
            options = _options(kind, use)
            return options.model_validate({**raw, "use": use})
        except LookupError as error:
            problems.append(Problem(own, plain(" ".join(str(error.args[0]).split()), 500)))
        except ValidationError as error:
            problems += [Problem(f"{field}.{p.field}", p.message) for _, p in problems_of(error, options)]
    failed.add(where)
    return None


def _options(kind: str, use: str) -> type[Config]:
    """The options of the backend that `use` names.

    Raises:
        LookupError: no such module, or it is not a backend.
    """
    if len(use) > 200 or not all(part.isidentifier() for part in use.removeprefix(".").split(".")):
        raise LookupError(f"got {shown(use)}; takes the name of a built-in, or the dotted name of a module of yours")
    # Importing is running, and none of these is a backend.
    if "." in use and use.partition(".")[0] in sys.stdlib_module_names:
        raise LookupError(
            f"{use!r} is no backend, but part of Python; a backend's module defines `Config` and `Backend`"
        )
    try:
        options = backend_module(kind, use).Config
    except SystemExit as error:
        raise LookupError(f"cannot import your module {use!r}: it ends the program") from error
    if not (isinstance(options, type) and issubclass(options, Config)):
        raise LookupError(f"{use!r} is no backend: its `Config` is no subclass of `synthgen.backends.Config`")
    return options


def _taken(key: str, name: str) -> str:
    """What has a name already that a key of the spec gives, in small letters; "" for nothing."""
    if key == "filters" and (name in REASONS or name.startswith("review_")):
        return "the name of a reason that is no filter"
    if key == "filters" and name in MEASURE_COLUMNS:
        return "a column of the table of measures"
    return "a folder of the run itself" if key == "exporters" and name in RUN_FOLDERS else ""


def _moves(character: str) -> bool:
    """Whether a character breaks the line, moves a terminal's cursor, or turns the text after it round. Those that join
    letters, as Persian and emoji need them, do not."""
    return (
        unicodedata.category(character) in {"Cc", "Zl", "Zp"}
        or "\u202a" <= character <= "\u202e"
        or ("\u2066" <= character <= "\u2069")
    )


@dataclass(frozen=True, slots=True)
class _More(Problem):
    """So many of which no more is said."""

    count: int

    @classmethod
    def of(cls, count: int) -> _More:
        return cls("", f"and {count:,} problems more", count)


def _first(problems: list[Problem]) -> list[Problem]:
    """As many as anybody reads."""
    told = [problem for problem in problems if not isinstance(problem, _More)]
    more = sum(problem.count for problem in problems if isinstance(problem, _More))
    if len(told) + bool(more) <= MAX_PROBLEMS:
        return [*told, _More.of(more)] if more else told
    return [*told[: MAX_PROBLEMS - 1], _More.of(more + len(told) - MAX_PROBLEMS + 1)]


def _known_keys(model: type[BaseModel], loc: Sequence[str | int]) -> list[str]:
    """The keys that the mapping at `loc` takes."""
    found: Any = model
    for part in loc:
        if not (isinstance(found, type) and issubclass(found, BaseModel)):
            break
        if isinstance(part, str) and part in found.model_fields:
            inner = [a for a in re.findall(r"\w+", str(found.model_fields[part].annotation)) if a in _PARTS]
            found = _PARTS[inner[0]] if inner else None
    return list(found.model_fields) if isinstance(found, type) and issubclass(found, BaseModel) else []


_PARTS: dict[str, type[BaseModel]] = {c.__name__: c for c in (ClassSpec, Template, PromptSpec, LayoutSpec)}


def problems_of(error: ValidationError, model: type[BaseModel]) -> list[tuple[tuple[str, ...], Problem]]:
    """pydantic's errors -> (where, problem), in words for people."""
    errors = error.errors(include_url=False)
    left_out = errors[MAX_PROBLEMS - 1 :] if len(errors) > MAX_PROBLEMS else []
    errors = errors[: len(errors) - len(left_out)]
    below = {e["loc"][:i] for e in errors for i in range(len(e["loc"]))}
    mistyped = {
        (*e["loc"][:-1], key)
        for e in errors
        if e["type"] == "extra_forbidden"
        for key in _known_keys(model, e["loc"][:-1])
        if repr(key) in nearest(str(e["loc"][-1]), [key])
    }
    lengths = {e["loc"][:-1]: int(e["loc"][-1]) + 1 for e in errors if e["loc"] and isinstance(e["loc"][-1], int)}
    found = []
    for e in errors:
        loc, kind, got = e["loc"], e["type"], e.get("input")
        if (kind == "too_short" and loc in below) or (kind == "missing" and loc in mistyped):
            continue  # what is wrong with the entries, or with the key's name, is spoken of in its own line
        where = ".".join(plain(str(part)) for part in loc if part != "[key]")
        if kind == "extra_forbidden":
            known = _known_keys(model, loc[:-1])
            message = f"unknown key{nearest(str(loc[-1]), known)}; it takes: {listed(known)}"
        elif kind == "missing" and isinstance(loc[-1], int):  # an entry of a list of fixed length
            if loc[-1] + 1 < lengths[loc[:-1]]:
                continue
            where, message = where.rpartition(".")[0], f"got {shown(got)}; takes {loc[-1] + 1} numbers"
        elif kind == "missing":
            message = "missing, and has no default"
        elif kind == "value_error":
            message = str(e["ctx"]["error"])
            inner, _, rest = message.partition(": ")
            if rest and re.fullmatch(r"[a-z_]+(\.\w+)*", inner):  # a check over several fields names its own
                where, message = f"{where}.{inner}" if where else inner, rest
            elif not message.startswith("got "):
                message = f"got {shown(got)}; {message}"
        else:
            message = takes(kind, e.get("ctx", {}), got) or f"{e['msg'][0].lower()}{e['msg'][1:]}"
            keys = listed(_known_keys(model, loc)) if kind.startswith("model") else ""
            message = f"got {shown(got)}; {message}" + (f", which are: {keys}" if keys else "")
        # Of what pydantic, a check or a user's own backend says, no more than fits a few lines of a terminal.
        found.append((tuple(map(str, loc)), Problem(plain(where, 200), plain(" ".join(message.split()), 500))))
    if left_out:
        found.append((("",), _More.of(len(left_out))))
    return found


def load_spec(path: Path, overrides: Sequence[str] = ()) -> DatasetSpec:
    """A spec from a file, with `key.path=value` overrides (values in YAML). A model path that starts with `./` or
    `../` is taken from the spec's own folder.

    Raises:
        SpecError: it cannot be read, or it has problems.
    """
    path = at_home(path)
    try:
        raw = load_yaml(read_text(path))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SpecError([Problem("", f"cannot read the spec {str(path)!r}: {reason}")]) from error
    if not isinstance(raw, dict):
        got = "an empty file" if raw is None else type(raw).__name__
        raise SpecError([Problem("", f"a spec is a mapping of keys to values, got {got}")])
    for override in overrides:
        set_value(raw, override)
    for kind in KINDS.values():
        options = raw.get(kind.key) if not kind.many else None
        if isinstance(options, dict) and str(options.get("model", "")).startswith(("./", "../")):
            # What is no path at all stays as it is, and `check` says that it does not exist.
            with suppress(OSError, ValueError, RuntimeError):
                options["model"] = str((path.parent / options["model"]).resolve())
    return DatasetSpec.parse(raw)


def set_value(raw: dict[str, Any], override: str) -> None:
    """Puts one `key.path=value` into plain data, in place."""
    path, equals, text = override.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise SpecError(
            [Problem("--set", f"got {shown(override)}; it takes key.path=value, such as filters.sharpness.min=60")]
        )
    try:
        value, place = load_yaml(text), raw
    except SpecError as error:
        raise SpecError([Problem("--set", f"got {shown(override)}; {error}")]) from error
    kinds = {kind.key: kind for kind in KINDS.values()}
    for depth, key in enumerate(keys[:-1]):
        inner, kind = place.get(key), kinds.get(key)
        if inner is None:
            # One filter changed is no reason to lose the others, which were there by default.
            inner = place[key] = dict.fromkeys(kind.defaults if kind and kind.many and depth == 0 else ())
        elif isinstance(inner, str) and kind and not kind.many:
            inner = place[key] = {"use": inner}
        if not isinstance(inner, dict):
            raise SpecError([Problem("--set", f"got {shown(override)}; {shown(key)} is no mapping of options")])
        place = inner
    place[keys[-1]] = value


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Which leaves of two nested mappings differ, as `key.path: old -> new`."""
    found = []
    for key in sorted({*old, *new}, key=str):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{prefix}{plain(str(key))}.")
        elif a != b:
            found.append(f"{prefix}{plain(str(key))}: {shown(a)} -> {shown(b)}")
    return found
