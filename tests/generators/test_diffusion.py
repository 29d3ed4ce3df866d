"""Pipelines of diffusers' real classes, tiny and randomly initialised, saved in the real formats: each must give the
pixels that diffusers' own call gives."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import transformers
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from pydantic import ValidationError
from tiny import (
    LENGTH,
    MAKERS,
    SIDE,
    latent_consistency,
    plain_parts,
    stable_diffusion,
    stable_diffusion_xl,
)

from synthgen import devices, models
from synthgen.backends import KINDS, Request, builtin
from synthgen.errors import BackendError
from synthgen.generators import _diffusion_call, diffusion
from synthgen.generators._diffusion_checks import ADAPTER_PIPELINES
from synthgen.generators._diffusion_config import SCHEDULERS
from synthgen.generators._diffusion_layouts import layout_images
from synthgen.models import read_card, remarks
from synthgen.models.tokens import counter
from synthgen.types import Category, Job, PromptForm

PALETTE = {"apple": (1.0, 0.0, 0.0), "car": (0.0, 0.5, 1.0)}
CATEGORIES = (Category(1, "apple"), Category(2, "car"))
NAMES = {c.id: c.name for c in CATEGORIES}
REQUEST = Request(SIDE, SIDE, has_layout=False, words=frozenset({"a", "cup"}))


def job(index: int, *, layout: Any = None, prompt: str = "a red cup, on a table", negative: str = "", side: int = SIDE):
    asked = tuple(1 + i % 2 for i in range(len(layout))) if layout else ()
    return Job(index + 1, 1, 1, index, "f", "train", prompt, negative, {}, asked, layout, 1000 + index, side, side)


def backend(model: Path | str, **options: Any) -> diffusion.Backend:
    given = {"num_inference_steps": 3, "guidance_scale": 4.0, "torch_dtype": "float32", **options}
    return diffusion.Backend(diffusion.Config(use="diffusion", model=str(model), device="cpu", **given), CATEGORIES)


@pytest.fixture
def own(saved, tmp_path) -> Path:
    """A folder of Stable Diffusion that a test may change."""
    return shutil.copytree(saved("sd"), tmp_path / "sd")


def upstream(folder: Path, jobs: list[Job], change: Callable[[Any], Any] | None = None, **arguments: Any) -> np.ndarray:
    """diffusers' own call, as its documentation has it."""
    index = json.loads((folder / "model_index.json").read_bytes())
    options = {"add_watermarker": False} if "XL" in index["_class_name"] else {}
    if index.get("text_encoder_3") == [None, None]:
        options |= {"text_encoder_3": None, "tokenizer_3": None}
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True, **options)
    pipeline = (change(pipeline) if change else None) or pipeline
    pipeline.set_progress_bar_config(disable=True)
    if any(j.negative_prompt for j in jobs):
        arguments["negative_prompt"] = [j.negative_prompt for j in jobs]
    images = pipeline(
        [j.prompt for j in jobs],
        **{"num_inference_steps": 3, "guidance_scale": 4.0, "height": SIDE, "width": SIDE, **arguments},
        generator=[torch.Generator("cpu").manual_seed(j.seed) for j in jobs],
    ).images
    return np.stack([np.asarray(image) for image in images])


def is_picture(images: np.ndarray) -> bool:
    """Neither black nor flat: else equality would say nothing."""
    return bool((images.reshape(len(images), -1).std(1) > 2).all())


JOBS = [job(0), job(1, prompt="a blue cup"), job(2)]


# Equal to diffusers


@pytest.mark.parametrize(
    ("name", "negative"),
    [("sd", ""), ("sd", "blurry"), ("sdxl", ""), ("sdxl", "blurry"), ("sd3", "blurry"), ("sd3_without_t5", ""),
     ("flux", ""), ("lcm", "")],
)  # fmt: skip
def test_equals_upstream(saved, name, negative):
    jobs = [job(i, prompt=j.prompt, negative=negative) for i, j in enumerate(JOBS)]
    found = backend(saved(name)).generate(jobs)
    assert found.dtype == np.uint8 and found.shape == (3, SIDE, SIDE, 3)
    assert is_picture(found)
    np.testing.assert_array_equal(found, upstream(saved(name), jobs))


