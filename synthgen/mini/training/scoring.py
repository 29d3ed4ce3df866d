"""The scores of the embedded models, on scenes and prompts that no training has seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import islice

import cv2
import numpy as np
from numpy.typing import NDArray

from synthgen.masks import box_iou, mask_boxes, paired_mask_iou
from synthgen.mini import scenes
from synthgen.mini.backgrounds import BACKGROUNDS
from synthgen.mini.scenes import Scene, Thing
from synthgen.mini.training import captions
from synthgen.mini.training.bench import CATEGORIES, HELD_OUT_SEED, Bench
from synthgen.mini.training.judged_crops import judged_crops
from synthgen.mini.training.score_cards import Score
from synthgen.models.clip import crop
from synthgen.models.discovery import Discovery, DiscoveryConfig, Found
from synthgen.models.sam.model import SamModel
from synthgen.types import Grounding, Instances, Sample

MIN_VISIBLE_PX = 40  # things with fewer visible pixels do not count
MATCH_IOU = 0.5  # of a detected box with the asked one
UNLABELLED_SCENES = 50  # scenes in which the label of one thing is left out


def score_autoencoder(bench: Bench) -> list[Score]:
    """PSNR (dB) of reconstructions in 8-bit values: the mean over images, and the PSNR of the mean squared error."""
    import torch

    from synthgen.mini.autoencoder import PatchAutoencoder
    from synthgen.mini.training.autoencoder import to_model

    model = PatchAutoencoder.from_pretrained(bench.diffusion / "vae", local_files_only=True).float().eval()
    errors = []
    for scene in bench.scenes(2, occlusion=True):
        with torch.inference_mode():
            out = model.decode(model.encode(to_model(torch.from_numpy(scene.image[None]))).latent_dist.mean).sample
        back = ((out[0].permute(1, 2, 0) + 1) * 127.5).clamp(0, 255).round().numpy()
        errors.append(float(((back - scene.image) ** 2).mean()))
    decibel = 10 * np.log10(255**2 / np.array(errors))
    pooled = 10 * np.log10(255**2 / np.mean(errors))
    return [
        Score("reconstruction, PSNR, mean over images", f"{decibel.mean():.1f} dB", "≥ 30 dB"),
        Score("reconstruction, PSNR of the mean squared error", f"{pooled:.1f} dB"),
    ]


def score_sam(bench: Bench) -> list[Score]:
    """IoU of SAM's masks with the true ones, by true boxes and by a point near the middle of each thing: in scenes
    where things lie apart, as in the layouts of specs, and where some cover others."""
    apart, covered = by_prompts(bench, occlusion=False), by_prompts(bench, occlusion=True)
    bias = apart.predicted - apart.box
    return [
        Score(f"box prompt, mean IoU, {len(apart.box)} things apart", f"{apart.box.mean():.3f}", "≥ 0.94"),
        Score("the same, 10th percentile", f"{np.percentile(apart.box, 10):.3f}"),
        Score("point near the middle, mean IoU, things apart", f"{apart.point.mean():.3f}", "≥ 0.88"),
        Score("predicted IoU, mean error", f"{bias.mean():+.3f}", "within 0.05"),
        Score("predicted IoU, correlation with the true one", f"{np.corrcoef(apart.predicted, apart.box)[0, 1]:.2f}"),
        Score(f"box prompt, mean IoU, {len(covered.box)} things, some covered", f"{covered.box.mean():.3f}"),
        Score("point near the middle, mean IoU, some covered", f"{covered.point.mean():.3f}"),
    ]


@dataclass(frozen=True, slots=True)
class Prompted:
    """IoU with the truth by box and by point, and what SAM predicted for the box: float64 (N,)."""

    box: NDArray[np.float64]
    point: NDArray[np.float64]
    predicted: NDArray[np.float64]


def by_prompts(bench: Bench, *, occlusion: bool) -> Prompted:
    by_box, by_point, predicted = (list[float]() for _ in range(3))
    for scene in bench.scenes(3, occlusion=occlusion):
        masks, _ = visible(scene)
        if not len(masks):
            continue
        grounding = Grounding(mask_boxes(masks), np.ones(len(masks), np.int64))
        instances = bench.segmenter.segment([scene.image], [grounding])[0]
        by_box.extend(paired_mask_iou(instances.masks, masks))
        predicted.extend(instances.scores["predicted_iou"])
        model = SamModel.of(str(bench.sam), None, "auto", "auto")
        embedded = model.embed([scene.image])[0]
        answer = model.by_points(embedded, np.array([middle(mask) for mask in masks], np.float32))
        by_point.extend(paired_mask_iou(model.masks(embedded, answer.logits[:, 0]).masks, masks))
    return Prompted(np.array(by_box), np.array(by_point), np.array(predicted, np.float64))


def score_clip(bench: Bench) -> list[Score]:
    """Zero-shot classification, among all classes, of crops of true scenes and of generated crops that a person has
    checked."""
    right: dict[bool, list[bool]] = {False: [], True: []}
    for occlusion, correct in right.items():
        for scene in bench.scenes(4, occlusion=occlusion):
            masks, things = visible(scene)
            correct.extend(named(bench, scene.image, mask_boxes(masks)) == [thing.category for thing in things])
    generated, everything = list[bool](), list[bool]()
    judged = judged_crops(bench.diffusion)
    excluded = {(e.image, e.thing) for e in judged.excluded}
    for i, image in enumerate(islice(bench.generated(layout=True), judged.images)):
        asked = bench.prompt_scenes[i].things
        hits = named(bench, image, np.array([t.box for t in asked], np.float32)) == [t.category for t in asked]
        everything.extend(hits)
        generated.extend(hit for j, hit in enumerate(hits) if (i, j) not in excluded)
    kept = f"{len(generated)} crops that can be named, {len(judged.excluded)} excluded"
    return [
        Score(f"zero-shot, {len(right[False])} true crops of things apart", percent(right[False]), "≥ 98 %"),
        Score(f"zero-shot, {len(right[True])} true crops, some covered", percent(right[True])),
        Score(f"zero-shot, generated: {kept}", percent(generated), "≥ 95 %"),
        Score(f"zero-shot, all {len(everything)} generated crops", percent(everything)),
    ]


def score_diffusion(bench: Bench) -> list[Score]:
    """Whether the things that were asked for are in the images. SAM finds things by a grid of points and CLIP names
    them; neither knows the boxes or names that were asked for."""
    boxes = [np.array([t.box for t in scene.things], np.float32) for scene in bench.prompt_scenes]
    kinds = [np.array([t.category + 1 for t in scene.things]) for scene in bench.prompt_scenes]
    detected = bench.discovery.find(bench.layout_images)
    there = [in_place(f, b, k) for f, b, k in zip(detected, boxes, kinds, strict=True)]
    shuffled = [
        in_place(f, b, k) for f, b, k in zip(detected, [*boxes[1:], boxes[0]], [*kinds[1:], kinds[0]], strict=True)
    ]
    empty = [np.asarray(blank(bench, i)) for i in range(len(bench.prompt_scenes))]
    nothing = [in_place(f, b, k) for f, b, k in zip(bench.discovery.find(empty), boxes, kinds, strict=True)]
    grounds = [
        ground_is_right(bench, image, scene)
        for image, scene in zip(bench.layout_images, bench.prompt_scenes, strict=True)
    ]
    text_hits: list[bool] = []
    for image, kind in zip(bench.generated(layout=False), kinds, strict=True):
        seen = set(bench.discovery.find([image])[0].category_id.tolist())
        text_hits.extend(k in seen for k in sorted(set(kind.tolist())))
    return [
        Score("asked thing in its box, with layout", percent(np.concatenate(there)), "≥ 92 %"),
        Score("the same on grounds with nothing on them", percent(np.concatenate(nothing)), "≤ 5 %"),
        Score("the same with the next prompt's layout", percent(np.concatenate(shuffled)), "≤ 5 %"),
        Score(f"asked class is there, without layout, guidance {bench.text_guidance:g}", percent(text_hits), "≥ 85 %"),
        Score("asked ground, with layout", percent(grounds), "≥ 95 %"),
    ]


def score_speed(bench: Bench) -> list[Score]:
    """Images a second, of the fastest of several batches; and the seconds in which all models load and answer once,
    with the libraries imported before. The diffusion model's answer is an image of one step."""
    import torch
    from diffusers import StableDiffusionAdapterPipeline, StableDiffusionPipeline, T2IAdapter  # noqa: F401
    from segment_anything.modeling import Sam  # noqa: F401
    from transformers import CLIPModel, CLIPProcessor, CLIPTextModel  # noqa: F401

    assert bench.prompt_scenes  # This draws the scenes, and reads the sprites, before the clock starts.
    began = time.monotonic()
    replace(bench, steps=1).generator.generate([bench.job(0, layout=True)])
    image = bench.prompt_scenes[0].image
    bench.segmenter.segment([image], [Grounding(np.array([[0, 0, 64, 64]], np.float32), np.ones(1, np.int64))])
    bench.clip_model.pictures([image])
    loading = time.monotonic() - began
    jobs = [bench.job(i % len(bench.prompt_scenes), layout=True) for i in range(bench.batch_size)]
    images = list(bench.generator.generate(jobs))
    groundings = [Grounding(np.array(job.layout, np.float32), np.array(job.asked, np.int64)) for job in jobs]
    made = fastest(lambda: bench.generator.generate(jobs), 4)
    labelled = fastest(lambda: bench.segmenter.segment(images, groundings), 9)
    folders = (bench.diffusion, bench.sam, bench.clip)
    weights = sum(file.stat().st_size for folder in folders for file in folder.rglob("*.safetensors"))
    n, where = len(jobs), f"batch {len(jobs)}, {torch.get_num_threads()} threads"
    return [
        Score(f"generate, {bench.size} px, {bench.steps} steps with guidance, {where}", f"{n / made:.2f} images/s",
              "≥ 1.5 images/s"),
        Score(f"label by boxes, {where}", f"{n / labelled:.1f} images/s", "≥ 15 images/s"),
        Score("load all three, to the first answer of each", f"{loading:.2f} s", "≤ 2 s"),
        Score("weights of all three, float16", f"{weights / 1e6:.1f} MB", "≤ 60 MB"),
    ]  # fmt: skip


