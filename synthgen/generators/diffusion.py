"""Any diffusers pipeline, from a Hugging Face id or a folder."""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from synthgen import devices
from synthgen.backends import Generator, ModelConfig, Request
from synthgen.base.wording import plain, shown
from synthgen.errors import BackendError, Problem, listed, nearest
from synthgen.models import (
    ModelCard,
    ModelMissing,
    find_model,
    model_identity,
    read_card,
    read_json,
    weights,
)
from synthgen.models.loading import loading
from synthgen.models.signatures import parameters
from synthgen.models.tokens import Counter, counter
from synthgen.types import Job

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

# Class names in diffusers that need no package besides; a test holds them against the library.
SCHEDULERS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "PNDMScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
)
# The pipeline that takes a T2I-Adapter, for the pipeline class that a folder declares.
ADAPTER_PIPELINES = {
    "StableDiffusionPipeline": "StableDiffusionAdapterPipeline",
    "StableDiffusionXLPipeline": "StableDiffusionXLAdapterPipeline",
}
# Pixels of one image from which on those of a batch are decoded one after the other: decoding is where memory peaks.
# From four times as many, also in tiles, which changes the picture a little where they meet.
SLICED, TILED = 1024 * 1024, 2048 * 2048
# Pipelines that put 2 x 2 latents into a token: sizes are multiples of twice what a latent stands for, in their sources
# `vae_scale_factor * 2`, or 16. Other sizes they round, or refuse when the first batch is made.
PAIRED = (
    "Flux", "QwenImage", "Chroma", "Bria", "OvisImage", "HunyuanDiT", "HiDreamImage", "LongCatImage", "Lumina2",
    "ZImage", "StableDiffusion3", "AuraFlow", "CogView4", "GlmImage", "ErnieImage",
)  # fmt: skip
# Those whose guidance is on whenever `guidance_scale` is above 0: others are unguided up to 1.
GUIDED_ABOVE_0 = ("ZImage", "Krea2")
TOLD = 20  # of the names and words that a model does not know
# Arguments that we give ourselves, for every image.
OURS = {"prompt", "negative_prompt", "height", "width", "num_inference_steps", "guidance_scale", "generator", "image",
        "output_type", "return_dict", "num_images_per_prompt"}  # fmt: skip