@pytest.mark.parametrize("name", ["sd", "flux"])
def test_each_argument_reaches_the_pipeline(saved, name):
    """Equality above would hold too if steps, guidance or seeds went unused: each changes the image."""
    usual = backend(saved(name)).generate(JOBS[:1])
    for other in (
        backend(saved(name), num_inference_steps=5).generate(JOBS[:1]),
        backend(saved(name), guidance_scale=9.0).generate(JOBS[:1]),
        backend(saved(name)).generate([job(2)]),
        backend(saved(name)).generate([job(0, prompt="other words")]),
    ):
        assert (usual != other).any()


def test_the_negative_prompt_of_each_image_is_its_own(saved):
    mixed = backend(saved("sd")).generate([job(0, negative="blurry"), job(1)])
    plain = backend(saved("sd")).generate([job(0), job(1)])
    assert (mixed[0] != plain[0]).any()
    np.testing.assert_array_equal(mixed[1], plain[1])


@pytest.mark.parametrize("name", ["DDIMScheduler", "DPMSolverMultistepScheduler", "EulerAncestralDiscreteScheduler"])
def test_scheduler_by_name(saved, name):
    def change(pipeline):
        pipeline.scheduler = getattr(diffusers, name).from_config(pipeline.scheduler.config)

    found = backend(saved("sd"), scheduler=name).generate(JOBS)
    np.testing.assert_array_equal(found, upstream(saved("sd"), JOBS, change))
    assert (found != backend(saved("sd")).generate(JOBS)).any()


@pytest.mark.parametrize("scheduler", [None, "DPMSolverMultistepScheduler"])
def test_scheduler_options(saved, scheduler):
    option = {"timestep_spacing": "trailing"} if scheduler is None else {"use_karras_sigmas": True}

    def change(pipeline):
        kind = getattr(diffusers, scheduler) if scheduler else type(pipeline.scheduler)
        pipeline.scheduler = kind.from_config(pipeline.scheduler.config, **option)

    found = backend(saved("sd"), scheduler=scheduler, scheduler_options=option).generate(JOBS)
    np.testing.assert_array_equal(found, upstream(saved("sd"), JOBS, change))
    assert (found != backend(saved("sd"), scheduler=scheduler).generate(JOBS)).any()


def test_call_options_are_passed_on(saved):
    found = backend(saved("sd"), call_options={"guidance_rescale": 0.7}).generate(JOBS)
    np.testing.assert_array_equal(found, upstream(saved("sd"), JOBS, guidance_rescale=0.7))
    assert (found != backend(saved("sd")).generate(JOBS)).any()


def test_variant_files_are_the_ones_that_load(saved, tmp_path):
    torch.manual_seed(1)  # other weights than those of the files without a variant
    stable_diffusion().to(torch.float16).save_pretrained(tmp_path / "both", variant="fp16")
    for file in saved("sd").rglob("*.safetensors"):
        shutil.copy(file, tmp_path / "both" / file.relative_to(saved("sd")))
    found = backend(tmp_path / "both", variant="fp16").generate(JOBS)
    pipeline = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "both", variant="fp16", dtype=torch.float32)
    np.testing.assert_array_equal(found, upstream(tmp_path / "both", JOBS, lambda _: pipeline))
    assert (found != backend(tmp_path / "both").generate(JOBS)).any()
    assert not list(backend(tmp_path / "both", variant="fp16").check(REQUEST))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_other_dtypes_are_near(saved, dtype):
    """The pipeline really runs in it: not the same bytes, and the same picture."""
    exact = backend(saved("sd")).generate(JOBS).astype(int)
    found = backend(saved("sd"), torch_dtype=dtype).generate(JOBS)
    assert (found != exact).any()
    assert np.abs(found - exact).mean() < 6


def test_an_image_alone_is_the_image_in_a_batch(saved):
    together = backend(saved("sd")).generate(JOBS).astype(int)
    for image, single in zip(together, JOBS, strict=True):
        assert np.abs(image - backend(saved("sd")).generate([single])[0]).max() <= 1


def test_twice_the_same_bytes_and_the_global_generator_is_left_alone(saved):
    before = torch.get_rng_state()
    first = backend(saved("sd"), scheduler="EulerAncestralDiscreteScheduler").generate(JOBS)
    devices.forget(devices.loaded())
    torch.rand(3)
    second = backend(saved("sd"), scheduler="EulerAncestralDiscreteScheduler").generate(JOBS)
    np.testing.assert_array_equal(first, second)
    torch.set_rng_state(before)
    backend(saved("sd"), scheduler="EulerAncestralDiscreteScheduler").generate(JOBS)
    assert torch.equal(before, torch.get_rng_state())


