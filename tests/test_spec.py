"""Specs: what is refused, in which words; what short forms mean; what is said of every key."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from synthgen import cli
from synthgen.errors import SpecError
from synthgen.spec import DatasetSpec, differences, json_schema, load_spec, load_yaml, set_value

ROOT = Path(__file__).parents[1]
SpecFile = Callable[..., Path]
DELETE = object()
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"


def changed(raw: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Sets each `key.path` of plain data to a value, or takes it away."""
    for path, value in changes.items():
        *keys, last = path.split(".")
        place = raw
        for key in keys:
            place = place.setdefault(key, {})
        if value is DELETE:
            del place[last]
        else:
            place[last] = value
    return raw


# (what is wrong, changes to a good spec or a file's whole content, field, got, what it takes or the nearest name)
BROKEN: list[tuple[str, Any, str, str, str]] = [
    ("wrong type", {"count": "many"}, "count:", "'many'", "whole number"),
    ("text for a list", {"classes": "apple"}, "classes:", "'apple'", "list"),
    ("number for text", {"name": 7}, "name:", "7", "text"),
    ("list for a mapping", {"prompts": ["a photo"]}, "prompts:", "['a photo']", "templates"),
    ("fraction for a whole number", {"count": 1.5}, "count:", "1.5", "whole number"),
    ("unknown key", {"clases": ["apple"]}, "clases:", "unknown key", "did you mean 'classes'?"),
    ("unknown key of a class", {"classes": [{"nmae": "a", "name": "apple"}]}, "classes.0.nmae:", "", "'name'"),
    ("unknown key of layout", {"layout.marign": 0.1}, "layout.marign:", "unknown key", "'margin'"),
    ("unknown key of prompts", {"prompts.negativ_prompt": "x"}, "prompts.negativ_prompt:", "", "'negative_prompt'"),
    ("unknown key of a template", {"prompts.templates": [{"txt": "{objects}"}]}, "prompts.templates.0.txt:", "", "text"),
    ("unknown option of generator", {"generator.steps": 20}, "generator.steps:", "", "num_inference_steps"),
    ("unknown option of a filter", {"filters.sharpness.mim": 3}, "filters.sharpness.mim:", "", "'min'"),
    ("unknown option of an exporter", {"exporters.coco.format": "x"}, "exporters.coco.format:", "", "segmentation"),
    ("unknown generator", {"generator": "difusion"}, "generator.use:", "'difusion'", "'diffusion'"),
    ("unknown grounder", {"grounder": "layuot"}, "grounder.use:", "'layuot'", "'layout'"),
    ("unknown segmenter", {"segmenter": {"use": "sam9"}}, "segmenter.use:", "'sam9'", "'sam'"),
    ("unknown filter", {"filters": {"sharpnes": {}}}, "filters.sharpnes:", "'sharpnes'", "'sharpness'"),
    ("unknown exporter", {"exporters": {"yolo": {}}}, "exporters.yolo:", "'yolo'", "coco"),
    ("own module that is not there", {"generator": "acme.pictures"}, "generator.use:", "'acme.pictures'", "import"),
    ("own module that is no backend", {"generator": "os.path"}, "generator.use:", "'os.path'", "`Config`"),
    ("use is no name", {"generator": {"use": 3}}, "generator.use:", "3", "name"),
    ("a stage that is a list", {"segmenter": ["sam"]}, "segmenter:", "['sam']", "mapping"),
    ("no name", {"name": DELETE}, "name:", "missing", "no default"),
    ("no classes", {"classes": DELETE}, "classes:", "missing", "no default"),
    ("empty classes", {"classes": []}, "classes:", "[]", "at least 1"),
    ("nameless class", {"classes": ["apple", ""]}, "classes.1.name:", "''", "at least 1"),
    ("duplicate class", {"classes": ["apple", "tree", "Apple"]}, "classes:", "'Apple'", "once"),
    ("synonym of another class", {"classes": ["apple", {"name": "tree", "synonyms": ["apple"]}]}, "classes:", "'apple'",
     "once"),
    ("class that the model does not know", {"classes": ["aple"]}, "classes:", "'aple'", "did you mean 'apple'?"),
    ("least above greatest", {"layout.size": [0.5, 0.3]}, "layout.size:", "0.5", "[least, greatest]"),
    ("size of one number", {"layout.size": [0.5]}, "layout.size", "", "2"),
    ("aspect ratio of 0", {"classes": [{"name": "apple", "aspect_ratio": [0, 1]}]}, "classes.0.aspect_ratio:", "0",
     "from 0.05 to 20"),
    ("template with a slot that is not given", {"prompts.templates": ["{objects} on {grond}"]}, "prompts.templates.0:",
     "'grond'", "did you mean 'ground'?"),
    ("template without objects", {"prompts.templates": ["a photo on {ground}"]}, "prompts.templates.0:", "a photo on",
     "needs {objects}"),
    ("background template with objects", {"prompts.background_templates": ["{objects}"]},
     "prompts.background_templates.0:", "'{objects}'", "no {objects}"),
    ("template with an attribute", {"prompts.templates": ["{objects.__class__}"]}, "prompts.templates.0:",
     "objects.__class__", "plain name"),
    ("template with an open brace", {"prompts.templates": ["{objects"]}, "prompts.templates.0:", "'{objects'", "{{"),
    ("no templates", {"prompts.templates": []}, "prompts.templates:", "[]", "at least one"),
    ("no background templates", {"prompts.background_templates": []}, "prompts.background_templates:", "[]",
     "at least one"),
    ("slot without values", {"prompts.slots.ground": []}, "prompts.slots.ground:", "", "at least one value"),
    ("slot with a negative weight", {"prompts.slots.ground": {"sand": -1}}, "prompts.slots.ground:", "-1", "0 or more"),
    ("slot with a bad name", {"prompts.slots.my-ground": ["sand"]}, "prompts.slots:", "'my-ground'", "letters"),
    ("word that the tokenizer does not know", {"prompts.slots.ground": ["gras"]}, "prompts:", "'gras'",
     "did you mean 'grass'?"),
    ("splits that sum to 1.2", {"splits": {"train": 0.9, "val": 0.3}}, "splits:", "1.2", "sum to 1"),
    ("split that is a path", {"splits": {"../train": 1}}, "splits.../train:", "'../train'", "letters"),
    ("height no multiple of 8", {"height": 130}, "height:", "130", "multiple of 8"),
    ("size that the model does not make", {"height": 256}, "height, width:", "256x128", "128x128"),
    ("no model folder", {"generator.model": "./models/mine"}, "generator.model:", "models/mine", "folder"),
    ("model folder that is none", {"generator.model": str(ROOT / "tests")}, "generator.model:", "tests",
     "model_index.json"),
    ("model that is not on this machine", {"generator.model": SDXL}, "generator.model:", "13.9 GB",
     f"synthgen models --download {SDXL}"),
    ("SAM that is not on this machine", {"segmenter.model": "vit_h"}, "segmenter.model:", "'vit_h'",
     "synthgen models --download vit_h"),
    ("name that is a path", {"name": "../../etc"}, "name:", "'../../etc'", "letters"),
    ("negative count", {"count": -5}, "count:", "-5", "1"),
    ("no images", {"count": 0}, "count:", "0", "1"),
    ("more than the disk holds", {"count": 9_999_999, "height": 4096, "width": 4096, "generator": "tests.no.such"},
     "generator.use:", "tests.no.such", "import"),
    ("budget of less than asked", {"budget": 0.5}, "budget:", "0.5", "1"),
    ("65 objects", {"objects_per_image": 65}, "objects_per_image:", "65", "0 to 64"),
    ("negative objects", {"objects_per_image": -1}, "objects_per_image:", "-1", "0 to 64"),
    ("objects in words", {"objects_per_image": "two"}, "objects_per_image:", "'two'", "number"),
    ("objects from more to fewer", {"objects_per_image": [3, 1]}, "objects_per_image:", "[3, 1]", "[least, most]"),
    ("scheduler mistyped", {"generator.scheduler": "DDIMSheduler"}, "generator.scheduler:", "'DDIMSheduler'",
     "did you mean 'DDIMScheduler'?"),
    ("argument that is ours", {"generator.call_options": {"prompt": "x"}}, "generator.call_options:", "prompt", "keys"),
    ("device mistyped", {"generator.device": "cuda0"}, "generator.device:", "'cuda0'", "cuda"),
    ("dtype mistyped", {"generator.torch_dtype": "fp16"}, "generator.torch_dtype:", "'fp16'", "float16"),
    ("threshold out of range", {"filters.stability.min": 1.5}, "filters.stability.min:", "1.5", "1"),
    ("threshold that is no number", {"filters.stability.min": float("nan")}, "filters.stability.min:", "nan", "number"),
    ("image ignored", {"filters.sharpness.on_fail": "ignore"}, "filters.sharpness.on_fail:", "'ignore'", "'reject'"),
    ("on_fail mistyped", {"filters.mask_area.on_fail": "rejct"}, "filters.mask_area.on_fail:", "'rejct'", "reject"),
    ("layout too crowded", {"layout.size": [0.5, 0.6], "objects_per_image": 9}, "layout:", "9 objects", "max_overlap"),
    ("layout grounder without layout", {"layout": None}, "layout:", "got None", "detector"),
    ("version of another time", {"version": 2}, "version:", "2", "1"),
    ("key twice", "name: fruit\ncount: 1\nname: nuts\n", "name", "twice", "line 3"),
    ("alias bomb", "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{b}: &{b} [{', '.join(['*' + a] * 10)}]\n" for a, b in itertools.pairwise("abcdefghi")), "YAML", "aliases",
     "100,000"),
    ("alias of itself", "classes: &a [*a]\n", "YAML", "'a'", "itself"),
    ("YAML tag that runs code", "name: !!python/object/apply:os.getcwd []\n", "YAML", "python/object", "line 1"),
    ("not YAML", "name: [fruit\ncount: 3\n", "YAML", "", "line"),
    ("empty file", "", "spec", "empty file", "mapping"),
    ("list of specs", "- name: fruit\n", "spec", "list", "mapping"),
    ("binary file", b"\x89PNG\r\n\x1a\n\x00\xff\xfe", "spec.yaml", "", "UTF-8"),
    ("control characters", "name: a\x00b\n", "YAML", "", "character"),
    ("deeply nested", "a: " + "[" * 5000, "YAML", "nested", "deep"),
    ("huge file", "# " + "x" * 1_000_001, "spec", "1,000,003", "1,000,000"),
]  # fmt: skip


def synthgen(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The command line, in this process -> exit code."""
    monkeypatch.setattr(sys, "argv", ["synthgen", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


@pytest.mark.parametrize(("content", "field", "got", "takes"), [b[1:] for b in BROKEN], ids=[b[0] for b in BROKEN])
def test_broken(
    content: Any,
    field: str,
    got: str,
    takes: str,
    good: dict[str, Any],
    spec_file: SpecFile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = spec_file(changed(good, content) if isinstance(content, dict) else content)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    assert synthgen(monkeypatch, "run", path, "--out", tmp_path / "out") == 2
    out, err = capfd.readouterr()
    print(err, end="")
    assert out == ""
    assert err.startswith("error: ") and err.endswith("\n") and err.count("\n") == 1
    for part in (field, got, takes):
        assert part in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cwd", "spec.yaml"]
    assert not list((tmp_path / "cwd").iterdir())
