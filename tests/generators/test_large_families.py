"""What only single classes of large models have: a scale for each step, guiders, schedules of their own, other writers
of prompts."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from zoo import ZOO

from synthgen.backends import Request
from synthgen.errors import Problem
from synthgen.generators import diffusion
from synthgen.types import Category, Job, PromptForm


@pytest.fixture(scope="session")
def saved(tmp_path_factory) -> Callable[[str], Path]:
    """Name in the zoo -> the folder of its tiny model. Only for reading."""
    root = tmp_path_factory.mktemp("large")
    return lambda name: folder if (folder := root / name).exists() else ZOO[name].save(folder)


def changed(folder: Path, to: Path, file: str, **values: Any) -> Path:
    """A copy of a model with other settings in one of its files."""
    shutil.copytree(folder, to)
    (to / file).write_text(json.dumps(json.loads((folder / file).read_bytes()) | values))
    return to


def backend(folder: Path, **options: Any) -> diffusion.Backend:
    given = {"num_inference_steps": 2, **options}
    config = diffusion.Config(use="diffusion", model=str(folder), device="cpu", torch_dtype="float32", **given)
    return diffusion.Backend(config, (Category(1, "cup"),))


def problems(folder: Path, prompt: str = "a cup", side: int = 32, **options: Any) -> list[Problem]:
    request = Request(side, side, False, frozenset(), (PromptForm(((prompt,),), 1),), "")
    return list(backend(folder, **options).check(request))


def job(prompt: str = "a red cup", side: int = 32) -> Job:
    return Job(1, 1, 1, 0, "f", "train", prompt, "", {}, (), None, 1000, side, side)


def upstream(folder: Path, **arguments: Any) -> np.ndarray:
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    given = {"num_inference_steps": 2, "height": 32, "width": 32, **arguments}
    with warnings.catch_warnings():  # of diffusers, which calls deprecated functions
        warnings.simplefilter("ignore", FutureWarning)
        images = pipeline(prompt="a red cup", generator=torch.Generator("cpu").manual_seed(1000), **given).images
    return np.stack([np.asarray(image) for image in images])


# A scale for each step


SHORT = {"max_sequence_length": 64}


def test_a_scale_for_each_step_is_taken_in_place_of_one_for_all(saved):
    scales = {**SHORT, "guidance_schedule": [7.0, 2.0]}
    assert not problems(saved("ideogram4"), call_options=scales)
    found = backend(saved("ideogram4"), call_options=scales).generate([job()])
    np.testing.assert_array_equal(found, upstream(saved("ideogram4"), **scales))
    assert (found != backend(saved("ideogram4"), guidance_scale=7.0, call_options=SHORT).generate([job()])).any()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "got none, and Ideogram4Pipeline then needs a scale for each of the 2 steps"),
        ({"call_options": {"guidance_schedule": [7.0]}}, "needs a scale for each of the 2 steps"),
        (
            {"guidance_scale": 4.0, "call_options": {"guidance_schedule": [7.0, 2.0]}},
            "got 4 beside call_options.guidance_schedule; set one of them",
        ),
    ],
)
def test_scales_that_do_not_fit_the_steps_are_refused(saved, options, says):
    (problem,) = problems(saved("ideogram4"), **options)
    assert problem.field == ".guidance_scale" and says in problem.message


def test_the_steps_of_the_models_own_scales_need_none(saved):
    assert not problems(saved("ideogram4"), num_inference_steps=None)


# A schedule of the model's own


def test_steps_are_refused_where_the_model_has_its_own(saved, tmp_path):
    own = changed(saved("qwen_image_21"), tmp_path / "own", "model_index.json", sample_sigmas=[1.0, 0.8, 0.3])
    (problem,) = problems(own)
    assert problem.field == ".num_inference_steps" and "its own 3 steps" in problem.message
    assert not problems(own, num_inference_steps=None)
    np.testing.assert_array_equal(upstream(own), upstream(own, num_inference_steps=5))


# Guidance


def test_a_model_that_its_denoiser_cannot_run_is_refused(saved, tmp_path):
    other = changed(saved("qwen_image"), tmp_path / "other", "transformer/config.json", guidance_embeds=True)
    (problem,) = problems(other)
    assert problem.field == ".model" and "guidance_embeds" in problem.message
    with pytest.raises(TypeError):
        upstream(other, guidance_scale=4.0)


def test_guiders_keep_their_own_scale(saved):
    made = backend(saved("hunyuan_image"), guidance_scale=9.0)
    guider = made.pipeline(False).guider
    strong = made.generate([job(side=64)])
    assert made.pipeline(False).guider is guider and guider.guidance_scale == 5.0
    other = diffusers.AdaptiveProjectedMixGuidance(guidance_scale=9.0)
    pipeline = made.pipeline(False)
    pipeline.guider = other
    expected = pipeline("a red cup", height=64, width=64, num_inference_steps=2, generator=torch.manual_seed(1000))
    np.testing.assert_array_equal(strong[0], np.asarray(expected.images[0]))


def test_a_quoted_text_changes_its_own_image_only(saved):
    """One in a batch chooses the guidance of all, in upstream's call."""
    prompts = ["a red cup", 'a sign, it says "go"']
    jobs = [job(prompt, side=64) for prompt in prompts]
    made = backend(saved("hunyuan_image"), guidance_scale=5.0)
    together = made.generate(jobs)
    np.testing.assert_array_equal(together, np.concatenate([made.generate([one]) for one in jobs]))
    generators = [torch.Generator("cpu").manual_seed(1000) for _ in jobs]
    batch = made.pipeline(False)(prompts, height=64, width=64, num_inference_steps=2, generator=generators).images
    assert np.abs(together[0].astype(int) - np.asarray(batch[0])).max() > 2