def test_half_precision_twice_the_same_bytes(saved):
    first = backend(saved("sd"), torch_dtype="bfloat16").generate(JOBS)
    devices.forget(devices.loaded())
    np.testing.assert_array_equal(first, backend(saved("sd"), torch_dtype="bfloat16").generate(JOBS))


# How it is computed


@pytest.fixture
def compiled(monkeypatch) -> Iterator[list[dict[str, Any]]]:
    """What torch.compile was told of each block. It captures graphs as ever, and they are run as they are."""
    told: list[dict[str, Any]] = []
    real = torch.compile

    def compile(module: Any, **options: Any) -> Any:
        told.append(options)
        return real(module, backend="eager", dynamic=options["dynamic"], fullgraph=True)

    monkeypatch.setattr(torch, "compile", compile)
    yield told
    torch._dynamo.reset()


@pytest.mark.parametrize(("name", "blocks"), [("sd", 4), ("sdxl", 5), ("flux", 2)])
def test_blocks_are_compiled_once_for_every_size_of_batch(saved, compiled, name, blocks):
    plain = backend(saved(name)).generate(JOBS)
    assert not compiled
    made = backend(saved(name), compile="always", batch_size=4)
    np.testing.assert_array_equal(made.generate(JOBS), plain)  # as a batch of four
    assert len(compiled) == blocks and all(told["dynamic"] is False for told in compiled)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs > 0
    assert made.generate([*JOBS, job(3)]).shape == (4, SIDE, SIDE, 3)
    np.testing.assert_array_equal(made.generate(JOBS), plain)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    moving = backend(saved(name), compile="always", batch_size=4, offload="model")
    np.testing.assert_array_equal(moving.generate(JOBS), plain)


def test_compiling_is_part_of_where_images_are_made():
    """With it, pixels have other last bits; with weights elsewhere, they do not."""
    there = [diffusion.Config(use="diffusion", device="cpu", compile=c).environment() for c in ("auto", "always")]
    assert [where["compiled"] for where in there] == [False, True]
    assert there[0]["torch_dtype"] in {"float32", "bfloat16"} and there[0]["batch_size"] == 8
    assert diffusion.Config(use="diffusion", device="cpu", offload="model").environment() == there[0]


@pytest.mark.parametrize(
    ("option", "free", "moved"), [("auto", 10**9, False), ("auto", 1, True), ("model", 10**9, True), ("none", 1, False)]
)
@pytest.mark.parametrize("name", ["sd", "flux"])
def test_weights_that_do_not_fit_come_and_go(saved, monkeypatch, name, option, free, moved):
    """Between the CPU and the CPU: the same hooks."""
    plain, told = backend(saved(name)).generate(JOBS), []
    devices.forget(devices.loaded())
    monkeypatch.setattr(devices, "device_memory", lambda _=None: (free, free))
    real = diffusers.DiffusionPipeline.enable_model_cpu_offload
    monkeypatch.setattr(
        diffusers.DiffusionPipeline,
        "enable_model_cpu_offload",
        lambda self, device: (told.append(device), real(self, device=device)),
    )
    np.testing.assert_array_equal(backend(saved(name), offload=option).generate(JOBS), plain)
    assert bool(told) is moved


def test_large_images_are_decoded_one_at_a_time_and_larger_ones_in_tiles(saved, monkeypatch):
    made, plain = backend(saved("sd")), backend(saved("sd")).generate(JOBS)
    vae = made.pipeline(False).vae
    assert not (vae.use_slicing or vae.use_tiling)
    monkeypatch.setattr(_diffusion_call, "SLICED", SIDE * SIDE)
    sliced = made.generate(JOBS)
    assert vae.use_slicing and not vae.use_tiling
    assert np.abs(sliced.astype(int) - plain).max() <= 1
    monkeypatch.setattr(_diffusion_call, "TILED", SIDE * SIDE)
    made.generate(JOBS)
    assert vae.use_tiling


# Layouts


def with_adapter(folder: Path, make: Callable[[], Any]) -> Path:
    torch.manual_seed(0)
    make().save_pretrained(folder)
    torch.manual_seed(2)
    adapter = diffusers.T2IAdapter(
        in_channels=3, channels=(8, 16), num_res_blocks=1, downscale_factor=2, adapter_type="full_adapter"
    )
    adapter.save_pretrained(folder / "adapter")
    layout = {"form": "t2i_adapter", "folder": "adapter", "palette": PALETTE}
    (folder / "synthgen.json").write_text(json.dumps({"layout": layout}))
    return folder


LAYOUT_JOBS = [job(0, layout=((2, 3, 12, 20),)), job(1, layout=((0, 0, 8, 8), (16, 10, 32, 32)))]


