import csv
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

from synthgen.base.interrupts import Interrupted
from synthgen.errors import RunError
from synthgen.generators import diffusion
from synthgen.mini import (
    __main__,
    scenes,
    train_autoencoder,
    train_clip,
    train_diffusion,
    train_sam,
    training,
)
from synthgen.mini.autoencoder import PatchAutoencoder
from synthgen.models import AdapterLayout, SamShape, read_card
from synthgen.segmenters import sam
from synthgen.types import Category, Grounding, Job

SIZE = 32
SAM = SamShape(
    image_size=SIZE, patch_size=8, embed_dim=16, depth=1, num_heads=2, global_attn_indexes=(0,), window_size=0,
    prompt_embed_dim=16, mlp_dim=16, iou_head_hidden_dim=16,
)  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def quick(work: Path, steps: int = 4, **more) -> training.Options:
    return training.Options(
        work, steps=steps, workers=0, device="cpu", torch_dtype="float32", report_every=2, **more
    )  # fmt: skip


def train_tiny_autoencoder(options: training.Options) -> None:
    train_autoencoder.train(options, train_autoencoder.Pictures(2, SIZE), channels=16, decoder_blocks=1)


def train_tiny_diffusion(options: training.Options) -> None:
    shape = train_diffusion.Shape(channels=(16, 32), heads=(2, 2), groups=8, text=16, text_layers=1)
    if not (options.work / "autoencoder").exists():
        train_tiny_autoencoder(quick(options.work, 2))
    train_diffusion.train(options, train_diffusion.Captioned(4, SIZE), shape)


def train_tiny_sam(options: training.Options) -> None:
    train_sam.train(options, train_sam.Prompts(4, SIZE), SAM)


def train_tiny_clip(options: training.Options) -> None:
    shape = train_clip.Shape(pixels=16, patch=8, width=16, layers=1, heads=2, text=16, text_layers=1, projection=8)
    train_clip.train(options, train_clip.Pairs(4, 1, SIZE, 16), shape)


TRAININGS: dict[str, Callable[[training.Options], None]] = {
    "autoencoder": train_tiny_autoencoder,
    "diffusion": train_tiny_diffusion,
    "sam": train_tiny_sam,
    "clip": train_tiny_clip,
}


@pytest.mark.parametrize(
    ("step", "share", "rate"),
    [
        (0, 0.0, 0.01 + 0.002),  # a hundredth of the way up
        (49, 0.0, 0.5 + 0.002),  # half-way
        (99, 0.0, 1.0 + 0.002),  # warm
        (5000, 0.5, 0.5 + 0.002),  # half of the time
        (5000, 1.0, 0.002),  # the end
        (5000, 1.2, 0.002),  # past it
    ],
)
def test_learning_rate(step, share, rate):
    assert training.learning_rate(step, share, peak=1.0, warmup=100) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("step", "decay"),
    [(0, 0.1), (1, 2 / 11), (8, 0.5), (89, 90 / 99), (10**6, 0.999)],
)
def test_average_decay(step, decay):
    assert training.average_decay(step, 0.999) == pytest.approx(decay)


class _Weight(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0]))


def _no_batch(rng, index):
    return {"index": np.array([index])}


def test_average_of_weights(tmp_path):
    trainer = training.Trainer(
        "one", lambda: {"m": _Weight()}, quick(tmp_path, 3), peak=1.0, decay=0.999, warmup=1, weight_decay=0.0
    )
    seen: list[float] = []

    def step(batch, generator):
        seen.append(trainer.models["m"].w.item())
        return trainer.models["m"].w.sum(), {}

    trainer.run(_no_batch, step, lambda average: None)
    after = [*seen[1:], trainer.models["m"].w.item()]
    by_hand = 1.0
    for weight, decay in zip(after, (0.1, 2 / 11, 3 / 12), strict=True):
        by_hand = decay * by_hand + (1 - decay) * weight
    assert seen[0] == 1.0
    assert after[0] == pytest.approx(
        1 - 1.002, abs=1e-6
    )  # AdamW's first step is the learning rate, whatever the gradient
    assert trainer.average["m"].w.item() == pytest.approx(by_hand, abs=1e-6)


