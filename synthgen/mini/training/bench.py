"""The bench on which models are scored: the backends that runs use, on scenes and prompts that no training has seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from synthgen.generators.diffusion import Backend as Diffusion
from synthgen.generators.diffusion import Config as DiffusionConfig
from synthgen.mini import scenes
from synthgen.mini.backgrounds import BACKGROUNDS
from synthgen.mini.scenes import Scene
from synthgen.mini.training import captions
from synthgen.models import MINI, read_card
from synthgen.models.clip import ClipConfig, ClipModel, phrase
from synthgen.models.discovery import Discovery, DiscoveryConfig
from synthgen.segmenters.sam import Backend as Segmenter
from synthgen.segmenters.sam import Config as SegmenterConfig
from synthgen.types import Category, Job

HELD_OUT_SEED = 2**40  # no training draws its scenes from such a seed
PROMPT = "a photo of a {}"
CATEGORIES = tuple(Category(i, name) for i, name in enumerate(scenes.CLASSES, 1))
GROUNDS = tuple(f"a photo of {name}" for name in BACKGROUNDS)


@dataclass(frozen=True)
class Bench:
    """The models to be scored, and what they are asked.

    Attributes:
        count: the number of scenes, and of prompts.
        steps, guidance: options of the diffusion model. A layout fixes where things are; plain text leaves more
            freedom, so it gets a higher guidance, `text_guidance`.
    """

    diffusion: Path = MINI / "diffusion"
    sam: Path = MINI / "sam"
    clip: Path = MINI / "clip"
    count: int = 500
    size: int = scenes.SIZE
    steps: int = 20
    guidance: float = 1.5
    text_guidance: float = 4.5
    batch_size: int = 8

    def scenes(self, stream: int, *, occlusion: bool) -> Iterator[Scene]:
        """Yields `count` scenes, other ones for each `stream`."""
        for i in range(self.count):
            yield scenes.draw(np.random.default_rng([HELD_OUT_SEED, stream, i]), size=self.size, occlusion=occlusion)

    @cached_property
    def prompt_scenes(self) -> list[Scene]:
        """The scenes whose captions and boxes the diffusion model is asked for. Nothing in them is covered, and the
        model knows their classes, backgrounds and colours."""
        card = read_card(self.diffusion)
        words = set(card.vocabulary or captions.words())
        among = [i for i, name in enumerate(scenes.CLASSES) if card.classes is None or name in card.classes]
        chosen = []
        for i in range(self.count):
            rng = np.random.default_rng([HELD_OUT_SEED, 1, i])
            while True:
                scene = scenes.draw(rng, size=self.size, occlusion=False, among=among)
                if scene.things and scene.background in words:
                    break
            things = [t if t.colour in words else replace(t, colour=None) for t in scene.things]
            chosen.append(replace(scene, things=tuple(things)))
        return chosen

    @cached_property
    def clip_model(self) -> ClipModel:
        return ClipModel.of(ClipConfig(use="clip", model=str(self.clip)))

    @cached_property
    def names(self) -> NDArray[np.float32]:
        """The vectors of all classes' names, float32 (C, D)."""
        return self.clip_model.cached_texts(tuple(phrase(PROMPT, name) for name in scenes.CLASSES))

    @cached_property
    def discovery(self) -> Discovery:
        """A search with lower thresholds than the grounder's defaults. The controls, on blank backgrounds and on other
        layouts, show how often it takes something else for a thing."""
        options = DiscoveryConfig(
            use="everything", model=str(self.sam), clip=str(self.clip), others=GROUNDS, predicted_iou=0.5,
            stability_score=0.3, agreement=0.35,
        )  # fmt: skip
        return Discovery(options, CATEGORIES)

    @cached_property
    def segmenter(self) -> Segmenter:
        return Segmenter(SegmenterConfig(use="sam", model=str(self.sam), batch_size=self.batch_size), CATEGORIES)

    @cached_property
    def generator(self) -> Diffusion:
        return Diffusion(
            DiffusionConfig(
                use="diffusion", model=str(self.diffusion), num_inference_steps=self.steps,
                guidance_scale=self.guidance, batch_size=self.batch_size,
            ),
            CATEGORIES,
        )  # fmt: skip

    def job(self, index: int, *, layout: bool) -> Job:
        """The job that asks for a scene, with its boxes or without."""
        scene = self.prompt_scenes[index]
        return Job(
            id=index + 1, run=1, round=1, index=index, family=str(index), split="test",
            prompt=captions.caption(scene.background, scene.things), negative_prompt="", slots={},
            asked=tuple(thing.category + 1 for thing in scene.things),
            layout=tuple(thing.box for thing in scene.things) if layout else None,
            seed=HELD_OUT_SEED + index, height=self.size, width=self.size,
        )  # fmt: skip

    def generated(self, *, layout: bool) -> Iterator[NDArray[np.uint8]]:
        """Yields an image, uint8 (S, S, 3), for each of `prompt_scenes`, in order."""
        jobs = [self.job(i, layout=layout) for i in range(len(self.prompt_scenes))]
        generator = self.generator if layout else replace(self, guidance=self.text_guidance).generator
        for start in range(0, len(jobs), self.batch_size):
            yield from generator.generate(jobs[start : start + self.batch_size])

    @cached_property
    def layout_images(self) -> list[NDArray[np.uint8]]:
        return list(self.generated(layout=True))