def layout_maps() -> torch.Tensor:
    """What `LAYOUT_JOBS` look like, by hand: the rows of a box are its y, the columns its x."""
    maps = torch.zeros(2, 3, SIDE, SIDE)
    maps[0, 0, 3:20, 2:12] = 1.0
    maps[1, 0, 0:8, 0:8] = 1.0
    maps[1, 1, 10:32, 16:32], maps[1, 2, 10:32, 16:32] = 0.5, 1.0
    return maps


def test_layouts_of_any_channels_and_smaller_than_the_picture(tmp_path):
    folder = with_adapter(tmp_path / "model", stable_diffusion)
    palette = {"apple": (1.0, 0.0, 0.0, 0.5), "car": (0.0, 1.0, 0.0, 0.0)}
    layout = {"form": "t2i_adapter", "folder": "adapter", "palette": palette, "downscale": 4}
    (folder / "synthgen.json").write_text(json.dumps({"layout": layout}))
    models.read_card.cache_clear()
    found = layout_images(LAYOUT_JOBS, read_card(folder).layout, NAMES)
    assert found.shape == (2, 4, SIDE // 4, SIDE // 4)
    assert found[0, 0].sum() * 16 == 10 * 17 and found[0, 3].sum() * 16 == 0.5 * 10 * 17
    assert found[0, 0, 0, :4].tolist() == [2 / 16, 4 / 16, 4 / 16, 0.0]  # rows from 3, columns 2 to 12
    assert found[1, 1, 3, 4:].tolist() == [1.0] * 4


def test_a_palette_of_unequal_colours_is_refused(tmp_path):
    layout = {"form": "t2i_adapter", "folder": "a", "palette": {"cat": (1.0,), "dog": (1.0, 0.0)}}
    (tmp_path / "synthgen.json").write_text(json.dumps({"layout": layout}))
    with pytest.raises(models.ModelMissing, match="different lengths"):
        models.read_card(tmp_path)


@pytest.mark.filterwarnings("ignore:The decode_latents method:FutureWarning")  # diffusers, of itself
@pytest.mark.parametrize(
    ("make", "kind"),
    [(stable_diffusion, "StableDiffusionAdapterPipeline"), (stable_diffusion_xl, "StableDiffusionXLAdapterPipeline")],
)
def test_layouts_equal_upstream(tmp_path, make, kind):
    folder = with_adapter(tmp_path / "model", make)

    def change(pipeline):
        adapter = diffusers.T2IAdapter.from_pretrained(folder / "adapter")
        parts = {name: part for name, part in pipeline.components.items() if name != "image_encoder"}
        options = {} if "XL" in kind else {"requires_safety_checker": False}
        return getattr(diffusers, kind)(adapter=adapter, **parts, **options)

    found = backend(folder).generate(LAYOUT_JOBS)
    assert is_picture(found)
    np.testing.assert_array_equal(found, upstream(folder, LAYOUT_JOBS, change, image=layout_maps()))


def test_the_same_folder_makes_plain_images_too(tmp_path, saved):
    folder = with_adapter(tmp_path / "model", stable_diffusion)
    plain = [job(0), job(1)]
    found = backend(folder).generate(plain)
    np.testing.assert_array_equal(found, upstream(saved("sd"), plain))
    assert (found != backend(folder).generate(LAYOUT_JOBS)).any((1, 2, 3)).all()


def test_a_pipeline_without_adapter_form_says_so(tmp_path):
    folder = with_adapter(tmp_path / "model", latent_consistency)
    with pytest.raises(BackendError, match="LatentConsistencyModelPipeline takes no T2I-Adapter"):
        backend(folder).generate(LAYOUT_JOBS)


# Options that a pipeline does not take


def test_unknown_call_option(saved):
    with pytest.raises(BackendError, match=r"StableDiffusionPipeline takes no 'clip_skp' \(did you mean 'clip_skip'"):
        backend(saved("sd"), call_options={"clip_skp": 1}).generate(JOBS)


def test_negative_prompt_where_there_is_none(saved):
    with pytest.raises(BackendError, match="LatentConsistencyModelPipeline takes no 'negative_prompt'"):
        backend(saved("lcm")).generate([job(0, negative="blurry")])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheduler": "EulerDiscreteSchedular"}, "did you mean 'EulerDiscreteScheduler'"),
        ({"call_options": {"prompt": "x", "height": 64}}, "height, prompt cannot stand here"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"guidance_scale": -1}, "guidance_scale"),
        ({"device": "gpu"}, "device"),
        ({"compile": "yes"}, "compile"),
        ({"cfg": 3}, "cfg"),
    ],
)
def test_options_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        diffusion.Config(use="diffusion", **options)


