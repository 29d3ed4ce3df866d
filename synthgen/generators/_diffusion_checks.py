"""Checks a diffusers pipeline before it is loaded, without torch: whether it can be loaded, and whether it can make
what a spec asks for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from synthgen.backends import Request
from synthgen.base.wording import plain, shown
from synthgen.errors import Problem, listed, nearest
from synthgen.generators._diffusion_config import OURS, SCHEDULERS, Config
from synthgen.models import read_card, read_json
from synthgen.models.signatures import parameters
from synthgen.models.tokens import Counter, counter
from synthgen.types import Category

# The pipeline that takes a T2I-Adapter, for the pipeline class that a folder declares.
ADAPTER_PIPELINES = {
    "StableDiffusionPipeline": "StableDiffusionAdapterPipeline",
    "StableDiffusionXLPipeline": "StableDiffusionXLAdapterPipeline",
}
# Pipelines that put 2 x 2 latents into a token. Their sizes are multiples of two latents' pixels (in their sources
# `vae_scale_factor * 2`), or of 16. They round other sizes, or refuse them when the first batch is made.
PAIRED = (
    "Flux", "QwenImage", "Chroma", "Bria", "OvisImage", "HunyuanDiT", "HiDreamImage", "LongCatImage", "Lumina2",
    "ZImage", "StableDiffusion3", "AuraFlow", "CogView4", "GlmImage", "ErnieImage",
)  # fmt: skip
# Pipelines that are guided if `guidance_scale` is above 0; others are guided only if it is above 1.
GUIDED_ABOVE_0 = ("ZImage", "Krea2")
TOLD = 20  # of the names and words that a model does not know


class Checks:
    """Compares a spec with a pipeline's folder, its card, and the source of its class.

    Args:
        path: the pipeline's folder, which has been inspected.
    """

    def __init__(self, config: Config, path: Path, categories: Sequence[Category], request: Request) -> None:
        self.config, self.path, self.categories, self.request = config, path, categories, request

    def problems(self) -> list[Problem]:
        """Values of the spec that the pipeline does not take."""
        card, request = read_card(self.path), self.request
        problems = [*self._size(), *self._options(), *(p for p, is_cut in self._prompts() if is_cut)]
        sizes = card.sizes
        if sizes is not None and (request.height, request.width) not in sizes:
            takes = listed(f"{h}x{w}" for h, w in sizes)
            problems.append(
                Problem(
                    "height, width", f"got {request.height}x{request.width}; {shown(self.config.model)} makes {takes}"
                )
            )
        model = shown(self.config.model)
        if card.classes is not None:
            unknown = [c.name for c in self.categories if c.name not in card.classes]
            problems += self._unknown("classes", "", unknown, card.classes, 40)
        if card.vocabulary is not None:
            class_words = {w for c in self.categories for w in c.name.lower().split()}
            words = sorted(request.words - set(card.vocabulary) - class_words)
            problems += self._unknown("prompts", "the word ", words, list(filter(str.isalnum, card.vocabulary)), 60)
        if request.has_layout and card.layout is None:
            mend = "set `layout: null`, and a grounder that finds things, such as `detector`"
            problems.append(Problem("layout", f"{model} declares no way to take one; {mend}"))
        return problems

    def advice(self) -> list[Problem]:
        """Prompts that the pipeline takes and cuts."""
        return [problem for problem, is_cut in self._prompts() if not is_cut]

    def _size(self) -> Iterable[Problem]:
        """Whether a pipeline that puts several latents into a token can make this size."""
        kind = _class_name(self.path)
        if not _is_one_of(kind, PAIRED):
            return
        vae = _config(self.path / "vae")
        # Each of these pipelines computes its `vae_scale_factor` in this way.
        halved = vae.get("temperal_downsample") or (vae.get("block_out_channels") or [0] * 4)[1:]
        multiple = 2 * 2 ** len(halved) if isinstance(halved, list) and len(halved) < 8 else 16
        for key, value in (("height", self.request.height), ("width", self.request.width)):
            if value % multiple:
                near = f"{value // multiple * multiple} or {(value // multiple + 1) * multiple}"
                yield Problem(key, f"got {value}; {kind} makes multiples of {multiple}, such as {near}")

    def _options(self) -> Iterable[Problem]:
        """Options that the pipeline's class does not take, or that have no effect on it."""
        config, kind = self.config, _class_name(self.path)
        if self.request.has_layout:
            kind = ADAPTER_PIPELINES.get(kind, kind)
        if (takes := parameters(kind, "__call__", "pipelines")) is not None:
            for name in config.call_options:
                if name not in takes:
                    known = listed(sorted(takes.keys() - OURS))
                    message = f"{kind} takes no {shown(name)}{nearest(name, takes)}; it takes: {known}"
                    yield Problem(".call_options", plain(message, 600))
            yield from self._guidance(kind, takes)
        yield from self._scheduler()

    def _guidance(self, kind: str, takes: Mapping[str, Any]) -> Iterable[Problem]:
        scale, field = self.config.guidance_scale, "prompts.negative_prompt"
        has_negative = bool(self.request.negative_prompt)
        if has_negative and "negative_prompt" not in takes:
            yield Problem(field, f"{kind} takes none; leave it out")
        elif "true_cfg_scale" in takes:
            true_scale = self.config.call_options.get("true_cfg_scale", takes["true_cfg_scale"])
            is_on = isinstance(true_scale, int | float) and true_scale > 1
            mend = "set generator.call_options: {true_cfg_scale: 4}"
            if has_negative and not is_on:
                yield Problem(
                    field, f"has no effect on {kind} unless `true_cfg_scale` is above 1; {mend}, or leave it out"
                )
            if is_on and not has_negative and scale > 1 and not _denoiser(self.path).get("guidance_embeds"):
                yield Problem(
                    ".guidance_scale",
                    f"got {scale:g}, which has no effect on {kind}: it is guided by call_options.true_cfg_scale, and "
                    'only with a negative prompt. Set prompts.negative_prompt (" " will do), or guidance_scale: 1 for '
                    "unguided images",
                )
        elif has_negative and "guidance_scale" in takes:
            least = 0 if _is_one_of(kind, GUIDED_ABOVE_0) else 1
            if scale <= least:
                yield Problem(
                    field,
                    f"has no effect at generator.guidance_scale {scale:g}; set one above {least}, or leave it out",
                )
            elif _denoiser(self.path).get("time_cond_proj_dim") is not None:
                yield Problem(field, "has no effect on this model, which was distilled with its guidance; leave it out")

    def _scheduler(self) -> Iterable[Problem]:
        config = self.config
        try:
            own = str(read_json(self.path / "scheduler" / "scheduler_config.json").get("_class_name", ""))
        except (OSError, ValueError):
            own = ""
        kind = config.scheduler or own
        takes = parameters(kind, "__init__", "schedulers") if kind else None
        for name in config.scheduler_options if takes is not None else ():
            if name not in takes:  # type: ignore[operator]
                message = f"{kind} takes no {shown(name)}{nearest(name, takes or ())}; it takes: {listed(takes or ())}"
                yield Problem(".scheduler_options", plain(message, 600))
        if not (config.scheduler and own):
            return
        flows = own.startswith("FlowMatch")
        chosen = config.scheduler.startswith("FlowMatch") or bool(config.scheduler_options.get("use_flow_sigmas"))
        if flows != chosen:
            same = [name for name in SCHEDULERS if name.startswith("FlowMatch") == flows]
            what = "by flow matching" if flows else "noise, and not by flow matching"
            message = f"got {config.scheduler}, and the model was trained to denoise {what}; takes: {listed(same)}"
            yield Problem(".scheduler", message)

    def _prompts(self) -> Iterable[tuple[Problem, bool]]:
        """Prompts that are too long even for the text encoder with the highest limit, each with whether words for
        requested objects are cut."""
        reader = self._reader()
        if reader is None or reader.limit is None:
            return
        model, limit = shown(self.config.model), reader.limit
        for form in self.request.prompts:
            whole, needed = reader.longest(form)
            tokens, upto = reader.counts([whole, needed])
            if tokens <= limit:
                continue
            # A layout gives the model every object, even if words are cut.
            is_cut = bool(form.last_needed) and upto > limit and not self.request.has_layout
            lost = "the things asked for would be cut" if is_cut else "what follows is cut"
            message = f"the prompt {shown(whole)} has {tokens} tokens, and {model} takes {limit}: {lost}; shorten it"
            yield Problem("prompts", plain(message, 500)), is_cut
        if self.request.negative_prompt and (tokens := reader.counts([self.request.negative_prompt])[0]) > limit:
            message = f"has {tokens} tokens, and {model} takes {limit}: what follows is cut; shorten it"
            yield Problem("prompts.negative_prompt", message), False

    def _reader(self) -> Counter | None:
        """The tokenizer whose text encoder takes the most tokens; None if one of the tokenizers cannot be read or has
        no limit."""
        most = self.config.call_options.get("max_sequence_length")
        if most is None:
            most = (parameters(_class_name(self.path), "__call__", "pipelines") or {}).get("max_sequence_length")
        readers = []
        for folder in sorted(self.path.glob("tokenizer*")):
            encoder = self.path / folder.name.replace("tokenizer", "text_encoder")
            is_clip = "max_position_embeddings" in _config(encoder) and "CLIP" in str(
                _config(encoder).get("architectures")
            )
            reader = counter(folder, encoder)
            if reader is None:
                return None
            if not is_clip and isinstance(most, int):
                reader = Counter(reader.counts, min(most, reader.limit or most))
            if reader.limit is None:
                return None
            readers.append(reader)
        return max(readers, key=lambda reader: reader.limit or 0, default=None)

    def _unknown(
        self, field: str, kind: str, names: Sequence[str], known: Collection[str], most: int
    ) -> Iterable[Problem]:
        """A problem for each of the first names that the model does not know."""
        model, takes = shown(self.config.model), listed(known, most)
        for name in names[:TOLD]:
            message = f"got {kind}{shown(name)}, which {model} does not know{nearest(name, known)}; it knows: {takes}"
            yield Problem(field, plain(message, 800), subject=name)
        if more := names[TOLD:]:
            yield Problem(field, f"got {len(more):,} more that {model} does not know")


def _class_name(path: Path) -> str:
    """The pipeline's class, from the folder's index."""
    return str(read_json(path / "model_index.json")["_class_name"])


def _is_one_of(kind: str, names: Iterable[str]) -> bool:
    """Whether a class is a pipeline of one of these names or of a variant of it, such as `FluxKontextPipeline`."""
    return any(kind.startswith(name) and kind.endswith("Pipeline") for name in names)


def _config(component: Path) -> dict[str, Any]:
    """A part's settings; empty if they cannot be read."""
    try:
        return read_json(component / "config.json")
    except (OSError, ValueError):
        return {}


def _denoiser(path: Path) -> dict[str, Any]:
    return _config(path / "transformer") or _config(path / "unet")
