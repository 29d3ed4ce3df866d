"""How much of a run's time is its models': a whole run against a bare loop over the same models, shard by shard; and
what exports of any size take."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from synthgen.backends import measured
from synthgen.bench.synthesis import synthesise
from synthgen.masks import encode_rle, mask_areas, mask_boxes
from synthgen.models.sam.model import STABILITY_OFFSET, SamModel
from synthgen.pipeline.build import Build
from synthgen.pipeline.export import export_run
from synthgen.pipeline.judge import judge_run
from synthgen.pipeline.stages import Stages
from synthgen.pipeline.timings import stage_seconds
from synthgen.planning.jobs import plan_round
from synthgen.planning.rounds import first_round
from synthgen.spec import DatasetSpec
from synthgen.store.run import Run
from synthgen.types import Grounding, Instances, Job, Sample

STAGES = ("generate", "label", "measure")
LABELS = 5  # an image, of synthesised records
SIDE_PX = 224  # at which five masks of a scene have 270 B of RLE each on average


@dataclass(frozen=True, slots=True)
class Pair:
    """A shard that was made twice, one right after the other: seconds of the bare loop by stage, and of the run."""

    bare: Mapping[str, float]
    run: float

    @property
    def ratio(self) -> float:
        return self.run / sum(self.bare.values())


@dataclass(frozen=True, slots=True)
class Comparison:
    """Seconds of one measurement.

    Attributes:
        images, accepted: made by the whole run, and those of them that passed.
        pairs: its shards, each with the bare loop over the same jobs.
        stages: stage -> seconds of the whole run's shards; stages overlap, so these sum to more than it took.
        rest: seconds of the run that are of no shard: plan, judge, export, report, and Prefect's flow around them.
        start: seconds that Prefect took to start.
    """

    images: int
    accepted: int
    pairs: Sequence[Pair]
    stages: Mapping[str, float]
    rest: float
    start: float

    @property
    def bare(self) -> dict[str, float]:
        """Stage -> seconds of the bare loop."""
        return {stage: sum(pair.bare[stage] for pair in self.pairs) for stage in STAGES}

    @property
    def whole(self) -> float:
        """Seconds of the whole run."""
        return sum(pair.run for pair in self.pairs) + self.rest

    @property
    def ratio(self) -> float:
        """Of the whole run to the bare loop; 1 would be nothing but models."""
        return self.whole / sum(self.bare.values())

    @property
    def spread(self) -> tuple[float, float, float]:
        """Median, least and greatest of the shards' own ratios, which have nothing of `rest`."""
        ratios = [pair.ratio for pair in self.pairs]
        return median(ratios), min(ratios), max(ratios)


@dataclass(frozen=True, slots=True)
class ExportCost:
    """What the COCO export of so many annotations, with its commit mark, takes in a process of its own: seconds, and
    the most memory, MB, that it had."""

    annotations: int
    seconds: float
    peak_mb: float