def test_fingerprint_is_of_what_decides_the_image():
    usual = diffusion.Config(use="diffusion").fingerprint()
    elsewhere = {"model": "x/y", "revision": "v", "variant": "fp16", "device": "cuda:1", "torch_dtype": "float16",
                 "batch_size": 3, "compile": "never", "offload": "model"}  # fmt: skip
    assert diffusion.Config(use="diffusion", **elsewhere).fingerprint() == usual
    for option in ({"num_inference_steps": 4}, {"scheduler": "DDIMScheduler"}, {"call_options": {"eta": 1.0}},
                   {"guidance_scale": 1.0}, {"scheduler_options": {"a": 1}}, {"safety_checker": False}):  # fmt: skip
        assert diffusion.Config(use="diffusion", **option).fingerprint() != usual


@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context:DeprecationWarning")  # KDPM2*, under numpy 2
@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_are_those_of_diffusers(name):
    kind = getattr(diffusers, name)
    assert issubclass(kind, diffusers.SchedulerMixin)
    assert kind().config.num_train_timesteps == 1000


def test_every_scheduler_of_diffusers_for_text_to_image_is_named():
    """Compatible ones, that diffusers itself would take in place of these."""
    known = {kind.__name__ for kind in diffusers.DDIMScheduler().compatibles}
    known |= {kind.__name__ for kind in diffusers.FlowMatchEulerDiscreteScheduler().compatibles}
    needs_packages = {"LMSDiscreteScheduler", "DPMSolverSDEScheduler"}  # scipy, torchsde
    assert known - needs_packages - set(SCHEDULERS) <= {"EDMEulerScheduler"}


def test_adapter_pipelines_are_those_of_diffusers():
    for plain, adapted in ADAPTER_PIPELINES.items():
        assert hasattr(diffusers, plain) and hasattr(diffusers, adapted)


# The safety checker


@pytest.fixture
def with_checker(tmp_path) -> Path:
    """Stable Diffusion with a checker that minds every image."""
    torch.manual_seed(0)
    parts = plain_parts()
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 32, "patch_size": 16}  # fmt: skip
    checker = StableDiffusionSafetyChecker(transformers.CLIPConfig(vision_config=vision, projection_dim=8)).eval()
    checker.concept_embeds_weights.fill_(-2)
    parts["safety_checker"] = checker
    parts["feature_extractor"] = transformers.CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    diffusers.StableDiffusionPipeline(**parts).save_pretrained(tmp_path / "checked")
    return tmp_path / "checked"


def test_safety_checker(with_checker):
    assert not backend(with_checker).generate(JOBS).any()
    assert is_picture(backend(with_checker, safety_checker=False).generate(JOBS))


def test_a_safety_checker_that_is_not_wanted_need_not_be_here(with_checker):
    shutil.rmtree(with_checker / "safety_checker")
    (problem,) = backend(with_checker).check(REQUEST)
    assert "missing: safety_checker" in problem.message
    assert not list(backend(with_checker, safety_checker=False).check(REQUEST))
    assert is_picture(backend(with_checker, safety_checker=False).generate(JOBS))


# What `check` finds


@pytest.mark.parametrize("name", MAKERS)
def test_whole_folders_pass(saved, name):
    assert list(backend(saved(name)).check(REQUEST)) == []


def remove(*names: str) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        for name in names:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return act


def only_pickles(folder: Path) -> None:
    for file in folder.rglob("*.safetensors"):
        file.rename(file.with_suffix(".bin"))


def index(text: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / "model_index.json").write_text(text)


@pytest.mark.parametrize(
    ("damage", "options", "message"),
    [
        (remove("unet/diffusion_pytorch_model.safetensors"), {}, "missing: unet (weights in safetensors)"),
        (remove("unet"), {}, "missing: unet"),
        (remove("tokenizer"), {}, "missing: tokenizer"),
        (remove("scheduler"), {}, "missing: scheduler"),
        (only_pickles, {}, "text_encoder (weights in safetensors)"),
        (lambda folder: None, {"variant": "fp16"}, "unet (weights.fp16 in safetensors)"),
        (remove("model_index.json"), {}, "no readable model_index.json"),
        (index("{"), {}, "no readable model_index.json"),
        (index("[1, 2]"), {}, "no readable model_index.json"),
        (index("{}"), {}, "no readable model_index.json"),
        (lambda folder: (folder / "synthgen.json").write_text("{"), {}, "no valid model card"),
        (lambda folder: (folder / "synthgen.json").write_text('{"class": 1}'), {}, "no valid model card"),
    ],
)
def test_check_finds_damage(own, damage, options, message):
    damage(own)
    (problem,) = backend(own, **options).check(REQUEST)
    assert problem.field == ".model"
    assert message in problem.message


