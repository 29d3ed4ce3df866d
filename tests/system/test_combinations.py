"""From a spec to COCO by the command line: generators of many families, with each finder and each cutter."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_detectors
import tiny_sams
import yaml
from pycocotools.coco import COCO
from zoo import ZOO

GENERATORS = (
    "sd", "sdxl", "sd3", "flux", "flux2_klein", "qwen_image", "z_image", "sana", "chroma", "pixart_sigma", "kolors",
    "krea2",
)  # fmt: skip
FINDERS: dict[str, Callable[[Path], Any]] = {
    "owlv2": tiny.save_owlv2,
    "llmdet": lambda folder: tiny_detectors.save_grounding_dino(folder, "MMGroundingDino"),
    "sam3": lambda folder: tiny_detectors.save_sam3(folder, "Sam3Video"),
}
CUTTERS = ("sam", "sam2", "sam3_tracker")
# Every generator, and every pair of a finder and a cutter at least once: 16 of the 108 combinations.
COMBINATIONS = [(GENERATORS[i % len(GENERATORS)], tuple(FINDERS)[i % 3], CUTTERS[(i + i // 3) % 3]) for i in range(16)]
# One process for all runs, each of which is a whole `synthgen run` with its flow.
RUNS = """
import os, sys
from synthgen import cli
for name in sys.argv[1:]:
    sys.argv = ["synthgen", "run", f"{name}.yaml", "--out", "out", "--quiet"]
    try:
        cli.main()
    except SystemExit as stop:
        print("ended", name, stop.code or 0, flush=True)
os._exit(0)  # Prefect waits in vain, at the end, for servers of earlier runs in the same process
"""


def spec(root: Path, number: int, generator: str, finder: str, cutter: str) -> dict[str, Any]:
    animal = ZOO[generator]
    return {
        "name": f"run{number}", "count": 2, "height": 64, "width": 64, "classes": ["cup", "car"],
        "prompts": {"templates": ["{objects}"]}, "layout": None,
        "generator": {
            "use": "diffusion", "model": str(root / generator), "num_inference_steps": 2,
            **({} if animal.guidance_scale is None else {"guidance_scale": animal.guidance_scale}), **animal.options,
        },
        "grounder": {
            "use": "detector", "model": str(root / finder), "score_threshold": 0.0, "max_boxes": 3, "nms_iou": 1.0,
            "cross_class_nms_iou": 1.0,
        },
        "segmenter": {"use": "sam", "model": str(root / cutter)},
        "filters": {"mask_area": {"min": None, "max": None}, "near_duplicate": None},
        "splits": {"train": 1},
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")  # of diffusers, whose models call deprecated functions
def test_every_finder_and_cutter_labels_images_of_every_family(
    tmp_path: Path, migrated: Callable[[Path], Path]
) -> None:
    assert {g for g, _, _ in COMBINATIONS} == set(GENERATORS)
    assert len({(f, c) for _, f, c in COMBINATIONS}) == 9
    for name in GENERATORS:
        ZOO[name].save(tmp_path / name)
    for name, save in FINDERS.items():
        save(tmp_path / name)
    for name in CUTTERS:
        tiny_sams.save(name, tmp_path)
    for number, combination in enumerate(COMBINATIONS):
        raw = spec(tmp_path, number, *combination)
        (tmp_path / f"run{number}.yaml").write_text(yaml.safe_dump(raw))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    environment |= {"PREFECT_HOME": str(migrated(tmp_path / "home")), "HF_HUB_OFFLINE": "1"}
    names = [f"run{number}" for number in range(len(COMBINATIONS))]
    done = subprocess.run(
        [sys.executable, "-c", RUNS, *names], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    ended = dict(line.split()[1:] for line in done.stdout.splitlines() if line.startswith("ended "))
    # Random masks may be empty, and images with such are rejected: then a run ends short, which is code 3.
    assert list(ended) == names and set(ended.values()) <= {"0", "3"}, done.stdout + done.stderr

    labelled = {}
    for name, (_, finder, cutter) in zip(names, COMBINATIONS, strict=True):
        root = tmp_path / "out" / name / "run-0001"
        coco = COCO(str(root / "coco" / "annotations" / "instances_train.json"))
        assert len(coco.getImgIds()) == 2 or ended[name] == "3"
        for annotation in coco.loadAnns(coco.getAnnIds()):
            mask = coco.annToMask(annotation)
            assert mask.shape == (64, 64) and mask.sum() == annotation["area"] > 0
            labelled[name] = (finder, cutter)
        assert {"generator", "grounder", "segmenter"} <= json.loads((root / "run.json").read_bytes())["models"].keys()
    assert len(labelled) >= 12
    assert {f for f, _ in labelled.values()} == set(FINDERS) and {c for _, c in labelled.values()} == set(CUTTERS)
