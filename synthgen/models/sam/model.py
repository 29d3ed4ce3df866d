"""Segment Anything (arXiv 2304.02643), loaded: it embeds images, and answers boxes and points with masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synthgen import devices, models
from synthgen.models.sam import families
from synthgen.models.sam.checkpoint import load
from synthgen.models.sam.network import Answer, Embedded, Network
from synthgen.models.sam.official import Official

STABILITY_OFFSET = 1.0  # logits; `stability_score_offset` of SamAutomaticMaskGenerator
# Prompts in one decoder call: the `points_per_batch` of SamAutomaticMaskGenerator, which bounds the memory; on CPUs as
# many as fit into their caches.
PROMPTS_AT_ONCE, ON_CPU = 64, 16


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
    """A loaded SAM of any library."""

    def __init__(self, network: Network) -> None:
        self.network = network

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
        return devices.resident(("sam", path, where, dtype), lambda: cls(_network(path, where, dtype)))

    @property
    def side(self) -> int:
        """px of the square that logits are scaled to: see `Network`."""
        return self.network.side

    @property
    def mask_threshold(self) -> float:
        return self.network.mask_threshold

    @property
    def prompts_at_once(self) -> int:
        return ON_CPU if self.network.device.type == "cpu" else PROMPTS_AT_ONCE

    def embed(self, images: Sequence[NDArray[np.uint8]]) -> list[Embedded]:
        """Images uint8 (H, W, 3), RGB, of any sizes, in one batch."""
        return self.network.embed(images)

    def by_boxes(
        self, embedded: Sequence[Embedded], boxes: Sequence[NDArray[np.float32]]
    ) -> Iterator[tuple[int, Masks, NDArray[np.float32]]]:
        """The boxes of each image, (N, 4), xyxy px, any number -> parts of bounded size, in order: the image's
        position, a mask for each box, and the masks' predicted IoU, (n,). The boxes of several images go through the
        decoder together."""
        owner = np.repeat(np.arange(len(boxes)), [len(of_image) for of_image in boxes])
        frame = self.network.in_frame
        framed = [frame(e, of_image.reshape(-1, 2, 2)) for e, of_image in zip(embedded, boxes, strict=True)]
        corners = np.concatenate([np.zeros((0, 2, 2), np.float32), *framed]).reshape(-1, 4)
        for start in range(0, len(owner), self.prompts_at_once):
            part = owner[start : start + self.prompts_at_once]
            asked = corners[start : start + self.prompts_at_once]
            answer = self.network.ask([embedded[i] for i in part], asked, None, multimask=False)
            for i in np.unique(part).tolist():
                own = slice(int(part.searchsorted(i)), int(part.searchsorted(i, "right")))
                yield i, self.masks(embedded[i], answer.logits[own, 0]), answer.predicted_iou[own, 0].cpu().numpy()

    def by_points(self, embedded: Embedded, points: NDArray[np.float32], *, multimask: bool = False) -> Answer:
        """Foreground points (N, 2), (x, y) px of the image, in one decoder call -> a mask for each, or with `multimask`
        three: an object, a part of it, and a part of that part."""
        framed = self.network.in_frame(embedded, points[:, None])
        return self.network.ask([embedded] * len(points), None, framed, multimask=multimask)

    def masks(self, embedded: Embedded, logits: Any) -> Masks:
        """Logits of an answer, (N, h, w) -> masks. As upstream's `postprocess_masks` scales them, which is linear along
        each side; but only where any of them can be over the lower threshold: no row is greater than what the greatest
        logits of the rows are scaled to, and no column."""
        import torch

        threshold, device = self.mask_threshold, logits.device
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


def _network(path: Path, device: Any, dtype: Any) -> Network:
    is_family = families.is_family(path)
    return families.load(path, device, dtype) if is_family else Official(load(path, device, dtype))


@lru_cache(maxsize=64)  # images may be of many sizes
def _scaling(small: int, side: int, framed: int, size: int, device: Any) -> Any:
    """What upstream's `postprocess_masks` does along one side, as a matrix (size, small): from logits to the model's
    side, of which `framed` px are image, and to `size` px."""
    import torch
    from torch.nn.functional import interpolate

    frame = interpolate(torch.eye(small)[:, None], side, mode="linear")[..., :framed]
    return interpolate(frame, size, mode="linear")[:, 0].T.contiguous().to(device)


def _spans(reached: NDArray[np.bool_]) -> list[slice]:
    """bool (N, L) -> from the first to the last place that is reached, a slice each."""
    first, last = reached.argmax(1), reached.shape[1] - reached[:, ::-1].argmax(1)
    return [slice(*span) if some else slice(0) for *span, some in np.stack([first, last, reached.any(1)], 1).tolist()]
