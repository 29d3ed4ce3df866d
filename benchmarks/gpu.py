"""How fast large models are here: bare loops over upstream's own calls, against this project's stages.

    python benchmarks/gpu.py [--models sdxl owlv2 …] [--batches 1 2 4 8] [--rounds 3] [--size real] [--markdown FILE]

The models have their real sizes and random weights (benchmarks/gpu_models.json), so nothing is downloaded. What does
not fit the device is left out, with the reason. `--size reduced` runs the same code with tiny models, as a test does on
CPUs.

A row is a model and a batch: images a second of the bare loop, of this project, their ratio, with compiled blocks for
generators, and the most memory that was in use. Both sides run in turns, in one process and in the same dtype, and the
median of the rounds counts.

- Generators: the bare loop calls the pipeline as its documentation does and gets pictures of Pillow. This project's
  side is the call of the `diffusion` generator.
- Finders, cutters and CLIPs: the bare loop calls upstream's processor, model and post-processing, a batch at a time;
  SAM's calls `SamPredictor`, or the processor and model of transformers, for four boxes an image.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gpu_models
import numpy as np
import torch
from gpu_models import GENERATORS, LABELLERS, SETTINGS

from synthgen import devices
from synthgen.generators._diffusion_call import Call
from synthgen.generators._diffusion_config import Config
from synthgen.grounders import detector
from synthgen.models import remarks
from synthgen.models.clip import ClipConfig, ClipModel
from synthgen.models.families import family
from synthgen.models.families.family import Guidance
from synthgen.models.sam.model import SamModel
from synthgen.segmenters import sam
from synthgen.types import Category, Grounding, Job

HEAD = ("model", "parameters", "dtype", "px", "batch", "bare loop", "synthgen", "ratio", "compiled", "memory")
CATEGORIES = (Category(1, "cat"), Category(2, "dog"))
WORDS = ("cat", "dog")
GIB = 2**30


@dataclass(frozen=True)
class Row:
    """Images a second; `compiled` and `memory` (bytes) are None where there is no such figure."""

    model: str
    parameters: int
    dtype: str
    side: int
    batch: int
    bare: float
    ours: float
    compiled: float | None = None
    memory: int | None = None

    def cells(self) -> tuple[str, ...]:
        compiled = "" if self.compiled is None else f"{self.compiled:.3g}"
        memory = "" if self.memory is None else f"{self.memory / GIB:.1f} GiB"
        return (
            self.model, f"{self.parameters / 1e9:.2f} B", self.dtype, str(self.side), str(self.batch),
            f"{self.bare:.3g}/s", f"{self.ours:.3g}/s", f"{self.ours / self.bare:.2f}", compiled, memory,
        )  # fmt: skip


def jobs(count: int, side: int) -> list[Job]:
    prompt = "a photo of a cat"
    return [Job(i + 1, 1, 1, i, "f", "train", prompt, "", {}, (1, 2), None, i, side, side) for i in range(count)]


def pictures(count: int, side: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8))


def rates(device: torch.device, images: int, rounds: int, *works: Callable[[], object]) -> list[float]:
    """Images a second of each work, in turns: the median of the rounds, after one that does not count."""
    seconds: list[list[float]] = [[] for _ in works]
    for number in range(rounds + 1):
        for spent, work in zip(seconds, works, strict=True):
            started = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number:
                spent.append(time.perf_counter() - started)
    return [images / statistics.median(spent) for spent in seconds]


def peak(device: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def parameters(model: Any) -> int:
    parts = model.components.values() if hasattr(model, "components") else [model]
    return sum(w.numel() for part in parts if isinstance(part, torch.nn.Module) for w in part.parameters())


def generators(name: str, size: str, batches: Sequence[int], rounds: int, device: torch.device) -> Iterator[Row]:
    dtype, parts = devices.torch_dtype("auto", device), SETTINGS[name][size]
    pipeline = gpu_models.pipeline(name, size, device, dtype)
    row, side, scale = family(type(pipeline).__name__), parts["side"], parts["guidance_scale"]
    config = Config(use="diffusion", device=str(device), num_inference_steps=parts["steps"], guidance_scale=scale)
    guided = {} if scale is None else {row.cfg: scale}
    call = Call(pipeline, row, Guidance(row.cfg, row.above), config.settings(row))
    if row.empty_negative is not None and scale is not None:
        guided["negative_prompt"] = row.empty_negative

    def bare(batch: Sequence[Job]) -> None:
        seeds = [torch.Generator("cpu").manual_seed(job.seed) for job in batch]
        negative = {k: [v] * len(batch) if isinstance(v, str) else v for k, v in guided.items()}
        prompts = [job.prompt for job in batch]
        pipeline(
            prompt=prompts, height=side, width=side, num_inference_steps=parts["steps"], generator=seeds, **negative
        )

    plain: dict[int, Row] = {}
    for count in batches:
        batch = jobs(count, side)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        speeds = rates(device, count, rounds, lambda batch=batch: bare(batch), lambda batch=batch: call.images(batch))
        plain[count] = Row(name, parameters(pipeline), str(dtype)[6:], side, count, *speeds, memory=peak(device))
    if not devices.compiles("auto", device):
        yield from plain.values()
        return
    # Compiling changes the blocks for good, so it comes last.
    devices.compile_blocks(getattr(pipeline, "transformer", None) or pipeline.unet)
    for count in batches:
        batch = jobs(count, side)
        (compiled,) = rates(device, count, rounds, lambda batch=batch: call.images(batch))
        yield Row(**{**plain[count].__dict__, "compiled": compiled})


def labellers(name: str, size: str, batches: Sequence[int], rounds: int, device: torch.device) -> Iterator[Row]:
    side, dtype = SETTINGS[name][size]["side"], devices.torch_dtype("auto", device)
    with tempfile.TemporaryDirectory() as root:
        folder = gpu_models.save(name, size, Path(root) / name)
        options = {"model": str(folder), "device": str(device)}
        for count in batches:
            images = pictures(count, side)
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            model, bare, ours = PARTS[name](options, images, device, dtype)
            speeds = rates(device, count, rounds, bare, ours)
            yield Row(name, parameters(model), str(dtype)[6:], side, count, *speeds, memory=peak(device))
        devices.forget(devices.loaded())


Sides = tuple[Any, Callable[[], object], Callable[[], object]]  # the model, the bare loop and ours


def cutter(options: dict[str, str], images: list[np.ndarray], device: torch.device, dtype: torch.dtype) -> Sides:
    side = images[0].shape[0]
    boxes = (
        np.array([[0.1, 0.1, 0.5, 0.5], [0.4, 0.2, 0.9, 0.8], [0, 0, 1, 1], [0.6, 0.6, 0.9, 0.9]], np.float32) * side
    )
    segmenter = sam.Backend(sam.Config(use="sam", batch_size=len(images), **options), CATEGORIES)
    groundings = [Grounding(boxes, np.ones(len(boxes), np.int64)) for _ in images]
    network: Any = SamModel.of(options["model"], None, options["device"], "auto").network

    def ours() -> object:
        return segmenter.segment(images, groundings)

    if hasattr(network, "sam"):  # of segment_anything
        from segment_anything import SamPredictor

        official = network.sam
        # `SamPredictor` computes in the dtype of the weights' images; autocast is how its users run half precision.
        predictor = SamPredictor(official)

        def bare() -> None:
            for image in images:
                with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                    predictor.set_image(image)
                    inputs = torch.as_tensor(boxes, device=device)
                    inputs = predictor.transform.apply_boxes_torch(inputs, image.shape[:2])
                    predictor.predict_torch(None, None, boxes=inputs, multimask_output=False)

        return official, bare, ours
    from transformers import AutoProcessor

    processor, model = AutoProcessor.from_pretrained(options["model"]), network.model

    def bare_of_transformers() -> None:
        inputs = processor(images=images, input_boxes=[boxes.tolist()] * len(images), return_tensors="pt").to(device)
        with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            outputs = model(**inputs, multimask_output=False)
        processor.post_process_masks(outputs.pred_masks.cpu(), inputs["original_sizes"].cpu())

    return model, bare_of_transformers, ours


def finder(options: dict[str, str], images: list[np.ndarray], device: torch.device, dtype: torch.dtype) -> Sides:
    backend = detector.Backend(detector.Config(use="detector", batch_size=len(images), **options), CATEGORIES)
    loaded = backend.load()
    model, processor = loaded.model, loaded.processor
    batch = jobs(len(images), images[0].shape[0])
    is_owl = model.config.model_type.startswith("owl")
    texts: Any = (
        [[f"a photo of a {w}" for w in WORDS]] * len(images) if is_owl else [". ".join(WORDS) + "."] * len(images)
    )
    sizes = [image.shape[:2] for image in images]

    def bare() -> None:
        inputs = processor(images=images, text=texts, return_tensors="pt", padding=True).to(device)
        with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            outputs = model(**inputs)
        if is_owl:
            processor.post_process_grounded_object_detection(outputs, threshold=0.2, target_sizes=sizes)
        else:
            processor.post_process_grounded_object_detection(outputs, inputs.input_ids, 0.2, target_sizes=sizes)

    return model, bare, lambda: backend.ground(batch, images)


def namer(options: dict[str, str], images: list[np.ndarray], device: torch.device, dtype: torch.dtype) -> Sides:
    clip = ClipModel.of(ClipConfig(use="clip", **options))
    model, processor = clip.model, clip.processor

    def bare() -> None:
        pixels = processor(images=images, return_tensors="pt").pixel_values.to(device, model.dtype)
        with torch.inference_mode():
            torch.nn.functional.normalize(model.get_image_features(pixel_values=pixels).pooler_output, dim=-1).cpu()

    return model, bare, lambda: clip.pictures(images, len(images))


PARTS = {"sam_vit_h": cutter, "sam2_l": cutter, "owlv2": finder, "llmdet": finder, "clip_l": namer}


def table(rows: Iterable[Row], about: str) -> str:
    lines = [HEAD, ("---",) * len(HEAD), *(row.cells() for row in rows)]
    return "\n".join([about, "", *(f"| {' | '.join(line)} |" for line in lines)]) + "\n"


def main(arguments: Sequence[str] | None = None) -> str:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=[*GENERATORS, *LABELLERS], default=[*GENERATORS, *LABELLERS])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", choices=["real", "reduced"], default="real")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--markdown", type=Path, help="writes the table into this file")
    options = parser.parse_args(arguments)
    device = devices.torch_device(options.device)
    chip = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} cores"
    about = f"{chip}, torch {torch.__version__}, {options.size} sizes, images a second."
    rows: list[Row] = []
    for name in options.models:
        measure = generators if name in GENERATORS else labellers
        try:
            for row in measure(name, options.size, options.batches, options.rounds, device):
                rows.append(row)
                print(" ".join(row.cells()), file=sys.stderr, flush=True)
        except torch.OutOfMemoryError as error:
            print(f"{name}: does not fit: {str(error).splitlines()[0]}", file=sys.stderr, flush=True)
        devices.free_memory()
    text = table(rows, about)
    if options.markdown:
        options.markdown.write_text(text)
    return text


if __name__ == "__main__":
    remarks.listen()  # the libraries remark upon random weights
    print(main(), end="")