def export_cost(annotations: int, folder: Path) -> ExportCost:
    """Of synthesised records, five labels an image."""
    images = -(-annotations // LABELS)
    build = synthesise(folder, round(1.6 * images), objects=LABELS, side=SIDE_PX, count=images)
    judge_run(build)
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(_exported, build.run.root).result()


def _exported(root: Path) -> ExportCost:
    build = Build.open(Run(root))
    began = time.perf_counter()
    export_run(build)
    seconds = time.perf_counter() - began
    quality = build.quality()
    return ExportCost(quality.instances if quality else 0, seconds, _peak_bytes() / 1e6)


def _peak_bytes() -> int:
    """The most memory that this process has had. Linux's `ru_maxrss` begins with what the process that started it had;
    its `VmHWM` does not."""
    if sys.platform == "darwin":
        return getrusage(RUSAGE_SELF).ru_maxrss
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def compare(spec: DatasetSpec, folder: Path) -> Comparison:
    """Makes `spec.count` images by a run with Prefect in `folder`, and the same images by the bare loop, in turns: see
    `in_turns`. Models are loaded before."""
    began = time.perf_counter()
    from prefect import flow

    from synthgen.flow import carry_out, make, served

    pairs: list[Pair] = []
    inside = 0.0

    def shards(run: Run, pending: Sequence[int]) -> None:
        nonlocal inside
        began = time.perf_counter()
        build = Build.open(run)
        pairs.extend(in_turns(build, pending, lambda shard: make(run, [shard], False, False), folder / "bare"))
        inside = time.perf_counter() - began

    with served():
        start = time.perf_counter() - began
        spec = spec.model_copy(update={"budget": 1.0})  # one round, so that all is made in one go
        stages = Stages.of(spec)
        bare(
            stages, list(plan_round(spec, 1, first_round(spec), stages.generator.aspect_ratios()))[:1], folder / "warm"
        )
        began = time.perf_counter()
        run = Run.at(folder / "outputs", spec.name, 1)
        flow(name="bench")(lambda: carry_out(run, spec, stages, shards))()
        rest = time.perf_counter() - began - inside
    build = Build.open(run)
    quality = build.quality()
    assert quality is not None
    seconds = {name: seconds for name, (seconds, _) in stage_seconds(build.run).items()}
    return Comparison(quality.made, quality.accepted, pairs, seconds, rest, start)


def in_turns(build: Build, shards: Sequence[int], make: Callable[[int], object], folder: Path) -> Iterator[Pair]:
    """Has every shard made by `make` and by the bare loop, one right after the other, so that what else the machine
    does meets both; the bare loop is the first in every other shard.

    The next does not begin before a shard is measured, so what a run gains by measuring a shard behind the next one
    is not in these seconds."""
    for place, shard in enumerate(shards):
        jobs = build.jobs(shard)
        spent: dict[str, float] = {}
        if place % 2 == 0:
            spent = bare(build.stages, jobs, folder)
        began = time.perf_counter()
        make(shard)
        seconds = time.perf_counter() - began
        if place % 2:
            spent = bare(build.stages, jobs, folder)
        yield Pair(spent, seconds)


def table(found: Comparison) -> Table:
    """For the terminal: a row a stage."""
    drawn = Table(box=None)
    drawn.add_column("stage")
    for column in ("bare loop", "images/s", "whole run", "images/s", "accepted/s"):
        drawn.add_column(column, justify="right")
    times = [(stage, found.bare[stage], found.stages[stage]) for stage in STAGES]
    for name, bare, ours in (*times, ("all", sum(found.bare.values()), found.whole)):
        rates = (f"{found.images / ours:.2f}", f"{found.accepted / ours:.2f}")
        drawn.add_row(name, f"{bare:.1f} s", f"{found.images / bare:.2f}", f"{ours:.1f} s", *rates)
    return drawn


def bare(stages: Stages, jobs: Sequence[Job], folder: Path) -> dict[str, float]:
    """What a script would do that has no interest in anything but images, labels and measures: the same batches through
    the same diffusers pipeline, PNG files by OpenCV, `SamPredictor` image by image and box by box, RLE, the same
    filters. -> stage: seconds."""
    import cv2
    from segment_anything import SamPredictor

    folder.mkdir(parents=True, exist_ok=True)
    spent = dict.fromkeys(STAGES, 0.0)
    c: Any = stages.segmenter.config
    predictor = SamPredictor(SamModel.of(c.model, c.revision, c.device, "float32").sam)  # it knows no other
    size: int = stages.generator.config.batch_size  # type: ignore[attr-defined]
    for batch in (jobs[i : i + size] for i in range(0, len(jobs), size)):
        with _spending(spent, "generate"):
            images = stages.generator.generate(batch)
            for job, image in zip(batch, images, strict=True):
                cv2.imwrite(str(folder / f"{job.id}.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        with _spending(spent, "label"):
            groundings = stages.grounder.ground(batch, list(images))
            found = [_predicted(predictor, image, g) for image, g in zip(images, groundings, strict=True)]
        with _spending(spent, "measure"):
            samples = [Sample(*labelled) for labelled in zip(batch, images, found, strict=True)]
            for name, f in stages.filters.items():
                measured(name, f, samples)
    return spent


def _predicted(predictor: Any, image: NDArray[np.uint8], grounding: Grounding) -> Instances:
    import torch
    from segment_anything.utils.amg import calculate_stability_score

    if not len(grounding):
        return Instances.empty(*image.shape[:2])
    predictor.set_image(image)
    masks, scores, threshold = [], [], predictor.model.mask_threshold
    for box in grounding.boxes:
        logits, iou, _ = predictor.predict(box=box, multimask_output=False, return_logits=True)
        stability = calculate_stability_score(torch.as_tensor(logits), threshold, STABILITY_OFFSET)
        masks.append(logits[0] > threshold)
        scores.append((float(iou[0]), float(stability[0])))
    mask = np.stack(masks)
    encode_rle(mask), mask_areas(mask)
    iou, stable = np.array(scores, np.float32).T
    given = {"predicted_iou": iou, "stability_score": np.nan_to_num(stable), "box_iou": np.ones(len(mask), np.float32)}
    return Instances(mask, mask_boxes(mask), grounding.category_id, {**grounding.scores, **given})


@contextmanager
def _spending(spent: dict[str, float], stage: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    spent[stage] += time.perf_counter() - began
