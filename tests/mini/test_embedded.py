"""What the embedded models are said to be, they are: formats, sizes, cards."""

import hashlib
import re

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionAdapterPipeline, StableDiffusionImg2ImgPipeline, T2IAdapter
from PIL import Image

import synthgen.mini.autoencoder  # noqa: F401
from synthgen.mini import scenes
from synthgen.mini.training import captions
from synthgen.mini.training.bench import HELD_OUT_SEED
from synthgen.models import MINI, read_card

FAMILY = ["diffusion", "sam", "clip"]


def card(name: str) -> str:
    return (MINI / name / "README.md").read_text("utf-8")


def test_all_weights_are_small_and_hold_no_code():
    files = [p for p in MINI.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files if p.suffix == ".safetensors") <= 62e6
    assert {p.suffix for p in files} <= {".safetensors", ".json", ".md", ".webp"}
    for file in files:
        if file.suffix == ".json":
            assert (
                "/home" not in file.read_text()
                and "/tmp" not in file.read_text()
                and "_name_or_path" not in (file.read_text())
            ), file


@pytest.mark.parametrize("name", FAMILY)
def test_cards_state_the_checksums(name):
    weights = {str(p.relative_to(MINI / name)): p for p in (MINI / name).rglob("*.safetensors")}
    said = dict(re.findall(r"^\| `([^`]+\.safetensors)` \| [\d.]+ MB \| `(\w{64})` \|$", card(name), re.MULTILINE))
    assert said == {file: hashlib.sha256(path.read_bytes()).hexdigest() for file, path in weights.items()}


@pytest.mark.parametrize("name", FAMILY)
def test_cards_have_their_scores(name):
    """Every line that has a limit, measured; and where one is missed, words about it under it."""
    lines = re.findall(r"^\| (.+) \| ([-+\d.]+)[^|]*\| (≥|≤|within) ([\d.]+)[^|]*\|$", card(name), re.MULTILINE)
    assert len(lines) >= 3
    fits = {"≥": lambda a, b: a >= b, "≤": lambda a, b: a <= b, "within": lambda a, b: abs(a) <= b}
    missed = [what for what, value, sign, limit in lines if not fits[sign](float(value), float(limit))]
    assert ("## Missed" in card(name)) == bool(missed), missed


def test_the_clip_knows_all_that_scenes_have():
    about = read_card(MINI / "clip")
    assert tuple(about.classes) == scenes.CLASSES
    assert list(about.vocabulary) == captions.words()


def test_what_the_diffusion_model_draws_can_be_composed():
    about = read_card(MINI / "diffusion")
    assert set(about.classes) <= set(scenes.CLASSES) and set(about.vocabulary) <= set(captions.words())


@pytest.fixture(scope="module")
def pipeline():
    opened = DiffusionPipeline.from_pretrained(MINI / "diffusion", safety_checker=None, dtype=torch.float32)
    opened.set_progress_bar_config(disable=True)
    return opened


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"), np.float32)


def test_text_to_image(pipeline):
    a, b = (
        pixels(pipeline("a photo of a tree on snow", num_inference_steps=6, generator=torch.Generator().manual_seed(i))
               .images[0])
        for i in (0, 1)
    )  # fmt: skip
    assert a.shape == (128, 128, 3) and a.std() > 5 and np.abs(a - b).mean() > 2
    assert a.mean() > 150  # snow is light


@pytest.mark.filterwarnings("ignore:The decode_latents method:FutureWarning")  # diffusers' own pipeline calls it
def test_layout_to_image_puts_the_thing_into_its_box(pipeline):
    adapter = T2IAdapter.from_pretrained(MINI / "diffusion" / "adapter")
    by_layout = StableDiffusionAdapterPipeline(
        **{k: v for k, v in pipeline.components.items() if k != "image_encoder"}, adapter=adapter,
        requires_safety_checker=False,
    )  # fmt: skip
    by_layout.set_progress_bar_config(disable=True)
    card = read_card(MINI / "diffusion").layout
    colour = torch.tensor(card.palette["orange"]).view(-1, 1, 1)
    for x in (8, 72):
        layout = torch.zeros(1, len(colour), 128, 128)
        layout[0, :, 40:88, x : x + 48] = colour
        layout = torch.nn.functional.avg_pool2d(layout, card.downscale)
        image = pixels(
            by_layout("a photo of an orange on snow", image=layout, height=128, width=128, num_inference_steps=10,
                      generator=torch.Generator().manual_seed(1)).images[0]
        )  # fmt: skip
        orange = image[..., 0] - image[..., 2] > 60
        assert orange[44:84, x + 4 : x + 44].mean() > 0.5
        assert orange[44:84, 80 - x + 4 : 80 - x + 44].mean() < 0.1


def test_image_to_image_stays_near_its_image(pipeline):
    changed = StableDiffusionImg2ImgPipeline(**pipeline.components, requires_safety_checker=False)
    changed.set_progress_bar_config(disable=True)
    rng = np.random.default_rng([HELD_OUT_SEED, 1])
    scene, other = scenes.draw(rng, occlusion=False), scenes.draw(rng, occlusion=False)
    prompt = captions.caption(scene.background, scene.things)
    options = {"num_inference_steps": 20, "guidance_scale": 1.5, "generator": torch.Generator().manual_seed(0)}
    image = pixels(changed(prompt, image=Image.fromarray(scene.image), strength=0.3, **options).images[0])
    near, far = np.abs(image - scene.image).mean(), np.abs(image - other.image).mean()
    assert 0.5 < near < 0.3 * far
