"""The training of the denoiser and its adapter: what it draws, how it weighs it, what it exports."""

import diffusers
import numpy as np
import pytest
import torch
import transformers
from trainings import SIZE, quick, says_no_place, train_tiny_diffusion

from synthgen.errors import RunError
from synthgen.generators.diffusion import Backend as DiffusionBackend
from synthgen.generators.diffusion import Config as DiffusionConfig
from synthgen.mini import scenes
from synthgen.mini.training import diffusion, trainer
from synthgen.models import AdapterLayout, read_card
from synthgen.types import Category, Job


def test_diffusion_wants_the_autoencoder_first(tmp_path):
    with pytest.raises(RunError, match="train autoencoder"):
        diffusion.train(quick(tmp_path))


def test_planes_are_what_pipelines_draw():
    """Of a box that ends inside cells, and of one that hides another."""
    things = [scenes.Thing(3, None, (8, 8, 28, 20)), scenes.Thing(5, None, (16, 8, 32, 32))]
    found = diffusion.planes(things, 32)
    assert found.shape == (len(scenes.CLASSES), 4, 4) and found.dtype == np.float32
    assert found[3].tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [0, 0.5, 0, 0], [0, 0, 0, 0]]
    assert found[5].tolist() == [[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]]
    assert found.sum() == found[[3, 5]].sum()


def test_emphasis_is_on_things_and_more_on_small_ones():
    """Of 32 px: a thing of 8x8 px, which is 1/16 of the image; one of 12x8 px, of which half hides half of the former;
    and one that is large."""
    small, beside, large = (scenes.Thing(0, None, box) for box in [(8, 8, 16, 16), (12, 8, 24, 16), (0, 0, 32, 32)])
    ground, weight = 0.6, 0.6 + 2.4 * (0.12 * 16) ** 0.5
    found = diffusion.emphasis([small], 32)
    assert found.shape == (1, 4, 4) and found.dtype == np.float32
    expected = np.full((4, 4), ground)
    expected[1, 1] = weight
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)
    wider = 0.6 + 2.4 * (0.12 * 1024 / 96) ** 0.5
    expected[1, 1], expected[1, 2] = (weight + wider) / 2, wider
    np.testing.assert_allclose(diffusion.emphasis([small, beside], 32)[0], expected, rtol=1e-6)
    np.testing.assert_allclose(diffusion.emphasis([large], 32), 0.6 + 2.4 * 0.7, rtol=1e-6)  # bounded
    np.testing.assert_allclose(diffusion.emphasis([], 32), ground)


def test_scenes_of_one_thing_are_many_at_first_and_of_three_later(monkeypatch):
    drawn, draw = [], scenes.draw
    monkeypatch.setattr(scenes, "draw", lambda *args, **options: drawn.append(draw(*args, **options)) or drawn[-1])

    def shares(index, **options):
        drawn.clear()
        diffusion.Captioned(100, 64, **options)(np.random.default_rng(0), index)
        return np.bincount([len(scene.things) for scene in drawn], minlength=4) / 100

    # By chance 0.4 and 0.25; a half of all by rule, of one thing at first, of three in the end.
    first, later = shares(0), shares(diffusion.EASY_BATCHES)
    assert first[1] > 0.5 > first[3] and later[3] > 0.5 > later[1]
    assert shares(0, easy=0).tolist() == later.tolist()


def test_the_denoiser_is_compiled_in_long_trainings_where_that_can_be(monkeypatch, tmp_path):
    def compiles(device="cpu", **options):
        return diffusion.compiles(trainer.Options(tmp_path, **options), torch.device(device))

    monkeypatch.setattr(diffusion, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(diffusion, "find_spec", lambda name: None)
    assert compiles(hours=2.0) and not compiles(hours=0.1) and not compiles(hours=2.0, steps=4)
    assert not compiles("cuda", hours=2.0)  # no Triton
    monkeypatch.setattr(diffusion, "which", lambda name: None)
    assert not compiles(hours=2.0)


def test_an_earlier_adapter_answers_planes_as_it_did_colours():
    """Its first layer, where whole cells are of a class; a class that it did not know has the fresh layer's answer."""
    torch.manual_seed(0)
    colours = {"cat": (0.2, 0.7, 1.0), "dog": (0.9, 0.0, 0.3)}
    key = "adapter.conv_in.weight"
    before = diffusers.T2IAdapter(3, [8], 1, 8)
    after = diffusers.T2IAdapter(len(scenes.CLASSES), [8], 1, 1)
    fresh = after.state_dict()[key].clone()
    layout = AdapterLayout(form="t2i_adapter", folder="adapter", palette=colours)
    after.load_state_dict(diffusion.known_colours(before.state_dict(), layout, fresh))
    picture, planes = torch.zeros(1, 3, 64, 64), torch.zeros(1, len(scenes.CLASSES), 8, 8)
    for name, (x, y) in {"cat": (1, 2), "dog": (5, 3)}.items():
        picture[0, :, 8 * y : 8 * y + 16, 8 * x : 8 * x + 16] = torch.tensor(colours[name]).view(3, 1, 1)
        planes[0, scenes.CLASSES.index(name), y : y + 2, x : x + 2] = 1
    torch.testing.assert_close(after(planes)[0], before(picture)[0], atol=1e-5, rtol=1e-4)
    fish = scenes.CLASSES.index("fish")
    assert torch.equal(after.state_dict()[key][:, fish], fresh[:, fish])


@pytest.mark.parametrize(
    ("alpha", "weight"),
    [(0.0, 0.4), (0.5, 0.5), (0.1 / 1.1, 0.4), (5 / 6, 5 / 6), (100 / 101, 5 / 101)],  # SNR 0, 1, 0.1, 5, 100
)
def test_loss_weight(alpha, weight):
    assert diffusion.loss_weight(torch.tensor([alpha])).item() == pytest.approx(weight, rel=1e-4)


def _job(layout) -> Job:
    return Job(
        id=1, run=1, round=1, index=0, family="f", split="train", prompt="a photo of a blue car on grass",
        negative_prompt="", slots={}, asked=(1,), layout=layout, seed=3, height=SIZE, width=SIZE,
    )  # fmt: skip


def test_diffusion_export(tmp_path):
    train_tiny_diffusion(quick(tmp_path, 2))
    folder = tmp_path / "diffusion"
    config = DiffusionConfig(use="diffusion", model=str(folder), num_inference_steps=2, device="cpu")
    backend = DiffusionBackend(config, (Category(1, "car"),))
    for layout in (None, ((4, 4, 28, 20),)):
        images = backend.generate([_job(layout)])
        assert images.shape == (1, SIZE, SIZE, 3)
        assert images.dtype == np.uint8
    card = read_card(folder)
    ratio = scenes.aspect_ratio(scenes.CLASSES.index("car"))
    assert card.classes["car"].aspect_ratio == pytest.approx((0.95 * ratio, 1.05 * ratio), abs=1e-3)
    assert card.sizes == ((SIZE, SIZE),)
    assert set(card.layout.palette) == set(scenes.CLASSES)
    assert [colour.index(1.0) for colour in card.layout.palette.values()] == [*range(len(scenes.CLASSES))]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "tokenizer")
    assert tokenizer.unk_token_id not in tokenizer(" ".join(card.vocabulary)).input_ids
    says_no_place(folder, tmp_path)
