"""Modular pipelines, and models that take layouts natively: each gives the pixels of diffusers' own call with the same
boxes. tests/generators/test_families.py compares everything else."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from hostile_models import set_key
from zoo import ZOO

from synthgen import devices
from synthgen.backends import Request
from synthgen.errors import BackendError
from synthgen.generators import diffusion
from synthgen.generators._modular import ideogram_schedule
from synthgen.models.modular import INDEX
from synthgen.types import Category, Job

CATEGORIES = (Category(1, "cup"), Category(2, "red car"))
SIDE = 32
REQUEST = Request(SIDE, SIDE, has_layout=True, words=frozenset())


def job(index: int, *layout: tuple[int, int, int, int]) -> Job:
    asked = tuple(1 + i % 2 for i in range(len(layout)))
    return Job(
        index + 1, 1, 1, index, "f", "train", "a cup on sand", "", {"ground": "sand"}, asked, layout, 1000 + index,
        SIDE, SIDE,
    )  # fmt: skip


JOBS = [job(0, (0, 8, 16, 24)), job(1, (4, 4, 12, 28), (16, 0, 32, 16))]
# The same, by hand.
BOXES: list[list[dict[str, Any]]] = [
    [{"id": "cup_1", "desc": "cup", "bbox": [0.25, 0.0, 0.75, 0.5]}],
    [
        {"id": "cup_1", "desc": "cup", "bbox": [0.125, 0.125, 0.875, 0.375]},
        {"id": "red_car_1", "desc": "red car", "bbox": [0.0, 0.5, 0.5, 1.0]},
    ],
]
BEGINS = '{"high_level_description":"a cup on sand","compositional_deconstruction":{"background":"sand","elements":['
CAPTIONS = [
    BEGINS + '{"type":"obj","bbox":[250,0,750,500],"desc":"cup"}]}}',
    BEGINS + '{"type":"obj","bbox":[125,125,875,375],"desc":"cup"},'
    '{"type":"obj","bbox":[0,500,500,1000],"desc":"red car"}]}}',
]


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    yield
    devices.forget(devices.loaded())


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("native")
    return lambda name: folder if (folder := root / name).exists() else ZOO[name].save(folder)


def backend(name: str, folder: Path, **options: Any) -> diffusion.Backend:
    animal = ZOO[name]
    given = {"num_inference_steps": 2, "guidance_scale": animal.guidance_scale, "torch_dtype": "float32"}
    given |= {**animal.options, **options}
    return diffusion.Backend(diffusion.Config(use="diffusion", model=str(folder), device="cpu", **given), CATEGORIES)


def upstream(name: str, folder: Path, **given: list[Any]) -> np.ndarray:
    """diffusers' own call for each of `JOBS`. `given`: argument -> its value for each."""
    call, images = ZOO[name].load(folder), []
    for i, each in enumerate(JOBS):
        options = {"prompt": each.prompt, "height": SIDE, "width": SIDE, "num_inference_steps": 2, **ZOO[name].call}
        options |= {argument: values[i] for argument, values in given.items()}
        images += call(generator=torch.Generator("cpu").manual_seed(each.seed), **options).images
    return np.stack([np.asarray(image) for image in images])


