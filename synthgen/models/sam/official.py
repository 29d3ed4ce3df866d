"""Segment Anything by its authors' library, `segment_anything`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synthgen.models.sam.network import Answer, Embedded, Network


class Official(Network):
    """A `Sam` of segment_anything, loaded."""

    def __init__(self, sam: Any) -> None:
        self.sam = sam
        self.device, self.side, self.mask_threshold = sam.device, int(sam.image_encoder.img_size), sam.mask_threshold

    def embed(self, images: Sequence[NDArray[np.uint8]]) -> list[Embedded]:
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

    def in_frame(self, embedded: Embedded, points: NDArray[np.float32]) -> NDArray[np.float32]:
        from segment_anything.utils.transforms import ResizeLongestSide

        scaled = ResizeLongestSide(self.side).apply_coords(points, embedded.size)
        return np.asarray(scaled, np.float32)

    def ask(
        self,
        embedded: Sequence[Embedded],
        boxes: NDArray[np.float32] | None,
        points: NDArray[np.float32] | None,
        *,
        multimask: bool,
    ) -> Answer:
        """Does the work of `SamPredictor.predict_torch` for prompts of different images."""
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
            # The decoder takes one image and adds its features to each prompt's dense embedding. So the features of the
            # prompts' images are in the dense embeddings, and the image is zero.
            logits, iou = sam.mask_decoder(
                image_embeddings=torch.zeros_like(features[:1]),
                image_pe=sam.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=features + dense,
                multimask_output=multimask,
            )
        return Answer(logits, iou)
