"""Trainings of the embedded models that are small enough for a test."""

from collections.abc import Callable
from pathlib import Path

from synthgen.mini.training import autoencoder, clip, diffusion, sam, trainer
from synthgen.models import SamShape

SIZE = 32


SAM = SamShape(
    image_size=SIZE, patch_size=8, embed_dim=16, depth=1, num_heads=2, global_attn_indexes=(0,), window_size=0,
    prompt_embed_dim=16, mlp_dim=16, iou_head_hidden_dim=16,
)  # fmt: skip


def quick(work: Path, steps: int = 4, **more) -> trainer.Options:
    return trainer.Options(
        work, steps=steps, workers=0, device="cpu", torch_dtype="float32", report_every=2, **more
    )  # fmt: skip


def train_tiny_autoencoder(options: trainer.Options) -> None:
    autoencoder.train(options, autoencoder.Pictures(2, SIZE), channels=16, decoder_blocks=1)


def train_tiny_diffusion(options: trainer.Options) -> None:
    shape = diffusion.Shape(channels=(16, 32), heads=(2, 2), groups=8, text=16, text_layers=1)
    if not (options.work / "autoencoder").exists():
        train_tiny_autoencoder(quick(options.work, 2))
    diffusion.train(options, diffusion.Captioned(4, SIZE), shape)


def train_tiny_sam(options: trainer.Options) -> None:
    sam.train(options, sam.Prompts(4, SIZE), SAM)


def train_tiny_clip(options: trainer.Options) -> None:
    shape = clip.Shape(pixels=16, patch=8, width=16, layers=1, heads=2, text=16, text_layers=1, projection=8)
    clip.train(options, clip.Pairs(4, 1, SIZE, 16), shape)


TRAININGS: dict[str, Callable[[trainer.Options], None]] = {
    "autoencoder": train_tiny_autoencoder,
    "diffusion": train_tiny_diffusion,
    "sam": train_tiny_sam,
    "clip": train_tiny_clip,
}


def says_no_place(folder: Path, work: Path) -> None:
    for file in folder.rglob("*.json"):
        assert str(work) not in file.read_text(), file