def test_a_step_that_overflows_changes_no_weights(tmp_path):
    trainer = training.Trainer("one", lambda: {"m": _Weight()}, quick(tmp_path, 1), peak=1.0, decay=0.9)
    trainer.run(
        _no_batch, lambda batch, generator: (trainer.models["m"].w.sum() * float("nan"), {}), lambda average: None
    )
    assert trainer.models["m"].w.item() == 1.0


@pytest.mark.parametrize("name", TRAININGS)
def test_resumed_equals_uninterrupted(name, tmp_path, monkeypatch):
    train = TRAININGS[name]
    train(quick(tmp_path / "whole"))
    if name == "diffusion":
        train_tiny_autoencoder(quick(tmp_path / "parts", 2))

    steps = training.Trainer._advance

    def stopped_after_two(self, batch, step):
        figures = steps(self, batch, step)
        if self.step == 2 and self.name == name:
            os.kill(os.getpid(), signal.SIGTERM)
        return figures

    assert threading.current_thread() is threading.main_thread()
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(training.Trainer, "_advance", stopped_after_two)
        train(quick(tmp_path / "parts"))
    train(quick(tmp_path / "parts", resume=True))

    whole, parts = (
        torch.load(tmp_path / folder / "checkpoints" / f"{name}.pt", weights_only=True) for folder in ("whole", "parts")
    )
    assert whole["step"] == parts["step"] == 4
    for kind in ("models", "average"):
        for model, state in whole[kind].items():
            for key, value in state.items():
                assert torch.equal(value, parts[kind][model][key]), (kind, model, key)
    for key, state in whole["optimizer"]["state"].items():
        assert torch.equal(state["exp_avg_sq"], parts["optimizer"]["state"][key]["exp_avg_sq"])
    timeless = [[{k: v for k, v in row.items() if k != "elapsed_s"} for row in s["curve"]] for s in (whole, parts)]
    assert timeless[0] == timeless[1]


def test_checkpoint_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    train_tiny_sam(quick(tmp_path, 1))
    path = tmp_path / "checkpoints" / "sam.pt"
    before = path.read_bytes()

    def breaks_off(state, file):
        file.write(before[:1000])
        assert path.read_bytes() == before
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch, "save", breaks_off)
        train_tiny_sam(quick(tmp_path, 2, resume=True))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_export_keeps_what_else_is_in_the_folder(tmp_path):
    folder = tmp_path / "sam"
    folder.mkdir()
    (folder / "README.md").write_text("mine")
    with training.replacing_files(folder) as partial:
        (partial / "part").mkdir()
        (partial / "part" / "weights").write_text("new")
        assert not (folder / "part").exists()
    assert (folder / "README.md").read_text() == "mine"
    assert (folder / "part" / "weights").read_text() == "new"
    assert list(tmp_path.iterdir()) == [folder]


def test_a_checkpoint_is_never_overwritten_by_a_new_training(tmp_path):
    train_tiny_sam(quick(tmp_path, 1))
    with pytest.raises(RunError, match="--resume"):
        train_tiny_sam(quick(tmp_path, 1))
    with pytest.raises(RunError, match="another training"):
        train_tiny_sam(quick(tmp_path, 1, resume=True, seed=1))
    with pytest.raises(RunError, match="to resume from"):
        train_tiny_sam(quick(tmp_path / "elsewhere", 1, resume=True))


