"""What makes a pipeline smaller or faster: quantised weights, caches of steps, ways to compute attention. `problems`
needs no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from synthgen.base.wording import one_line, plain, shown
from synthgen.errors import BackendError, Problem, listed, nearest
from synthgen.generators._diffusion_config import Config, denoiser_of
from synthgen.generators._diffusion_files import PipelineFiles
from synthgen.models.families import family
from synthgen.models.signatures import bases, fields, source

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

# The package of each kind of quantised weights. `fp8_storage` needs none.
PACKAGES = {"int8": "torchao", "int4": "torchao", "fp8": "torchao", "nf4": "bitsandbytes"}
ON_CUDA = ("int4", "nf4")  # their packages compute them on CUDA alone
WITHOUT_WEIGHTS = ("Scheduler", "Processor", "FeatureExtractor")
DTYPES = ("bfloat16", "float16", "float32")
CACHES = {"taylorseer": "TaylorSeerCacheConfig", "first_block": "FirstBlockCacheConfig"}
LEAST_STEPS = (
    9  # a cache estimates from earlier steps, and a model with few steps makes a large part of an image in each
)
# The blocks in which diffusers' TaylorSeer looks for attention, and the name that this must have there:
# `_TRANSFORMER_BLOCK_IDENTIFIERS` of its source.
BLOCKS_OF_TAYLORSEER = re.compile(r"self\.(?:(?:single_|temporal_)?transformer_)?blocks = ")
ATTENTION_OF_TAYLORSEER = re.compile(r"self\.attn = ")
# The first block gives two tensors and the last one a single tensor, from which diffusers 0.42 takes the difference.
UNEVEN_BLOCKS = ("Flux2Transformer2DModel",)
# The package that a way to compute attention needs, by the beginning of its name.
ATTENTION_PACKAGES = {
    "_flash_3": "flash_attn_interface", "_flash_varlen_3": "flash_attn_interface", "flash": "flash_attn",
    "sage": "sageattention", "_sage": "sageattention", "xformers": "xformers", "_native_npu": "torch_npu",
    "_native_xla": "torch_xla",
}  # fmt: skip
CPU_ATTENTION = ("native", "_native_math", "_native_flash", "flex")


def problems(config: Config, pipeline: PipelineFiles) -> Iterable[Problem]:
    """What the pipeline's class, the packages of this machine or the device do not allow. The pipeline has been
    inspected."""
    yield from _quantization(config, pipeline)
    yield from _cache(config, pipeline)
    yield from _attention(config, pipeline)
    if config.offload == "group":
        no = "_supports_group_offloading"
        if fixed := [f"{n} ({kind})" for n, kind in pipeline.parts.items() if fields(kind, "models").get(no) is False]:
            yield Problem(".offload", f"got 'group'; diffusers cannot offload layers of {listed(fixed)}; takes 'model'")
        if any(how != "fp8_storage" for how in config.quantize.values()):
            yield Problem(".offload", "got 'group'; takes 'model' or 'none' with quantised weights")


def _quantization(config: Config, pipeline: PipelineFiles) -> Iterable[Problem]:
    known = [
        name for name, kind in pipeline.parts.items() if not kind.endswith(WITHOUT_WEIGHTS) and "Tokenizer" not in kind
    ]
    known += [name for name in config.components if name not in known and name.startswith("text_encoder")]
    for name, how in config.quantize.items():
        field = f".quantize.{name}"
        if name not in known:
            message = f"{pipeline.kind} has no part {shown(name)} with weights{nearest(name, known)}"
            yield Problem(field, plain(f"{message}; it has: {listed(known)}", 500))
            continue
        if config.components.get(name, "") is None:
            yield Problem(field, "the part is dropped by `components`; leave it out of one of the two")
        if (config.components.get(name) or "").endswith(".gguf"):
            yield Problem(field, f"the weights in {shown(config.components[name])} are quantised already; leave it out")
        if how == "nf4" and (config.components.get(name) or "").endswith(".safetensors"):
            yield Problem(field, "got 'nf4', which is for parts of a folder; takes 'int8' for a single file")
        if how == "fp8_storage" and "ModelMixin" not in bases(pipeline.parts.get(name, ""), "models"):
            yield Problem(field, "got 'fp8_storage', which is for parts of diffusers' own classes; takes 'fp8'")
        package = PACKAGES.get(how)
        if package and find_spec(package) is None:
            yield Problem(field, f"{how!r} needs the package {package}: pip install 'synthgen[quantize]'")
        if how in ON_CUDA and config.device in ("cpu", "mps"):
            yield Problem(field, f"{how!r} needs a CUDA device, and `device` is {config.device!r}; takes 'int8'")


def _cache(config: Config, pipeline: PipelineFiles) -> Iterable[Problem]:
    if config.cache is None:
        if config.cache_options:
            yield Problem(".cache_options", "has no effect without `cache`; leave it out")
        return
    yield from _cache_options(config.cache, config.cache_options)
    steps = config.settings(family(pipeline.kind)).num_inference_steps
    if steps < LEAST_STEPS:
        yield Problem(
            ".cache",
            f"got {config.cache!r} for {steps} steps; takes at least {LEAST_STEPS} steps: with "
            "fewer, every step changes too much to be estimated",
        )
    _, kind = pipeline.denoiser
    text = source(kind, "models") if kind else ""
    if "CacheMixin" not in bases(kind, "models"):
        yield Problem(".cache", f"got {config.cache!r}, and {kind or pipeline.kind} takes no cache; leave it out")
    elif "cache_context(" not in source(pipeline.kind, "pipelines"):
        yield Problem(".cache", f"got {config.cache!r}, and {pipeline.kind} does not use caches; leave it out")
    elif config.cache == "taylorseer":
        if not (BLOCKS_OF_TAYLORSEER.search(text) and ATTENTION_OF_TAYLORSEER.search(text)):
            yield Problem(".cache", f"got 'taylorseer', which does not know the blocks of {kind}; leave it out")
    elif config.cache == "first_block":
        registered = source("TransformerBlockRegistry", "hooks")
        blocks = re.findall(r"^class (\w+Block)\b", text, re.MULTILINE)
        if kind in UNEVEN_BLOCKS or not any(re.search(rf"\b{block}\b", registered) for block in blocks):
            yield Problem(".cache", f"got 'first_block', which does not know the blocks of {kind}; takes 'taylorseer'")


def _cache_options(cache: str, options: Mapping[str, Any]) -> Iterable[Problem]:
    known = {name: value for name, value in fields(CACHES[cache], "hooks").items() if not name.endswith("identifiers")}
    for name, value in options.items():
        if name not in known:
            message = f"{cache} takes no {shown(name)}{nearest(name, known)}; it takes: {listed(known)}"
            yield Problem(".cache_options", plain(message, 500))
            continue
        default = known[name]
        if name.endswith("dtype"):
            is_good, takes = value in DTYPES, listed(DTYPES)
        elif isinstance(default, bool):
            is_good, takes = isinstance(value, bool), "true or false"
        elif isinstance(default, float):
            is_good, takes = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0, "a number"
        else:
            is_good, takes = isinstance(value, int) and not isinstance(value, bool) and value >= 0, "a whole number"
        if not is_good:
            yield Problem(f".cache_options.{name}", f"got {shown(value)}; takes {takes}")


def _attention(config: Config, pipeline: PipelineFiles) -> Iterable[Problem]:
    name = config.attention
    if name is None:
        return
    known = [value for value in fields("AttentionBackendName", "models").values() if isinstance(value, str)]
    local = [value for value in known if not value.endswith("_hub")]
    _, kind = pipeline.denoiser
    if name not in known:
        yield Problem(".attention", plain(f"got {shown(name)}{nearest(name, local)}; takes: {listed(local)}", 800))
    elif name not in local:
        message = f"got {name!r}, which downloads code from the hub and runs it; takes: {listed(local)}"
        yield Problem(".attention", plain(message, 800))
    elif not kind or "dispatch_attention_fn" not in source(kind, "models"):
        yield Problem(".attention", f"got {name!r}, which has no effect on {kind or pipeline.kind}; leave it out")
    elif (package := _package_of(name)) and find_spec(package) is None:
        yield Problem(".attention", f"{name!r} needs the package {package}, which is not installed")
    elif config.device == "cpu" and name not in CPU_ATTENTION:
        yield Problem(".attention", f"{name!r} does not compute on CPUs; takes: {listed(CPU_ATTENTION)}")


def _package_of(attention: str) -> str | None:
    return next((package for begin, package in ATTENTION_PACKAGES.items() if attention.startswith(begin)), None)


def quantization(config: Config, pipeline: PipelineFiles, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Name of a part -> how diffusers or transformers quantise its weights while they read them.

    Raises:
        BackendError: this machine cannot compute with such weights.
    """
    import diffusers
    import transformers

    found: dict[str, Any] = {}
    for name, how in config.quantize.items():
        if how in ON_CUDA and device.type != "cuda":
            raise BackendError(f"generator.quantize.{name}: {how!r} needs a CUDA device, and this is {device.type}")
        library: Any = diffusers if hasattr(diffusers, pipeline.parts.get(name, "")) else transformers
        if how == "nf4":
            found[name] = library.BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
            )
        elif how != "fp8_storage":
            from torchao import quantization as torchao

            kinds = {"int8": torchao.Int8WeightOnlyConfig, "int4": torchao.Int4WeightOnlyConfig,
                     "fp8": torchao.Float8WeightOnlyConfig}  # fmt: skip
            found[name] = library.TorchAoConfig(kinds[how]())
    return found


