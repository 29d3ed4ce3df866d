"""The spec of a dataset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, SerializeAsAny, ValidationError, ValidationInfo, field_validator, model_validator

from synthgen.backends import KINDS, Config, FilterConfig
from synthgen.base.wording import plain
from synthgen.errors import Problem, SpecError, WrongValue
from synthgen.spec.classes import ClassSpec, require_distinct
from synthgen.spec.layout import LayoutSpec
from synthgen.spec.licence import LicenceSpec
from synthgen.spec.names import Name, require_free
from synthgen.spec.options import parse_options
from synthgen.spec.problems import first, problems_of
from synthgen.spec.prompts import PromptSpec
from synthgen.spec.provenance import ProvenanceSpec
from synthgen.spec.publication import PublicationSpec
from synthgen.spec.section import MAX_ENTRIES, Section
from synthgen.spec.unloaded import Recorded
from synthgen.spec.weights import MAX_WEIGHT, are_weights
from synthgen.types import Category

MAX_CLASSES = 2000  # more than anybody needs, and few enough to be checked in a moment
MAX_FILTERS = 50  # each is a bit of a 64-bit number in `judging/reasons.py`


class DatasetSpec(Section):
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
    licence: LicenceSpec = Field(LicenceSpec(), description="What the models' licences must allow.")
    shard_size: int = Field(64, strict=True, ge=1, le=4096, description="Images committed together.")
    provenance: ProvenanceSpec = Field(ProvenanceSpec(), description="What images tell of where they come from.")
    publication: PublicationSpec = Field(
        PublicationSpec(), description="Who publishes the dataset, where and when, for `croissant.json`."
    )
    grow: bool = Field(
        False, strict=True, description="Every run, at its end, merges all finished runs into one dataset."
    )

    @property
    def categories(self) -> tuple[Category, ...]:
        return tuple(Category(i, c.name, c.synonyms, c.supercategory, c.id) for i, c in enumerate(self.classes, 1))

    @property
    def max_images(self) -> int:
        """The number of images that may be made: the budget in images."""
        return int(self.count * self.budget)

    @property
    def max_objects(self) -> int:
        """The greatest number of objects that an image is asked for."""
        return max(k for k, w in self.objects_per_image.items() if w > 0)

    @property
    def quotas(self) -> dict[int, int]:
        """Category id -> the least number of instances of the class in accepted images, for classes with a quota."""
        default = self.min_instances_per_class
        quotas = {i: default if c.min_instances is None else c.min_instances for i, c in enumerate(self.classes, 1)}
        return {category_id: quota for category_id, quota in quotas.items() if quota}

    @field_validator("classes", mode="before")
    @classmethod
    def _plain_classes(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        return [c if isinstance(c, dict | list | ClassSpec) else {"name": c} for c in value]

    @field_validator("classes")
    @classmethod
    def _distinct_classes(cls, classes: tuple[ClassSpec, ...]) -> tuple[ClassSpec, ...]:
        require_distinct(classes)
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
        if not all(0 <= n <= 64 for n in value) or not are_weights(value.values()):
            raise ValueError(
                "takes numbers of objects from 0 to 64, with weights of 0 or more, not all 0, and at most "
                f"{MAX_WEIGHT:,}"
            )
        return value

    @field_validator("filters", "splits", "exporters")
    @classmethod
    def _names_free(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        require_free(str(info.field_name), value)
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
            message = "got none; takes at least one template, such as 'a photo of {objects}'"
            raise WrongValue(message, "prompts", "templates")
        if self.objects_per_image.get(0, 0) > 0 and not self.prompts.background_templates:
            raise WrongValue(
                "got none; takes at least one template, since `objects_per_image` allows images without objects",
                "prompts",
                "background_templates",
            )
        return self

    @classmethod
    def parse(cls, raw: Any, unloaded: Mapping[str, Recorded] | None = None) -> DatasetSpec:
        """Plain data, as YAML gives it -> a spec.

        Args:
            unloaded: key in the spec -> what the run folder records of a backend of the user's. With it, no module of
                the user's is imported.

        Raises:
            SpecError: with every problem.
        """
        if not isinstance(raw, dict):
            raise SpecError([Problem("", f"a spec is a mapping of keys to values, got {type(raw).__name__}")])
        data = dict(raw)
        problems: list[Problem] = []
        failed: set[tuple[str, ...]] = set()

        def options(kind: str, raw: Any, default: str, *loc: str) -> Config | None:
            try:
                return parse_options(kind, ".".join(map(plain, loc)), raw, default, unloaded)
            except SpecError as error:
                problems.extend(error.problems)
                failed.add(loc)
                return None

        for kind in KINDS.values():
            key = kind.key
            if not kind.many:
                data[key] = options(kind.name, data.get(key), kind.defaults[0], key)
                continue
            given = data.get(key, dict.fromkeys(kind.defaults))
            if isinstance(given, dict) and len(given) <= MAX_ENTRIES:  # The checks of the key report a longer one.
                data[key] = {
                    name: options(kind.name, value, str(name), key, str(name)) for name, value in given.items()
                }
        try:
            spec = cls.model_validate(data)
        except ValidationError as error:
            for loc, problem in problems_of(error, cls):
                keys = tuple(map(str, loc))
                if not any(keys[: len(start)] == start for start in failed):  # Those are reported already.
                    problems.append(problem)
            raise SpecError(first(problems)) from error
        if problems:
            raise SpecError(first(problems))
        return spec

    def dump(self) -> dict[str, Any]:
        """Plain data that `parse` reads back to an equal spec."""
        return self.model_dump(mode="json")
