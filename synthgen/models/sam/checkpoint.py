"""The checkpoint of a Segment Anything: found, checked without torch, and loaded. No code in a file is ever run."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from pickletools import genops
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

from synthgen import models
from synthgen.backends import ModelConfig
from synthgen.base.wording import one_line, plain, shown
from synthgen.errors import BackendError
from synthgen.models.inspection import inspect_file
from synthgen.models.named import ModelFiles
from synthgen.models.sam import families
from synthgen.models.weights import require_safetensors

LICENCE = ("Apache-2.0", "https://github.com/facebookresearch/segment-anything")
# How the ids of published families begin -> the licence that their repositories' LICENSE files state.
LICENCES = {
    "facebook/sam-vit-": LICENCE,
    "facebook/sam2": ("Apache-2.0", "https://github.com/facebookresearch/sam2"),
    "facebook/sam3": ("SAM License", "https://github.com/facebookresearch/sam3"),
    "yonigozlan/EdgeTAM": ("Apache-2.0", "https://github.com/facebookresearch/EdgeTAM"),
    "syscv-community/sam-hq-": ("Apache-2.0", "https://github.com/SysCV/sam-hq"),
}
# What a state dict's pickle names, and `torch.load` takes more: with `bytearray`, a few bytes ask for any memory.
PICKLED = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter",
           *(f"torch {kind}Storage" for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int"))}  # fmt: skip
# What reading garbled bytes, or building a model of odd dimensions, can end in.
GARBLED = (OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError)
MAX_PICKLE = 10_000_000  # bytes; vit_h has 60,000
TAKES = "takes a state dict of segment_anything's Sam, in which there is no code"
PATCH_EMBEDDING = "image_encoder.patch_embed.proj.weight"
# How a tensor's name begins in the checkpoints of other models -> what they are, and what to name instead.
OTHERS = {
    "mask_decoder.hf_token.": ("HQ-SAM", "syscv-community/sam-hq-vit-base, -large or -huge"),
    "image_encoder.patch_embed.seq.": ("MobileSAM", "vit_b, or facebook/sam2.1-hiera-tiny"),
    "image_encoder.trunk.": ("SAM 2", "facebook/sam2.1-hiera-large, or a smaller one"),
    "detector.": ("SAM 3", "facebook/sam3"),
}


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


class SamFiles(ModelFiles):
    """The SAM that a spec names: a folder of transformers, a folder with a card, or an official checkpoint."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config

    def path(self) -> Path:
        return models.find_model(self.config.model, "sam", self.config.revision)

    def inspect(self) -> Any:
        """Raises: BackendError, ModelMissing: it is no SAM, or must not be loaded."""
        path = self.path()
        if families.is_family(path):
            families.inspect(path)
            return
        file, _ = weights_of(path)
        if self.config.model not in models.KNOWN:  # the download compared those with their checksums
            _require_tensors(file)

    def known_licence(self) -> tuple[str, str] | None:
        official = {Path(known.url).name for known in models.KNOWN.values() if known.url}
        if self.path().name in official:
            return LICENCE
        return next((licence for begin, licence in LICENCES.items() if self.config.model.startswith(begin)), None)


def weights_of(path: Path) -> tuple[Path, models.SamShape | None]:
    """The weights' file of a model, and its dimensions where a card says them.

    Raises:
        BackendError, ModelMissing: the path is no SAM, as far as can be told without reading weights.
    """
    shape, file = None, path
    if path.is_dir():
        inspect_file(path / "synthgen.json", path)
        card = models.read_card(path)
        if card.sam is None or card.weights is None:
            takes = (
                "takes a folder of transformers, one whose `synthgen.json` has `sam` (dimensions) and `weights` (file "
            )
            raise BackendError(f"{path} has no card of a SAM; {takes}name), or an official checkpoint")
        if Path(card.weights).name != card.weights or not (path / card.weights).is_file():
            raise BackendError(f"{path}: its card's weights are {shown(card.weights)}; takes the name of a file there")
        shape, file = card.sam, path / card.weights
        inspect_file(file, path)
    if file.suffix not in {".pth", ".pt", ".safetensors"}:
        raise BackendError(f"{file} is no SAM checkpoint; takes a .pth, .pt or .safetensors file")
    return file, shape


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
    """Whether a file can be a SAM of segment_anything, without torch, and without reading its numbers.

    Raises:
        BackendError: it is cut short, holds more than tensors, or holds another model's.
    """
    try:
        names = _tensor_names(file)
    except (BadZipFile, EOFError, RuntimeError, BackendError, *GARBLED) as error:
        reason = plain(str(error).split("\n")[0] or type(error).__name__, 300)
        raise BackendError(f"{file} was not loaded: {reason}; {TAKES}") from error
    for begin, (kind, instead) in OTHERS.items():
        if any(name.startswith(begin) for name in names):
            raise BackendError(f"{file} is a checkpoint of {kind}, which is no Sam of segment_anything; name {instead}")
    if PATCH_EMBEDDING not in names:
        raise BackendError(f"{file} has no {PATCH_EMBEDDING!r}; {TAKES}")