def other_size(folder: Path) -> None:
    file = folder / "unet" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_bytes()) | {"cross_attention_dim": 48}))


def settings(name: str, text: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_text(text)


@pytest.mark.parametrize(
    "damage",
    [
        other_size,
        settings("unet/config.json", '{"_class_name": "UNet2DConditionModel", "block_out_channels": "wide"}'),
        settings("vae/config.json", "{}"),
        settings("text_encoder/config.json", '{"model_type": "none"}'),
        settings("tokenizer/tokenizer.json", "{"),
        settings("scheduler/scheduler_config.json", '{"beta_schedule": "none"}'),
        index('{"_class_name": "NoSuchPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}'),
        index('{"_class_name": "FluxPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}'),
    ],
)
def test_what_only_loading_finds_is_one_line(own, damage):
    damage(own)
    with pytest.raises(BackendError, match=r"generator\.model: .* was not loaded: ") as told:
        backend(own).generate(JOBS)
    assert len(str(told.value).splitlines()) == 1 and len(str(told.value)) < 600


def test_pickled_weights_are_never_loaded(own):
    only_pickles(own)
    with pytest.raises(Exception, match="safetensors"):
        backend(own).generate(JOBS)


def test_a_model_that_is_not_here(tmp_path):
    (problem,) = backend("nobody/nothing").check(REQUEST)
    assert "synthgen models --download nobody/nothing" in problem.message
    (problem,) = backend(tmp_path / "none").check(REQUEST)
    assert "does not exist" in problem.message


def test_check_holds_the_spec_against_the_card(own):
    card = {
        "sizes": [[64, 96]],
        "classes": {"apple": {}, "cart": {}},
        "vocabulary": ["a", "apple", "cart", "photo"],
        "licence": {"name": "Own", "url": "https://example.org"},
    }
    (own / "synthgen.json").write_text(json.dumps(card))
    request = Request(64, 64, has_layout=True, words=frozenset({"a", "foto", "car"}))
    found = {(p.field, p.message.split(";")[0]) for p in backend(own).check(request)}
    assert {field for field, _ in found} == {"height, width", "classes", "prompts", "layout"}
    text = " ".join(message for _, message in found)
    assert "got 64x64" in text
    assert "got 'car'" in text and "did you mean 'cart'" in text
    assert "'foto'" in text and "did you mean 'photo'" in text
    assert list(backend(own).licences()) == [("Own", "https://example.org")]


def test_identity_is_of_the_files(own, saved):
    models.model_identity.cache_clear()
    assert backend(own).identity() == backend(saved("sd")).identity() != backend(saved("lcm")).identity()
    (own / "scheduler" / "scheduler_config.json").write_text("{}")
    models.model_identity.cache_clear()
    assert backend(own).identity() != backend(saved("sd")).identity()


# The embedded model


def mini(**options: Any) -> diffusion.Backend:
    return backend("mini", **options)


def mini_jobs(*layouts: Any) -> list[Job]:
    return [job(i, layout=layout, prompt="a photo of an apple on grass", side=128) for i, layout in enumerate(layouts)]


def test_mini_loads_in_silence(capfd):
    remarks.notes()
    images = mini().generate(mini_jobs(((20, 30, 70, 80),)))
    assert images.shape == (1, 128, 128, 3) and is_picture(images)
    assert capfd.readouterr() == ("", "")
    assert remarks.notes() == {}


def test_mini_is_given_the_layout_in_its_colours():
    layouts = (((20, 30, 70, 80),), ((0, 0, 40, 50), (60, 64, 128, 128)))
    made, seen = mini(num_inference_steps=1), []
    adapter = made.pipeline(True).adapter
    adapter.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    made.generate(mini_jobs(*layouts))
    maps = seen[0][-2:].permute(0, 2, 3, 1).numpy()  # guidance may double the batch
    layout = models.read_card(models.MINI / "diffusion").layout
    expected = np.zeros((2, 128, 128, len(layout.palette["apple"])), np.float32)
    expected[0, 30:80, 20:70] = expected[1, 0:50, 0:40] = layout.palette["apple"]
    expected[1, 64:128, 60:128] = layout.palette["car"]
    cells = expected.reshape(
        2, 128 // layout.downscale, layout.downscale, 128 // layout.downscale, layout.downscale, -1
    )
    np.testing.assert_allclose(maps, cells.mean((2, 4)), atol=1e-6)


def test_mini_puts_things_where_the_layout_says():
    """The same noise and words: what differs lies where the boxes lie."""
    boxes, prompt = ((4, 34, 60, 94), (68, 34, 124, 94)), "a photo of an apple on sky"
    jobs = [job(0, layout=(box,), prompt=prompt, side=128) for box in boxes]
    left, right = mini(num_inference_steps=8).generate(jobs).astype(int)
    apart = np.abs(left - right).mean(2)
    inside = np.concatenate([apart[34:94, 4:60], apart[34:94, 68:124]]).mean()
    assert inside > 2 * apart[:24].mean()


def test_mini_knows_every_class_of_its_palette():
    card = models.read_card(models.MINI / "diffusion")
    assert card.layout is not None and set(card.layout.palette) == set(card.classes)
    assert mini().aspect_ratios().keys() == card.classes.keys()
    categories = tuple(Category(i, name) for i, name in enumerate(card.classes, 1))
    known = diffusion.Backend(diffusion.Config(use="diffusion"), categories)
    assert not list(known.check(Request(128, 128, has_layout=True, words=frozenset({"a", "photo", "of"}))))
    assert len(set(card.layout.palette.values())) == len(card.classes)


def test_mini_tokenizer_knows_the_vocabulary_of_its_card():
    """A word outside would silently become `<unk>`."""
    folder = models.MINI / "diffusion"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "tokenizer")
    card = models.read_card(folder)
    words = [*card.vocabulary, *(word for name in card.classes for word in name.split())]
    assert [w for w in words if tokenizer.unk_token_id in tokenizer(w).input_ids] == []


