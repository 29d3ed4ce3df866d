"""Segment Anything (arXiv 2304.02643) in the official implementation `segment_anything`: weights, images, prompts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from pickle import UnpicklingError
from pickletools import genops
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray

from synthgen import devices, models
from synthgen.backends import ModelConfig
from synthgen.base.wording import plain, shown
from synthgen.errors import BackendError, Problem
from synthgen.models import weights

STABILITY_OFFSET = 1.0  # logits; `stability_score_offset` of SamAutomaticMaskGenerator
# In one decoder call: as `points_per_batch` of SamAutomaticMaskGenerator, which bounds the memory; on CPUs as many as
# their caches have room for.
PROMPTS_AT_ONCE, ON_CPU = 64, 16
LICENCE = ("Apache-2.0", "https://github.com/facebookresearch/segment-anything")
# What a state dict's pickle names, and `torch.load` takes more: with `bytearray`, a few bytes ask for any memory.
PICKLED = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter",
           *(f"torch {kind}Storage" for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int"))}  # fmt: skip
# What reading garbled bytes, or building a model of odd dimensions, can end in.
GARBLED = (OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError)
MAX_PICKLE = 10_000_000  # bytes; vit_h has 60,000
TAKES = "takes a state dict of segment_anything's Sam, in which there is no code"
PATCH_EMBEDDING = "image_encoder.patch_embed.proj.weight"


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


@dataclass(frozen=True, slots=True)
class Embedded:
    """An image as SAM sees it. `features`: tensor (1, C, h, w); sizes are (height, width) px, `input_size` in the
    model's frame."""

    features: Any
    input_size: tuple[int, int]
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Answer:
    """Masks for each of N prompts, M = 1 or 3: `logits` tensor (N, M, h, w), at a quarter of the model's side, with the
    model's padding; `predicted_iou` tensor (N, M)."""

    logits: Any
    predicted_iou: Any


@dataclass(frozen=True, slots=True)
class Masks:
    """Masks in an image's own pixels.

    Attributes:
        masks: bool (N, H, W).
        stability_score: IoU of the masks at logits `STABILITY_OFFSET` above and below the threshold, float32 (N,); 0
            where there is none below.
    """

    masks: NDArray[np.bool_]
    stability_score: NDArray[np.float32]


