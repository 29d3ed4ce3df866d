"""The specs that come with the project."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_detectors
import tiny_sams
import torch
import yaml
from pycocotools.coco import COCO
from tiny import save_clip, save_owlv2, stable_diffusion, stable_diffusion_xl
from zoo import ZOO, Animal

from synthgen import cli
from synthgen.pipeline.label import labelled_samples
from synthgen.spec import load_spec

SPECS = sorted((Path(__file__).parents[2] / "specs").glob("*.yaml"))


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_it_can_be_read(path: Path) -> None:
    assert load_spec(path).name == path.stem


def test_sdxl_street_says_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SYNTHGEN_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["synthgen", "check", "specs/sdxl_street.yaml"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[2] for line in lines] == [
        "generator.model",
        "grounder.model",
        "segmenter.model",
        "filters.class_agreement.model",
    ]
    ends = ("base-1.0 --variant fp16", "owlv2-base-patch16-ensemble", "vit_h", "clip-vit-large-patch14")
    for line, end in zip(lines, ends, strict=True):
        assert " GB); fetch it with: synthgen models --download " in line
        assert line.endswith(end)


def test_sdxl_street_runs(tmp_path: Path, run_through: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With small random models of the same classes in the places of SDXL, OWLv2 and ViT-H, and small images."""
    monkeypatch.setattr(tiny, "LENGTH", 160)  # its prompts in letters, of which the tiny tokenizer makes tokens
    torch.manual_seed(0)
    stable_diffusion_xl().save_pretrained(tmp_path / "sdxl", variant="fp16")
    save_owlv2(tmp_path / "owlv2")
    raw = yaml.safe_load((SPECS[0].parent / "sdxl_street.yaml").read_text(encoding="utf-8"))
    raw |= {"count": 4, "budget": 1, "height": 64, "width": 64, "shard_size": 3}
    raw["generator"] |= {"model": str(tmp_path / "sdxl"), "num_inference_steps": 2, "torch_dtype": "float32"}
    raw["grounder"] |= {"model": str(tmp_path / "owlv2"), "score_threshold": 0.0, "max_boxes": 5}
    raw["segmenter"] |= {"model": "mini"}
    raw["filters"] = {name: None if name == "near_duplicate" else {"min": None} for name in raw["filters"]}
    raw["filters"]["mask_area"] = {"min": None, "max": None}
    raw["filters"]["mask_overlap"] = {"max": None}
    save_clip(tmp_path / "clip")
    raw["filters"]["class_agreement"] = {"model": str(tmp_path / "clip"), "min": None}

    build = run_through(raw, tmp_path / "out")

    quality = build.quality()
    assert quality is not None
    assert quality.made == 4
    assert quality.accepted + quality.rejected == 4
    found = [
        i
        for shard in build.run.marks.shards()
        for sample in labelled_samples(build, shard)
        for i in sample.instances.category_id
    ]
    asked = {c for shard in build.run.marks.shards() for job in build.jobs(shard) for c in job.asked}
    assert found
    assert set(found) <= asked
    for split in ("train", "val", "test"):
        COCO(str(build.run.root / "coco" / "annotations" / f"instances_{split}.json"))


