"""Each class of the table of families, as a tiny model of the zoo: equal to upstream's own call, and no option of the
spec is dropped without a word. What is measured here is compared with docs/families.json, from which the table in the
documentation is made. `python tests/generators/test_families.py [NAME...]` writes that file anew, for the animals of
these names or for all."""

import json
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from zoo import ZOO, Animal

from synthgen import devices
from synthgen.backends import Request
from synthgen.generators import diffusion
from synthgen.generators._diffusion_config import SCHEDULERS
from synthgen.models import families
from synthgen.models.families.table import FAMILIES
from synthgen.models.layouts import layout_of
from synthgen.models.tokens import counter
from synthgen.types import Category, Job, PromptForm

# Classes of diffusers are built on deprecated ones of diffusers.
pytestmark = pytest.mark.filterwarnings(r"ignore::FutureWarning:diffusers\.")

CAPABILITIES = Path(__file__).parents[2] / "docs" / "families.json"
CATEGORIES = (Category(1, "cup"),)
# Companions in a batch change the order in which numbers are added up, so the last bits differ.
ROUNDING = 2


@pytest.fixture(scope="session")
def saved(tmp_path_factory) -> Callable[[str], Path]:
    """Name in the zoo -> the folder of its tiny model."""
    root = tmp_path_factory.mktemp("zoo")
    return lambda name: folder if (folder := root / name).exists() else ZOO[name].save(folder)


def jobs_of(animal: Animal, negative: str = "", height: int = 0, width: int = 0) -> list[Job]:
    side = animal.side
    return [
        Job(i + 1, 1, 1, i, "f", "train", prompt, negative, {}, (), None, 1000 + i, height or side, width or side)
        for i, prompt in enumerate(animal.prompts)
    ]


class Keeper:
    """Runs one animal through the `diffusion` generator. A folder is loaded once."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.animal, self.folder = name, ZOO[name], folder
        self.row = families.family(self.animal.pipeline)
        self.loaded: Any = None

    def backend(self, **options: Any) -> diffusion.Backend:
        animal = self.animal
        given = {"num_inference_steps": animal.steps, "torch_dtype": "float32", **animal.options, **options}
        if animal.guidance_scale is not None:
            given.setdefault("guidance_scale", animal.guidance_scale)
        config = diffusion.Config(use="diffusion", model=str(self.folder), device="cpu", **given)
        return diffusion.Backend(config, CATEGORIES)

    def images(self, jobs: list[Job], **options: Any) -> np.ndarray:
        made = self.backend(**options)
        if not {"scheduler", "scheduler_options", "loras"} & options.keys():
            # The same weights serve every option of the call.
            self.loaded = self.loaded or self.backend().pipeline(False)
            made.pipeline = lambda has_layout: self.loaded
        images = made.generate(jobs)
        assert images.shape[:3] == (len(jobs), jobs[0].height, jobs[0].width)
        return images.astype(int)

    def refused(
        self, negative: str = "", height: int = 0, width: int = 0, has_layout: bool = False, **options: Any
    ) -> set[str]:
        """The keys of which `check` says that they cannot be used."""
        forms = tuple(PromptForm(((prompt,),), 1) for prompt in self.animal.prompts)
        side = self.animal.side
        request = Request(height or side, width or side, has_layout, frozenset(), forms, negative)
        return {problem.field for problem in self.backend(**options).check(request)}


@pytest.fixture(params=list(ZOO))
def keeper(request, saved) -> Keeper:
    for package in families.family(ZOO[request.param].pipeline).packages:
        pytest.importorskip(package)
    return Keeper(request.param, saved(request.param))


def upstream(keeper: Keeper, jobs: list[Job], pipeline: Any = None) -> np.ndarray:
    """diffusers' own call, as its documentation has it: a batch, or one call for each image where the row says so."""
    pipeline = pipeline or keeper.animal.load(keeper.folder)
    given = {"height": jobs[0].height, "width": jobs[0].width, "num_inference_steps": keeper.animal.steps}
    given |= keeper.animal.call
    if isinstance(given.get("negative_prompt"), list):
        given["negative_prompt"] = given["negative_prompt"][: len(jobs)]

    def call(prompt: Any, generator: Any) -> list[np.ndarray]:
        with warnings.catch_warnings():  # of diffusers, which calls deprecated functions
            warnings.simplefilter("ignore", FutureWarning)
            results = pipeline(prompt=prompt, generator=generator, **given)
        images = results.image if hasattr(results, "image") else results.images
        return [over_white(np.asarray(image)) for image in images]

    generators = [torch.Generator("cpu").manual_seed(j.seed) for j in jobs]
    if not keeper.row.singles:
        return np.stack(call([j.prompt for j in jobs], generators)).astype(int)
    images = []
    for j, generator in zip(jobs, generators, strict=True):
        if keeper.row.global_seed:
            torch.manual_seed(j.seed)
        images += call(j.prompt, generator)
    return np.stack(images).astype(int)