class SamModel:
    """A loaded SAM."""

    def __init__(self, sam: Any) -> None:
        self.sam = sam

    @classmethod
    def of(cls, model: str, revision: str | None, device: str, torch_dtype: str) -> SamModel:
        """The model that a spec names, loaded once a process.

        Raises:
            BackendError: the checkpoint cannot be read, or is no SAM of the dimensions it should have.
            ModelMissing: it is not on this machine.
        """
        path = models.find_model(model, "sam", revision)
        where = devices.torch_device(device)
        dtype = devices.torch_dtype(torch_dtype, where)
        return devices.resident(("sam", path, where, dtype), lambda: cls(_load(path, where, dtype)))

    @property
    def side(self) -> int:
        """px of the square that images are scaled into."""
        return int(self.sam.image_encoder.img_size)

    @property
    def prompts_at_once(self) -> int:
        return ON_CPU if self.sam.device.type == "cpu" else PROMPTS_AT_ONCE

    def embed(self, images: Sequence[NDArray[np.uint8]]) -> list[Embedded]:
        """Images uint8 (H, W, 3), RGB, of any sizes, in one batch."""
        import torch
        from segment_anything.utils.transforms import ResizeLongestSide

        sam, resize = self.sam, ResizeLongestSide(self.side)
        dtype = sam.image_encoder.patch_embed.proj.weight.dtype
        with torch.inference_mode():
            resized = [torch.as_tensor(resize.apply_image(im), device=sam.device).permute(2, 0, 1) for im in images]
            padded = torch.stack([sam.preprocess(pixels) for pixels in resized])  # (B, 3, side, side)
            features = sam.image_encoder(padded.to(dtype)).float()
        return [
            Embedded(f[None], (pixels.shape[1], pixels.shape[2]), (image.shape[0], image.shape[1]))
            for f, pixels, image in zip(features, resized, images, strict=True)
        ]

    def by_boxes(
        self, embedded: Sequence[Embedded], boxes: Sequence[NDArray[np.float32]]
    ) -> Iterator[tuple[int, Masks, NDArray[np.float32]]]:
        """The boxes of each image, (N, 4), xyxy px, any number -> in parts of bounded size, in their order: the image's
        place, a mask a box, and its predicted IoU, (n,). The boxes of several images go through the decoder
        together."""
        owner = np.repeat(np.arange(len(boxes)), [len(own) for own in boxes])
        framed = [self._in_frame(e, own.reshape(-1, 2, 2)) for e, own in zip(embedded, boxes, strict=True)]
        corners = np.concatenate([np.zeros((0, 2, 2), np.float32), *framed]).reshape(-1, 4)
        for start in range(0, len(owner), self.prompts_at_once):
            part = owner[start : start + self.prompts_at_once]
            asked = corners[start : start + self.prompts_at_once]
            answer = self._ask([embedded[i] for i in part], asked, None, multimask=False)
            for i in np.unique(part).tolist():
                own = slice(int(part.searchsorted(i)), int(part.searchsorted(i, "right")))
                yield i, self.masks(embedded[i], answer.logits[own, 0]), answer.predicted_iou[own, 0].cpu().numpy()

    def by_points(self, embedded: Embedded, points: NDArray[np.float32], *, multimask: bool = False) -> Answer:
        """Foreground points (N, 2), (x, y) px of the image, in one decoder call -> a mask for each, or with `multimask`
        three: a thing, a part of it, a part of that."""
        return self._ask([embedded] * len(points), None, self._in_frame(embedded, points[:, None]), multimask=multimask)

    def masks(self, embedded: Embedded, logits: Any) -> Masks:
        """Logits of an answer, (N, h, w) -> masks. As `Sam.postprocess_masks` scales them, which is linear along each
        side; but only where any of them can be over the lower threshold: no row is greater than what the greatest
        logits of the rows are scaled to, and no column."""
        import torch

        threshold, device = self.sam.mask_threshold, logits.device
        masks, stability = np.zeros((len(logits), *embedded.size), bool), np.zeros(len(logits), np.float32)
        with torch.inference_mode():
            rows, columns = (
                _scaling(logits.shape[1 + axis], self.side, embedded.input_size[axis], embedded.size[axis], device)
                for axis in (0, 1)
            )
            reached = [
                (logits.amax(2 - axis) @ along.T > threshold - STABILITY_OFFSET).cpu().numpy()
                for axis, along in enumerate((rows, columns))
            ]
            for n, (own, (y, x)) in enumerate(zip(logits, zip(*map(_spans, reached), strict=True), strict=True)):
                found = rows[y] @ own @ columns[x].T
                low = int(torch.count_nonzero(found > threshold - STABILITY_OFFSET))
                high = int(torch.count_nonzero(found > threshold + STABILITY_OFFSET))
                stability[n] = high / max(low, 1)
                masks[n, y, x] = (found > threshold).cpu().numpy()
        return Masks(masks, stability)

    def _in_frame(self, embedded: Embedded, points: NDArray[np.float32]) -> NDArray[np.float32]:
        from segment_anything.utils.transforms import ResizeLongestSide

        scaled = ResizeLongestSide(self.side).apply_coords(points, embedded.size)
        return np.asarray(scaled, np.float32)

    def _ask(
        self,
        embedded: Sequence[Embedded],
        boxes: NDArray[np.float32] | None,
        points: NDArray[np.float32] | None,
        *,
        multimask: bool,
    ) -> Answer:
        """As SamPredictor.predict_torch, for prompts of different images, of which `embedded` names each prompt's; and
        without going back to the images' resolution."""
        import torch

        sam = self.sam
        with torch.inference_mode():
            clicked = corners = None
            if points is not None:
                ones = torch.ones(len(points), 1, device=sam.device)
                clicked = (torch.as_tensor(points, device=sam.device), ones)
            if boxes is not None:
                corners = torch.as_tensor(boxes, device=sam.device)
            sparse, dense = sam.prompt_encoder(points=clicked, boxes=corners, masks=None)
            features = torch.cat([e.features for e in embedded])
            # The decoder takes one image, whose features it adds to what each prompt has of its own for every place.
            logits, iou = sam.mask_decoder(
                image_embeddings=torch.zeros_like(features[:1]),
                image_pe=sam.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=features + dense,
                multimask_output=multimask,
            )
        return Answer(logits, iou)


