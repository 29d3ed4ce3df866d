"""Quantised weights, caches, attention, compiled blocks and weights that come and go, on tiny models. Each must give
the pixels of diffusers' own call."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny import plain_parts
from upstream import REQUEST, backend, images, jobs, problems, upstream
from zoo import ZOO

from synthgen import devices
from synthgen.errors import BackendError
from synthgen.generators import _diffusion_tuning, diffusion

MANY = 12  # steps: caches need some


def require_equal(found: np.ndarray, expected: np.ndarray, without: np.ndarray) -> None:
    np.testing.assert_array_equal(found, expected)
    assert (found != without).any()


# Quantised weights


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torchao")
@pytest.mark.parametrize(
    ("part", "how", "dtype"),
    [("transformer", "int8", "float32"), ("transformer", "fp8", "bfloat16"), ("text_encoder_2", "int8", "bfloat16")],
)
def test_quantised_weights(saved, part, how, dtype):
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig

    kind = Int8WeightOnlyConfig() if how == "int8" else Float8WeightOnlyConfig()
    library = diffusers if part == "transformer" else transformers
    config = diffusers.PipelineQuantizationConfig(quant_mapping={part: library.TorchAoConfig(kind)})
    found = images(saved("flux"), quantize={part: how}, torch_dtype=dtype)
    expected = upstream(saved("flux"), given={"quantization_config": config}, dtype=getattr(torch, dtype))
    require_equal(found, expected, images(saved("flux"), torch_dtype=dtype))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torchao")
def test_quantised_weights_need_less_memory(saved):
    made = backend(saved("flux"), quantize={"transformer": "int8"}).pipeline(False)
    weight = made.transformer.transformer_blocks[0].attn.to_q.weight
    # a byte for each number; for each row a scale of 4 bytes and a zero point of 1
    assert devices.bytes_of(weight) == weight.numel() + 5 * len(weight)
    assert devices.bytes_of(torch.zeros(3, 5, dtype=torch.bfloat16)) == 30


def test_a_part_from_elsewhere_is_quantised_too(saved, tmp_path):
    file, text = tmp_path / "flux.safetensors", saved("flux") / "text_encoder_2"
    save_file(load_file(saved("flux") / "transformer" / "diffusion_pytorch_model.safetensors"), file)
    parts = {"transformer": str(file), "text_encoder_2": str(text)}
    found = images(saved("flux"), components=parts, quantize=dict.fromkeys(parts, "int8"))
    np.testing.assert_array_equal(found, images(saved("flux"), quantize=dict.fromkeys(parts, "int8")))
    assert (found != images(saved("flux"))).any()


@pytest.mark.parametrize(("name", "part"), [("flux", "transformer"), ("sd", "vae")])
def test_weights_stored_in_eight_bits(saved, name, part):
    def change(pipeline: Any) -> None:
        getattr(pipeline, part).enable_layerwise_casting(
            storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16
        )

    found = images(saved(name), quantize={part: "fp8_storage"}, torch_dtype="bfloat16")
    expected = upstream(saved(name), change=change, dtype=torch.bfloat16)
    require_equal(found, expected, images(saved(name), torch_dtype="bfloat16"))


def test_weights_that_cannot_be_quantised_are_refused(saved, tmp_path, monkeypatch):
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    flux = saved("flux")
    for options, message in (
        ({"quantize": {"tokenizer": "int8"}}, "has no part 'tokenizer' with weights"),
        ({"quantize": {"transformer": "nf4"}}, "'nf4' needs a CUDA device, and `device` is 'cpu'; takes 'int8'"),
        ({"quantize": {"transformer": "int4"}}, "'int4' needs a CUDA device"),
        ({"quantize": {"text_encoder": "fp8_storage"}}, "is for parts of diffusers' own classes; takes 'fp8'"),
    ):
        (name,) = options["quantize"]
        assert message in problems(flux, **options)[f".quantize.{name}"]
    both = {"quantize": {"transformer": "int8"}, "offload": "group"}
    assert "takes 'model' or 'none' with quantised weights" in problems(flux, **both)[".offload"]
    with pytest.raises(BackendError, match=r"generator\.quantize\.transformer: 'nf4' needs a CUDA device"):
        backend(flux, quantize={"transformer": "nf4"}, device="auto").pipeline(False)
    monkeypatch.setattr(_diffusion_tuning, "find_spec", lambda _: None)
    found = problems(flux, quantize={"transformer": "int8"})
    assert "'int8' needs the package torchao: pip install 'synthgen[quantize]'" in found[".quantize.transformer"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("how", "offload"), [("nf4", "none"), ("int4", "none"), (None, "group")])
def test_on_a_gpu(saved, how, offload):
    """Weights of 4 bits, and layers that come and go."""
    quantize = {"transformer": how} if how else {}
    options = {"device": "cuda", "torch_dtype": "bfloat16"}
    found = images(saved("flux"), quantize=quantize, offload=offload, **options).astype(int)
    plain = images(saved("flux"), **options).astype(int)
    assert (found != plain).any() == bool(how) and np.abs(found - plain).mean() < 30


# Caches


@pytest.mark.parametrize(
    ("cache", "kind", "options"),
    [
        ("taylorseer", diffusers.TaylorSeerCacheConfig, {}),
        ("taylorseer", diffusers.TaylorSeerCacheConfig, {"max_order": 2, "taylor_factors_dtype": "float32"}),
        ("first_block", diffusers.FirstBlockCacheConfig, {"threshold": 0.5}),
    ],
)
def test_caches(saved, cache, kind, options):
    given = {name: torch.float32 if value == "float32" else value for name, value in options.items()}
    found = images(saved("flux"), cache=cache, cache_options=options, num_inference_steps=MANY)
    expected = upstream(
        saved("flux"), change=lambda pipeline: pipeline.transformer.enable_cache(kind(**given)), steps=MANY
    )
    require_equal(found, expected, images(saved("flux"), num_inference_steps=MANY))


def test_a_cache_is_empty_after_an_image_that_failed(saved, monkeypatch):
    made = backend(saved("flux"), cache="taylorseer", num_inference_steps=MANY)
    first = made.generate(jobs())
    scheduler = made.pipeline(False).scheduler
    real, steps = scheduler.step, []

    def step(*args: Any, **options: Any) -> Any:
        steps.append(1)
        if len(steps) == 6:
            raise RuntimeError("out of luck")
        return real(*args, **options)

    monkeypatch.setattr(scheduler, "step", step)
    with pytest.raises(RuntimeError, match="out of luck"):
        made.generate(jobs())
    np.testing.assert_array_equal(made.generate(jobs()), first)


def test_caches_that_cannot_work_are_refused(saved):
    flux = saved("flux")
    for model, options, field, message in (
        (flux, {"cache": "taylorseer", "num_inference_steps": 8}, ".cache", "for 8 steps; takes at least 9 steps"),
        (saved("sd"), {"cache": "taylorseer"}, ".cache", "UNet2DConditionModel takes no cache"),
        (flux, {"cache": "first_block", "cache_options": {"treshold": 1}}, ".cache_options", "(did you mean 'thresho"),
        (flux, {"cache": "first_block", "cache_options": {"threshold": "x"}}, ".cache_options.threshold", "a number"),
        (flux, {"cache": "taylorseer", "cache_options": {"max_order": 1.5}}, ".cache_options.max_order", "a whole n"),
        (flux, {"cache_options": {"max_order": 1}}, ".cache_options", "has no effect without `cache`"),
    ):
        found = problems(model, **{"num_inference_steps": MANY, **options})
        assert message in found[field], found


@pytest.mark.parametrize(
    ("name", "cache", "is_good"),
    [
        ("cogview_4", "taylorseer", False),
        ("cogview_4", "first_block", True),
        ("flux2_klein", "taylorseer", True),
        ("flux2_klein", "first_block", False),
        ("z_image", "taylorseer", False),
    ],
)
def test_caches_of_other_models(tmp_path, name, cache, is_good):
    """Each is refused, or has an effect."""
    animal = ZOO[name]
    folder = animal.save(tmp_path / name)
    made = [
        replace(job, height=animal.side, width=animal.side, prompt=prompt)
        for job, prompt in zip(jobs(), animal.prompts, strict=False)
    ]
    options = {"num_inference_steps": MANY, "cache_options": {"threshold": 5.0} if cache == "first_block" else {}}
    cached = backend(folder, cache=cache, **options)
    problems = [problem for problem in cached.check(REQUEST) if problem.field == ".cache"]
    assert bool(problems) != is_good
    if is_good:
        assert (cached.generate(made) != backend(folder, num_inference_steps=MANY).generate(made)).any()


# Attention


def test_attention_is_computed_as_the_spec_says_and_other_models_keep_theirs(saved):
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as Registry

    usual = Registry.get_active_backend()
    made = backend(saved("flux"), attention="_native_math")
    assert not list(made.check(REQUEST))
    found = made.generate(jobs())
    processors = [part.processor for part in made.pipeline(False).transformer.modules() if hasattr(part, "processor")]
    assert processors and {processor._attention_backend for processor in processors} == {"_native_math"}
    assert Registry.get_active_backend() == usual
    expected = upstream(
        saved("flux"), change=lambda pipeline: pipeline.transformer.set_attention_backend("_native_math")
    )
    Registry.set_active_backend(usual[0])
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("name", "attention", "message"),
    [
        ("flux", "flash_hub", "downloads code from the hub and runs it"),
        ("flux", "nativ", "got 'nativ' (did you mean 'native'?); takes: flash, "),
        ("flux", "sage", "needs the package sageattention, which is not installed"),
        ("flux", "_native_cudnn", "does not compute on CPUs"),
        ("sd", "_native_math", "has no effect on UNet2DConditionModel"),
    ],
)
def test_attention_that_cannot_be_computed_is_refused(saved, name, attention, message):
    assert message in problems(saved(name), attention=attention)[".attention"]


# Compiled blocks


@pytest.fixture
def compiled(monkeypatch) -> Iterator[list[str]]:
    """The classes of the modules that are compiled. torch captures graphs as ever, and they are run as they are."""
    told: list[str] = []
    real = torch.nn.Module.compile

    def compile(module: Any, **options: Any) -> None:
        told.append(type(module).__name__)
        real(module, backend="eager", dynamic=options["dynamic"])

    monkeypatch.setattr(torch.nn.Module, "compile", compile)
    yield told
    torch._dynamo.reset()


def test_blocks_that_diffusers_does_not_name_are_compiled_and_the_mark_says_so(saved, compiled):
    found = images(saved("sd3"), compile="always", batch_size=2)
    assert compiled == ["JointTransformerBlock"] and torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    np.testing.assert_array_equal(found, images(saved("sd3")))
    names = ("sd3", "flux")
    marks = {name: backend(saved(name), compile="always").config.environment()["compiled"] for name in names}
    assert marks == {"sd3": "blocks found by their class", "flux": True}
    assert backend(saved("sd3"), compile="never").config.environment()["compiled"] is False


@pytest.mark.parametrize(
    "options", [{"cache": "first_block", "num_inference_steps": 9}, {"quantize": {"transformer": "int8"}}]
)
def test_compiled_blocks_with_other_options(saved, compiled, options):
    found = images(saved("flux"), compile="always", batch_size=2, **options)
    assert len(compiled) == 2
    np.testing.assert_array_equal(found, images(saved("flux"), **options))


@pytest.mark.parametrize("name", ["sd", "flux"])
def test_layers_that_come_and_go(saved, name):
    """Between the CPU and the CPU: the same hooks."""
    made = backend(saved(name), offload="group")
    np.testing.assert_array_equal(made.generate(jobs()), images(saved(name)))
    made.generate(jobs())
    denoiser = getattr(made.pipeline(False), "transformer" if name == "flux" else "unet")
    hooks = [part for part in denoiser.modules() if hasattr(part, "_diffusers_hook")]
    assert any(hook._diffusers_hook.get_hook("group_offloading") for hook in hooks)


def test_marks_say_what_images_depend_on(saved):
    plain = diffusion.Config(use="diffusion", device="cpu").environment()
    assert plain["variant"] is None and not {"attention", "peft", "torchao"} & plain.keys()
    config = diffusion.Config(
        use="diffusion", device="cpu", attention="native", variant="fp16", quantize={"unet": "int8"},
        loras=[{"model": "x"}], offload="group",
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "compiles", lambda *_: False)
        there = config.environment()
    assert there["attention"] == "native" and there["variant"] == "fp16" and {"peft", "torchao"} <= there.keys()
    assert "attention" not in config.fingerprint() and "offload" not in config.fingerprint()


# Images that are none


@pytest.fixture
def spoilt(saved, tmp_path) -> Callable[..., Path]:
    """(value of the autoencoder's last weights, safety checker) -> a folder whose pictures all have one colour."""

    def make(weight: float, bias: float, **parts: Any) -> Path:
        torch.manual_seed(0)
        given = plain_parts() | parts
        last = given["vae"].decoder.conv_out
        torch.nn.init.constant_(last.weight, weight)
        torch.nn.init.constant_(last.bias, bias)
        kind = diffusers.StableDiffusionPipeline
        kind(**given, requires_safety_checker=False).save_pretrained(tmp_path / "spoilt")
        return tmp_path / "spoilt"

    return make


@pytest.mark.parametrize(
    ("weight", "bias", "options", "message"),
    [
        (float("nan"), 0.0, {"torch_dtype": "float16"}, "is black; float16 is too narrow .* `torch_dtype: bfloat16`"),
        (0.0, -9.0, {}, "is black; the weights may be damaged"),
        (0.0, 0.1, {"scheduler": "DDIMScheduler"}, "is of one colour; try it without `scheduler`"),
    ],
)
def test_a_first_batch_without_a_picture_stops_the_run(spoilt, weight, bias, options, message):
    made = backend(spoilt(weight, bias), **options)
    with pytest.raises(BackendError, match=f"every image of the first batch {message}"):
        made.generate(jobs())


def test_later_images_may_be_black(saved, monkeypatch):
    made = backend(saved("sd"))
    made.generate(jobs())
    last = made.pipeline(False).vae.decoder.conv_out
    torch.nn.init.constant_(last.weight, 0.0)
    torch.nn.init.constant_(last.bias, -9.0)
    assert not made.generate(jobs()).any()


def test_a_safety_checker_may_blacken_some_images_and_not_all_of_the_first_eight():
    class Checked:
        safety_checker = True

    from synthgen.generators._diffusion_flat import FirstImages

    black, picture = np.zeros((4, 8, 8, 3), np.uint8), np.arange(192, dtype=np.uint8).reshape(1, 8, 8, 3)
    first = FirstImages(diffusion.Config(use="diffusion"))
    first.require_picture(black, Checked())
    with pytest.raises(BackendError, match="the first 8 images are black: the model's safety checker"):
        first.require_picture(black, Checked())
    first = FirstImages(diffusion.Config(use="diffusion"))
    for batch in (black, picture, black, black):
        first.require_picture(batch, Checked())
