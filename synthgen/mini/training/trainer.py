"""The trainer of all embedded models: clock, learning rate, averaged weights, checkpoints, curves and prefetching."""

from __future__ import annotations

import copy
import csv
import io
import math
import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, Progress, TimeElapsedColumn
from torch import nn
from torch.utils.data import DataLoader, Dataset

from synthgen import devices
from synthgen.base import interrupts
from synthgen.base.files import atomic
from synthgen.errors import RunError

Batch = dict[str, Any]
Draw = Callable[[np.random.Generator, int], Batch]  # rng, number of the batch -> arrays; picklable
Step = Callable[[Batch, torch.Generator], tuple[torch.Tensor, dict[str, float]]]  # -> loss, figures for the curve
Export = Callable[[Mapping[str, nn.Module]], None]
Weights = dict[str, torch.Tensor]
Earlier = Callable[[Path], dict[str, Weights]]  # an export's folder -> the weights of each model

COLUMNS = ("{task.description}", BarColumn(), "{task.percentage:.1f}%", TimeElapsedColumn(), "{task.fields[figures]}")


@dataclass(frozen=True)
class Options:
    """How a training runs.

    Attributes:
        work: the folder of checkpoints, curves and models.
        hours: the time of the whole training, over all its resumptions.
        steps: ends the training after this many steps instead, so that its end does not depend on the machine's speed.
        start: the folder of an earlier model, whose weights replace the random ones.
        learning_rate: the peak; None takes the one that suits random weights.
        workers: the number of processes that draw scenes.
    """

    work: Path
    hours: float = 1.0
    steps: int | None = None
    seed: int = 0
    resume: bool = False
    start: Path | None = None
    learning_rate: float | None = None
    device: str = "auto"
    torch_dtype: str = "auto"
    workers: int = 1
    save_every_s: float = 300.0
    report_every: int = 20


def learning_rate(step: int, progress: float, peak: float, warmup: int) -> float:
    """Linear warm-up over `warmup` steps, times a half cosine over the training's progress (arXiv 1608.03983)."""
    return peak * min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))) + 0.002 * peak


def average_decay(step: int, decay: float) -> float:
    """The decay of the moving average of the weights: at first (1 + step) / (10 + step), so that the average forgets
    the initial weights (as TensorFlow's ExponentialMovingAverage does with `num_updates`)."""
    return min(decay, (1 + step) / (10 + step))


def training_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of autocast: `auto` is bfloat16 where the chip computes in it, else float32. float16 would need loss
    scaling."""
    if name != "auto":
        return devices.torch_dtype(name, device)
    return torch.bfloat16 if devices.computes_bfloat16(device) else torch.float32


def _load_earlier(models: Mapping[str, nn.Module], earlier: Earlier, folder: Path) -> None:
    try:
        for name, weights in earlier(folder).items():
            models[name].load_state_dict(weights)
    except (
        OSError,
        RuntimeError,
    ) as error:  # torch's message lists every tensor that does not fit; the first lines suffice
        first = str(error).strip().splitlines()
        raise RunError(f"cannot start from {folder}: {' '.join(first[:2])}") from error


class _Numbered(Dataset[Batch]):
    """Batch `index` is a function of the seed and `index` alone, so a resumed training draws the same batches."""

    def __init__(self, draw: Draw, seed: int) -> None:
        self.draw, self.seed = draw, seed

    def __getitem__(self, index: int) -> Batch:
        return self.draw(np.random.default_rng([self.seed, index]), index)


def _start_worker(number: int) -> None:
    import cv2

    cv2.setNumThreads(0)
    for name in interrupts.SIGNALS:  # A terminal's Ctrl-C reaches workers too, but the trainer ends them.
        signal.signal(name, signal.SIG_IGN)


def batches(draw: Draw, seed: int, start: int, workers: int) -> Iterator[Batch]:
    """Yields batches from number `start` on, without end, with arrays as tensors. Each worker prefetches up to four."""
    context = multiprocessing.get_context("spawn") if workers else None  # forking deadlocks with torch's threads
    loader: DataLoader[Batch] = DataLoader(
        _Numbered(draw, seed), batch_size=None, sampler=range(start, sys.maxsize), num_workers=workers,
        prefetch_factor=4 if workers else None, worker_init_fn=_start_worker, multiprocessing_context=context,
        generator=torch.Generator(),
    )  # fmt: skip
    return iter(loader)


def step_generator(seed: int, step: int) -> torch.Generator:
    """The generator of all random numbers of a step, so that no generator's state is kept between steps."""
    entropy = np.random.SeedSequence([seed, step, 1]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(entropy) >> 1)