@lru_cache(maxsize=64)  # images may be of many sizes
def _scaling(small: int, side: int, framed: int, size: int, device: Any) -> Any:
    """What `Sam.postprocess_masks` does along one side, as a matrix (size, small): from logits to the model's side, of
    which `framed` px are image, and to `size` px."""
    import torch
    from torch.nn.functional import interpolate

    frame = interpolate(torch.eye(small)[:, None], side, mode="linear")[..., :framed]
    return interpolate(frame, size, mode="linear")[:, 0].T.contiguous().to(device)


def _spans(reached: NDArray[np.bool_]) -> list[slice]:
    """bool (N, L) -> from the first to the last place that is reached, a slice each."""
    first, last = reached.argmax(1), reached.shape[1] - reached[:, ::-1].argmax(1)
    return [slice(*span) if some else slice(0) for *span, some in np.stack([first, last, reached.any(1)], 1).tolist()]


def weights_of(path: Path) -> tuple[Path, models.SamShape | None]:
    """The weights' file of a model, and its dimensions where a card says them.

    Raises:
        BackendError, ModelMissing: the path is no SAM, as far as can be told without reading weights.
    """
    shape, file = None, path
    if path.is_dir():
        weights.inspect_file(path / "synthgen.json", path)
        card = models.read_card(path)
        if card.sam is None or card.weights is None:
            takes = "takes a folder whose `synthgen.json` has `sam` (dimensions) and `weights` (file name)"
            raise BackendError(f"{path} has no card of a SAM; {takes}, or an official checkpoint")
        if Path(card.weights).name != card.weights or not (path / card.weights).is_file():
            raise BackendError(f"{path}: its card's weights are {shown(card.weights)}; takes the name of a file there")
        shape, file = card.sam, path / card.weights
        weights.inspect_file(file, path)
    if file.suffix not in {".pth", ".safetensors"}:
        raise BackendError(f"{file} is no SAM checkpoint; takes a .pth or .safetensors file")
    return file, shape


def path_of(config: ModelConfig) -> Path:
    """The model's folder or file. Raises: ModelMissing."""
    return models.find_model(config.model, "sam", config.revision)


def problems(config: ModelConfig) -> Iterable[Problem]:
    """What `check` has to say about the model, without torch."""
    try:
        file, _ = weights_of(path_of(config))
        if config.model not in models.KNOWN:  # those were compared with their checksums when they were fetched
            _require_tensors(file)
    except (models.ModelMissing, BackendError) as error:
        yield Problem(".model", str(error))


def licences(path: Path) -> Iterable[tuple[str, str]]:
    """(name, url) of the licence of a model's folder or file, where it is known."""
    card = models.read_card(path)
    if card.licence:
        yield card.licence.name, card.licence.url
    elif path.name in {Path(known.url).name for known in models.KNOWN.values() if known.url}:
        yield LICENCE


