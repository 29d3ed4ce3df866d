"""Boxes become masks by Segment Anything (arXiv 2304.02643), in the official implementation `segment_anything`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synthgen import devices, masks, models
from synthgen.backends import ModelConfig, Request, Segmenter
from synthgen.errors import BackendError, Problem
from synthgen.types import Grounding, Instances

BOXES_AT_ONCE = 64  # in one decoder call, as `points_per_batch` of SamAutomaticMaskGenerator; bounds the memory
STABILITY_OFFSET = 1.0  # logits; `stability_score_offset` of SamAutomaticMaskGenerator
PATCH_EMBEDDING = "image_encoder.patch_embed.proj.weight"
LICENCE = ("Apache-2.0", "https://github.com/facebookresearch/segment-anything")


def _official(embed_dim: int, depth: int, num_heads: int, global_attn_indexes: tuple[int, ...]) -> models.SamShape:
    return models.SamShape(
        image_size=1024,
        patch_size=16,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
        global_attn_indexes=global_attn_indexes,
        window_size=14,
        prompt_embed_dim=256,
        mlp_dim=2048,
        iou_head_hidden_dim=256,
    )


# Width of the image encoder -> the official model that has it: segment_anything/build_sam.py.
OFFICIAL = {
    768: _official(768, 12, 12, (2, 5, 8, 11)),  # vit_b
    1024: _official(1024, 24, 16, (5, 11, 17, 23)),  # vit_l
    1280: _official(1280, 32, 16, (7, 15, 23, 31)),  # vit_h
}


class Config(ModelConfig):
    """Options of the SAM segmenter. `model`: `mini`; `vit_b`, `vit_l` or `vit_h`; an official checkpoint (.pth or
    .safetensors); or a folder with a `synthgen.json` card that has the model's dimensions under `sam`."""


class Backend(Segmenter[Config]):
    """One mask a box, with its scores:

    - `predicted_iou`: the model's own estimate of the mask's IoU with the truth.
    - `stability_score`: IoU of the masks at logits +1 and -1, at the image's resolution; 0 for an empty mask.
    - `box_iou`: IoU of the mask's tight box with the grounded box; 0 for an empty mask.
    """

    def check(self, request: Request) -> Iterable[Problem]:
        try:
            _weights(self._path())
        except (models.ModelMissing, BackendError) as error:
            yield Problem(".model", str(error))

    def identity(self) -> str:
        return models.model_identity(self._path())

    def licences(self) -> Iterable[tuple[str, str]]:
        path = self._path()
        card = models.read_card(path)
        if card.licence:
            yield card.licence.name, card.licence.url
        elif path.name in {Path(known.url).name for known in models.KNOWN.values() if known.url}:
            yield LICENCE

    def segment(self, images: Sequence[NDArray[np.uint8]], groundings: Sequence[Grounding]) -> list[Instances]:
        """Images uint8 (H, W, 3), RGB, of any sizes, with their boxes -> one mask a box, in the same order.

        An image without boxes does not reach the model.

        Raises:
            BackendError: the checkpoint cannot be read, or is no SAM of the dimensions it should have.
        """
        labelled = [Instances.empty(*image.shape[:2]) for image in images]
        work = [i for i, grounding in enumerate(groundings) if len(grounding)]
        sam = self._model() if work else None
        for start in range(0, len(work), self.config.batch_size):
            batch = work[start : start + self.config.batch_size]
            embedded = _embed(sam, [images[i] for i in batch])
            for i, (embedding, input_size) in zip(batch, embedded, strict=True):
                labelled[i] = _decode(sam, embedding, input_size, images[i].shape[:2], groundings[i])
        return labelled

    def _path(self) -> Path:
        return models.find_model(self.config.model, "sam", self.config.revision)

    def _model(self) -> Any:
        path = self._path()
        device = devices.torch_device(self.config.device)
        dtype = devices.torch_dtype(self.config.torch_dtype, device)
        return devices.resident(("sam", path, device, dtype), lambda: _load(path, device, dtype))


def _weights(path: Path) -> tuple[Path, models.SamShape | None]:
    """The weights' file of a model, and its dimensions where a card says them.

    Raises:
        BackendError, ModelMissing: the path is no SAM, as far as can be told without reading weights.
    """
    shape, file = None, path
    if path.is_dir():
        card = models.read_card(path)
        if card.sam is None or card.weights is None:
            takes = "takes a folder whose `synthgen.json` has `sam` (dimensions) and `weights` (file name)"
            raise BackendError(f"{path} has no card of a SAM; {takes}, or an official checkpoint")
        if Path(card.weights).name != card.weights or not (path / card.weights).is_file():
            raise BackendError(f"{path}: its card's weights are {card.weights!r}; takes the name of a file there")
        shape, file = card.sam, path / card.weights
    if file.suffix not in {".pth", ".safetensors"}:
        raise BackendError(f"{file} is no SAM checkpoint; takes a .pth or .safetensors file")
    return file, shape