@pytest.mark.parametrize("name", TRAININGS)
def test_start_from_an_earlier_model(name, tmp_path, monkeypatch):
    train = TRAININGS[name]
    train(quick(tmp_path / "before", 2))
    begun: dict[str, torch.Tensor] = {}

    def run(trainer, draw, step, export):
        begun.update({f"{k}.{n}": w.clone() for k, m in trainer.models.items() for n, w in m.state_dict().items()})
        average = {f"{k}.{n}": w for k, m in trainer.average.items() for n, w in m.state_dict().items()}
        assert all(torch.equal(average[key], w) for key, w in begun.items())

    if name == "diffusion":
        shutil.copytree(tmp_path / "before" / "autoencoder", tmp_path / "after" / "autoencoder")
    monkeypatch.setattr(training.Trainer, "run", run)
    folder = tmp_path / "before" / name
    train(quick(tmp_path / "after", 2, seed=9, start=folder))
    files = {
        "autoencoder": {"vae": "diffusion_pytorch_model.safetensors"},
        "diffusion": {
            "unet": "unet/diffusion_pytorch_model.safetensors",
            "adapter": "adapter/diffusion_pytorch_model.safetensors",
            "text_encoder": "text_encoder/model.safetensors",
        },
        "sam": {"sam": "model.safetensors"},
        "clip": {"clip": "model.safetensors"},
    }[name]
    saved = {f"{k}.{n}": w.float() for k, file in files.items() for n, w in load_file(folder / file).items()}
    assert saved.keys() <= begun.keys()
    for key, weights in saved.items():
        torch.testing.assert_close(begun[key], weights, msg=key)


def test_words_keep_their_vectors_when_others_come(tmp_path, monkeypatch):
    monkeypatch.setattr(scenes, "words", lambda: ["cat", "photo"])
    train_diffusion.word_tokenizer().save_pretrained(tmp_path)
    before = {"table": torch.arange(12.0).view(6, 2), "other": torch.ones(3)}
    monkeypatch.setattr(scenes, "words", lambda: ["a", "cat", "dog", "photo"])
    after = train_diffusion.known_words(before, "table", tmp_path, torch.full((8, 2), -1.0))
    assert after["table"].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [-1, -1], [8, 9], [-1, -1], [10, 11]]
    assert torch.equal(after["other"], before["other"])


def test_what_cannot_be_started_from(tmp_path):
    train_tiny_sam(quick(tmp_path / "sam", 1))
    with pytest.raises(RunError, match=r"cannot start from .*nowhere"):
        train_tiny_sam(quick(tmp_path / "other", 1, start=tmp_path / "nowhere"))
    with pytest.raises(RunError, match=r"cannot start from") as error:
        train_sam.train(quick(tmp_path / "other", 1, start=tmp_path / "sam" / "sam"), train_sam.Prompts(4, SIZE))
    assert "\n" not in str(error.value)


def test_diffusion_wants_the_autoencoder_first(tmp_path):
    with pytest.raises(RunError, match="train autoencoder"):
        train_diffusion.train(quick(tmp_path))


@pytest.mark.parametrize("make", [
    train_autoencoder.Pictures(2, SIZE), train_diffusion.Captioned(3, SIZE), train_sam.Prompts(3, SIZE),
    train_clip.Pairs(3, 2, SIZE, 16),
], ids=lambda make: type(make).__name__)  # fmt: skip
def test_batches_depend_on_seed_and_number_alone(make):
    stream = training.batches(make, 5, 0, workers=0)
    next(stream)
    second = next(stream)
    again = next(training.batches(make, 5, 1, workers=0))
    other = next(training.batches(make, 6, 1, workers=0))
    assert torch.equal(second["images"], again["images"])
    assert not torch.equal(second["images"], other["images"])


def test_a_worker_process_draws_the_same(tmp_path):
    make = train_autoencoder.Pictures(1, SIZE)
    here, there = (next(training.batches(make, 0, 3, workers)) for workers in (0, 1))
    assert torch.equal(here["images"], there["images"])


def test_planes_are_what_pipelines_draw():
    """Of a box that ends inside cells, and of one that hides another."""
    things = [scenes.Thing(3, None, (8, 8, 28, 20)), scenes.Thing(5, None, (16, 8, 32, 32))]
    found = train_diffusion.planes(things, 32)
    assert found.shape == (len(scenes.CLASSES), 4, 4) and found.dtype == np.float32
    assert found[3].tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [0, 0.5, 0, 0], [0, 0, 0, 0]]
    assert found[5].tolist() == [[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]]
    assert found.sum() == found[[3, 5]].sum()


