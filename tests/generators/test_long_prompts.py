"""Prompts that are longer than a CLIP takes, encoded in pieces."""

from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch
from tiny import LENGTH, MAKERS, SIDE

from synthgen import devices
from synthgen.backends import Request
from synthgen.generators import diffusion
from synthgen.types import Category, Job, PromptForm

SHORT = "a red cup, on a table"
LONG = "a red cup, on a table, and a blue cup, and two green cars on a lawn"  # three pieces of letters


@pytest.fixture(scope="module", params=["sd", "sdxl"])
def folder(request, tmp_path_factory):
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp(request.param)
    MAKERS[request.param]().save_pretrained(root)
    yield root
    devices.forget(devices.loaded())


def job(index: int, prompt: str, negative: str = "") -> Job:
    return Job(index + 1, 1, 1, index, "f", "train", prompt, negative, {}, (), None, 1000 + index, SIDE, SIDE)


def backend(folder, **options):
    given = {"num_inference_steps": 3, "guidance_scale": 4.0, "torch_dtype": "float32", "long_prompts": True}
    config = diffusion.Config(use="diffusion", model=str(folder), device="cpu", **given | options)
    return diffusion.Backend(config, (Category(1, "cup"),))


@pytest.mark.parametrize("negative", ["", "blurry"])
def test_short_prompts_give_the_same_pixels_as_ever(folder, negative):
    jobs = [job(0, SHORT, negative), job(1, "a blue cup", negative)]
    usual = backend(folder, long_prompts=False).generate(jobs)
    np.testing.assert_array_equal(backend(folder).generate(jobs), usual)


@pytest.mark.parametrize("negative", ["", "blurry"])
def test_long_prompts_equal_upstreams_call_with_pieces_that_are_encoded_by_hand(folder, negative):
    if "XL" in (folder / "model_index.json").read_text():
        pipeline = diffusers.StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    else:
        pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    is_xl = hasattr(pipeline, "text_encoder_2")
    size, texts = LENGTH - 2, {}
    for name, text in (("", LONG), ("negative_", negative)):
        letters = pipeline.tokenizer(text, add_special_tokens=False).input_ids
        assert name or 2 * size < len(letters) <= 3 * size
        pieces = [letters[start : start + size] for start in (0, size, 2 * size)]
        rows = torch.tensor([[0, *piece, 1, *[1] * (size - len(piece))] for piece in pieces])
        if not is_xl:
            texts[f"{name}prompt_embeds"] = pipeline.text_encoder(rows)[0].reshape(1, 3 * LENGTH, -1)
            continue
        # `encode_prompt` gives the results of one piece: its text is what the piece says.
        first, second = (
            encoder(rows, output_hidden_states=True) for encoder in (pipeline.text_encoder, pipeline.text_encoder_2)
        )
        both = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1).reshape(1, 3 * LENGTH, -1)
        pooled = second.text_embeds[:1]
        if name and not negative:
            both, pooled = torch.zeros_like(both), torch.zeros_like(pooled)
        texts |= {f"{name}prompt_embeds": both, f"{name}pooled_prompt_embeds": pooled}
    expected = pipeline(
        num_inference_steps=3, guidance_scale=4.0, height=SIDE, width=SIDE,
        generator=[torch.Generator("cpu").manual_seed(1000)], **{k: v.detach() for k, v in texts.items()},
    ).images  # fmt: skip
    made = backend(folder).generate([job(0, LONG, negative)])
    assert np.abs(made[0].astype(int) - np.asarray(expected[0])).max() <= 1  # encoded together, not piece by piece


def test_what_is_beyond_the_first_piece_counts(folder):
    other = backend(folder).generate([job(0, LONG + " in snow")])
    assert (other != backend(folder).generate([job(0, LONG)])).any()
    cut = [backend(folder, long_prompts=False).generate([job(0, text)]) for text in (LONG, LONG + " in snow")]
    np.testing.assert_array_equal(*cut)


def test_companions_with_longer_prompts_change_no_image(folder):
    jobs = [job(0, LONG), job(1, SHORT), job(2, LONG), job(3, "a blue cup")]
    together = backend(folder).generate(jobs).astype(int)
    for image, one in zip(together, jobs, strict=True):
        assert np.abs(image - backend(folder).generate([one])[0]).max() <= 2


def test_check_neither_refuses_nor_remarks_upon_a_long_prompt(folder):
    request = Request(SIDE, SIDE, False, frozenset(), (PromptForm(((LONG,),), 1),), "blurry")
    assert [p.field for p in backend(folder, long_prompts=False).check(request)] == ["prompts"]
    assert not list(backend(folder).check(request))
    assert not [p for p in backend(folder).advice(request) if p.field.startswith("prompts")]
    assert not list(backend(folder).check(replace(request, prompts=())))


def test_classes_with_other_encoders_refuse_the_option(tmp_path):
    torch.manual_seed(0)
    MAKERS["flux"]().save_pretrained(tmp_path)
    (problem,) = backend(tmp_path).check(Request(SIDE, SIDE, False, frozenset()))
    assert problem.field == ".long_prompts" and "max_sequence_length" in problem.message