def _tensor_names(file: Path) -> set[str]:
    """The names of a file's tensors. A pickle's other texts are among them.

    Raises:
        BackendError: it is cut short, or holds more than tensors.
        BadZipFile, and what else reading garbled bytes ends in.
    """
    if file.suffix != ".safetensors":
        return _names_in_state_dict(file)
    require_safetensors(file)
    with open(file, "rb") as opened:
        return set(json.loads(opened.read(int.from_bytes(opened.read(8), "little"))))


def _names_in_state_dict(file: Path) -> set[str]:
    """What `torch.load(weights_only=True)` lets through, and should not. `torch.save` writes an archive of uncompressed
    parts, or, before torch 1.6, five pickles and then the numbers; so a file that unpacks to more than it is, or whose
    pickles make anything but tensors, is no state dict."""
    names: set[str] = set()
    with open(file, "rb") as opened:
        is_archive = opened.read(4) == b"PK\x03\x04"  # as torch tells it; an archive may also stand behind pickles
        opened.seek(0)
        for _ in range(0 if is_archive else 5):
            names |= _texts(genops(opened))
    if not is_archive:
        return names
    with ZipFile(file) as archive:
        parts = archive.infolist()
        if any(p.compress_type != ZIP_STORED for p in parts) or sum(p.file_size for p in parts) > file.stat().st_size:
            raise BackendError("its parts are compressed, or overlap")
        pickles = [part for part in parts if part.filename.endswith("data.pkl")]
        if len(pickles) != 1 or pickles[0].file_size > MAX_PICKLE:
            raise BackendError("it has not one `data.pkl` of a few kilobytes")
        return _texts(genops(archive.read(pickles[0])))


def _texts(operations: Iterable[tuple[Any, Any, Any]]) -> set[str]:
    """The texts in a pickle. Raises: BackendError: it names something else than what makes a tensor."""
    texts: set[str] = set()
    for code, value, _ in operations:
        other_ways = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"}
        if code.name in other_ways or (code.name == "GLOBAL" and value not in PICKLED):
            raise BackendError(f"it holds more than tensors ({plain(str(value or code.name))})")
        if code.name.endswith("UNICODE"):
            texts.add(value)
    return texts


def load(path: Path, device: Any, dtype: Any) -> Any:
    """The `Sam` of a folder or file, on a device, its image encoder in `dtype`.

    Raises:
        BackendError: the checkpoint cannot be read, or is no SAM of the dimensions it should have.
    """
    import torch

    from synthgen.models.sam.attention import fuse

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
            sam = build(shape)
        sam.load_state_dict(state, assign=True)
    except (RuntimeError, *GARBLED) as error:
        reason = one_line(error, 200)
        raise BackendError(f"{file} does not fit the dimensions of its model: {reason}") from error
    # Only the image encoder runs in `torch_dtype`: it is 99 % of the work (450 ms, the decoder 4 ms, vit_h on an A100),
    # and all of it in half precision is what segment-anything-fast does. Boxes go into the prompt encoder as
    # coordinates, and the 8 bits of a bfloat16 are 4 px of 1024; so the rest stays float32.
    sam.float().image_encoder.to(dtype)
    fuse(sam)
    return sam.to(device).eval()


def build(shape: models.SamShape) -> Any:
    """A `Sam` with random weights. `segment_anything.build_sam` builds the official dimensions only."""
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
