"""Labelling against the official implementation's ways, with the weights of the embedded SAM, in turns.

    python benchmarks/labelling.py [--scenes 40] [--large 6] [--rounds 3] [--torch-dtype auto]

- Boxes: the `sam` segmenter with an RLE and an area for each mask, against a loop over `SamPredictor`. The loop calls
  `set_image` for each image, and for each box `predict`, the stability score, an RLE, its area and its box. The
  images are composed scenes of four boxes.
- Everything: the proposals of `everything` with `proposals: official`, against `SamAutomaticMaskGenerator` with the
  same thresholds, both with RLEs, on scenes of 1024 px.

The official side computes in float32, as it is written.

Prints for each task the median milliseconds of an image, official and ours, and the ratio: wall time first, CPU time in
brackets. A second line says how well both agree: the least IoU of the masks, or the share of each side's masks that the
other side has too, at an IoU of 0.99.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from itertools import count, islice

import numpy as np
import torch
from pycocotools import mask as coco_mask
from safetensors.torch import load_file
from segment_anything import SamAutomaticMaskGenerator, SamPredictor
from segment_anything.utils.amg import calculate_stability_score

from synthgen import models
from synthgen.devices import torch_dtype
from synthgen.masks import decode_rle, encode_rle, mask_iou, paired_mask_iou
from synthgen.mini import scenes
from synthgen.mini.training import sam as training_sam
from synthgen.models import discovery
from synthgen.models.sam.model import STABILITY_OFFSET, SamModel
from synthgen.segmenters import sam
from synthgen.types import Category, Grounding

BOXES = 4
LARGE_PX = 1024
MATCHED = 0.99


def drawn(stream: int, size: int, least: int) -> Iterator[scenes.Scene]:
    """Scenes of `least` to four objects that no training has seen."""
    for i in count():
        scene = scenes.draw(np.random.default_rng([2**40, stream, i]), size=size, most=BOXES)
        if len(scene.things) >= least:
            yield scene


def plain_labels(predictor: SamPredictor, images, boxes) -> list[np.ndarray]:
    """Masks bool (N, H, W) of each image, box by box with `SamPredictor`."""
    found = []
    for image, own in zip(images, boxes, strict=True):
        predictor.set_image(image)
        masks = []
        for box in own:
            logits, _, _ = predictor.predict(box=box, multimask_output=False, return_logits=True)
            calculate_stability_score(torch.as_tensor(logits), predictor.model.mask_threshold, STABILITY_OFFSET)
            mask = logits[0] > predictor.model.mask_threshold
            rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            coco_mask.area(rle), coco_mask.toBbox(rle)
            masks.append(mask)
        found.append(np.stack(masks))
    return found


def our_labels(segmenter: sam.Backend, images, boxes) -> list[np.ndarray]:
    groundings = [Grounding(own, np.ones(len(own), np.int64)) for own in boxes]
    found = segmenter.segment(images, groundings)
    for instances in found:
        coco_mask.area(encode_rle(instances.masks))
    return [instances.masks for instances in found]


def our_proposals(model: SamModel, images, options) -> list[np.ndarray]:
    found = []
    for image in images:
        (embedded,) = model.embed([image])
        masks = discovery.propose(model, embedded, **options, proposals="official").masks
        encode_rle(masks)
        found.append(masks)
    return found


def in_turns(theirs: Callable, ours: Callable, rounds: int, name: str, images: int):  # type: ignore[no-untyped-def]
    """Prints the median times of both sides and the median ratio; -> the last results of both sides."""
    times = np.zeros((rounds, 2, 2))  # round, side, (wall, CPU) s
    found = [None, None]
    for r in range(rounds):
        for side, work in enumerate((theirs, ours)):
            wall, cpu = time.perf_counter(), time.process_time()
            found[side] = work()
            times[r, side] = time.perf_counter() - wall, time.process_time() - cpu
    ratio = np.median(times[:, 0] / times[:, 1], 0)
    theirs_ms, ours_ms = np.median(times, 0) / images * 1e3
    print(
        f"{name}: {theirs_ms[0]:.1f} -> {ours_ms[0]:.1f} ms an image ({theirs_ms[1]:.1f} -> {ours_ms[1]:.1f}); "
        f"{ratio[0]:.2f}x ({ratio[1]:.2f}x)",
        flush=True,
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=40, help="images of four boxes")
    parser.add_argument("--large", type=int, default=6, help="images of 1024 px")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--torch-dtype", default="auto", help="of our image encoder: auto, float32 or bfloat16")
    parser.add_argument("--points-per-side", type=int, default=12)
    parser.add_argument("--predicted-iou", type=float, default=0.7)
    parser.add_argument("--stability-score", type=float, default=0.5)
    options = parser.parse_args()

    folder = models.MINI / "sam"
    official = training_sam.build(models.read_card(folder).sam)
    official.load_state_dict(load_file(folder / "model.safetensors"))
    official.eval()
    dtype = torch_dtype(options.torch_dtype, torch.device("cpu"))
    print(f"our image encoder in {dtype}; {torch.get_num_threads()} threads")

    predictor = SamPredictor(official)
    config = sam.Config(use="sam", device="cpu", torch_dtype=options.torch_dtype)
    segmenter = sam.Backend(config, (Category(1, "thing"),))
    for size in (scenes.SIZE, LARGE_PX):
        chosen = list(islice(drawn(70, size, BOXES), options.scenes if size == scenes.SIZE else options.large))
        images = [scene.image for scene in chosen]
        boxes = [np.array([thing.box for thing in scene.things], np.float32) for scene in chosen]
        our_labels(segmenter, images[:1], boxes[:1])  # loads the model
        theirs, ours = in_turns(
            lambda i=images, b=boxes: plain_labels(predictor, i, b),
            lambda i=images, b=boxes: our_labels(segmenter, i, b),
            options.rounds,
            f"{len(images)} images of {BOXES} boxes, {size} px",
            len(images),
        )
        agreement = paired_mask_iou(np.concatenate(theirs), np.concatenate(ours))
        print(f"  least IoU of {len(agreement)} masks with the official one: {agreement.min():.4f}")

    images = [scene.image for scene in islice(drawn(71, LARGE_PX, 2), options.large)]
    ask = {"points_per_side": options.points_per_side, "predicted_iou": options.predicted_iou,
           "stability_score": options.stability_score, "nms_iou": 0.7}  # fmt: skip
    generator = SamAutomaticMaskGenerator(
        official, points_per_side=options.points_per_side, pred_iou_thresh=options.predicted_iou,
        stability_score_thresh=options.stability_score, box_nms_thresh=ask["nms_iou"], output_mode="coco_rle",
    )  # fmt: skip
    model = SamModel.of("mini", None, "cpu", options.torch_dtype)
    theirs, ours = in_turns(
        lambda: [[found["segmentation"] for found in generator.generate(image)] for image in images],
        lambda: our_proposals(model, images, ask),
        options.rounds,
        f"everything in {len(images)} images of {LARGE_PX} px, {options.points_per_side} points a side",
        len(images),
    )
    both = [mask_iou(decode_rle(a, LARGE_PX, LARGE_PX), b) >= MATCHED for a, b in zip(theirs, ours, strict=True)]
    there, back = ([hit for pairs in both for hit in pairs.any(axis)] for axis in (1, 0))
    shares = (
        f"{np.mean(there):.1%} of {len(there)} official masks are ours, {np.mean(back):.1%} of our {len(back)} official"
    )
    print(f"  at IoU {MATCHED}: {shares}")


if __name__ == "__main__":
    main()