class Trainer:
    """Trains `models` together: from random weights, from the weights that `earlier` reads in `options.start`, or from
    the checkpoint `work/checkpoints/NAME.pt`.

    `average` holds the models with averaged weights, which are exported. `about` describes the training, such as the
    order of words; a checkpoint with another description is refused.

    Raises:
        RunError: there is a checkpoint and `resume` is false, or there is none and it is true; or the checkpoint or the
            earlier model does not fit.
    """

    def __init__(
        self, name: str, build: Callable[[], dict[str, nn.Module]], options: Options, *, peak: float, decay: float,
        warmup: int = 200, weight_decay: float = 0.01, about: str = "", earlier: Earlier | None = None,
    ) -> None:  # fmt: skip
        self.options, self.decay, self.warmup, self.name = options, decay, warmup, name
        self.peak = options.learning_rate or peak
        self.about = f"seed {options.seed}; {about}"
        self.checkpoint = options.work / "checkpoints" / f"{name}.pt"
        self.device = devices.torch_device(options.device)
        self.dtype = training_dtype(options.torch_dtype, self.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            built = build()
        if options.start and earlier and not options.resume:
            _load_earlier(built, earlier, options.start)
        self.average = {k: copy.deepcopy(m).to(self.device).eval().requires_grad_(False) for k, m in built.items()}
        self.models = {k: m.to(self.device, memory_format=torch.channels_last).train() for k, m in built.items()}  # type: ignore[call-overload]
        self.weights = [p for m in self.models.values() for p in m.parameters()]
        self._averaged: list[torch.Tensor] = [p for m in self.average.values() for p in m.parameters()]
        self.optimizer = torch.optim.AdamW(
            self.weights, lr=self.peak, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True
        )
        self.step, self.elapsed_s, self.curve = 0, 0.0, list[dict[str, float]]()
        if options.resume:
            self._load()
        elif self.checkpoint.exists():
            raise RunError(f"{self.checkpoint} exists; continue from it with --resume, or name another --work")

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype is torch.bfloat16)

    @property
    def progress(self) -> float:
        """The share of the training that is done, from 0."""
        if self.options.steps is not None:
            return self.step / self.options.steps
        return self.elapsed_s / (3600 * self.options.hours)

    def run(self, draw: Draw, step: Step, export: Export) -> None:
        """Trains until the time or the steps are over. Exports the models then and with every checkpoint.

        Raises:
            Interrupted: a signal came; the checkpoint has been written.
        """
        began, before, saved_s = time.monotonic(), self.elapsed_s, self.elapsed_s
        with interrupts.stoppable(), Progress(*COLUMNS, disable=not sys.stdout.isatty()) as display:
            display.update(display.add_task(self.name, total=1.0, figures=""), completed=self.progress)
            for batch in batches(draw, self.options.seed, self.step, self.options.workers):
                if self.progress >= 1:
                    break
                figures = self.advance(batch, step)
                self.elapsed_s = before + time.monotonic() - began
                if self.step % self.options.report_every == 0:
                    self._report(figures, display)
                try:
                    interrupts.raise_if_stopped()
                except interrupts.Interrupted:
                    self.save(export)
                    raise
                if self.elapsed_s - saved_s >= self.options.save_every_s:
                    self.save(export)
                    saved_s = self.elapsed_s
            self.save(export)

    def advance(self, batch: Batch, step: Step) -> dict[str, float]:
        """Does one step, and returns its figures."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.progress, self.peak, self.warmup)
        on_device = {k: v.to(self.device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
        loss, figures = step(on_device, step_generator(self.options.seed, self.step))
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
        if nn.utils.clip_grad_norm_(
            self.weights, 1.0
        ).isfinite():  # One bad step in bfloat16 must not end a long training.
            self.optimizer.step()
        torch._foreach_lerp_(
            self._averaged, [p.detach() for p in self.weights], 1 - average_decay(self.step, self.decay)
        )
        self.step += 1
        return {"loss": loss.item(), **figures}

    def save(self, export: Export) -> None:
        """Writes the checkpoint and the curve, `work/curves/NAME.csv`, and exports the averaged models."""
        state = {
            "about": self.about, "step": self.step, "elapsed_s": self.elapsed_s, "curve": self.curve,
            "models": {k: m.state_dict() for k, m in self.models.items()},
            "average": {k: m.state_dict() for k, m in self.average.items()},
            "optimizer": self.optimizer.state_dict(),
        }  # fmt: skip
        with atomic(self.checkpoint) as file:
            torch.save(state, file)
        rows = io.StringIO()
        writer = csv.DictWriter(rows, list(dict.fromkeys(k for row in self.curve for k in row)))
        writer.writeheader()
        writer.writerows(self.curve)
        with atomic(self.options.work / "curves" / f"{self.name}.csv") as file:
            file.write(rows.getvalue().encode())
        export(self.average)

    def _load(self) -> None:
        if not self.checkpoint.is_file():
            raise RunError(f"there is no {self.checkpoint} to resume from; leave --resume out to start")
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        if state["about"] != self.about:
            raise RunError(f"{self.checkpoint} is of another training: {state['about']!r}; this is {self.about!r}")
        for models, states in ((self.models, state["models"]), (self.average, state["average"])):
            for k, model in models.items():
                model.load_state_dict(states[k])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.elapsed_s, self.curve = state["step"], state["elapsed_s"], state["curve"]

    def _report(self, figures: dict[str, float], display: Progress) -> None:
        row = {"step": float(self.step), "elapsed_s": round(self.elapsed_s, 1)}
        row |= {"lr": self.optimizer.param_groups[0]["lr"], **figures}
        self.curve.append(row)
        text = "  ".join(f"{k} {v:.4g}" for k, v in row.items() if k != "step")
        if display.disable:
            print(f"{self.name} step {self.step}  {text}", flush=True)
        display.update(display.task_ids[0], completed=self.progress, figures=f"step {self.step}  {text}")
