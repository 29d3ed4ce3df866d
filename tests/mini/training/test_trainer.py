"""What every training shares: rates, averages, checkpoints that resume to the same weights, batches by number."""

import csv
import os
import shutil
import signal
import threading

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from trainings import SIZE, TRAININGS, quick, train_tiny_autoencoder, train_tiny_sam

from synthgen.base.interrupts import Interrupted
from synthgen.errors import RunError
from synthgen.mini.training import autoencoder, clip, diffusion, sam
from synthgen.mini.training.trainer import Trainer, average_decay, batches, learning_rate


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
    assert learning_rate(step, share, peak=1.0, warmup=100) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("step", "decay"),
    [(0, 0.1), (1, 2 / 11), (8, 0.5), (89, 90 / 99), (10**6, 0.999)],
)
def test_average_decay(step, decay):
    assert average_decay(step, 0.999) == pytest.approx(decay)


class _Weight(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0]))


def _no_batch(rng, index):
    return {"index": np.array([index])}


def test_average_of_weights(tmp_path):
    trainer = Trainer(
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
    trainer = Trainer("one", lambda: {"m": _Weight()}, quick(tmp_path, 1), peak=1.0, decay=0.9)
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

    steps = Trainer.advance

    def stopped_after_two(self, batch, step):
        figures = steps(self, batch, step)
        if self.step == 2 and self.name == name:
            os.kill(os.getpid(), signal.SIGTERM)
        return figures

    assert threading.current_thread() is threading.main_thread()
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Trainer, "advance", stopped_after_two)
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
    monkeypatch.setattr(Trainer, "run", run)
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


def test_what_cannot_be_started_from(tmp_path):
    train_tiny_sam(quick(tmp_path / "sam", 1))
    with pytest.raises(RunError, match=r"cannot start from .*nowhere"):
        train_tiny_sam(quick(tmp_path / "other", 1, start=tmp_path / "nowhere"))
    with pytest.raises(RunError, match=r"cannot start from") as error:
        sam.train(quick(tmp_path / "other", 1, start=tmp_path / "sam" / "sam"), sam.Prompts(4, SIZE))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("make", [
    autoencoder.Pictures(2, SIZE), diffusion.Captioned(3, SIZE), sam.Prompts(3, SIZE),
    clip.Pairs(3, 2, SIZE, 16),
], ids=lambda make: type(make).__name__)  # fmt: skip
def test_batches_depend_on_seed_and_number_alone(make):
    stream = batches(make, 5, 0, workers=0)
    next(stream)
    second = next(stream)
    again = next(batches(make, 5, 1, workers=0))
    other = next(batches(make, 6, 1, workers=0))
    assert torch.equal(second["images"], again["images"])
    assert not torch.equal(second["images"], other["images"])


def test_a_worker_process_draws_the_same(tmp_path):
    make = autoencoder.Pictures(1, SIZE)
    here, there = (next(batches(make, 0, 3, workers)) for workers in (0, 1))
    assert torch.equal(here["images"], there["images"])


def test_curves_are_saved(tmp_path):
    train_tiny_sam(quick(tmp_path, 4))
    with open(tmp_path / "curves" / "sam.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["step"]) for row in rows] == [2, 4]
    assert all(np.isfinite(float(row["loss"])) for row in rows)