def test_emphasis_is_on_things_and_more_on_small_ones():
    """Of 32 px: a thing of 8x8 px, which is 1/16 of the image; one of 12x8 px, of which half hides half of the former;
    and one that is large."""
    small, beside, large = (scenes.Thing(0, None, box) for box in [(8, 8, 16, 16), (12, 8, 24, 16), (0, 0, 32, 32)])
    ground, weight = 0.6, 0.6 + 2.4 * (0.12 * 16) ** 0.5
    found = train_diffusion.emphasis([small], 32)
    assert found.shape == (1, 4, 4) and found.dtype == np.float32
    expected = np.full((4, 4), ground)
    expected[1, 1] = weight
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)
    wider = 0.6 + 2.4 * (0.12 * 1024 / 96) ** 0.5
    expected[1, 1], expected[1, 2] = (weight + wider) / 2, wider
    np.testing.assert_allclose(train_diffusion.emphasis([small, beside], 32)[0], expected, rtol=1e-6)
    np.testing.assert_allclose(train_diffusion.emphasis([large], 32), 0.6 + 2.4 * 0.7, rtol=1e-6)  # bounded
    np.testing.assert_allclose(train_diffusion.emphasis([], 32), ground)


def test_scenes_of_one_thing_are_many_at_first_and_of_three_later(monkeypatch):
    drawn, draw = [], scenes.draw
    monkeypatch.setattr(scenes, "draw", lambda *args, **options: drawn.append(draw(*args, **options)) or drawn[-1])

    def shares(index, **options):
        drawn.clear()
        train_diffusion.Captioned(100, 64, **options)(np.random.default_rng(0), index)
        return np.bincount([len(scene.things) for scene in drawn], minlength=4) / 100

    # By chance 0.4 and 0.25; a half of all by rule, of one thing at first, of three in the end.
    first, later = shares(0), shares(train_diffusion.EASY_BATCHES)
    assert first[1] > 0.5 > first[3] and later[3] > 0.5 > later[1]
    assert shares(0, easy=0).tolist() == later.tolist()


def test_the_denoiser_is_compiled_in_long_trainings_where_that_can_be(monkeypatch, tmp_path):
    def compiles(device="cpu", **options):
        return train_diffusion.compiles(training.Options(tmp_path, **options), torch.device(device))

    monkeypatch.setattr(train_diffusion, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(train_diffusion, "find_spec", lambda name: None)
    assert compiles(hours=2.0) and not compiles(hours=0.1) and not compiles(hours=2.0, steps=4)
    assert not compiles("cuda", hours=2.0)  # no Triton
    monkeypatch.setattr(train_diffusion, "which", lambda name: None)
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
    after.load_state_dict(train_diffusion.known_colours(before.state_dict(), layout, fresh))
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
    assert train_diffusion.loss_weight(torch.tensor([alpha])).item() == pytest.approx(weight, rel=1e-4)


def test_contrast_by_hand():
    logits = torch.log(torch.tensor([[1.0, 1.0, 2.0], [1.0, 3.0, 4.0], [1.0, 1.0, 1.0]]))
    fits = torch.tensor([[True, False, False], [False, True, True], [False, False, False]])
    by_hand = (np.log(4) + (np.log(8 / 3) + np.log(8 / 4)) / 2) / 2
    assert train_clip.contrast(logits, fits).item() == pytest.approx(by_hand, rel=1e-6)


def test_mask_loss_sees_outlines():
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 4:12, 4:12] = 1
    right = (mask * 2 - 1) * 8
    wider = right.clone()
    wider[..., 3, 4:12] = 8
    loss, iou = train_sam.mask_losses(torch.cat([right, wider], 1), mask)
    assert iou.tolist() == [[1.0, pytest.approx(64 / 72)]]
    assert loss[0, 0] < 0.01 < loss[0, 1]


