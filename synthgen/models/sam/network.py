"""What a loaded Segment Anything does, whichever library has its classes: images become features, and prompts become
logits of masks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Embedded:
    """An image as a network sees it. Sizes are (height, width) px.

    Attributes:
        features: what the network's decoder takes: a tensor (1, C, h, w), or several of them.
        input_size: the part of the network's `side` x `side` px that shows the image.
        size: the image's own size.
    """

    features: Any
    input_size: tuple[int, int]
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Answer:
    """Masks for each of N prompts, M = 1 or 3: `logits` tensor (N, M, h, w), with the network's padding;
    `predicted_iou` tensor (N, M)."""

    logits: Any
    predicted_iou: Any


class Network(ABC):
    """The image encoder, prompt encoder and mask decoder of a SAM.

    Attributes:
        device: where it computes.
        side: px of the square that upstream scales logits to, before it cuts the padding off and scales them to the
            image. A network that scales them to the image at once has the side of the logits here.
        mask_threshold: a pixel with a greater logit belongs to the mask.
    """

    device: Any
    side: int
    mask_threshold: float

    @abstractmethod
    def embed(self, images: Sequence[NDArray[np.uint8]]) -> list[Embedded]:
        """Images uint8 (H, W, 3), RGB, of any sizes, in one batch."""

    @abstractmethod
    def in_frame(self, embedded: Embedded, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Points (..., 2), (x, y) px of the image -> px of the picture that the encoder sees."""

    @abstractmethod
    def ask(
        self,
        embedded: Sequence[Embedded],
        boxes: NDArray[np.float32] | None,
        points: NDArray[np.float32] | None,
        *,
        multimask: bool,
    ) -> Answer:
        """Prompts of different images in one call of the decoder; the masks are not scaled to the images.

        Args:
            embedded: the image of each of the N prompts.
            boxes: (N, 4), xyxy, in the frame; or
            points: (N, 1, 2), (x, y) of a foreground point, in the frame.
            multimask: three masks for each prompt, and not one.
        """
