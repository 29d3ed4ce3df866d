"""The figures of the cards: their arithmetic by hand, and a small bench of the real thing."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from synthgen.errors import RunError
from synthgen.mini import __main__, scenes, scoring
from synthgen.mini.scoring import Bench, Score
from synthgen.models.discovery import Found


def test_middle_is_the_deepest_pixel():
    mask = np.zeros((20, 30), bool)
    mask[2:9, 5:12] = True  # 7x7
    mask[5, 12:29] = True  # with a long handle
    assert scoring.middle(mask) == (8, 5)


def test_in_place_by_hand():
    boxes = np.array([[0, 0, 10, 10], [20, 20, 40, 40], [50, 0, 60, 10]], np.float32)
    found = Found(
        np.zeros((3, 64, 64), bool),
        np.array([[0, 0, 10, 6], [20, 20, 40, 40], [50, 0, 60, 4]], np.float32),  # IoU 0.6, 1, 0.4
        np.array([1, 7, 3]),
        np.ones(3, np.float32),
    )
    assert scoring.in_place(found, boxes, np.array([1, 2, 3])).tolist() == [True, False, False]
    assert scoring.in_place(found, boxes, np.array([1, 7, 3])).tolist() == [True, True, False]


@pytest.mark.parametrize(("hits", "text"), [([True, True, False, True], "75.0 %"), ([0, 0], "0.0 %")])
def test_percent(hits, text):
    assert scoring.percent(hits) == text


def test_scenes_are_held_out_and_the_same_each_time():
    bench = Bench(count=3)
    first, again = ([s.image for s in bench.scenes(2, occlusion=True)] for _ in range(2))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert not any((a == b.image).all() for a, b in zip(first, bench.scenes(3, occlusion=True), strict=True))
    assert all(scene.things for scene in bench.asked) and len(bench.asked) == 3
    assert scoring.HELD_OUT > 2**32  # seeds of trainings are the user's, and small


def test_a_job_asks_for_its_scene():
    bench = Bench(count=2)
    job, scene = bench.job(1, layout=True), bench.asked[1]
    assert [scenes.CLASSES[k - 1] for k in job.asked] == [scenes.CLASSES[t.category] for t in scene.things]
    assert job.layout == tuple(t.box for t in scene.things)
    assert scene.background in job.prompt
    assert bench.job(1, layout=False).layout is None and bench.job(0, layout=True).seed != job.seed


def test_card_is_written_between_its_marks(tmp_path):
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "model.safetensors").write_bytes(b"x" * 300_000)
    marks = "# A model\n<!-- scores -->\nold\n<!-- /scores -->\nwords\n<!-- files -->\n<!-- /files -->\nend\n"
    (tmp_path / "README.md").write_text(marks)
    for _ in range(2):
        scoring.write_card(tmp_path, [Score("height", "3 m", "≥ 2 m"), Score("width", "1 m")])
    text = (tmp_path / "README.md").read_text()
    assert "| height | 3 m | ≥ 2 m |\n| width | 1 m |  |\n<!-- /scores -->\nwords" in text
    assert "old" not in text and text.count("height") == 1 and text.endswith("<!-- /files -->\nend\n")
    assert re.search(r"\| `part/model.safetensors` \| 0\.3 MB \| `[0-9a-f]{64}` \|", text)
    (tmp_path / "README.md").write_text("# No marks\n")
    with pytest.raises(RunError, match="no marks <!-- scores -->"):
        scoring.write_card(tmp_path, [])


def test_crops_judged_for_other_weights_are_not_taken(tmp_path, monkeypatch):
    folder = tmp_path / "diffusion" / "unet"
    folder.mkdir(parents=True)
    (folder / "diffusion_pytorch_model.safetensors").write_bytes(b"other")
    with pytest.raises(RunError, match="judges the crops of other weights"):
        scoring.judged_crops(Bench(diffusion=tmp_path / "diffusion"))


def test_the_judged_crops_are_of_the_embedded_weights():
    judged = scoring.judged_crops(Bench())
    assert judged.images >= 64
    bench = Bench(count=judged.images)
    for excluded in judged.excluded:
        thing = bench.asked[excluded.image].things[excluded.thing]
        assert scenes.CLASSES[thing.category] == excluded.name and len(excluded.reason) > 5
    assert len({(e.image, e.thing) for e in judged.excluded}) == len(judged.excluded)
    assert json.loads(scoring.JUDGED.read_text())["images"] == judged.images


@pytest.mark.parametrize(("what", "lines"), [("autoencoder", 2), ("sam", 7)])
def test_the_command_scores(what, lines, tmp_path):
    result = CliRunner().invoke(__main__.app, ["score", what, "--count", "8"])
    assert result.exit_code == 0, result.output
    assert len(re.findall(r"\d\.\d", result.output)) >= lines


def test_a_model_that_is_not_there(tmp_path: Path):
    result = CliRunner().invoke(__main__.app, ["score", "sam", "--count", "8", "--work", str(tmp_path)])
    assert result.exit_code != 0


def test_cards_are_written_whole():
    result = CliRunner().invoke(__main__.app, ["score", "clip", "--write"])
    assert isinstance(result.exception, RunError) and "leave 'clip' out" in str(result.exception)
