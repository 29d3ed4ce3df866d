"""What single classes of diffusion transformers do apart from others: `synthgen.models.families.diffusion_transformers`
says it, and here diffusers' own code is asked."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from zoo import ZOO

from synthgen.backends import Request
from synthgen.generators import diffusion
from synthgen.models import families
from synthgen.types import Category, Job, PromptForm

# Classes of diffusers are built on deprecated ones of diffusers.
pytestmark = pytest.mark.filterwarnings(r"ignore::FutureWarning:diffusers\.")


@pytest.fixture(scope="session")
def animal(tmp_path_factory) -> Callable[[str], Path]:
    """Name in the zoo -> the folder of its tiny model."""
    root = tmp_path_factory.mktemp("transformers")
    return lambda name: folder if (folder := root / name).exists() else ZOO[name].save(folder)


def backend(folder: Path, name: str, **options: Any) -> diffusion.Backend:
    usual = {"num_inference_steps": 2, "guidance_scale": 4.0, "torch_dtype": "float32", **ZOO[name].options}
    config = diffusion.Config(use="diffusion", model=str(folder), device="cpu", **{**usual, **options})
    return diffusion.Backend(config, (Category(1, "cup"),))


def said(made: diffusion.Backend, name: str, prompt: str = "a cup", height: int = 0, width: int = 0) -> dict[str, str]:
    """What `check` refuses or remarks upon: key -> message."""
    size = height or ZOO[name].side, width or ZOO[name].side
    request = Request(*size, False, frozenset(), (PromptForm(((prompt,),), 1),), "")
    return {problem.field: problem.message for problem in [*made.check(request), *made.advice(request)]}


def jobs(name: str, negative: str = "") -> list[Job]:
    side = ZOO[name].side
    return [
        Job(i + 1, 1, 1, i, "f", "train", prompt, negative, {}, (), None, 1000 + i, side, side)
        for i, prompt in enumerate(ZOO[name].prompts)
    ]


def installed(monkeypatch: Any, ftfy: bool) -> None:
    """Whether a package is found, wherever the tests run."""
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: found("json" if ftfy else "_") if name == "ftfy" else found(name)
    )


def loaded(folder: Path) -> Any:
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def called(pipeline: Any, name: str, made: list[Job], **arguments: Any) -> np.ndarray:
    results = pipeline(
        prompt=[job.prompt for job in made],
        generator=[torch.Generator("cpu").manual_seed(job.seed) for job in made],
        return_dict=False,
        **{"height": made[0].height, "width": made[0].width, "num_inference_steps": 2, **ZOO[name].call, **arguments},
    )
    return np.stack([np.asarray(image) for image in results[0]]).astype(int)


# Prompts


@pytest.mark.parametrize(
    ("name", "after"),
    [("sana", 0), ("sana_sprint", 0), ("lumina", 0), ("lumina_2", 0), ("ovis", 13), ("z_image", 13), ("prx", 0),
     ("prx_pixel", 0), ("cogview_4", 0), ("kandinsky_5", 13)],
)  # fmt: skip
def test_prompts_are_cut_where_check_says(animal, name, after):
    """Whatever a class puts around a prompt. A letter is a token for these tokenizers. `after`: the tokens of what it
    puts behind a prompt; they are cut first."""
    for package in families.family(ZOO[name].pipeline).packages:
        pytest.importorskip(package)
    made = backend(animal(name), name)
    fits, cut = 1, 1200
    assert "prompts" in said(made, name, "a" * cut)
    while cut - fits > 1:
        middle = (fits + cut) // 2
        fits, cut = (fits, middle) if "prompts" in said(made, name, "a" * middle) else (middle, cut)
    job = jobs(name)[0]

    def image(prompt: str) -> np.ndarray:
        return made.generate([replace(job, prompt=prompt)])

    assert (image("a" * (fits + after) + "b") == image("a" * (fits + after) + "c")).all()
    assert (image("a" * (fits - 1) + "b") != image("a" * (fits - 1) + "c")).any()


def test_lumina_cuts_at_256_tokens_whatever_its_call_is_told(animal):
    made = backend(animal("lumina"), "lumina", call_options={"max_sequence_length": 8})
    assert "ignores its own 'max_sequence_length'" in said(made, "lumina")[".call_options"]
    assert (made.generate(jobs("lumina")) == backend(animal("lumina"), "lumina").generate(jobs("lumina"))).all()
    assert "prompts" not in said(made, "lumina", "a" * 255)  # and one that begins every text
    assert "has 257 tokens" in said(made, "lumina", "a" * 256)["prompts"]
    assert loaded(animal("lumina")).max_sequence_length == 256


def test_the_generator_passes_on_no_warning_of_diffusers_about_itself(animal, recwarn):
    folder = animal("chroma")
    recwarn.clear()
    backend(folder, "chroma").generate(jobs("chroma")[:1])
    assert not recwarn.list
    loaded(folder)
    assert any("FluxPosEmbed" in str(warning.message) for warning in recwarn.list)


# Batches


@pytest.mark.parametrize(("name", "negative"), [("cogview_4", ""), ("lumina", "blurry, and with much noise in it")])
def test_companions_would_change_an_image(animal, name, negative):
    """So each is made in a call of its own."""
    made, pipeline = jobs(name, negative), loaded(animal(name))
    options = {"negative_prompt": [negative] * 3} if negative else {}
    together = called(pipeline, name, made, **options)
    alone = [called(pipeline, name, [job], **({"negative_prompt": negative} if negative else {}))[0] for job in made]
    assert (np.abs(together - alone).max((1, 2, 3)) > 2).any()
    np.testing.assert_array_equal(backend(animal(name), name).generate(made), alone)


# Sizes


def test_the_only_sizes_of_kandinsky_5(animal):
    row = families.family("Kandinsky5T2IPipeline")
    assert row.resizes
    for width, height in ZOO["kandinsky_5"].make().resolutions:
        assert row.resizes(height, width, 8) == (height, width)
    assert row.resizes(512, 512, 8) == (1024, 1024)
    assert row.resizes(720, 1280, 8) == (768, 1280)
    got = said(backend(animal("kandinsky_5"), "kandinsky_5"), "kandinsky_5", height=720, width=1280)
    assert "of which Kandinsky5T2IPipeline makes 768x1280; set that" in got["height, width"]


def test_hidream_makes_one_area_only():
    row = families.family("HiDreamImagePipeline")
    assert row.resizes
    assert row.resizes(1024, 1024, 8) == row.resizes(512, 512, 8) == (1024, 1024)
    assert row.resizes(768, 1360, 8) == (768, 1360)  # a size that its authors offer


@pytest.mark.parametrize("name", ["sana", "prx_pixel"])
def test_sizes_need_a_multiple_where_pictures_are_not_resized(animal, name, monkeypatch):
    installed(monkeypatch, ftfy=True)
    assert "width" in said(backend(animal(name), name), name, width=ZOO[name].side + 2)
    assert "width" not in said(backend(animal(name), name, call_options={}), name, width=ZOO[name].side + 2)


# Arguments


@pytest.mark.parametrize("steps", [1, 3])
def test_sana_sprint_with_other_than_two_steps(animal, steps):
    found = backend(animal("sana_sprint"), "sana_sprint", num_inference_steps=steps).generate(jobs("sana_sprint"))
    own = {"num_inference_steps": steps, "intermediate_timesteps": None}
    np.testing.assert_array_equal(
        found, called(loaded(animal("sana_sprint")), "sana_sprint", jobs("sana_sprint"), **own)
    )


def test_prx_takes_no_scale_below_1(animal, monkeypatch):
    installed(monkeypatch, ftfy=True)
    assert "takes at least 1" in said(backend(animal("prx"), "prx", guidance_scale=0.5), "prx")[".guidance_scale"]
    assert ".guidance_scale" not in said(backend(animal("prx"), "prx", guidance_scale=1.0), "prx")
    with pytest.raises(ValueError, match="guidance_scale has to be >= 1"):
        called(loaded(animal("prx")), "prx", jobs("prx")[:1], guidance_scale=0.5)


def test_a_package_that_its_code_needs_is_named(animal, monkeypatch):
    installed(monkeypatch, ftfy=False)
    message = said(backend(animal("prx"), "prx"), "prx")[".model"]
    assert message == "is a PRXPipeline, whose code needs a package: pip install ftfy"


@pytest.mark.parametrize("entry", [None, [None, None]])
def test_a_part_that_published_folders_lack_is_asked_for(animal, tmp_path, entry):
    folder = shutil.copytree(animal("hidream"), tmp_path / "hidream")
    for name in ("text_encoder_4", "tokenizer_4"):
        shutil.move(folder / name, tmp_path / name)
    shutil.copytree(tmp_path / "tokenizer_4", tmp_path / "text_encoder_4", dirs_exist_ok=True)
    index = {k: v for k, v in json.loads((folder / "model_index.json").read_text()).items() if not k.endswith("_4")}
    if entry:
        index |= {"text_encoder_4": entry, "tokenizer_4": entry}
    (folder / "model_index.json").write_text(json.dumps(index))
    message = said(backend(folder, "hidream"), "hidream")[".components"]
    assert "needs a text_encoder_4" in message and "{text_encoder_4: meta-llama/" in message
    given = {"text_encoder_4": str(tmp_path / "text_encoder_4")}
    assert ".components" not in said(backend(folder, "hidream", components=given), "hidream")


# Schedulers


def test_a_solver_by_flow_sigmas_is_one_of_flow_matching(animal):
    """Folders of Sana have such a scheduler; its settings go to another one that knows them."""
    name = "sana_as_published"
    assert "flow matching" in said(backend(animal(name), name, scheduler="DDIMScheduler"), name)[".scheduler"]
    assert ".scheduler" not in said(backend(animal(name), name, scheduler="FlowMatchEulerDiscreteScheduler"), name)
    made = backend(animal(name), name, scheduler="UniPCMultistepScheduler")
    assert ".scheduler" not in said(made, name)
    pipeline = loaded(animal(name))
    pipeline.scheduler = diffusers.UniPCMultistepScheduler.from_config(pipeline.scheduler.config)
    assert pipeline.scheduler.config.use_flow_sigmas
    one = [replace(jobs(name)[0], height=64, width=64)]
    np.testing.assert_array_equal(made.generate(one), called(pipeline, name, one))


@pytest.mark.parametrize(
    ("name", "scheduler", "fits"),
    [("z_image", "UniPCMultistepScheduler", False), ("z_image", "FlowMatchEulerDiscreteScheduler", True),
     ("hidream", "DPMSolverMultistepScheduler", False), ("hidream", "UniPCMultistepScheduler", True),
     ("cogview_4", "UniPCMultistepScheduler", False), ("chroma", "UniPCMultistepScheduler", True),
     ("ovis", "DPMSolverMultistepScheduler", True), ("lumina_2", "DPMSolverMultistepScheduler", False),
     ("lumina", "FlowMatchHeunDiscreteScheduler", True)],
)  # fmt: skip
def test_schedulers_that_a_class_can_be_given(animal, name, scheduler, fits):
    """Where `check` refuses one, diffusers fails."""
    options: dict[str, Any] = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    if scheduler.startswith("FlowMatch"):
        options = {}
    made = backend(animal(name), name, scheduler=scheduler, scheduler_options=options)
    assert (".scheduler" not in said(made, name)) == fits
    one = jobs(name)[:1]
    if fits:
        assert made.generate(one).std() > 2
    else:
        with pytest.raises((TypeError, ValueError, AssertionError)):
            made.generate(one)