def test_check_and_run_say_what_becomes_of_long_prompts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A style text before the things asked for makes all prompts the same; one after them is cut, which is told."""
    monkeypatch.setattr(tiny, "LENGTH", 77)
    torch.manual_seed(0)
    stable_diffusion().save_pretrained(tmp_path / "sd77")
    save_owlv2(tmp_path / "owl")
    raw: dict[str, Any] = {
        "name": "longp", "count": 4, "height": 64, "width": 64, "classes": ["cat", "bus"],
        "prompts": {"templates": ["golden hour, " * 8 + "{objects}"]},
        "generator": {"use": "diffusion", "model": str(tmp_path / "sd77")},
        "grounder": {"use": "detector", "model": str(tmp_path / "owl")},
        "filters": {"sharpness": None},
    }  # fmt: skip
    spec = tmp_path / "longp.yaml"
    spec.write_text(yaml.safe_dump(raw))
    with pytest.raises(SystemExit) as stop:
        checked(monkeypatch, "check", spec)
    words = capsys.readouterr().err
    assert stop.value.code == 2
    assert "takes 77: the things asked for would be cut; shorten it" in words and words.count("\n") == 1

    raw["prompts"] = {"templates": ["{objects}" + ", golden hour" * 8]}
    spec.write_text(yaml.safe_dump(raw))
    with pytest.raises(SystemExit) as stop:
        checked(monkeypatch, "check", spec)
    out, words = capsys.readouterr()
    assert not stop.value.code and "good (4 images" in out
    assert "note: prompts: " in words and "takes 77: what follows is cut; shorten it" in words


def checked(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr("sys.argv", ["synthgen", *map(str, arguments)])
    cli.main()


# Model id -> a tiny model of the class that its repository has.
STAND_INS: dict[str, Callable[[Path], Any]] = {
    "stabilityai/stable-diffusion-xl-base-1.0": lambda folder: stable_diffusion_xl().save_pretrained(
        folder, variant="fp16"
    ),
    "stabilityai/stable-diffusion-3.5-medium": lambda folder: animal("StableDiffusion3Pipeline").save(folder),
    "black-forest-labs/FLUX.2-klein-4B": lambda folder: animal("Flux2KleinPipeline").save(folder),
    "Qwen/Qwen-Image": lambda folder: animal("QwenImagePipeline").save(folder),
    "Tongyi-MAI/Z-Image-Turbo": lambda folder: animal("ZImagePipeline").save(folder),
    "google/owlv2-base-patch16-ensemble": save_owlv2,
    "google/owlv2-large-patch14-ensemble": save_owlv2,
    "iSEE-Laboratory/llmdet_base": lambda folder: mm_grounding_dino(folder),
    "openmmlab-community/mm_grounding_dino_base_all": lambda folder: mm_grounding_dino(folder),
    "openmmlab-community/mm_grounding_dino_large_all": lambda folder: mm_grounding_dino(folder),
    "facebook/sam3": lambda folder: tiny_detectors.save_sam3(folder, "Sam3Video"),
    "facebook/sam2.1-hiera-large": lambda folder: tiny_sams.save("sam2", folder.parent).rename(folder),
    "openai/clip-vit-large-patch14": save_clip,
}


def mm_grounding_dino(folder: Path) -> None:
    """It reads as many tokens as the published ones."""
    config = tiny_detectors.save_grounding_dino(folder, "MMGroundingDino") / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_text_len": 256}))


def animal(pipeline: str) -> Animal:
    return next(one for one in ZOO.values() if one.pipeline == pipeline)


@pytest.mark.parametrize("path", [path for path in SPECS if path.stem != "quickstart"], ids=lambda path: path.stem)
def test_check_calls_it_good_where_the_models_are(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synthgen: Any
) -> None:
    """A hub's cache has a tiny model of the right class for each id. Only SAM's own checkpoints are not there."""
    monkeypatch.setattr(tiny, "LENGTH", 400)  # its prompts in letters, of which the tiny tokenizer makes tokens
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("SYNTHGEN_HOME", str(tmp_path / "none"))
    for model in {name for name in STAND_INS if name in path.read_text(encoding="utf-8")}:
        cache = tmp_path / "hub" / f"models--{model.replace('/', '--')}"
        (cache / "snapshots").mkdir(parents=True)
        (cache / "refs").mkdir()
        (cache / "refs" / "main").write_text("a" * 40)
        torch.manual_seed(0)
        STAND_INS[model](cache / "snapshots" / ("a" * 40))
    code, out, err = synthgen("check", path)
    problems = [line for line in err.splitlines() if line.startswith(f"{path}: ") and ": note: " not in line]
    checkpoints = [line for line in problems if "'vit_" in line and "is not on this machine" in line]
    assert problems == checkpoints, err
    assert code == (2 if checkpoints else 0)
    assert checkpoints or "good (" in out