def over_white(image: np.ndarray) -> np.ndarray:
    """Colours over white where an image has an alpha channel, which stays as it is."""
    if image.shape[-1] == 3:
        return image
    alpha = image[..., 3:] / 255
    return np.concatenate([np.rint(image[..., :3] * alpha + 255 * (1 - alpha)), image[..., 3:]], -1)


def differ(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a != b).any())


def with_lora(keeper: Keeper, plain: np.ndarray) -> str:
    """Whether a LoRA of the denoiser's first layers gives what diffusers' own way of fusing it gives."""
    pipeline, jobs = keeper.animal.load(keeper.folder), jobs_of(keeper.animal)
    part = next((name for name in ("transformer", "unet") if hasattr(pipeline, name)), "")
    with tempfile.TemporaryDirectory() as folder:
        options = {"loras": [{"model": folder, "weight": 0.5}]}
        denoiser = getattr(pipeline, part, None)
        if not (hasattr(pipeline, "load_lora_weights") and hasattr(denoiser, "add_adapter")):
            save_file({"transformer.x.lora_A.weight": torch.zeros(2, 2)}, f"{folder}/lora.safetensors")
            assert {".loras", ".loras.0"} & keeper.refused(**options)
            return ""
        linear = [name for name, module in denoiser.named_modules() if isinstance(module, torch.nn.Linear)]
        blocks = [name for name in linear if re.search(r"(blocks?|layers)\.", name)][:4]
        torch.manual_seed(5)
        denoiser.add_adapter(LoraConfig(r=2, lora_alpha=8, init_lora_weights=False, target_modules=blocks))
        layers = {f"{part}_lora_layers": get_peft_model_state_dict(denoiser)}
        type(pipeline).save_lora_weights(folder, **layers)
        other = keeper.animal.load(keeper.folder)
        try:
            other.load_lora_weights(folder, adapter_name="one")
        except AttributeError:  # the class has no part that diffusers' loader of LoRAs asks for
            assert ".loras.0" in keeper.refused(**options)
            return ""
        other.set_adapters(["one"], [0.5])
        other.fuse_lora(components=[part])
        other.unload_lora_weights()
        made = keeper.images(jobs, **options)
        assert differ(made, plain)
        return "equal to upstream" if np.array_equal(made, upstream(keeper, jobs, other)) else "differs"