def _read(file: Path) -> dict[str, Any]:
    """A checkpoint's tensors by name, on the CPU. No code in a file is ever run."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    takes = "takes a state dict of segment_anything's Sam, in which there is no code"
    try:
        if file.suffix == ".safetensors":
            state = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except (UnpicklingError, SafetensorError, RuntimeError, EOFError, ValueError) as error:
        reason = "it holds more than tensors" if "Weights only load failed" in str(error) else str(error).split("\n")[0]
        raise BackendError(f"{file} was not loaded: {reason}; {takes}") from error
    if not isinstance(state, dict) or not isinstance(state.get(PATCH_EMBEDDING), torch.Tensor):
        raise BackendError(f"{file} has no {PATCH_EMBEDDING!r}; {takes}")
    return state


def _load(path: Path, device: Any, dtype: Any) -> Any:
    import torch

    file, shape = _weights(path)
    state = _read(file)
    if shape is None:
        width = state[PATCH_EMBEDDING].shape[0]
        if width not in OFFICIAL:
            takes = f"without a `synthgen.json` card takes an official one: {', '.join(map(str, OFFICIAL))}"
            raise BackendError(f"{file} is a SAM of width {width}; {takes}")
        shape = OFFICIAL[width]
    # On the meta device nothing is initialised: no time, no second copy, no numbers drawn from the global generator.
    with torch.device("meta"):
        sam = _build(shape)
    try:
        sam.load_state_dict(state, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise BackendError(f"{file} does not fit the dimensions of its model: {reason}") from error
    # Only the image encoder runs in `torch_dtype`: it is 99 % of the work (450 ms, the decoder 4 ms, vit_h on an A100),
    # and all of it in half precision is what segment-anything-fast does. Boxes go into the prompt encoder as
    # coordinates, and the 8 bits of a bfloat16 are 4 px of 1024; so the rest stays float32.
    sam.float().image_encoder.to(dtype)
    return sam.to(device).eval()


def _build(shape: models.SamShape) -> Any:
    """As `segment_anything.build_sam`, which has the dimensions of the official models only."""
    import torch
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    grid = shape.image_size // shape.patch_size
    return Sam(
        image_encoder=ImageEncoderViT(
            depth=shape.depth,
            embed_dim=shape.embed_dim,
            img_size=shape.image_size,
            mlp_ratio=4,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            num_heads=shape.num_heads,
            patch_size=shape.patch_size,
            qkv_bias=True,
            use_rel_pos=True,
            global_attn_indexes=shape.global_attn_indexes,
            window_size=shape.window_size,
            out_chans=shape.prompt_embed_dim,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=shape.prompt_embed_dim,
            image_embedding_size=(grid, grid),
            input_image_size=(shape.image_size, shape.image_size),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(
                depth=2, embedding_dim=shape.prompt_embed_dim, mlp_dim=shape.mlp_dim, num_heads=8
            ),
            transformer_dim=shape.prompt_embed_dim,
            iou_head_depth=3,
            iou_head_hidden_dim=shape.iou_head_hidden_dim,
        ),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
    )


def _embed(sam: Any, images: Sequence[NDArray[np.uint8]]) -> list[tuple[Any, tuple[int, int]]]:
    """-> for each image its embedding, float32 (1, C, h, w), and its (height, width) in the model's frame."""
    import torch
    from segment_anything.utils.transforms import ResizeLongestSide

    resize = ResizeLongestSide(sam.image_encoder.img_size)
    dtype = sam.image_encoder.patch_embed.proj.weight.dtype
    with torch.inference_mode():
        resized = [torch.as_tensor(resize.apply_image(image), device=sam.device).permute(2, 0, 1) for image in images]
        padded = torch.stack([sam.preprocess(pixels) for pixels in resized])  # (B, 3, size, size)
        embeddings = sam.image_encoder(padded.to(dtype)).float()
    return [(e[None], (pixels.shape[1], pixels.shape[2])) for e, pixels in zip(embeddings, resized, strict=True)]


def _decode(
    sam: Any, embedding: Any, input_size: tuple[int, int], size: tuple[int, int], grounding: Grounding
) -> Instances:
    """The boxes of one image, as SamPredictor.predict_torch with `multimask_output=False`. `size`: (H, W) px."""
    import torch
    from segment_anything.utils.amg import calculate_stability_score
    from segment_anything.utils.transforms import ResizeLongestSide

    boxes = ResizeLongestSide(sam.image_encoder.img_size).apply_boxes(grounding.boxes, size)  # (N, 4)
    found, predicted_iou, stability = [], [], []
    with torch.inference_mode():
        for start in range(0, len(boxes), BOXES_AT_ONCE):
            part = torch.as_tensor(boxes[start : start + BOXES_AT_ONCE], dtype=torch.float32, device=sam.device)
            sparse, dense = sam.prompt_encoder(points=None, boxes=part, masks=None)
            low_resolution, iou = sam.mask_decoder(
                image_embeddings=embedding,
                image_pe=sam.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=False,
            )
            logits = sam.postprocess_masks(low_resolution, input_size, size)[:, 0]  # (n, H, W)
            score = calculate_stability_score(logits, sam.mask_threshold, STABILITY_OFFSET)
            found.append((logits > sam.mask_threshold).cpu().numpy())
            predicted_iou.append(iou[:, 0].cpu().numpy())
            stability.append(score.nan_to_num(nan=0).cpu().numpy())  # 0/0: no logit above -1
    mask = np.concatenate(found)
    tight, is_empty = masks.mask_boxes(mask), masks.mask_areas(mask) == 0
    agreement = masks.box_iou(tight, grounding.boxes).diagonal().copy()
    return Instances(
        masks=mask,
        boxes=np.where(is_empty[:, None], grounding.boxes, tight),
        category_id=grounding.category_id,
        scores={
            **grounding.scores,
            "predicted_iou": np.concatenate(predicted_iou),
            "stability_score": np.concatenate(stability),
            "box_iou": agreement,
        },
    )