def tune(pipeline: DiffusionPipeline, config: Config, device: torch.device, dtype: torch.dtype) -> None:
    """Sets what the spec says of the storage of weights, of attention and of the cache.

    Raises:
        BackendError: it would have no effect, or cannot be set.
    """
    import torch

    for name, how in config.quantize.items():
        if how == "fp8_storage":
            getattr(pipeline, name).enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype)
    denoiser = denoiser_of(pipeline)
    if config.attention:
        _set_attention(denoiser, config.attention)
    if config.cache:
        _set_cache(denoiser, config.cache, config.cache_options)


def _set_attention(denoiser: Any, name: str) -> None:
    from diffusers.models.attention_dispatch import attention_backend

    try:
        with attention_backend("native"):  # diffusers also makes it the default of every other model; this undoes that
            denoiser.set_attention_backend(name)
    except (RuntimeError, ValueError, ImportError) as error:
        raise BackendError(f"generator.attention: {one_line(error, 300)}") from error
    processors = [getattr(module, "processor", None) for module in denoiser.modules()]
    if not any(getattr(processor, "_attention_backend", None) == name for processor in processors):
        raise BackendError(f"generator.attention: {name!r} has no effect on {type(denoiser).__name__}; leave it out")


def _set_cache(denoiser: Any, cache: str, options: Mapping[str, Any]) -> None:
    import diffusers
    import torch

    arguments = {name: getattr(torch, str(v)) if name.endswith("dtype") else v for name, v in options.items()}
    try:
        denoiser.enable_cache(getattr(diffusers, CACHES[cache])(**arguments))
    except Exception as error:  # diffusers does not check its options, so anything may be raised
        reason = one_line(error, 300) or type(error).__name__
        raise BackendError(
            f"generator.cache: {cache!r} cannot be set on {type(denoiser).__name__}: {reason}"
        ) from error
    hooked = [m for m in denoiser.modules() if m is not denoiser and getattr(m, "_diffusers_hook", None) is not None]
    if not any(hook.hooks for hook in (module._diffusers_hook for module in hooked)):
        raise BackendError(f"generator.cache: {cache!r} has no effect on {type(denoiser).__name__}; leave it out")


def forget_steps(pipeline: DiffusionPipeline, config: Config) -> None:
    """Empties the cache of steps. diffusers does so after each image, but not after one that failed."""
    if config.cache:
        denoiser_of(pipeline)._reset_stateful_cache()