def score_discovery(bench: Bench) -> list[Score]:
    """The `everything` search on true scenes: the share of things that it finds, the share of its detections that are
    none, and how often the filter `unlabelled` finds a thing whose label was left out."""
    from synthgen.filters import unlabelled

    options = {"model": str(bench.sam), "clip": str(bench.clip)}
    search = Discovery(DiscoveryConfig(use="everything", **options), CATEGORIES)
    counts = unlabelled.Backend(unlabelled.Config(use="unlabelled", **options), CATEGORIES)
    scores = []
    bare, full = list[bool](), list[bool]()
    for occlusion, kind in ((False, "apart"), (True, "some covered")):
        there, false = list[bool](), list[bool]()
        for i, scene in enumerate(bench.scenes(6, occlusion=occlusion)):
            masks, things = visible(scene)
            kinds = np.array([thing.category + 1 for thing in things], np.int64)
            detected, boxes = search.find([scene.image])[0], mask_boxes(masks)
            fits = (box_iou(boxes, detected.boxes) >= MATCH_IOU) & (kinds[:, None] == detected.category_id)
            there.extend(fits.any(1))
            false.extend(~fits.any(0))
            if len(things) > 1 and not occlusion and len(bare) < UNLABELLED_SCENES:
                job = bench.job(i % len(bench.prompt_scenes), layout=False)
                for first, seen in ((1, bare), (0, full)):
                    kept = Instances(masks[first:], boxes[first:], kinds[first:])
                    seen.append(bool(counts.measure(Sample(job, scene.image, kept)) >= 1))
        limits = ("", "") if occlusion else ("≥ 90 %", "≤ 10 %")
        scores += [
            Score(f"search: found and named, of {len(there)} things, {kind}", percent(there), limits[0]),
            Score(f"search: false ones, of {len(false)} found, {kind}", percent(false), limits[1]),
        ]
    return [
        *scores,
        Score(f"search: a thing without label is found, {len(bare)} scenes", percent(bare), "≥ 90 %"),
        Score("search: one is found in the same scenes, all labelled", percent(full)),
    ]


