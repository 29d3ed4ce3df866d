"""CLIP's training: its loss, what it exports."""

import numpy as np
import pytest
import torch
import transformers
from trainings import SIZE, quick, says_no_place, train_tiny_clip

from synthgen.mini import scenes
from synthgen.mini.training import clip, text


def test_contrast_by_hand():
    logits = torch.log(torch.tensor([[1.0, 1.0, 2.0], [1.0, 3.0, 4.0], [1.0, 1.0, 1.0]]))
    fits = torch.tensor([[True, False, False], [False, True, True], [False, False, False]])
    by_hand = (np.log(4) + (np.log(8 / 3) + np.log(8 / 4)) / 2) / 2
    assert clip.contrast(logits, fits).item() == pytest.approx(by_hand, rel=1e-6)


def test_clip_export(tmp_path):
    train_tiny_clip(quick(tmp_path, 2))
    folder = tmp_path / "clip"
    model = transformers.CLIPModel.from_pretrained(folder, dtype=torch.float32)
    processor = transformers.CLIPProcessor.from_pretrained(folder)
    image = scenes.draw(np.random.default_rng(1), size=SIZE).image[:20]
    inputs = processor(
        text=["a photo of a cat", "a photo of a blue car"], images=[image], return_tensors="pt", padding=True
    )
    assert inputs["pixel_values"].shape == (1, 3, 16, 16)
    with torch.inference_mode():
        outputs = model(**inputs)
        first, second = (model(**{**inputs, "input_ids": inputs["input_ids"][[i, i]]}).text_embeds[0] for i in (0, 1))
    assert outputs.logits_per_image.shape == (1, 2)
    assert outputs.image_embeds.shape == (1, 8)
    assert not torch.allclose(first, second)
    says_no_place(folder, tmp_path)


def test_clip_pools_at_the_end_of_the_text(tmp_path):
    """What stands after the end of a text, padding, changes nothing."""
    torch.manual_seed(0)
    shape = clip.Shape(pixels=16, patch=8, width=16, layers=1, heads=2, text=16, text_layers=1, projection=8)
    model = clip.build(shape)["clip"].eval()
    ids = text.tokens(text.word_tokenizer(), ["a photo of a zebra"])
    with torch.inference_mode():
        long, short = (model.text_model(input_ids=i).pooler_output for i in (ids, ids[:, :7]))
    assert ids[0, 6] == 3
    torch.testing.assert_close(long, short)