# Imports


def test_importing_every_backend_brings_in_no_torch():
    names = [f"synthgen.{kind}s.{name}" for kind in KINDS for name in builtin(kind)]
    heavy = "{'torch', 'diffusers', 'transformers', 'segment_anything', 'prefect', 'pandas'}"
    code = f"import sys, {', '.join(names)}; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# What a spec says, held against the pipeline's class and its tokenizers


def said(folder: Path, request: Request = REQUEST, **options: Any) -> dict[str, str]:
    return {p.field: p.message for p in backend(folder, **options).check(request)}


def cut(folder: Path, request: Request) -> list[str]:
    """The prompts that would be cut, by their keys in the spec."""
    return [p.field for p in backend(folder).advice(request) if p.field.startswith("prompts")]


def asking(*pieces: tuple[str, ...], needed: int = 2, negative: str = "", side: int = SIDE) -> Request:
    return Request(side, side, False, frozenset(), (PromptForm(pieces, needed),), negative)


def test_a_prompt_that_cuts_what_is_asked_for_is_refused(saved):
    """The tiny tokenizer makes a token of each letter; two more are the ends of the text."""
    most = LENGTH - 2
    assert not said(saved("sd"), asking(("a" * (most - 3),), ("cat", "a")))
    assert not cut(saved("sd"), asking(("a" * (most - 3),), ("cat", "a")))
    long = said(saved("sd"), asking(("a" * (most - 3),), ("a", "bird")))
    assert f"has {LENGTH + 1} tokens" in long["prompts"] and "the things asked for would be cut" in long["prompts"]


def test_things_that_a_layout_tells_may_be_cut_from_the_words(saved, tmp_path):
    folder = with_adapter(tmp_path / "model", stable_diffusion)
    request = replace(asking(("a" * LENGTH,), ("cat",)), has_layout=True)
    models.read_card.cache_clear()
    assert "prompts" not in said(folder, request)
    assert cut(folder, request) == ["prompts"]


def test_what_follows_the_things_asked_for_may_be_cut_and_is_told(saved):
    request = asking(("a ",), ("cat",), (" on " + "g" * LENGTH,), negative="b" * LENGTH)
    assert not said(saved("sd"), request)
    assert cut(saved("sd"), request) == ["prompts", "prompts.negative_prompt"]