def _read(file: Path) -> dict[str, Any]:
    """A checkpoint's tensors by name, on the CPU. No code in a file is ever run."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    _require_tensors(file)
    try:
        if file.suffix == ".safetensors":
            state = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except (UnpicklingError, SafetensorError, RuntimeError, EOFError, *GARBLED) as error:
        reason = str(error).split("\n")[0] or type(error).__name__
        reason = "it holds more than tensors" if "Weights only load failed" in str(error) else plain(reason, 300)
        raise BackendError(f"{file} was not loaded: {reason}; {TAKES}") from error
    if not isinstance(state, dict) or not isinstance(state.get(PATCH_EMBEDDING), torch.Tensor):
        raise BackendError(f"{file} has no {PATCH_EMBEDDING!r}; {TAKES}")
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
            raise BackendError(f"{file} has {shown(name)}, which is no tensor of numbers with a point; {TAKES}")
        if not torch.isfinite(tensor).all():
            raise BackendError(f"{file} is damaged: {shown(name)} holds numbers that are not finite")
    return state


def _require_tensors(file: Path) -> None:
    """Whether a file can be what its name says, without torch, and without reading its numbers.

    Raises:
        BackendError: it is cut short, or holds more than tensors.
    """
    try:
        if file.suffix == ".safetensors":
            weights.require_safetensors(file)
        else:
            _require_state_dict(file)
    except (BadZipFile, EOFError, RuntimeError, BackendError, *GARBLED) as error:
        reason = plain(str(error).split("\n")[0] or type(error).__name__, 300)
        raise BackendError(f"{file} was not loaded: {reason}; {TAKES}") from error


def _require_state_dict(file: Path) -> None:
    """What `torch.load(weights_only=True)` lets through, and should not. `torch.save` writes an archive of uncompressed
    parts, or, before torch 1.6, five pickles and then the numbers; so a file that unpacks to more than it is, or whose
    pickles make anything but tensors, is no state dict.

    Raises:
        BackendError: it is none.
        BadZipFile, and what else reading garbled bytes ends in.
    """
    with open(file, "rb") as opened:
        is_archive = opened.read(4) == b"PK\x03\x04"  # as torch tells it; an archive may also stand behind pickles
        opened.seek(0)
        for _ in range(0 if is_archive else 5):
            _require_plain(genops(opened))
    if not is_archive:
        return
    with ZipFile(file) as archive:
        parts = archive.infolist()
        if any(p.compress_type != ZIP_STORED for p in parts) or sum(p.file_size for p in parts) > file.stat().st_size:
            raise BackendError("its parts are compressed, or overlap")
        pickles = [part for part in parts if part.filename.endswith("data.pkl")]
        if len(pickles) != 1 or pickles[0].file_size > MAX_PICKLE:
            raise BackendError("it has not one `data.pkl` of a few kilobytes")
        _require_plain(genops(archive.read(pickles[0])))


def _require_plain(operations: Iterable[tuple[Any, Any, Any]]) -> None:
    """Raises: BackendError: a pickle names something else than what makes a tensor."""
    for code, value, _ in operations:
        other_ways = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"}
        if code.name in other_ways or (code.name == "GLOBAL" and value not in PICKLED):
            raise BackendError(f"it holds more than tensors ({plain(str(value or code.name))})")


def _load(path: Path, device: Any, dtype: Any) -> Any:
    import torch

    from synthgen.models.sam_attention import fuse

    file, shape = weights_of(path)
    state = _read(file)
    if shape is None:
        width = next(iter(state[PATCH_EMBEDDING].shape), 0)
        if width not in OFFICIAL:
            takes = f"without a `synthgen.json` card takes an official one: {', '.join(map(str, OFFICIAL))}"
            raise BackendError(f"{file} is a SAM of width {width}; {takes}")
        shape = OFFICIAL[width]
    # On the meta device nothing is initialised: no time, no second copy, no numbers drawn from the global generator.
    try:
        with torch.device("meta"):
            sam = _build(shape)
        sam.load_state_dict(state, assign=True)
    except (RuntimeError, *GARBLED) as error:
        reason = plain(" ".join(str(error).split()), 200)
        raise BackendError(f"{file} does not fit the dimensions of its model: {reason}") from error
    # Only the image encoder runs in `torch_dtype`: it is 99 % of the work (450 ms, the decoder 4 ms, vit_h on an A100),
    # and all of it in half precision is what segment-anything-fast does. Boxes go into the prompt encoder as
    # coordinates, and the 8 bits of a bfloat16 are 4 px of 1024; so the rest stays float32.
    sam.float().image_encoder.to(dtype)
    fuse(sam)
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