def test_unit_scale_changes_latents_only():
    torch.manual_seed(0)
    vae = PatchAutoencoder(channels=16, decoder_blocks=1)
    images = torch.rand(8, 3, 32, 32)
    before = vae.decoder(vae.encoder(images))
    train_autoencoder.unit_scale(vae, images)
    assert vae.encoder(images).std((0, 2, 3)).tolist() == pytest.approx([1.0] * 16, abs=1e-4)
    torch.testing.assert_close(vae.decoder(vae.encoder(images)), before, atol=1e-4, rtol=1e-4)


def test_decode_is_segment_anythings(tmp_path):
    torch.manual_seed(0)
    model = train_sam.build(SAM).eval()
    embeddings = torch.randn(1, 16, 4, 4)
    sparse, dense = model.prompt_encoder(points=None, boxes=torch.tensor([[2.0, 3.0, 20.0, 30.0]]), masks=None)
    theirs = model.mask_decoder.predict_masks(embeddings, model.prompt_encoder.get_dense_pe(), sparse, dense)
    ours = train_sam.decode(model, embeddings, sparse, dense)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def _job(layout) -> Job:
    return Job(
        id=1, run=1, round=1, index=0, family="f", split="train", prompt="a photo of a blue car on grass",
        negative_prompt="", slots={}, asked=(1,), layout=layout, seed=3, height=SIZE, width=SIZE,
    )  # fmt: skip


def _says_no_place(folder: Path, work: Path) -> None:
    for file in folder.rglob("*.json"):
        assert str(work) not in file.read_text(), file


def test_diffusion_export(tmp_path):
    train_tiny_diffusion(quick(tmp_path, 2))
    folder = tmp_path / "diffusion"
    config = diffusion.Config(use="diffusion", model=str(folder), num_inference_steps=2, device="cpu")
    backend = diffusion.Backend(config, (Category(1, "car"),))
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
    _says_no_place(folder, tmp_path)


def test_sam_export(tmp_path):
    train_tiny_sam(quick(tmp_path, 2))
    backend = sam.Backend(sam.Config(use="sam", model=str(tmp_path / "sam"), device="cpu"), (Category(1, "car"),))
    image = scenes.draw(np.random.default_rng(1), size=SIZE).image
    boxes = np.array([[2, 2, 20, 20], [0, 0, 32, 32]], np.float32)
    (found,) = backend.segment([image], [Grounding(boxes, np.array([1, 1]))])
    assert found.masks.shape == (2, SIZE, SIZE)
    _says_no_place(tmp_path / "sam", tmp_path)


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
    _says_no_place(folder, tmp_path)


def test_clip_pools_at_the_end_of_the_text(tmp_path):
    """What stands after the end of a text, padding, changes nothing."""
    torch.manual_seed(0)
    shape = train_clip.Shape(pixels=16, patch=8, width=16, layers=1, heads=2, text=16, text_layers=1, projection=8)
    model = train_clip.build(shape)["clip"].eval()
    ids = train_diffusion.tokens(train_diffusion.word_tokenizer(), ["a photo of a zebra"])
    with torch.inference_mode():
        long, short = (model.text_model(input_ids=i).pooler_output for i in (ids, ids[:, :7]))
    assert ids[0, 6] == 3
    torch.testing.assert_close(long, short)


def test_curves_are_saved(tmp_path):
    train_tiny_sam(quick(tmp_path, 4))
    with open(tmp_path / "curves" / "sam.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["step"]) for row in rows] == [2, 4]
    assert all(np.isfinite(float(row["loss"])) for row in rows)


def test_command(tmp_path, monkeypatch):
    asked: list[training.Options] = []
    monkeypatch.setattr(train_sam, "train", asked.append)
    result = CliRunner().invoke(__main__.app, ["train", "sam", "--work", str(tmp_path), "--resume", "--seed", "4"])
    assert result.exit_code == 0, result.output
    assert asked == [replace(training.Options(tmp_path), hours=2.0, resume=True, seed=4)]
    assert json.loads(json.dumps(__main__.HOURS)).keys() == TRAININGS.keys()