TABLES: dict[str, tuple[str, Callable[[Bench], list[Score]]]] = {  # name -> (folder of the card, function)
    "speed": ("diffusion", score_speed),  # first: it loads the models
    "autoencoder": ("diffusion", score_autoencoder),
    "diffusion": ("diffusion", score_diffusion),
    "sam": ("sam", score_sam),
    "clip": ("clip", score_clip),
    "discovery": ("clip", score_discovery),
}


def visible(scene: Scene) -> tuple[NDArray[np.bool_], list[Thing]]:
    """The masks and things with enough visible pixels."""
    chosen = scene.masks.sum((1, 2)) >= MIN_VISIBLE_PX
    return scene.masks[chosen], [t for t, seen in zip(scene.things, chosen, strict=True) if seen]


def middle(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """The pixel (x, y) of a mask that is deepest inside."""
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    return int(x), int(y)


def named(bench: Bench, image: NDArray[np.uint8], boxes: NDArray[np.float32]) -> NDArray[np.int64]:
    """The likeliest class, from 0, of the crop of each box, (N, 4) -> int64 (N,)."""
    cosines = bench.clip_model.pictures([crop(image, box) for box in boxes]) @ bench.names.T
    likeliest: NDArray[np.int64] = cosines.argmax(1)
    return likeliest


def in_place(detected: Found, boxes: NDArray[np.float32], kinds: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether something of the asked class was detected in each asked box, (N, 4) -> bool (N,)."""
    fits = (box_iou(boxes, detected.boxes) >= MATCH_IOU) & (kinds[:, None] == detected.category_id)
    there: NDArray[np.bool_] = fits.any(1)
    return there


def ground_is_right(bench: Bench, image: NDArray[np.uint8], scene: Scene) -> bool:
    """Whether, of the captions with each background, the one with the scene's background fits the image best."""
    texts = bench.clip_model.texts(tuple(captions.caption(ground, scene.things) for ground in BACKGROUNDS))
    return BACKGROUNDS[int((texts @ bench.clip_model.pictures([image])[0]).argmax())] == scene.background


def blank(bench: Bench, index: int) -> NDArray[np.uint8]:
    """An image, uint8 (S, S, 3), of a background with nothing on it."""
    rng = np.random.default_rng([HELD_OUT_SEED, 5, index])
    while (scene := scenes.draw(rng, size=bench.size)).things:
        pass
    return scene.image


def fastest(work: Callable[[], object], times: int) -> float:
    """The seconds of the fastest of several runs: other work on the machine disturbs the slower ones."""
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def percent(hits: Iterable[bool | np.bool_]) -> str:
    return f"{100 * np.mean(list(hits)):.1f} %"