def test_a_second_encoder_may_read_more(saved, tmp_path):
    """FLUX has a T5 for 512 tokens beside its CLIP, or as many as `max_sequence_length` says."""
    folder = shutil.copytree(saved("flux"), tmp_path / "flux")
    config = folder / "tokenizer_2" / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_max_length": 512}))
    request = asking(("a" * LENGTH,), ("cat",))
    assert not said(folder, request)
    assert "prompts" in said(folder, request, call_options={"max_sequence_length": 20})


def test_a_clip_tokenizer_without_tokenizer_json_counts_the_same(saved, tmp_path):
    tokenizer = saved("sd") / "tokenizer"
    content = json.loads((tokenizer / "tokenizer.json").read_text())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(content["vocab"]))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    shutil.copy(tokenizer / "tokenizer_config.json", tmp_path)
    texts = ["a cat, and a bird", "it's", ""]
    other, own = counter(tmp_path), counter(tokenizer)
    assert other and own and other.limit == own.limit == LENGTH
    assert other.counts(texts) == own.counts(texts)
    real = transformers.AutoTokenizer.from_pretrained(tokenizer)
    assert own.counts(texts) == [len(real(text).input_ids) for text in texts]


@pytest.mark.parametrize(
    ("name", "negative", "options", "field", "words"),
    [
        ("sd", "blurry", {"guidance_scale": 1.0}, "prompts.negative_prompt", "no effect at generator.guidance_scale 1"),
        ("sdxl", "blurry", {"guidance_scale": 0.0}, "prompts.negative_prompt", "no effect"),
        ("flux", "blurry", {}, "prompts.negative_prompt", "unless `true_cfg_scale` is above 1"),
        ("lcm", "blurry", {}, "prompts.negative_prompt", "takes none"),
        ("sd", "", {"scheduler_options": {"use_karras_sigma": True}}, ".scheduler_options", "PNDMScheduler takes no"),
        ("sd", "", {"scheduler": "EulerDiscreteScheduler", "scheduler_options": {"use_karras_sigma": True}},
         ".scheduler_options", "did you mean 'use_karras_sigmas'?"),
        ("sd3", "", {"scheduler": "DPMSolverMultistepScheduler"}, ".scheduler", "trained to denoise by flow matching"),
        ("sd3", "", {"scheduler": "DPMSolverMultistepScheduler", "scheduler_options": {"use_flow_sigmas": True}},
         ".scheduler", "prediction_type: flow_prediction"),
        ("sd", "", {"scheduler": "FlowMatchEulerDiscreteScheduler"}, ".scheduler", "and not by flow matching"),
        ("sd", "", {"call_options": {"eta": 1.0}}, ".call_options", "has no effect with PNDMScheduler"),
        ("flux", "", {"call_options": {"true_cfg_scales": 4}}, ".call_options", "did you mean 'true_cfg_scale'?"),
    ],
)  # fmt: skip
def test_options_without_effect_are_refused(saved, name, negative, options, field, words):
    found = said(saved(name), asking(("a ",), ("cat",), negative=negative), **options)
    assert list(found) == [field] and words in found[field], found


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sd", {"guidance_scale": 1.5}),
        ("sdxl", {"guidance_scale": 4.0}),
        ("flux", {"call_options": {"true_cfg_scale": 2.0}}),
        ("sd3", {"scheduler": "FlowMatchHeunDiscreteScheduler"}),
        (
            "sd3",
            {
                "scheduler": "UniPCMultistepScheduler",
                "scheduler_options": {"use_flow_sigmas": True, "prediction_type": "flow_prediction"},
            },
        ),
    ],
)
def test_options_with_an_effect_are_good(saved, name, options):
    assert not said(saved(name), asking(("a ",), ("cat",), negative="blurry"), **options)


def test_a_negative_prompt_that_is_good_has_its_effect(saved):
    jobs = [job(0, negative="blurry")]
    for name, options in (("flux", {"call_options": {"true_cfg_scale": 2.0}}), ("sd", {"guidance_scale": 1.5})):
        without = backend(saved(name), **options).generate([job(0)])
        assert (backend(saved(name), **options).generate(jobs) != without).any()


@pytest.mark.parametrize(("name", "good", "bad"), [("flux", 36, 34), ("sd", 40, 36), ("sd3", 36, 34)])
def test_sizes_that_a_pipeline_would_round_or_refuse(saved, name, good, bad):
    """The tiny VAEs halve once, so a token of 2 x 2 latents stands for 4 px."""
    assert not said(saved(name), asking(("a ",), ("cat",), side=good))
    found = said(saved(name), asking(("a ",), ("cat",), side=bad))
    assert set(found) == {"height", "width"} and f", such as 32 or {good}" in found["height"]
