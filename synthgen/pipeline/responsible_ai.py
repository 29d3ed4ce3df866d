"""What a dataset says of how it was made and what it is good for, in the terms of Croissant's vocabulary for
responsible AI (http://mlcommons.org/croissant/RAI/1.0).

All of it follows from what an export is made from: no dates, and no thresholds, which may change while every verdict
stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from synthgen import __version__
from synthgen.base.wording import plain
from synthgen.errors import listed
from synthgen.pipeline.build import Build
from synthgen.pipeline.licences import UsedModel, public_name, recorded_models
from synthgen.spec import DatasetSpec
from synthgen.types import DatasetInfo

LABELLERS = ("grounder", "segmenter")


@dataclass(frozen=True, slots=True)
class Making:
    """How a dataset was made.

    Attributes:
        spec: says how its runs are exported.
        models: of all its runs, each once.
        made: how many images were made.
        passed, spare: how many of them passed all filters; how many of those are not needed.
        rejected: filter, or other reason -> how many images it rejects; an image may be rejected for several reasons.
        is_grown: whether further runs join it.
        has_all_images: whether it holds rejected images, too.
    """

    spec: DatasetSpec
    models: tuple[UsedModel, ...]
    made: int
    passed: int
    spare: int
    rejected: dict[str, int]
    is_grown: bool = False
    has_all_images: bool = False

    @classmethod
    def of(
        cls, spec: DatasetSpec, builds: Iterable[Build], *, is_grown: bool = False, has_all_images: bool = False
    ) -> Making:
        """`builds`: its runs."""
        builds = list(builds)
        numbers = [quality for build in builds if (quality := build.quality())]
        rejected = Counter[str]()
        for quality in numbers:
            rejected.update({name: reason.images for name, reason in quality.reasons.items()})
        return cls(
            spec,
            tuple(dict.fromkeys(model for build in builds for model in recorded_models(build.models))),
            sum(quality.made for quality in numbers),
            sum(quality.accepted + quality.surplus for quality in numbers),
            sum(quality.surplus for quality in numbers),
            dict(sorted(rejected.items())),
            is_grown,
            has_all_images,
        )

    def models_of(self, *stages: str) -> list[str]:
        """The models of some stages of the spec, such as `grounder`, with their revisions."""
        used = (model for model in self.models if model.field.partition(".")[0] in stages)
        return list(dict.fromkeys(f"{public_name(m.name)}{f' @ {m.revision}' * bool(m.revision)}" for m in used))


def statements(making: Making, info: DatasetInfo) -> dict[str, Any]:
    """Property of the vocabulary -> what is to be said of the dataset."""
    spec, maker = making.spec, f"synthgen {__version__}"
    generator = _with_models(f"the generator `{spec.generator.use}`", making.models_of("generator"))
    boxes = _with_models(f"the grounder `{spec.grounder.use}`", making.models_of("grounder"))
    masks = _with_models(f"the segmenter `{spec.segmenter.use}`", making.models_of("segmenter"))
    templates = len(spec.prompts.templates) + len(spec.prompts.background_templates)
    names = [category.name for category in info.categories]
    is_diffusion = spec.generator.use == "diffusion"
    return {
        "rai:dataCollection": f"{maker} made every image by {generator}, each from a prompt of its own. The prompts "
        f"come from {counted(templates, 'template')} and {counted(len(spec.prompts.slots), 'slot')} of words. "
        f"{making.made:,} images were made, and {making.passed:,} of them passed all filters.",
        "rai:dataCollectionType": ["Synthetic data generation"],
        "rai:dataCollectionRawData": "No photograph is the source of an image; the sources are prompts."
        if is_diffusion
        else f"synthgen does not know the sources of {generator}.",
        "rai:dataCollectionMissingData": "Rejected images are part of the dataset, and say why they are rejected."
        if making.has_all_images
        else f"{making.made - making.passed:,} of {making.made:,} images are left out because filters or people "
        f"rejected them, and {making.spare:,} because they are not needed.",
        "rai:dataPreprocessingProtocol": list(_filters(making)),
        "rai:dataManipulationProtocol": info.subset or "Nothing of the accepted images and their labels is left out.",
        "rai:dataAnnotationProtocol": f"Models made all labels: boxes and classes come from {boxes}, masks from "
        f"{masks}. Filters measured the labels. People may have looked at some, and corrected or removed those that "
        "were wrong.",
        "rai:dataAnnotationPlatform": [maker],
        "rai:machineAnnotationTools": making.models_of(*LABELLERS, "filters") or [maker],
        "rai:dataUseCases": ["Training and validation of models that detect or segment objects in images."],
        "rai:dataLimitations": [
            "The images show what their generator has learnt, and differ from photographs. A result on them says "
            "nothing of real images: test on those.",
            "Models made the labels, so some are wrong.",
            f"Only these classes are labelled: {plain(listed(names), 2000)}. Other objects in the images are not.",
        ],
        "rai:dataBiases": [
            "Which objects, places and styles are shown, and how often, follows from the prompts of the spec and from "
            "the data that the generator was trained on.",
            "The filters keep what the labelling models recognise, so hard views of objects are rarer than in real "
            "images.",
        ],
        "rai:personalSensitiveInformation": [
            "No data about people was collected. People in the images, if there are any, are made by the generator, "
            "which may have learnt how real people look."
            if is_diffusion
            else f"synthgen does not know whether {generator} uses data about people."
        ],
        "rai:dataReleaseMaintenancePlan": "Every finished run of the spec adds its images. Images that are in the "
        "dataset keep their ids. `version` names the content."
        if making.is_grown
        else "The dataset does not change. `version` names the content, and another content has another version.",
    }  # fmt: skip


def _with_models(what: str, models: Iterable[str]) -> str:
    named = ", ".join(models)
    return f"{what} ({named})" if named else what


def counted(count: int, noun: str) -> str:
    """A number with its noun."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _filters(making: Making) -> Iterable[str]:
    for name in making.spec.filters:
        yield f"The filter `{name}` rejects {counted(making.rejected.get(name, 0), 'image')}."
    for name, count in making.rejected.items():
        if name not in making.spec.filters:
            yield f"{counted(count, 'image')} are left out for the reason `{name}`."
