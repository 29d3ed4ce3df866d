"""What a row of the table of families says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

# Steps and guidance of a spec that gives none, with a class whose row recommends none.
NUM_INFERENCE_STEPS, GUIDANCE_SCALE = 20, 3.0


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What the authors of a model recommend. `word`: a part of the model's name, in lower case, that tells it from
    other models of its class, such as `turbo`; "": of every other model of the class."""

    num_inference_steps: int
    guidance_scale: float | None
    word: str = ""


@dataclass(frozen=True, slots=True)
class Family:
    """A row: a pipeline class.

    `guidance_scale` of a spec is either the scale of classifier-free guidance, for which the denoiser runs twice a step
    (arXiv 2207.12598), or a number that a distilled denoiser takes as an input. The row says which argument is which.

    Attributes:
        pipeline: the class.
        cfg: the argument of its call with the scale of classifier-free guidance; None: the spec's scale never turns
            such guidance on.
        above: guidance is on for greater scales.
        embedded: the argument that the denoiser takes as an input; None: there is none.
        embedded_if: the key of the denoiser's settings that must be set for that; "": it always is.
        unguided: why a scale that turns guidance off cannot be used; "": it can.
        least: the least scale that its call takes.
        distilled_if: the key of the pipeline's index that, if true, says that the scale has no effect.
        guiders: the parts of a pipeline that have the scale of classifier-free guidance instead.
        with_scale: further arguments that must go with a scale.
        schedule_steps: the number of steps for which the class has a scale each, if none is given; 0: it has none.
        option_cfg: an argument with the scale of classifier-free guidance besides `embedded`, for `call_options`. It
            needs a negative prompt.
        empty_negative: the negative prompt that is given where guidance needs one and the spec has none.
        negative: False: the class ignores a negative prompt although its call takes one.
        recommended: steps and guidance, the one without a word last, if there is one.
        side: height and width in px that the models were trained for; None: several, or unknown.
        multiple: the sides of an image are multiples of this, in px; None: of the side of a latent, which the
            autoencoder's settings tell.
        paired: 2 x 2 latents are a token: sides are multiples of two latents' sides.
        patched: sides are multiples of as many latents' sides as the denoiser's `patch_size` says.
        binned: by default its call makes a size of its own, of about the shape that is asked for, and resizes the
            images: sides need no multiple.
        resizes: a height, a width and the side of a latent, in px -> the height and width that its call makes, whatever
            is asked for; None: it makes what is asked for.
        scheduler: False: the class computes with its own scheduler only.
        schedulers: the only ones that it computes rightly with; (): each that fits.
        timesteps: the arguments with which its call sets a scheduler's timesteps, besides their number. Other
            schedulers can be used if they take these.
        own_steps: the key of the pipeline's index that, if set, has the noise of each step, and so their number.
        tokens: the most tokens of a prompt that the class reads, whatever `max_sequence_length` its call is given;
            None: this and the tokenizers say it. Encoders without a table of positions, such as T5, read as many
            whatever the tokenizer says.
        tokens_key: the key of the pipeline's index that says it; "": there is none.
        frame: the text that its call makes of a prompt `{}`, and that counts as the prompt's.
        more_tokens: how many tokens more than `max_sequence_length` its call reads, such as some of the frame.
        singles: why each image is made in a call of its own; "": a call takes a batch, and companions do not change an
            image beyond rounding.
        global_seed: the class draws random numbers from torch's global generator instead of the one it is given, so
            that it is seeded with the image's seed.
        arguments: further arguments of every call, such as ones that keep a prompt as it is given.
        ignored: arguments that its call takes and ignores.
        long_prompts: its only text encoders are CLIPs, whose results the call takes in place of prompts, so that
            prompts of any length can be encoded in pieces.
        area: the argument with the area of the image in px, without which the class chooses one; "": none.
        other_steps: further arguments of a call with another number of steps than the recommended one.
        from_elsewhere: parts that published folders of the class lack, and the models that people take them from.
        packages: packages that its code needs, besides those that diffusers needs.
        output: the form of results that is asked for: tensors or arrays; "": tensors if the class has an image
            processor of diffusers, which gives them in [0, 1].
        refused: why the class cannot be used; "": it can.
        refused_if: a key of the denoiser's settings, and why the class cannot be used if it is set.
    """

    pipeline: str
    cfg: str | None = "guidance_scale"
    above: float = 1.0
    embedded: str | None = None
    embedded_if: str = ""
    unguided: str = ""
    least: float = 0.0
    distilled_if: str = ""
    guiders: tuple[str, ...] = ()
    with_scale: Mapping[str, Any] = field(default_factory=dict)
    schedule_steps: int = 0
    option_cfg: str | None = None
    empty_negative: str | None = None
    negative: bool = True
    recommended: tuple[Recommendation, ...] = ()
    side: int | None = None
    multiple: int | None = None
    paired: bool = False
    patched: bool = False
    binned: bool = False
    resizes: Callable[[int, int, int], tuple[int, int]] | None = None
    scheduler: bool = True
    schedulers: tuple[str, ...] = ()
    timesteps: tuple[str, ...] = ()
    own_steps: str = ""
    tokens: int | None = None
    tokens_key: str = ""
    frame: str = "{}"
    more_tokens: int = 0
    singles: str = ""
    global_seed: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    long_prompts: bool = False
    area: str = ""
    other_steps: Mapping[str, Any] = field(default_factory=dict)
    from_elsewhere: Mapping[str, str] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    output: Literal["", "pt", "np"] = ""
    refused: str = ""
    refused_if: tuple[str, str] | None = None

    def advised(self, model: str) -> Recommendation | None:
        """What the authors of a model of this name recommend; None if the row does not say."""
        name = Path(model).name.lower()
        return next((r for r in self.recommended if r.word in name), None)

    def recommendation(self, model: str) -> Recommendation:
        """The same; the toolkit's own numbers where the row says nothing."""
        return self.advised(model) or Recommendation(NUM_INFERENCE_STEPS, GUIDANCE_SCALE)


@dataclass(frozen=True, slots=True)
class Guidance:
    """What `guidance_scale` of a spec does to one model.

    Attributes:
        argument: of the pipeline's call; None: the scale has no effect on this model.
        above: classifier-free guidance is on for greater scales; None: never by this scale.
        reason: why it has no effect.
        guiders: the parts of the pipeline that have the scale, if no argument of its call does.
    """

    argument: str | None
    above: float | None = None
    reason: str = ""
    guiders: tuple[str, ...] = ()

    def is_on(self, scale: float | None) -> bool:
        """Whether classifier-free guidance is on at this scale."""
        return self.argument is not None and self.above is not None and scale is not None and scale > self.above
