"""How much time a run needs beside its models: a whole run against a bare loop over the same models, shard by shard.
And the time and memory of an export of any size."""

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
from synthgen.errors import BackendError
from synthgen.masks import encode_rle, mask_areas, mask_boxes
from synthgen.models.sam.model import STABILITY_OFFSET, SamModel
from synthgen.models.sam.official import Official
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
LABELS = 5  # The labels of each image in synthesised records.
SIDE_PX = 224  # At this size, five masks of a scene have 270 B of RLE each on average.


@dataclass(frozen=True, slots=True)
class Pair:
    """The times of a shard that was made twice in a row.

    Attributes:
        bare: stage -> seconds of the bare loop.
        run: seconds of the run.
    """

    bare: Mapping[str, float]
    run: float

    @property
    def ratio(self) -> float:
        return self.run / sum(self.bare.values())


@dataclass(frozen=True, slots=True)
class Comparison:
    """Seconds of one measurement.

    Attributes:
        images, accepted: the number of images that the whole run made, and that it accepted.
        pairs: the times of each shard.
        stages: stage -> seconds of the whole run's shards. Stages overlap, so their sum is more than the run's time.
        rest: seconds of the run outside its shards: plan, judge, export, report, and Prefect's flow around them.
        start: seconds until Prefect had started.
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
        """The whole run's time divided by the bare loop's; 1 means that the models need all of the time."""
        return self.whole / sum(self.bare.values())

    @property
    def spread(self) -> tuple[float, float, float]:
        """Median, least and greatest of the shards' ratios, which do not include `rest`."""
        ratios = [pair.ratio for pair in self.pairs]
        return median(ratios), min(ratios), max(ratios)


@dataclass(frozen=True, slots=True)
class ExportCost:
    """The cost of a COCO export with its commit mark, in a process of its own.

    Attributes:
        annotations: the number of annotations exported.
        seconds: wall time.
        peak_mb: the most memory that the process had, MB.
    """

    annotations: int
    seconds: float
    peak_mb: float


def export_cost(annotations: int, folder: Path) -> ExportCost:
    """Exports synthesised records with `LABELS` labels an image; `annotations`: about how many."""
    images = -(-annotations // LABELS)
    build = synthesise(folder, round(1.6 * images), objects=LABELS, side=SIDE_PX, count=images)
    judge_run(build)
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(_exported, build.run.root).result()


def _exported(root: Path) -> ExportCost:
    build = Build.open(Run(root))
    start_time = time.perf_counter()
    export_run(build)
    seconds = time.perf_counter() - start_time
    quality = build.quality()
    return ExportCost(quality.instances if quality else 0, seconds, _peak_bytes() / 1e6)


def _peak_bytes() -> int:
    """The most memory that this process has had. On Linux this is `VmHWM`, since `ru_maxrss` starts with the peak of
    the parent process."""
    if sys.platform == "darwin":
        return getrusage(RUSAGE_SELF).ru_maxrss
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def compare(spec: DatasetSpec, folder: Path) -> Comparison:
    """Makes `spec.count` images with a run with Prefect in `folder`, and the same images with the bare loop, as
    `in_turns` does. Loads the models before."""
    start_time = time.perf_counter()
    from prefect import flow

    from synthgen.flow import carry_out, make, served

    pairs: list[Pair] = []
    inside = 0.0

    def shards(run: Run, pending: Sequence[int]) -> None:
        nonlocal inside
        start_time = time.perf_counter()
        build = Build.open(run)
        pairs.extend(in_turns(build, pending, lambda shard: make(run, [shard], False, False), folder / "bare"))
        inside = time.perf_counter() - start_time

    with served():
        start = time.perf_counter() - start_time
        spec = spec.model_copy(update={"budget": 1.0})  # One round makes all images.
        stages = Stages.of(spec)
        bare_loop(
            stages, list(plan_round(spec, 1, first_round(spec), stages.generator.aspect_ratios()))[:1], folder / "warm"
        )
        start_time = time.perf_counter()
        run = Run.at(folder / "outputs", spec.name, 1)
        flow(name="bench")(lambda: carry_out(run, spec, stages, shards))()
        rest = time.perf_counter() - start_time - inside
    build = Build.open(run)
    quality = build.quality()
    assert quality is not None
    seconds = {name: seconds for name, (seconds, _) in stage_seconds(build.run).items()}
    return Comparison(quality.made, quality.accepted, pairs, seconds, rest, start)


def in_turns(build: Build, shards: Sequence[int], make: Callable[[int], object], folder: Path) -> Iterator[Pair]:
    """Makes every shard with `make` and with the bare loop, one right after the other, so that other work on the
    machine slows both. The bare loop is first in every second shard.

    A shard starts when the one before is measured. A run measures a shard while it generates the next, and these
    seconds do not show that gain."""
    for index, shard in enumerate(shards):
        jobs = build.jobs(shard)
        spent: dict[str, float] = {}
        if index % 2 == 0:
            spent = bare_loop(build.stages, jobs, folder)
        start_time = time.perf_counter()
        make(shard)
        seconds = time.perf_counter() - start_time
        if index % 2:
            spent = bare_loop(build.stages, jobs, folder)
        yield Pair(spent, seconds)


def table(result: Comparison) -> Table:
    """A table for the terminal with a row for each stage and one for all."""
    table = Table(box=None)
    table.add_column("stage")
    for column in ("bare loop", "images/s", "whole run", "images/s", "accepted/s"):
        table.add_column(column, justify="right")
    times = [(stage, result.bare[stage], result.stages[stage]) for stage in STAGES]
    for name, bare, ours in (*times, ("all", sum(result.bare.values()), result.whole)):
        rates = (f"{result.images / ours:.2f}", f"{result.accepted / ours:.2f}")
        table.add_row(name, f"{bare:.1f} s", f"{result.images / bare:.2f}", f"{ours:.1f} s", *rates)
    return table


def bare_loop(stages: Stages, jobs: Sequence[Job], folder: Path) -> dict[str, float]:
    """Makes images, labels and measures as a plain script would: the same batches through the same diffusers pipeline,
    PNG files with OpenCV, `SamPredictor` image by image and box by box, RLE, the same filters. -> stage -> seconds."""
    import cv2
    from segment_anything import SamPredictor

    folder.mkdir(parents=True, exist_ok=True)
    spent = dict.fromkeys(STAGES, 0.0)
    c: Any = stages.segmenter.config
    network = SamModel.of(c.model, c.revision, c.device, "float32").network  # `SamPredictor` knows no other dtype.
    if not isinstance(network, Official):
        raise BackendError(f"segmenter.model: got {c.model!r}; the bare loop takes a model of segment_anything")
    predictor = SamPredictor(network.sam)
    size: int = stages.generator.config.batch_size  # type: ignore[attr-defined]
    for batch in (jobs[i : i + size] for i in range(0, len(jobs), size)):
        with _adding_seconds(spent, "generate"):
            images = np.asarray(stages.generator.generate(batch))[..., :3]  # without an alpha channel
            for job, image in zip(batch, images, strict=True):
                cv2.imwrite(str(folder / f"{job.id}.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        with _adding_seconds(spent, "label"):
            groundings = stages.grounder.ground(batch, list(images))
            labels = [_predicted(predictor, image, g) for image, g in zip(images, groundings, strict=True)]
        with _adding_seconds(spent, "measure"):
            samples = [Sample(*labelled) for labelled in zip(batch, images, labels, strict=True)]
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
def _adding_seconds(spent: dict[str, float], stage: str) -> Iterator[None]:
    start_time = time.perf_counter()
    yield
    spent[stage] += time.perf_counter() - start_time