def with_boxes(keeper: Keeper) -> str:
    """The form in which a layout reaches a model that has no card."""
    if "layout" in keeper.refused(has_layout=True):
        return ""
    side = keeper.animal.side
    places = (((0, 0, side // 2, side // 2),), ((side // 2, 0, side, side),))
    left, right = (replace(jobs_of(keeper.animal)[0], asked=(1,), layout=boxes) for boxes in places)
    assert differ(keeper.images([left]), keeper.images([right]))
    form = layout_of(keeper.folder, keeper.animal.pipeline)
    assert form is not None
    return form.form


def measured(keeper: Keeper) -> dict[str, str]:
    """The class, and what it does with each option: "" where that is refused."""
    jobs = jobs_of(keeper.animal)
    plain = keeper.images(jobs)
    cells = {"pipeline": keeper.animal.pipeline, "boxes": with_boxes(keeper)}
    cells["text"] = "equal to upstream" if np.array_equal(plain, upstream(keeper, jobs)) else "differs"
    assert (plain[..., :3].reshape(len(plain), -1).std(1) > 2).all(), "a flat picture says nothing"

    # Prompts, seeds and steps change every image.
    other = [replace(j, prompt=jobs[i - 1].prompt) for i, j in enumerate(jobs)]
    assert differ(plain[0], keeper.images(other)[0])
    assert differ(plain[0], keeper.images(jobs[:1], num_inference_steps=keeper.animal.steps + 1)[0])
    reseeded = keeper.images([replace(jobs[0], seed=7)])
    alone = keeper.images(jobs[1:2])
    same = np.abs(alone[0] - plain[1]).max() <= ROUNDING
    cells["seeds"] = "each image its own" if same and differ(reseeded, plain[:1]) else "do not bind"
    cells["batch"] = "one at a time" if keeper.row.singles else "together"

    if ".guidance_scale" in keeper.refused(guidance_scale=5.0):
        cells["guidance"] = ""
        assert np.abs(keeper.images(jobs[:1], guidance_scale=5.0)[0] - plain[0]).max() <= ROUNDING
    else:
        assert differ(keeper.images(jobs[:1], guidance_scale=5.0), keeper.images(jobs[:1], guidance_scale=7.5))
        cells["guidance"] = str(families.guidance(keeper.row, keeper.folder).argument)
    negative = jobs_of(keeper.animal, negative=keeper.animal.prompts[2])[:1]
    if "prompts.negative_prompt" in keeper.refused(negative=keeper.animal.prompts[2]):
        cells["negative"] = ""
        options = {"call_options": {keeper.row.option_cfg: 4.0}}
        if keeper.row.option_cfg and not keeper.refused(negative=keeper.animal.prompts[2], **options):
            cells["negative"] = f"with call_options.{keeper.row.option_cfg}"
            assert differ(keeper.images(negative, **options), keeper.images(jobs[:1], **options))
    else:
        cells["negative"] = "yes"
        assert differ(keeper.images(negative), plain[:1])

    cells["sizes"] = sizes(keeper)
    cells["lora"] = with_lora(keeper, plain)
    return cells


def sizes(keeper: Keeper) -> str:
    """Which sizes the class makes. Others are refused."""
    side, row = keeper.animal.side, keeper.row
    if row.resizes:
        assert keeper.refused(height=2 * side, width=2 * side) == {"height, width"}
        made = keeper.backend().generate(jobs_of(keeper.animal, height=2 * side, width=2 * side)[:1]).shape[1:3]
        assert made == row.resizes(2 * side, 2 * side, families.latent_side(keeper.folder)) != (2 * side, 2 * side)
        return "some"
    multiple = families.sides_multiple(row, keeper.folder)
    assert multiple
    wide = jobs_of(keeper.animal, height=side, width=side + multiple)[:1]
    assert not keeper.refused(width=side + multiple)
    assert keeper.images(wide).shape[1:3] == (side, side + multiple)
    if row.binned and not keeper.animal.options:
        assert not keeper.refused(width=side + 1)
        assert keeper.images(jobs_of(keeper.animal, height=side, width=side + 1)[:1]).shape[1:3] == (side, side + 1)
        return "any: made at a size near the usual one, and resized"
    if multiple > 1:
        assert "width" in keeper.refused(width=side + multiple // 2)
    if multiple == 1:
        return "any"
    if row.multiple:
        return f"multiples of {multiple} px"
    return "multiples of two latents' sides" if row.paired else "multiples of latents' sides"


def test_is_what_the_table_in_the_documentation_says(keeper):
    assert not keeper.refused()
    assert families.is_known(keeper.animal.pipeline)
    assert measured(keeper) == json.loads(CAPABILITIES.read_text())[keeper.name]


def test_every_row_that_is_not_refused_is_in_the_zoo():
    tested = {animal.pipeline for animal in ZOO.values()}
    assert {name for name, row in FAMILIES.items() if not row.refused} == tested
    assert json.loads(CAPABILITIES.read_text()).keys() == ZOO.keys()


def test_a_scheduler_is_refused_or_has_its_effect(keeper):
    """Of each kind one, and the pipeline's own by name."""
    jobs = jobs_of(keeper.animal)[:1]
    plain = keeper.images(jobs)
    for name in ("FlowMatchHeunDiscreteScheduler", "DPMSolverMultistepScheduler", "DDIMScheduler"):
        if ".scheduler" not in keeper.refused(scheduler=name):
            assert (
                differ(keeper.images(jobs, scheduler=name), plain) or keeper.loaded.scheduler.__class__.__name__ == name
            )


LONG = ", ".join(["a red cup on a table"] * 40)
OPTIONS: dict[str, dict[str, Any]] = {
    "taylorseer": {"cache": "taylorseer", "num_inference_steps": 10},
    "first_block": {"cache": "first_block", "cache_options": {"threshold": 1.0}, "num_inference_steps": 10},
    "fp8_storage": {"quantize": {"DENOISER": "fp8_storage"}},
    "long_prompts": {"long_prompts": True},
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("name", [name for name, animal in ZOO.items() if "Modular" not in animal.pipeline])
def test_no_option_is_dropped_without_a_word(saved, name, option):
    """`check` refuses it, or it changes pixels."""
    keeper = Keeper(name, saved(name))
    part = next(iter(p.name for p in sorted(keeper.folder.iterdir()) if p.name in ("transformer", "unet")))
    options = json.loads(json.dumps(OPTIONS[option]).replace("DENOISER", part))
    if keeper.refused(**options):
        return
    job = jobs_of(keeper.animal)[0]
    job = replace(job, prompt=LONG) if option == "long_prompts" else job
    without = {k: v for k, v in options.items() if k == "num_inference_steps"}
    plain, made = (keeper.backend(**given).generate([job]) for given in (without, options))
    assert differ(plain, made)


@pytest.mark.parametrize("name", ["sd", "flux", "sd3"])
def test_a_class_without_a_row_is_called_as_its_signature_says(saved, monkeypatch, name):
    monkeypatch.setattr(families, "FAMILIES", {})
    keeper = Keeper(name, saved(name))
    assert not keeper.refused()
    assert (
        "one image at a time"
        in {p.field: p.message for p in keeper.backend().advice(Request(32, 32, False, frozenset()))}[".model"]
    )
    jobs = jobs_of(keeper.animal)
    np.testing.assert_array_equal(keeper.images(jobs), upstream(keeper, jobs))  # a call for each image


# What only some rows say


def of_rows(attribute: str) -> list[str]:
    """The animals whose row says something there."""
    return [name for name, animal in ZOO.items() if getattr(families.family(animal.pipeline), attribute)]


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # in diffusers' DEIS, of a newer numpy
@pytest.mark.parametrize("name", of_rows("schedulers"))
def test_the_schedulers_that_a_row_names_work_and_the_others_are_refused(saved, name):
    keeper = Keeper(name, saved(name))
    job = jobs_of(keeper.animal)[:1]
    own = json.loads((keeper.folder / "scheduler" / "scheduler_config.json").read_bytes())["_class_name"]
    for scheduler in SCHEDULERS:
        same_kind = own.startswith("FlowMatch") == scheduler.startswith("FlowMatch")
        if scheduler in keeper.row.schedulers and same_kind:
            assert not keeper.refused(scheduler=scheduler)
            assert keeper.images(job, scheduler=scheduler, num_inference_steps=5).std() > 2
        else:
            assert keeper.refused(scheduler=scheduler) == {".scheduler"}


def test_a_models_own_scheduler_is_held_against_the_row_too(saved, tmp_path):
    keeper = Keeper("sd_sag", shutil.copytree(saved("sd_sag"), tmp_path / "sd_sag"))
    pipeline = diffusers.DiffusionPipeline.from_pretrained(keeper.folder, safety_checker=None, feature_extractor=None)
    pipeline.scheduler = diffusers.EulerDiscreteScheduler()
    pipeline.save_pretrained(keeper.folder)
    assert keeper.refused() == {".scheduler"} and not keeper.refused(scheduler="DDIMScheduler")
    with pytest.raises(ValueError, match="does not support using a scheduler of type EulerDiscreteScheduler"):
        keeper.images(jobs_of(keeper.animal))


@pytest.mark.parametrize("name", of_rows("unguided"))
def test_a_class_that_fails_without_guidance_is_not_asked_for_it(saved, name):
    keeper = Keeper(name, saved(name))
    assert keeper.refused(guidance_scale=1.0) == {".guidance_scale"}
    with pytest.raises(RuntimeError):
        keeper.images(jobs_of(keeper.animal), guidance_scale=1.0)


@pytest.mark.parametrize(("name", "tokenizer"), [
    ("if", "tokenizer"), ("kandinsky3", "tokenizer"), ("ldm", "tokenizer"), ("hunyuan_dit", "tokenizer_2"),
])  # fmt: skip
def test_a_prompt_is_cut_where_the_row_says(saved, name, tokenizer):
    """A letter is a token for the tiny tokenizers."""
    keeper = Keeper(name, saved(name))
    count = counter(keeper.folder / tokenizer)
    assert count is not None
    ends = count.counts(["a" * 10])[0] - 10
    whole = "a" * ((keeper.row.tokens or 0) - ends)
    job, side = jobs_of(keeper.animal)[0], keeper.animal.side

    def image(prompt: str) -> np.ndarray:
        return keeper.images([replace(job, prompt=prompt)])

    def problems(prompt: str) -> list[str]:
        request = Request(side, side, False, frozenset(), (PromptForm(((prompt,),), 1),))
        return [problem.message for problem in keeper.backend().check(request)]

    assert not problems(whole)
    assert f"has {len(whole) + ends + 1} tokens" in problems(whole + "b")[0]
    assert not differ(image(whole), image(whole + "b"))
    assert differ(image(whole), image(whole[:-1] + "b"))


@pytest.mark.parametrize(("name", "turbo", "steps"), [("sd", "sd-turbo", 1), ("sd3", "sd3.5-large-turbo", 4)])
def test_a_turbo_model_is_told_by_its_name(saved, tmp_path, name, turbo, steps):
    """Others of the class have what they had: their identity does not change."""
    keeper = Keeper(name, shutil.copytree(saved(name), tmp_path / turbo))
    jobs = jobs_of(keeper.animal)[:1]

    def backend(folder: Path, **options: Any) -> diffusion.Backend:
        given = {"use": "diffusion", "model": str(folder), "device": "cpu", "torch_dtype": "float32", **options}
        return diffusion.Backend(diffusion.Config(**given), CATEGORIES)

    same = backend(keeper.folder, num_inference_steps=steps, guidance_scale=0.0)
    assert not differ(backend(keeper.folder).generate(jobs), same.generate(jobs))
    given = f" num_inference_steps={steps} guidance_scale=0.0"
    assert backend(keeper.folder).identity() == same.identity() + given
    side = keeper.animal.side
    unusual = backend(keeper.folder, num_inference_steps=40, guidance_scale=4.0)
    fields = {problem.field for problem in unusual.advice(Request(side, side, False, frozenset()))}
    assert {".num_inference_steps", ".guidance_scale"} <= fields
    if name == "sd":
        assert backend(saved("sd")).identity() == backend(saved("sd"), num_inference_steps=9).identity()


def test_tensors_are_asked_for_where_a_class_makes_no_arrays_of_bfloat16(saved):
    keeper = Keeper("ldm", saved("ldm"))
    jobs = jobs_of(keeper.animal)
    plain = keeper.images(jobs)
    keeper.loaded = keeper.backend(torch_dtype="bfloat16").pipeline(False)
    assert 0 < np.abs(keeper.images(jobs) - plain).mean() < 6
    with pytest.raises(TypeError, match="BFloat16"):
        keeper.loaded(jobs[0].prompt, height=32, width=32, num_inference_steps=1, output_type="np")


def test_seeds_bind_where_a_class_draws_from_the_global_generator(saved):
    keeper = Keeper("ldm", saved("ldm"))
    jobs, options = jobs_of(keeper.animal), {"call_options": {"eta": 1.0}}
    together = keeper.images(jobs, **options)
    assert differ(together, keeper.images(jobs))
    torch.rand(5)
    assert not differ(together[1:2], keeper.images(jobs[1:2], **options))


@pytest.mark.parametrize("name", [name for name, row in FAMILIES.items() if row.refused])
def test_a_class_that_cannot_be_used_is_refused(tmp_path, name):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name}))
    config = diffusion.Config(use="diffusion", model=str(tmp_path), device="cpu")
    (problem,) = diffusion.Backend(config, CATEGORIES).check(Request(64, 64, False, frozenset()))
    assert problem.field == ".model" and FAMILIES[name].refused in problem.message
    assert hasattr(diffusers, name)


if __name__ == "__main__":
    cells = json.loads(CAPABILITIES.read_text()) if CAPABILITIES.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        for name in sys.argv[1:] or ZOO:
            cells[name] = measured(Keeper(name, ZOO[name].save(Path(folder) / name)))
            devices.forget(devices.loaded())
    CAPABILITIES.write_text(json.dumps({name: cells[name] for name in sorted(cells)}, indent=1, sort_keys=True) + "\n")
