"""Layouts become boxes and captions, as written out here by hand."""

import json
from pathlib import Path

import pytest

from synthgen.models import AdapterLayout, NativeLayout
from synthgen.models.layouts import boxes, json_caption, layout_of
from synthgen.types import Job

NAMES = {1: "traffic light", 2: "cup"}


def job(asked: tuple[int, ...], layout: tuple[tuple[int, int, int, int], ...], slots: dict[str, str]) -> Job:
    prompt = "a cup and “two” lights on sand"
    return Job(1, 1, 1, 0, "f", "train", prompt, "", slots, asked, layout, 1, height=100, width=200)


ASKED = job((1, 2, 1), ((100, 10, 150, 60), (0, 0, 50, 100), (20, 50, 60, 75)), {"ground": "sand", "light": "at noon"})


def test_boxes() -> None:
    """Shares of the sides with y first; the ids of a class go from left to right, whatever the order of the objects."""
    assert boxes(ASKED, NAMES) == [
        {"id": "traffic_light_2", "bbox": [0.1, 0.5, 0.6, 0.75], "desc": "traffic light"},
        {"id": "cup_1", "bbox": [0.0, 0.0, 1.0, 0.25], "desc": "cup"},
        {"id": "traffic_light_1", "bbox": [0.5, 0.1, 0.75, 0.3], "desc": "traffic light"},
    ]
    above = job((2, 2), ((10, 50, 20, 60), (10, 20, 20, 30)), {})
    assert [box["id"] for box in boxes(above, NAMES)] == ["cup_2", "cup_1"]
    assert boxes(job((), (), {}), NAMES) == []


def test_json_caption() -> None:
    assert json_caption(ASKED, NAMES) == (
        '{"high_level_description":"a cup and “two” lights on sand","compositional_deconstruction":{'
        '"background":"sand, at noon","elements":['
        '{"type":"obj","bbox":[100,500,600,750],"desc":"traffic light"},'
        '{"type":"obj","bbox":[0,0,1000,250],"desc":"cup"},'
        '{"type":"obj","bbox":[500,100,750,300],"desc":"traffic light"}]}}'
    )
    empty = json.loads(json_caption(job((), (), {}), NAMES))["compositional_deconstruction"]
    assert empty == {"background": "a cup and “two” lights on sand", "elements": []}


def test_a_card_says_more_than_a_class(tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    assert layout_of(tmp_path / "bare", "Flux3ModularPipeline") == NativeLayout(form="boxes")
    assert layout_of(tmp_path / "bare", "Ideogram4Pipeline") == NativeLayout(form="json_caption")
    assert layout_of(tmp_path / "bare", "StableDiffusionPipeline") is None
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "synthgen.json").write_text('{"layout": {"form": "json_caption"}}')
    assert layout_of(tmp_path / "tuned", "StableDiffusionPipeline") == NativeLayout(form="json_caption")
    adapter = {"form": "t2i_adapter", "folder": "adapter", "palette": {"cup": [1.0]}}
    (tmp_path / "synthgen.json").write_text(json.dumps({"layout": adapter}))
    assert isinstance(layout_of(tmp_path, "StableDiffusionPipeline"), AdapterLayout)


@pytest.mark.parametrize("layout", [{"form": "heap"}, {"form": "boxes", "folder": "adapter"}, {"form": "t2i_adapter"}])
def test_cards_that_are_not_valid(layout: dict[str, str], tmp_path: Path) -> None:
    from synthgen.models import ModelMissing

    (tmp_path / "synthgen.json").write_text(json.dumps({"layout": layout}))
    with pytest.raises(ModelMissing, match=r"is no valid model card: layout"):
        layout_of(tmp_path, "StableDiffusionPipeline")
