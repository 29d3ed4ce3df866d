"""The two filters that measure whole images with a CLIP: batches against one image at a time, in turns.

    python benchmarks/clip_batches.py [--images 64] [--rounds 5] [--size 512] [--torch-dtype auto]

It measures with the embedded CLIP, and with a CLIP of the size of ViT-B/32 with random weights, since the time does not
depend on the weights.

Prints one line for each model and filter: the median wall time for all images, one at a time and in batches; the median
of the rounds' ratios; and the greatest difference between the numbers of both ways.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

from synthgen.backends import Filter
from synthgen.filters import near_duplicate_embedding, prompt_agreement
from synthgen.mini import scenes
from synthgen.mini.training import captions
from synthgen.models import MINI
from synthgen.types import Instances, Job, Sample


def save_base(folder: Path) -> None:
    """A CLIP of the size of ViT-B/32 with random weights and the embedded one's tokenizer."""
    processor = CLIPProcessor.from_pretrained(MINI / "clip", local_files_only=True)
    processor.image_processor = CLIPImageProcessor()
    torch.manual_seed(0)
    config = CLIPConfig()  # The defaults are ViT-B/32.
    config.text_config.eos_token_id = processor.tokenizer.eos_token_id
    CLIPModel(config).save_pretrained(folder)
    processor.save_pretrained(folder)


def drawn(count: int, size: int) -> list[Sample]:
    samples = []
    for i in range(count):
        scene = scenes.draw(np.random.default_rng([2**40, 8, i]), size=size)
        prompt = captions.caption("grass", scene.things)
        job = Job(i + 1, 1, 0, i, "f", "train", prompt, "", {}, (), None, 7, size, size)
        samples.append(Sample(job, scene.image, Instances.empty(size, size)))
    return samples


def seconds(f: Filter[Any], samples: Sequence[Sample], at_once: int) -> tuple[float, np.ndarray]:
    began = time.perf_counter()
    values = [v for i in range(0, len(samples), at_once) for v in f.measure_many(samples[i : i + at_once])]
    return time.perf_counter() - began, np.array(values, np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--torch-dtype", default="auto")
    options = parser.parse_args()
    samples = drawn(options.images, options.size)
    with TemporaryDirectory() as folder:
        save_base(Path(folder))
        for name, model in (("mini", "mini"), ("ViT-B/32, random", folder)):
            for module in (prompt_agreement, near_duplicate_embedding):
                use = module.__name__.rpartition(".")[2]
                config = module.Config(use=use, model=model, device="cpu", torch_dtype=options.torch_dtype)
                f: Filter[Any] = module.Backend(config, ())
                for at_once in (1, f.batch_size):  # The first call loads the model and prepares its kernels.
                    seconds(f, samples, at_once)
                pairs = [(seconds(f, samples, 1), seconds(f, samples, f.batch_size)) for _ in range(options.rounds)]
                alone, together = (float(np.median([pair[i][0] for pair in pairs])) for i in (0, 1))
                off = max(float(abs(one[1] - many[1]).max()) for one, many in pairs)
                ratio = float(np.median([one[0] / many[0] for one, many in pairs]))
                print(
                    f"{name}: {use}: {alone:.2f} s one at a time, {together:.2f} s in batches of {f.batch_size}: "
                    f"{ratio:.1f} times as fast; numbers differ by {off:.1e} at most"
                )


if __name__ == "__main__":
    main()
