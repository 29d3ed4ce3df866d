"""What `check` says of guidance, negative prompts and steps that a pipeline's class would ignore or refuse."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from synthgen.errors import Problem
from synthgen.generators._diffusion_config import Config
from synthgen.models import read_json
from synthgen.models.families import guidance
from synthgen.models.families.family import Family


def guidance_problems(
    config: Config, row: Family, path: Path, kind: str, takes: Mapping[str, Any], negative_prompt: str
) -> Iterable[Problem]:
    """A scale or a negative prompt that has no effect.

    Args:
        path: the pipeline's folder.
        kind: the class that is called.
        takes: the parameters of its call, with their defaults.
    """
    guided, options = guidance(row, path), config.call_options
    scale = options.get(guided.argument or "", config.settings(row).guidance_scale)
    if config.guidance_scale is not None and guided.argument is None:
        got = f"got {config.guidance_scale:g}, which has no effect on {kind}: {guided.reason}; leave it out"
        yield Problem(".guidance_scale", got)
    if row.unguided and not guided.is_on(scale):
        message = f"turns guidance off, and {row.unguided}; set one above {row.above:g}"
        yield Problem(".guidance_scale", message)
    if guided.argument and scale is not None and scale < row.least:
        yield Problem(".guidance_scale", f"got {scale:g}; {kind} takes at least {row.least:g}, which is unguided")
    if row.schedule_steps:
        yield from _schedule_problems(config, row, next(iter(row.with_scale)))
    if not negative_prompt:
        return
    field, option = "prompts.negative_prompt", row.option_cfg if guided.argument != row.option_cfg else None
    if "negative_prompt" not in takes or not row.negative:
        yield Problem(field, f"{kind} takes none; leave it out")
    elif guided.is_on(scale):
        return
    elif option:
        other = options.get(option, takes.get(option))
        if not (isinstance(other, int | float) and other > 1) or option not in options:
            mend = f"set generator.call_options: {{{option}: 4}}"
            yield Problem(field, f"has no effect on {kind} unless `{option}` is above 1; {mend}, or leave it out")
    elif guided.above is None:
        yield Problem(field, "has no effect on this model, which was distilled with its guidance; leave it out")
    else:
        at = "" if scale is None else f" {scale:g}"
        message = f"has no effect at generator.guidance_scale{at}; set one above {guided.above:g}, or leave it out"
        yield Problem(field, message)


def _schedule_problems(config: Config, row: Family, name: str) -> Iterable[Problem]:
    """`name`: the option with a scale for each step, which a class takes instead of one scale."""
    given, steps, scales = (
        config.guidance_scale,
        config.settings(row).num_inference_steps,
        config.call_options.get(name),
    )
    if given is not None:
        if scales is not None:
            yield Problem(".guidance_scale", f"got {given:g} beside call_options.{name}; set one of them")
    elif (len(scales) if isinstance(scales, list) else row.schedule_steps) != steps:
        message = f"got none, and {row.pipeline} then needs a scale for each of the {steps} steps"
        yield Problem(".guidance_scale", f"{message}; set one for all, or call_options.{name} with {steps} numbers")


def steps_problems(config: Config, row: Family, path: Path) -> Iterable[Problem]:
    """A number of steps for a model that has its own, in the folder `path`."""
    if not row.own_steps or config.num_inference_steps is None:
        return
    noise = read_json(path / "model_index.json").get(row.own_steps)
    if isinstance(noise, list):
        got = f"got {config.num_inference_steps}; this model has its own {len(noise)} steps; leave it out"
        yield Problem(".num_inference_steps", got)
