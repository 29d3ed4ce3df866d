"""What `check` says of the scheduler of a spec, and of its options."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from synthgen.base.wording import plain, shown
from synthgen.errors import Problem, listed, nearest
from synthgen.generators._diffusion_config import SCHEDULERS, Config
from synthgen.models import read_json
from synthgen.models.families.family import Family
from synthgen.models.signatures import parameters

SHIFTS = ("shift", "flow_shift")  # numbers that a schedule which depends on the image's size computes instead


def scheduler_problems(config: Config, row: Family, path: Path) -> Iterable[Problem]:
    """A scheduler that the class or the model in the folder `path` cannot be used with, and options without effect."""
    if not row.scheduler and (config.scheduler or config.scheduler_options):
        key = ".scheduler" if config.scheduler else ".scheduler_options"
        yield Problem(key, f"{row.pipeline} computes with its own scheduler only; leave it out")
        return
    try:
        settings = read_json(path / "scheduler" / "scheduler_config.json")
    except (OSError, ValueError):
        settings = {}
    own = str(settings.get("_class_name", ""))
    kind = config.scheduler or own
    if kind and row.schedulers and kind not in row.schedulers:
        got = f"got {kind}" if config.scheduler else f"the model's own is {kind}"
        message = f"{got}, with which {row.pipeline} fails or computes wrongly"
        yield Problem(".scheduler", f"{message}; takes: {listed(row.schedulers)}")
        return
    steps = parameters(kind, "step", "schedulers") if kind else None
    if "eta" in config.call_options and steps is not None and "eta" not in steps:
        yield Problem(
            ".call_options", f"`eta` has no effect with {kind}; leave it out, or set scheduler: DDIMScheduler"
        )
    yield from _option_problems(kind, config.scheduler_options, settings)
    if not config.scheduler:
        return
    sets = parameters(kind, "set_timesteps", "schedulers")
    if lacks := [name for name in row.timesteps if sets is not None and name not in sets]:
        message = f"got {kind}, which cannot be set to the {listed(lacks)} that {row.pipeline} computes"
        yield Problem(".scheduler", f"{message}; leave it out")
        return
    takes = parameters(kind, "__init__", "schedulers") or ()
    # Solvers such as DPMSolver can denoise by flow matching too. Their settings go to a scheduler that takes them.
    flows = own.startswith("FlowMatch") or bool(settings.get("use_flow_sigmas"))
    kept = {name: value for name, value in settings.items() if name in takes} | config.scheduler_options
    by_options = kept.get("use_flow_sigmas") and kept.get("prediction_type") == "flow_prediction"
    chosen = config.scheduler.startswith("FlowMatch") or bool(by_options)
    if own and flows != chosen:
        same = [name for name in SCHEDULERS if name.startswith("FlowMatch") == flows]
        what = "by flow matching" if flows else "noise, and not by flow matching"
        message = f"got {config.scheduler}, and the model was trained to denoise {what}; takes: {listed(same)}"
        if flows and "use_flow_sigmas" in takes:
            message += ", or scheduler_options: {use_flow_sigmas: true, prediction_type: flow_prediction}"
        yield Problem(".scheduler", message)


def _option_problems(kind: str, options: dict[str, Any], settings: dict[str, Any]) -> Iterable[Problem]:
    """`kind`: the scheduler's class. `settings`: those of the model's own scheduler, which hold for another one too."""
    takes = parameters(kind, "__init__", "schedulers") if kind else None
    if takes is None:
        return
    is_dynamic = {**settings, **options}.get("use_dynamic_shifting")
    for name in options:
        if name not in takes:
            message = f"{kind} takes no {shown(name)}{nearest(name, takes)}; it takes: {listed(takes)}"
            yield Problem(".scheduler_options", plain(message, 600))
        elif name in SHIFTS and is_dynamic and "use_dynamic_shifting" in takes:
            message = f"`{name}` has no effect while the schedule depends on the size of the image"
            yield Problem(
                ".scheduler_options", f"{message}; set use_dynamic_shifting: false beside it, or leave it out"
            )
