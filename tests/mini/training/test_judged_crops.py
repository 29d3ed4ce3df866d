"""The list of generated crops that nobody can name."""

import json

import pytest

from synthgen.errors import RunError
from synthgen.mini import scenes
from synthgen.mini.training.bench import Bench
from synthgen.mini.training.judged_crops import JUDGED, judged_crops
from synthgen.models import MINI


def test_crops_judged_for_other_weights_are_not_taken(tmp_path, monkeypatch):
    folder = tmp_path / "diffusion" / "unet"
    folder.mkdir(parents=True)
    (folder / "diffusion_pytorch_model.safetensors").write_bytes(b"other")
    with pytest.raises(RunError, match="judges the crops of other weights"):
        judged_crops(tmp_path / "diffusion")


def test_the_judged_crops_are_of_the_embedded_weights():
    judged = judged_crops(MINI / "diffusion")
    assert judged.images >= 64
    bench = Bench(count=judged.images)
    for excluded in judged.excluded:
        thing = bench.prompt_scenes[excluded.image].things[excluded.thing]
        assert scenes.CLASSES[thing.category] == excluded.name and len(excluded.reason) > 5
    assert len({(e.image, e.thing) for e in judged.excluded}) == len(judged.excluded)
    assert json.loads(JUDGED.read_text())["images"] == judged.images