# Schedulers


def test_noise_that_a_scheduler_draws_is_that_of_the_images(saved):
    """It comes from torch's global generator, of which other code draws too."""
    made = backend(saved("flux2_klein"), scheduler_options={"stochastic_sampling": True})
    images = []
    for state in (1, 2):
        torch.manual_seed(state)
        images.append(made.generate([job()]))
    np.testing.assert_array_equal(*images)
    assert (images[0] != backend(saved("flux2_klein")).generate([job()])).any()


FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}


@pytest.mark.parametrize("name", ["ernie_image", "ideogram4", "glm_image"])
def test_schedulers_with_which_a_call_fails_are_refused(saved, name):
    options = {"scheduler": "UniPCMultistepScheduler", "scheduler_options": FLOW, "guidance_scale": 4.0}
    (problem,) = problems(saved(name), side=ZOO[name].side, **options)
    assert problem.field == ".scheduler" and "takes: FlowMatchEulerDiscreteScheduler" in problem.message


def test_other_schedulers_of_flow_matching_equal_upstream(saved):
    options = {"scheduler": "UniPCMultistepScheduler", "scheduler_options": FLOW, "guidance_scale": 4.0}
    assert not problems(saved("bria_fibo"), **options)
    pipeline = diffusers.DiffusionPipeline.from_pretrained(saved("bria_fibo"), local_files_only=True)
    pipeline.scheduler = diffusers.UniPCMultistepScheduler.from_config(pipeline.scheduler.config, **FLOW)
    expected = pipeline(
        "a red cup", height=32, width=32, num_inference_steps=2, guidance_scale=4.0, generator=torch.manual_seed(1000)
    )
    found = backend(saved("bria_fibo"), **options).generate([job()])
    np.testing.assert_array_equal(found[0], np.asarray(expected.images[0]))


def test_a_shift_that_the_size_of_the_image_decides_is_refused(saved):
    (problem,) = problems(saved("flux2_klein"), scheduler_options={"shift": 6.0})
    assert problem.field == ".scheduler_options" and "use_dynamic_shifting: false" in problem.message
    fixed = {"shift": 6.0, "use_dynamic_shifting": False}
    assert not problems(saved("flux2_klein"), scheduler_options=fixed)
    usual, other, more = (
        backend(saved("flux2_klein"), scheduler_options=options).generate([job()])
        for options in ({}, fixed, {**fixed, "shift": 2.0})
    )
    assert (usual != other).any() and (other != more).any()


# Prompts


@pytest.mark.parametrize("name", ["ernie_image"])
def test_a_prompt_is_kept_unless_the_model_is_asked_to_write_another(saved, name):
    """It then draws at random, which does not change from run to run."""
    kept, written, again = (
        backend(saved(name), guidance_scale=4.0, call_options=options).generate([job()])
        for options in ({}, {"use_pe": True}, {"use_pe": True})
    )
    assert (kept != written).any()
    np.testing.assert_array_equal(written, again)


@pytest.mark.parametrize(("name", "limit"), [("longcat", 512), ("hunyuan_image", 1000), ("nucleus_moe", 1024)])
def test_what_is_cut_from_a_prompt_is_known(saved, name, limit):
    (problem,) = problems(saved(name), "a cup " * 400, ZOO[name].side)
    assert problem.field == "prompts" and f"takes {limit}" in problem.message
    assert not problems(saved(name), "a cup " * 80, ZOO[name].side)


def test_a_class_that_takes_images_apart_is_refused(saved, tmp_path):
    layered = changed(
        saved("qwen_image"), tmp_path / "layered", "model_index.json", _class_name="QwenImageLayeredPipeline"
    )
    (problem,) = problems(layered)
    assert problem.field == ".model" and "needs an image" in problem.message