@pytest.mark.parametrize("name", ["flux3", "flux3_distilled"])
def test_boxes_are_those_of_upstreams_own_call(
    name: str, saved: Callable[[str], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    made = backend(name, saved(name))
    assert list(made.check(REQUEST)) == []
    made.pipeline(False)
    capfd.readouterr()
    images = made.generate(JOBS)
    assert "it/s" not in capfd.readouterr().err  # no progress bar of diffusers' own
    assert (images == upstream(name, saved(name), boxes=BOXES)).all()
    elsewhere = made.generate([job(0, (16, 8, 32, 24))])[0].astype(int)
    without = made.generate([replace(JOBS[0], asked=(), layout=())])[0].astype(int)
    assert np.abs(elsewhere - images[0]).max() > 2 and np.abs(without - images[0]).max() > 2


@pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning")  # diffusers calls transformers so
@pytest.mark.parametrize("name", ["ideogram4", "ideogram4_modular"])
def test_captions_are_those_of_upstreams_own_call(name: str, saved: Callable[[str], Path]) -> None:
    options = {"max_sequence_length": 400}
    made = backend(name, saved(name), call_options=options)
    assert list(made.check(REQUEST)) == []
    images = made.generate(JOBS)
    generators = [torch.Generator("cpu").manual_seed(each.seed) for each in JOBS]
    arguments = {"height": SIDE, "width": SIDE, "num_inference_steps": 2, **ZOO[name].call, **options}
    theirs = ZOO[name].load(saved(name))(prompt=CAPTIONS, generator=generators, **arguments).images
    assert (images == np.stack([np.asarray(image) for image in theirs])).all()
    elsewhere = made.generate([job(0, (16, 8, 32, 24)), JOBS[1]])
    assert (elsewhere[0] != images[0]).any() and (elsewhere[1] == images[1]).all()


def test_a_card_gives_any_model_captions(tmp_path: Path) -> None:
    """As for a model that was tuned on them."""
    torch.manual_seed(0)
    tiny.stable_diffusion().save_pretrained(tmp_path / "tuned")
    shutil.copytree(tmp_path / "tuned", tmp_path / "plain")
    (tmp_path / "tuned" / "synthgen.json").write_text('{"layout": {"form": "json_caption"}}')
    tuned, plain = (
        diffusion.Backend(
            diffusion.Config(
                use="diffusion", model=str(tmp_path / name), device="cpu", torch_dtype="float32", num_inference_steps=2
            ),
            CATEGORIES,
        )
        for name in ("tuned", "plain")
    )
    assert list(tuned.check(REQUEST)) == []
    (problem,) = plain.check(REQUEST)
    assert problem.field == "layout" and "declares no way to take one" in problem.message
    captioned = [replace(j, prompt=c, layout=None) for j, c in zip(JOBS, CAPTIONS, strict=True)]
    assert (tuned.generate(JOBS) == plain.generate(captioned)).all()


def test_boxes_for_a_class_that_takes_none(tmp_path: Path) -> None:
    tiny.stable_diffusion().save_pretrained(tmp_path)
    (tmp_path / "synthgen.json").write_text('{"layout": {"form": "boxes"}}')
    config = diffusion.Config(use="diffusion", model=str(tmp_path))
    (problem,) = diffusion.Backend(config, CATEGORIES).check(REQUEST)
    assert problem.field == "layout" and problem.message.endswith("and a StableDiffusionPipeline takes none")


@pytest.mark.parametrize(
    ("name", "options", "field", "said"),
    [
        ("flux3", {"scheduler": "FlowMatchHeunDiscreteScheduler"}, ".scheduler", "own scheduler only"),
        ("flux3", {"offload": "model"}, ".offload", "got model; modular pipelines of diffusers take none"),
        ("flux3", {"call_options": {"image": 1}}, ".call_options", "image"),
        ("flux3", {"call_options": {"latents": 1}}, ".call_options", "Flux3ModularPipeline takes no 'latents'"),
        ("flux3_distilled", {"guidance_scale": 4.0}, ".guidance_scale", "has no effect on Flux3Distilled"),
        ("ideogram4_modular", {"call_options": {"guidance_schedule": [7.0, 3.0]}}, ".guidance_scale",
         "has no effect beside call_options.guidance_schedule"),
        ("ideogram4_modular", {"guidance_scale": None, "call_options": {"guidance_schedule": [7.0]}}, ".call_options",
         "takes a list of 2 scales"),
    ],
)  # fmt: skip
def test_what_check_refuses(
    name: str, options: dict[str, Any], field: str, said: str, saved: Callable[[str], Path]
) -> None:
    if "image" in options.get("call_options", {}):
        with pytest.raises(ValueError, match=said):
            backend(name, saved(name), **options)
        return
    problems = list(backend(name, saved(name), **options).check(replace(REQUEST, has_layout=False)))
    assert any(problem.field == field and said in problem.message for problem in problems), problems


def test_a_schedule_of_guidance_and_what_the_authors_recommend(saved: Callable[[str], Path]) -> None:
    import inspect

    from diffusers import Ideogram4Pipeline

    default = inspect.signature(Ideogram4Pipeline.__call__).parameters["guidance_schedule"].default
    assert ideogram_schedule(48) == default
    assert [ideogram_schedule(n).count(3.0) for n in (20, 12, 1)] == [2, 1, 1]
    name, schedule = "ideogram4_modular", [7.0, 3.0]
    one = [replace(JOBS[0], layout=None, asked=())]
    plain = backend(name, saved(name), guidance_scale=None).generate(one)
    options = {"max_sequence_length": 256, "guidance_schedule": schedule}
    assert (backend(name, saved(name), guidance_scale=None, call_options=options).generate(one) == plain).all()
    assert (backend(name, saved(name)).generate(one) != plain).any()


def test_what_becomes_of_parts(saved: Callable[[str], Path], tmp_path: Path) -> None:
    """One that cannot be loaded stops the run: diffusers would log that, and go on without it. A class that stands for
    others is the one that the folder names. One that is not there is named by `check`."""
    folder = Path(shutil.copytree(saved("flux3_distilled"), tmp_path / "model"))
    set_key("transformer/config.json", ("num_attention_heads",), 3)(folder)
    made = backend("flux3_distilled", folder)
    assert list(made.check(REQUEST)) == []
    with pytest.raises(BackendError, match=r"^generator\.model: .* was not loaded: "):
        made.generate(JOBS[:1])
    set_key("transformer/config.json", ("num_attention_heads",), 2)(folder)
    set_key(INDEX, ("tokenizer",), [None, None, {"type_hint": ["transformers", "AutoProcessor"]}])(folder)
    loaded: Any = backend("flux3_distilled", folder).pipeline(False)
    assert type(loaded.tokenizer).__name__ == "Qwen3VLProcessor"
    shutil.rmtree(folder / "prompt_upsampler")
    index = json.loads((folder / INDEX).read_text())
    index["prompt_upsampler"][2]["pretrained_model_name_or_path"] = "a/upsampler"
    (folder / INDEX).write_text(json.dumps(index))
    (problem,) = backend("flux3_distilled", folder).check(REQUEST)
    assert "takes prompt_upsampler from 'a/upsampler', and parts are loaded from the model's own" in problem.message