class Config(ModelConfig):
    execution: ClassVar[frozenset[str]] = ModelConfig.execution | {"variant", "compile", "offload"}

    variant: str | None = Field(None, description="The variant of the weight files, such as `fp16`.")
    scheduler: str | None = Field(None, description="A scheduler class of diffusers; default: the model's own.")
    scheduler_options: dict[str, Any] = Field(
        {}, description="Options of the scheduler, such as `use_karras_sigmas: true`."
    )
    num_inference_steps: int = Field(
        20, ge=1, le=1000, description="Denoising steps: more are slower and give finer images."
    )
    guidance_scale: float = Field(
        3.0, ge=0, le=100, description="How closely the image follows the prompt; 1 is unguided."
    )
    call_options: dict[str, Any] = Field(
        {}, description="Further arguments of the pipeline's call, by their names in diffusers."
    )
    compile: devices.Compile = Field(
        "auto", description="Compiles the model's repeated blocks. `auto`: on CUDA where Triton is installed."
    )
    offload: devices.Offload = Field(
        "auto",
        description="`model`: a part is on the device only while it computes. `auto`: where the whole does not fit.",
    )
    safety_checker: bool = Field(
        True, description="Keeps the model's own, if it has one. It replaces images that it flags with black ones."
    )

    @field_validator("scheduler")
    @classmethod
    def _known_scheduler(cls, value: str | None) -> str | None:
        if value is not None and value not in SCHEDULERS:
            raise ValueError(f"no such scheduler{nearest(value, SCHEDULERS)}; there are: {listed(SCHEDULERS)}")
        return value

    @field_validator("call_options")
    @classmethod
    def _not_ours(cls, value: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(OURS & value.keys()):
            raise ValueError(f"{listed(taken)} cannot stand here: keys of the spec or of the generator say it")
        return value

    def environment(self) -> dict[str, Any]:
        """What pixels depend on besides the spec; see `devices.environment`."""
        compiled = devices.compiles(self.compile, devices.torch_device(self.device))
        return {**super().environment(), "compiled": compiled}


class Backend(Generator[Config]):
    """Makes images with a diffusers pipeline.

    A layout reaches the model in the form that its `synthgen.json` declares; so far that is a T2I-Adapter
    (arXiv 2302.08453) that is given the boxes filled with their class's colour.
    """

    @cached_property
    def _path(self) -> Path:
        return find_model(self.config.model, "diffusion", self.config.revision, self.config.variant)

    @cached_property
    def _compiles(self) -> bool:
        return devices.compiles(self.config.compile, devices.torch_device(self.config.device))

    @property
    def _card(self) -> ModelCard:
        return read_card(self._path)

    def identity(self) -> str:
        return model_identity(self._path)

    def licences(self) -> Iterable[tuple[str, str]]:
        licence = self._card.licence
        return [(licence.name, licence.url)] if licence else []

    def aspect_ratios(self) -> Mapping[str, tuple[float, float]]:
        known = self._card.classes or {}
        return {name: k.aspect_ratio for name, k in known.items() if k.aspect_ratio}

    def check(self, request: Request) -> Iterable[Problem]:
        try:
            path = self._path
        except ModelMissing as error:
            return [Problem(".model", str(error))]
        if problems := list(self._check_files(path)):
            return problems
        card = self._card
        problems += [*self._check_size(path, request), *self._check_options(path, request)]
        problems += [p for p, is_cut in self._check_prompts(path, request) if is_cut]
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

    def advice(self, request: Request) -> Iterable[Problem]:
        return [problem for problem, is_cut in self._check_prompts(self._path, request) if not is_cut]

    def _check_size(self, path: Path, request: Request) -> Iterable[Problem]:
        """Whether a pipeline that puts several latents into a token makes this size."""
        kind = _class_name(path)
        if not _is_one_of(kind, PAIRED):
            return
        vae = _config(path / "vae")
        # As each of these pipelines works out its `vae_scale_factor`.
        halved = vae.get("temperal_downsample") or (vae.get("block_out_channels") or [0] * 4)[1:]
        multiple = 2 * 2 ** len(halved) if isinstance(halved, list) and len(halved) < 8 else 16
        for key, value in (("height", request.height), ("width", request.width)):
            if value % multiple:
                near = f"{value // multiple * multiple} or {(value // multiple + 1) * multiple}"
                yield Problem(key, f"got {value}; {kind} makes multiples of {multiple}, such as {near}")

    def _check_options(self, path: Path, request: Request) -> Iterable[Problem]:
        """Options that the pipeline's class does not take, or that have no effect on it."""
        config, kind = self.config, _class_name(path)
        if request.has_layout:
            kind = ADAPTER_PIPELINES.get(kind, kind)
        if (takes := parameters(kind, "__call__", "pipelines")) is not None:
            for name in config.call_options:
                if name not in takes:
                    known = listed(sorted(takes.keys() - OURS))
                    message = f"{kind} takes no {shown(name)}{nearest(name, takes)}; it takes: {known}"
                    yield Problem(".call_options", plain(message, 600))
            yield from self._check_guidance(path, kind, takes, bool(request.negative_prompt))
        yield from self._check_scheduler(path)

    def _check_guidance(self, path: Path, kind: str, takes: Mapping[str, Any], has_negative: bool) -> Iterable[Problem]:
        scale, field = self.config.guidance_scale, "prompts.negative_prompt"
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
            if is_on and not has_negative and scale > 1 and not _denoiser(path).get("guidance_embeds"):
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
            elif _denoiser(path).get("time_cond_proj_dim") is not None:
                yield Problem(field, "has no effect on this model, which was distilled with its guidance; leave it out")

    def _check_scheduler(self, path: Path) -> Iterable[Problem]:
        config = self.config
        try:
            own = str(read_json(path / "scheduler" / "scheduler_config.json").get("_class_name", ""))
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

    def _check_prompts(self, path: Path, request: Request) -> Iterable[tuple[Problem, bool]]:
        """Prompts beyond what the text encoder that takes most takes, and whether the things asked for are cut."""
        reader = self._reader(path)
        if reader is None or reader.limit is None:
            return
        model, limit = shown(self.config.model), reader.limit
        for form in request.prompts:
            whole, needed = reader.longest(form)
            tokens, upto = reader.counts([whole, needed])
            if tokens <= limit:
                continue
            # A layout tells the model of every thing, whatever becomes of the words.
            is_cut = bool(form.last_needed) and upto > limit and not request.has_layout
            lost = "the things asked for would be cut" if is_cut else "what follows is cut"
            message = f"the prompt {shown(whole)} has {tokens} tokens, and {model} takes {limit}: {lost}; shorten it"
            yield Problem("prompts", plain(message, 500)), is_cut
        if request.negative_prompt and (tokens := reader.counts([request.negative_prompt])[0]) > limit:
            message = f"has {tokens} tokens, and {model} takes {limit}: what follows is cut; shorten it"
            yield Problem("prompts.negative_prompt", message), False

    def _reader(self, path: Path) -> Counter | None:
        """The tokenizer whose text encoder takes most; None where one of them cannot be counted with, or says no limit
        at all."""
        most = self.config.call_options.get("max_sequence_length")
        if most is None:
            most = (parameters(_class_name(path), "__call__", "pipelines") or {}).get("max_sequence_length")
        found = []
        for folder in sorted(path.glob("tokenizer*")):
            encoder = path / folder.name.replace("tokenizer", "text_encoder")
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
            found.append(reader)
        return max(found, key=lambda reader: reader.limit or 0, default=None)

    def _unknown(
        self, field: str, kind: str, names: Sequence[str], known: Collection[str], most: int
    ) -> Iterable[Problem]:
        """A line for each name that the model does not know, as far as anybody reads them."""
        model, takes = shown(self.config.model), listed(known, most)
        for name in names[:TOLD]:
            message = f"got {kind}{shown(name)}, which {model} does not know{nearest(name, known)}; it knows: {takes}"
            yield Problem(field, plain(message, 800))
        if more := names[TOLD:]:
            yield Problem(field, f"got {len(more):,} more that {model} does not know")

    def _inspect(self, path: Path) -> weights.Inspected:
        """The folder as this generator loads it. Raises: BackendError, ModelMissing: it must not be loaded."""
        weights.inspect_file(path / "synthgen.json", path)
        without = () if self.config.safety_checker else ("safety_checker",)
        layout = read_card(path).layout
        return weights.inspect_pipeline(path, self.config.variant, without, layout.folder if layout else None)

    def _check_files(self, path: Path) -> Iterable[Problem]:
        """Whether the folder holds a pipeline with every component, and nothing that must not be loaded."""
        try:
            missing = self._inspect(path).missing
        except (BackendError, ModelMissing) as error:
            return [Problem(".model", str(error))]
        if missing:
            message = f"{shown(self.config.model)} is not whole on this machine; missing: {listed(missing)}"
            return [Problem(".model", plain(message, 500))]
        return []

    def generate(self, jobs: Sequence[Job]) -> NDArray[np.uint8]:
        made = len(jobs)
        if self._compiles:
            jobs = [*jobs, *[jobs[-1]] * (devices.padded_size(made, self.config.batch_size) - made)]
        images = self._call(jobs)
        if isinstance(images, np.ndarray):
            return (images[:made] * 255).round().astype(np.uint8)
        # As diffusers rounds for PIL, but on the device: a quarter of the bytes are copied.
        rounded = (images[:made].float() * 255).round_().byte().permute(0, 2, 3, 1).contiguous()
        return np.asarray(devices.to_numpy(rounded), np.uint8)

    def _call(self, jobs: Sequence[Job]) -> torch.Tensor | NDArray[np.float32]:
        """What the pipeline makes, in [0, 1]: a tensor (B, 3, H, W) on its device, or an array (B, H, W, 3)."""
        import torch

        has_layout = jobs[0].layout is not None
        pipeline = self._pipeline(has_layout)
        arguments: dict[str, Any] = {
            "prompt": [job.prompt for job in jobs],
            "height": jobs[0].height,
            "width": jobs[0].width,
            "num_inference_steps": self.config.num_inference_steps,
            "guidance_scale": self.config.guidance_scale,
            "generator": [torch.Generator("cpu").manual_seed(job.seed) for job in jobs],
            # Without an image processor of diffusers', pipelines do not agree on what is in a tensor.
            "output_type": "pt" if hasattr(pipeline, "image_processor") else "np",
            **self.config.call_options,
        }
        if any(job.negative_prompt for job in jobs):
            arguments["negative_prompt"] = [job.negative_prompt for job in jobs]
        if has_layout:
            arguments["image"] = self._layout_images(jobs)
        known = inspect.signature(type(pipeline).__call__).parameters
        for name in arguments:
            if name not in known:
                raise BackendError(f"generator: {type(pipeline).__name__} takes no {name!r}{nearest(name, known)}")
        vae: Any = getattr(pipeline, "vae", None)
        pixels = jobs[0].height * jobs[0].width
        if pixels >= SLICED and hasattr(vae, "enable_slicing"):
            vae.enable_slicing()
        if pixels >= TILED and hasattr(vae, "enable_tiling"):
            vae.enable_tiling()
        with warnings.catch_warnings():
            # diffusers' own pipelines call what diffusers has deprecated; that is nothing a person here can mend.
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"diffusers\.")
            images: torch.Tensor | NDArray[np.float32] = pipeline(**arguments).images
        return images

    def _layout_images(self, jobs: Sequence[Job]) -> torch.Tensor:
        """The layouts drawn in the card's palette, 0 where nothing is asked: float32 (B, C, H/d, W/d), with as many
        channels as the palette has, and d the card's `downscale`."""
        import torch
        from torch.nn.functional import avg_pool2d

        layout = self._card.layout
        assert layout is not None  # `check` has seen to it
        names = {c.id: c.name for c in self.categories}
        channels = len(next(iter(layout.palette.values())))
        images = np.zeros((len(jobs), jobs[0].height, jobs[0].width, channels), np.float32)
        for image, job in zip(images, jobs, strict=True):
            for category_id, (x0, y0, x1, y1) in zip(job.asked, job.layout or (), strict=True):
                image[y0:y1, x0:x1] = layout.palette[names[category_id]]
        return avg_pool2d(torch.from_numpy(images).permute(0, 3, 1, 2), layout.downscale)

    def _pipeline(self, has_layout: bool) -> DiffusionPipeline:
        return devices.resident((self.config.model_dump_json(), has_layout), lambda: self._load(has_layout))

    def _load(self, has_layout: bool) -> DiffusionPipeline:
        device = devices.torch_device(self.config.device)
        for problem in self._check_files(self._path):
            raise BackendError(f"generator.model: {problem.message}")
        with loading(self._path, self._inspect(self._path).held, "generator.model: "):
            pipeline = self._read(has_layout, devices.torch_dtype(self.config.torch_dtype, device))
        if self._compiles:
            devices.compile_blocks(getattr(pipeline, "transformer", None) or getattr(pipeline, "unet", None))
        pipeline.set_progress_bar_config(disable=True)
        devices.place(pipeline, device, self.config.offload)
        return pipeline

    def _read(self, has_layout: bool, dtype: torch.dtype) -> DiffusionPipeline:
        """The pipeline, on the CPU."""
        import diffusers

        # A folder may name our autoencoder's class, and diffusers takes classes from imported modules only.
        import synthgen.mini.autoencoder  # noqa: F401

        config, card = self.config, self._card
        index = json.loads((self._path / "model_index.json").read_bytes())
        # diffusers takes a component for optional only if it is told so, even where the folder says that it has none.
        explicit: dict[str, Any] = {name: None for name, value in index.items() if value == [None, None]}
        if not config.safety_checker and "safety_checker" in index:
            explicit |= {"safety_checker": None, "requires_safety_checker": False}
        if "XL" in index["_class_name"]:
            explicit["add_watermarker"] = False  # else pixels depend on whether a watermark package is installed
        pipeline = diffusers.DiffusionPipeline.from_pretrained(
            self._path, dtype=dtype, variant=config.variant, use_safetensors=True, local_files_only=True, **explicit
        )
        if config.scheduler:
            kind = getattr(diffusers, config.scheduler)
            pipeline.scheduler = kind.from_config(pipeline.scheduler.config, **config.scheduler_options)
        elif config.scheduler_options:
            pipeline.scheduler = type(pipeline.scheduler).from_config(
                pipeline.scheduler.config, **config.scheduler_options
            )
        if has_layout and card.layout:
            name = type(pipeline).__name__
            if name not in ADAPTER_PIPELINES:
                raise BackendError(
                    f"generator.model: {name} takes no T2I-Adapter; those that do: {listed(ADAPTER_PIPELINES)}"
                )
            kind = getattr(diffusers, ADAPTER_PIPELINES[name])
            adapter = diffusers.T2IAdapter.from_pretrained(
                self._path / card.layout.folder, dtype=dtype, use_safetensors=True, local_files_only=True
            )
            takes = inspect.signature(kind.__init__).parameters
            parts = {k: v for k, v in {**pipeline.config, **pipeline.components}.items() if k in takes}
            pipeline = kind(adapter=adapter, **parts)
        return pipeline


def _class_name(path: Path) -> str:
    """The pipeline's class, as the folder's index has it."""
    return str(read_json(path / "model_index.json")["_class_name"])


def _is_one_of(kind: str, names: Iterable[str]) -> bool:
    """Whether a class is a pipeline of one of these names or of a variant of it, such as `FluxKontextPipeline`."""
    return any(kind.startswith(name) and kind.endswith("Pipeline") for name in names)


def _config(component: Path) -> dict[str, Any]:
    """A part's settings; none where they cannot be read."""
    try:
        return read_json(component / "config.json")
    except (OSError, ValueError):
        return {}


def _denoiser(path: Path) -> dict[str, Any]:
    return _config(path / "transformer") or _config(path / "unet")
