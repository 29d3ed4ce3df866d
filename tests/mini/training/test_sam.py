"""SAM's training: its loss, its decoder, what it exports."""

import numpy as np
import pytest
import torch
from trainings import SAM, SIZE, quick, says_no_place, train_tiny_sam

from synthgen.mini import scenes
from synthgen.mini.training import sam
from synthgen.segmenters.sam import Backend as SamBackend
from synthgen.segmenters.sam import Config as SamConfig
from synthgen.types import Category, Grounding


def test_mask_loss_sees_outlines():
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 4:12, 4:12] = 1
    right = (mask * 2 - 1) * 8
    wider = right.clone()
    wider[..., 3, 4:12] = 8
    loss, iou = sam.mask_losses(torch.cat([right, wider], 1), mask)
    assert iou.tolist() == [[1.0, pytest.approx(64 / 72)]]
    assert loss[0, 0] < 0.01 < loss[0, 1]


def test_decode_is_segment_anythings(tmp_path):
    torch.manual_seed(0)
    model = sam.build(SAM).eval()
    embeddings = torch.randn(1, 16, 4, 4)
    sparse, dense = model.prompt_encoder(points=None, boxes=torch.tensor([[2.0, 3.0, 20.0, 30.0]]), masks=None)
    theirs = model.mask_decoder.predict_masks(embeddings, model.prompt_encoder.get_dense_pe(), sparse, dense)
    ours = sam.decode(model, embeddings, sparse, dense)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_sam_export(tmp_path):
    train_tiny_sam(quick(tmp_path, 2))
    backend = SamBackend(SamConfig(use="sam", model=str(tmp_path / "sam"), device="cpu"), (Category(1, "car"),))
    image = scenes.draw(np.random.default_rng(1), size=SIZE).image
    boxes = np.array([[2, 2, 20, 20], [0, 0, 32, 32]], np.float32)
    (found,) = backend.segment([image], [Grounding(boxes, np.array([1, 1]))])
    assert found.masks.shape == (2, SIZE, SIZE)
    says_no_place(tmp_path / "sam", tmp_path)
