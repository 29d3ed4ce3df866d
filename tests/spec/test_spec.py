"""Specs: what is refused, in which words; what short forms mean; what is said of every key."""

import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, Self

import jsonschema
import pytest
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from synthgen import cli
from synthgen.base.safe_yaml import load_yaml
from synthgen.errors import SpecError, WrongValue
from synthgen.pipeline.build import Build
from synthgen.pipeline.check import advice, check
from synthgen.pipeline.fingerprints import exported_by, judged_by, labelled_by, made_from, measured_by
from synthgen.pipeline.stages import Stages
from synthgen.spec import (
    MAX_PROBLEMS,
    MEASURE_COLUMNS,
    RUN_FOLDERS,
    DatasetSpec,
    differences,
    load_spec,
    problems_of,
    set_value,
)
from synthgen.spec.schema import json_schema

ROOT = Path(__file__).parents[2]
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
            place.pop(last, None)
        else:
            place[last] = value
    return raw


# (what is wrong, changes to a good spec or a file's whole content, field, got, what it takes or the nearest name)
BROKEN: list[tuple[str, Any, str, str, str]] = [
    ("wrong type", {"count": "many"}, "count:", "'many'", "whole number"),
    ("text for a list", {"classes": "apple"}, "classes:", "'apple'", "list"),
    ("number for text", {"name": 7}, "name:", "7", "text"),
    ("date that no calendar has", {"publication": {"date": "2026-02-30"}}, "publication.date:", "'2026-02-30'",
     "calendar"),
    ("date as a number", {"publication": {"date": 20261128}}, "publication.date:", "20261128", "text"),
    ("address without a scheme", {"publication": {"url": "example.org"}}, "publication.url:", "'example.org'",
     "https://"),
    ("use that is no truth", {"licence": {"commercial": "yes"}}, "licence.commercial:", "'yes'", "true or false"),
    ("list for a mapping", {"prompts": ["a photo"]}, "prompts:", "['a photo']", "templates"),
    ("fraction for a whole number", {"count": 1.5}, "count:", "1.5", "whole number"),
    ("yes for a whole number", {"count": True}, "count:", "True", "whole number"),
    ("unknown key", {"classes": DELETE, "clases": ["apple"]}, "clases:", "unknown key", "did you mean 'classes'?"),
    ("unknown key of a class", {"classes": [{"nmae": "a", "name": "apple"}]}, "classes.0.nmae:", "", "'name'"),
    ("unknown key of layout", {"layout.marign": 0.1}, "layout.marign:", "unknown key", "'margin'"),
    ("unknown key of prompts", {"prompts.negativ_prompt": "x"}, "prompts.negativ_prompt:", "", "'negative_prompt'"),
    ("unknown key of a template", {"prompts.templates": [{"txt": "{objects}"}]}, "prompts.templates.0.txt:", "",
     "'text'"),
    ("unknown option of generator", {"generator.steps": 20}, "generator.steps:", "", "num_inference_steps"),
    ("unknown option of a filter", {"filters.sharpness.mim": 3}, "filters.sharpness.mim:", "", "'min'"),
    ("unknown option of an exporter", {"exporters.coco.format": "x"}, "exporters.coco.format:", "", "segmentation"),
    ("unknown generator", {"generator": "difusion"}, "generator.use:", "'difusion'", "'diffusion'"),
    ("unknown grounder", {"grounder": "layuot"}, "grounder.use:", "'layuot'", "'layout'"),
    ("unknown segmenter", {"segmenter": {"use": "sam9"}}, "segmenter.use:", "'sam9'", "'sam'"),
    ("unknown filter", {"filters": {"sharpnes": {}}}, "filters.sharpnes:", "'sharpnes'", "'sharpness'"),
    ("quality of links", {"exporters.coco.quality": 80}, "exporters.coco.quality:", "80", "jpeg"),
    ("unknown exporter", {"exporters": {"tfrecord": {}}}, "exporters.tfrecord:", "'tfrecord'", "coco"),
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
    ("template with an attribute", {"prompts.templates": ["{objects.__class__}"]}, "prompts.templates.0.text:",
     "objects.__class__", "plain name"),
    ("template with an open brace", {"prompts.templates": ["{objects"]}, "prompts.templates.0.text:", "'{objects'",
     "{{"),
    ("no templates", {"prompts.templates": []}, "prompts.templates:", "none", "at least one"),
    ("no background templates", {"prompts.background_templates": []}, "prompts.background_templates:", "none",
     "at least one"),
    ("slot without values", {"prompts.slots.ground": []}, "prompts.slots.ground:", "", "at least one value"),
    ("slot with a negative weight", {"prompts.slots.ground": {"sand": -1}}, "prompts.slots.ground:", "-1", "0 or more"),
    ("slot with a bad name", {"prompts.slots.my-ground": ["sand"]}, "prompts.slots:", "'my-ground'", "letters"),
    ("word that the tokenizer does not know", {"prompts.slots.ground": ["gras"]}, "prompts:", "'gras'",
     "did you mean 'grass'?"),
    ("slot value that YAML reads as false", "name: f\ncount: 1\nheight: 64\nwidth: 64\nclasses: [apple]\nprompts:\n"
     "  templates: ['{objects} {light}']\n  slots: {light: [on, off]}\n", "prompts.slots:", "True", "quotes"),
    ("slot value twice", {"prompts.slots.ground": ["sand", "sand"]}, "prompts.slots:", "'sand'", "value: weight"),
    ("class that YAML reads as false", {"classes": ["apple", False]}, "classes.1.name:", "False", "put it in quotes"),
    ("share that is no number", {"splits": {"train": float("nan")}}, "splits.train:", "nan", "number"),
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
    ("budget of less than asked", {"budget": 0.5}, "budget:", "0.5", "1"),
    ("quota below 0", {"min_instances_per_class": -1}, "min_instances_per_class:", "-1", "0 or more"),
    ("quota that is no number", {"classes": [{"name": "apple", "min_instances": True}]}, "classes.0.min_instances:",
     "True", "whole number"),
    ("quota mistyped", {"classes": [{"name": "apple", "min_instance": 3}]}, "classes.0.min_instance:", "unknown key",
     "'min_instances'"),
    ("quotas beyond the budget", {"budget": 1.5, "min_instances_per_class": 9}, "min_instances_per_class:", "27",
     "at most 24, which is `budget` 1.5 x `count` 8 x 2 objects"),
    ("quota of a class beyond the budget", {"budget": 1, "objects_per_image": {0: 1, 1: 1, 5: 0}, "classes": [
        "apple", {"name": "tree", "min_instances": 9}]}, "classes:", "9", "at most 8,"),
    ("quota without objects", {"objects_per_image": 0, "min_instances_per_class": 1}, "min_instances_per_class:", "3",
     "at most 0"),
    ("quota of a class that fits but once", {"layout": {"size": [0.6, 0.6]}, "objects_per_image": {1: 1000, 2: 1},
     "min_instances_per_class": 1}, "layout:", "2 objects", "fewer or smaller"),
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
    ("layout grounder without layout", {"layout": None}, "layout:", "missing", "detector"),
    ("version of another time", {"version": 2}, "version:", "2", "1"),
    ("key twice", "name: fruit\ncount: 1\nname: nuts\n", "name", "twice", "line 3"),
    ("alias bomb", "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{b}: &{b} [{', '.join(['*' + a] * 10)}]\n" for a, b in itertools.pairwise("abcdefghi")), "YAML", "aliases",
     "100,000"),
    ("alias of itself", "classes: &a [*a]\n", "YAML", "line 1", "itself"),
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


@pytest.mark.parametrize("label", ["unknown key", "class that the model does not know", "empty file"])
def test_broken_in_a_process_of_its_own(label: str, good: dict[str, Any], spec_file: SpecFile, tmp_path: Path) -> None:
    content, field, got, takes = next(b[1:] for b in BROKEN if b[0] == label)
    path = spec_file(changed(good, content) if isinstance(content, dict) else content)
    (tmp_path / "cwd").mkdir()
    command = [sys.executable, "-m", "synthgen.cli", "run", path, "--out", tmp_path / "out"]
    done = subprocess.run(command, cwd=tmp_path / "cwd", capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: ")
    assert all(part in done.stderr for part in (field, got, takes))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cwd", "spec.yaml"]
    assert not list((tmp_path / "cwd").iterdir())


@pytest.mark.parametrize(("name", "reason"), [("nowhere.yaml", "No such file"), (".", "Is a directory")])
def test_no_file(
    name: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert synthgen(monkeypatch, "run", tmp_path / name, "--out", tmp_path / "out") == 2
    err = capsys.readouterr().err
    assert err.startswith("error: cannot read the spec") and reason in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_quotas(good: dict[str, Any]) -> None:
    """A class's own before the dataset's; 0 is none."""
    classes = ["apple", {"name": "orange", "min_instances": 5}, {"name": "tree", "min_instances": 0}]
    assert DatasetSpec.parse(good).quotas == {}
    assert DatasetSpec.parse({**good, "classes": classes}).quotas == {2: 5}
    assert DatasetSpec.parse({**good, "classes": classes, "min_instances_per_class": 3}).quotas == {1: 3, 2: 5}


def test_quotas_that_just_fit(good: dict[str, Any], tmp_path: Path) -> None:
    check(DatasetSpec.parse({**good, "budget": 1.5, "min_instances_per_class": 8}), tmp_path)


def test_quotas_are_no_part_of_what_images_are_made_from(good: dict[str, Any]) -> None:
    specs = [DatasetSpec.parse({**good, "min_instances_per_class": n}) for n in (0, 3)]
    for parts in (made_from, labelled_by, measured_by):
        models = {key: {"weights": "w"} for key in ("generator", "segmenter")}
        assert parts(specs[0], models) == parts(specs[1], models)
    assert judged_by(specs[0]) != judged_by(specs[1])


def test_several_problems_at_once(
    good: dict[str, Any],
    spec_file: SpecFile,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    path = spec_file(changed(good, {"count": 0, "sede": 7, "layout.margin": 0.7, "filters.sharpness.mim": 3}))
    assert synthgen(monkeypatch, "run", path, "--out", tmp_path / "out") == 2
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    fields = sorted(line.removeprefix("error: ").split(":")[0] for line in lines)
    assert fields == ["count", "filters.sharpness.mim", "layout.margin", "sede"]


def test_full_disk(
    good: dict[str, Any],
    spec_file: SpecFile,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000, total=10**12))
    assert synthgen(monkeypatch, "run", spec_file(good), "--out", tmp_path / "out") == 2
    err = capsys.readouterr().err
    assert err.startswith("error: count: ") and "0.0 GB free" in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


# (short form, long form): changes to a good spec that mean the same
FORMS: list[tuple[str, Any, Any]] = [
    ("classes", ["apple", "tree"], [{"name": "apple"}, {"name": "tree", "synonyms": []}]),
    ("objects_per_image", 2, {2: 1.0}),
    ("objects_per_image", [0, 2], {0: 1, 1: 1, 2: 1}),
    ("prompts.slots.ground", ["sand", "snow"], {"sand": 1, "snow": 1}),
    ("prompts.templates", "{objects}", [{"text": "{objects}", "weight": 1}]),
    ("prompts.templates", ["{objects}"], [{"text": "{objects}"}]),
    ("grounder", "layout", {"use": "layout"}),
    ("generator", None, {"use": "diffusion", "model": "mini", "num_inference_steps": None}),
    ("segmenter", {"batch_size": 4}, {"use": "sam", "batch_size": 4}),
    ("filters", {"stability": None}, {"stability": {"use": "stability", "min": 0.5, "on_fail": "reject"}}),
    ("exporters", {"coco": {}}, {"coco": {"use": "coco", "segmentation": "rle"}}),
    ("splits", DELETE, {"train": 0.8, "val": 0.1, "test": 0.1}),
    ("exporters", DELETE, {"coco": None}),
    ("version", DELETE, 1),
]  # fmt: skip


@pytest.mark.parametrize(("key", "short", "long"), [pytest.param(*f, id=f"{f[0]}-{i}") for i, f in enumerate(FORMS)])
def test_short_forms(key: str, short: Any, long: Any, good: dict[str, Any]) -> None:
    longer = DatasetSpec.parse(changed(good, {key: long}))
    assert DatasetSpec.parse(changed(good, {key: short})) == longer
    other = changed(good, {key: long, "seed": 99})
    assert DatasetSpec.parse(other) != longer


def test_filters_given_replace_the_default_ones(good: dict[str, Any]) -> None:
    assert set(DatasetSpec.parse(good).filters) >= {"predicted_iou", "stability", "sharpness", "near_duplicate"}
    assert set(DatasetSpec.parse({**good, "filters": {"sharpness": None}}).filters) == {"sharpness"}
    assert not DatasetSpec.parse({**good, "filters": {}}).filters


def test_a_filter_may_have_a_name_of_its_own(good: dict[str, Any]) -> None:
    filters = {"blur": {"use": "sharpness", "min": 3}, "noise": {"use": "sharpness", "max": 900}}
    spec = DatasetSpec.parse({**good, "filters": filters})
    assert [(n, c.use) for n, c in spec.filters.items()] == [("blur", "sharpness"), ("noise", "sharpness")]


@pytest.mark.parametrize("path", sorted((ROOT / "specs").glob("*.yaml")), ids=lambda p: p.stem)
def test_dump_is_read_back(path: Path) -> None:
    spec = load_spec(path)
    assert DatasetSpec.parse(yaml.safe_load(yaml.safe_dump(spec.dump()))) == spec
    assert DatasetSpec.parse(json.loads(json.dumps(spec.dump()))) == spec
    assert differences(spec.dump(), DatasetSpec.parse(spec.dump()).dump()) == []


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("count=3", "count", 3),
        ("filters.sharpness.min=60", "filters.sharpness.min", 60),
        ("filters.sharpness.min=null", "filters.sharpness.min", None),
        ("grounder.use=detector", "grounder.use", "detector"),
        ("grounder=detector", "grounder.use", "detector"),
        ("description=a=b", "description", "a=b"),
        ("classes=[tree, {name: apple, synonyms: [fruit]}]", "classes.1.synonyms.0", "fruit"),
        ("prompts.slots.ground={sand: 3}", "prompts.slots.ground.sand", 3),
        ("objects_per_image=[1, 2]", "objects_per_image.2", 1),
        ("layout.size=[0.2, 0.4]", "layout.size.1", 0.4),
        ("description=", "description", None),
    ],
)
def test_overrides(override: str, path: str, value: Any, good: dict[str, Any], spec_file: SpecFile) -> None:
    file = spec_file({**good, "grounder": "layout"})
    if value is None and path == "description":
        with pytest.raises(SpecError, match="description: got None; takes text"):
            load_spec(file, [override])
        return
    found: Any = load_spec(file, [override]).dump()
    for key in path.split("."):
        found = found[int(key)] if isinstance(found, list) else {str(k): v for k, v in found.items()}[key]
    assert found == value


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("count", ["--set", "'count'", "key.path=value"]),
        ("=3", ["--set", "'=3'", "key.path=value"]),
        ("filters..min=3", ["--set", "key.path=value"]),
        ("count.most=3", ["--set", "'count' is no mapping"]),
        ("classes.0=pear", ["--set", "'classes' is no mapping"]),
        ("contu=3", ["contu: unknown key", "'count'"]),
        ("filters.sharpnes.min=3", ["filters.sharpnes", "'sharpness'"]),
        ("count=[1", ["--set", "'count=[1'", "YAML"]),
        ("count=a", ["count: got 'a'", "whole number"]),
    ],
)
def test_bad_overrides(override: str, words: list[str], good: dict[str, Any], spec_file: SpecFile) -> None:
    with pytest.raises(SpecError) as error:
        load_spec(spec_file(good), [override])
    assert len(error.value.problems) == 1
    assert all(word in str(error.value) for word in words), str(error.value)


def test_an_override_of_one_filter_keeps_the_others(good: dict[str, Any], spec_file: SpecFile) -> None:
    before, after = (load_spec(spec_file(good), o).filters for o in ([], ["filters.sharpness.min=60"]))
    assert list(before) == list(after)
    assert {n for n in before if before[n] != after[n]} == {"sharpness"}


def test_the_later_override_wins(good: dict[str, Any], spec_file: SpecFile) -> None:
    assert load_spec(spec_file(good), ["count=3", "count=4"]).count == 4


def test_set_value_takes_no_part_of_what_it_refuses() -> None:
    raw = {"a": 1}
    with pytest.raises(SpecError):
        set_value(raw, "a.b=2")
    assert raw == {"a": 1}


def test_a_model_path_is_taken_from_the_folder_of_the_spec(good: dict[str, Any], spec_file: SpecFile) -> None:
    path = spec_file(changed(good, {"generator.model": "./weights", "segmenter.model": "weights"}))
    spec = load_spec(path).dump()
    assert spec["generator"]["model"] == str(path.parent / "weights")
    assert spec["segmenter"]["model"] == "weights"


def test_execution_is_no_part_of_a_fingerprint(good: dict[str, Any]) -> None:
    plain = DatasetSpec.parse(good).generator.fingerprint()
    same = {"device": "cpu", "batch_size": 2, "torch_dtype": "float16", "model": "elsewhere", "variant": "fp16"}
    assert DatasetSpec.parse({**good, "generator": same}).generator.fingerprint() == plain
    for option in ({"num_inference_steps": 7}, {"guidance_scale": 1}, {"scheduler": "DDIMScheduler"}):
        assert DatasetSpec.parse({**good, "generator": option}).generator.fingerprint() != plain


def test_thresholds_are_no_part_of_a_fingerprint(good: dict[str, Any]) -> None:
    def filters(options: dict[str, Any]) -> dict[str, Any]:
        spec = DatasetSpec.parse({**good, "filters": options})
        return {name: config.fingerprint() for name, config in spec.filters.items()}

    changed = {"mask_area": {"min": 0.2, "on_fail": "drop"}, "near_duplicate": {"max_distance": 1}}
    assert filters(changed) == filters({"mask_area": None, "near_duplicate": None})


def test_differences_names_leaves() -> None:
    old, new = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}, "e": 5}
    assert differences(old, new) == ["a.c: 2 -> 4", "d: 3 -> None", "e: None -> 5"]


def test_numbers_are_read_as_they_are_written(good: dict[str, Any], spec_file: SpecFile) -> None:
    """What YAML 1.1 reads as 720, 1.4, 64, 1080 and 16 is text, in lists, in mappings, and from `--set`."""
    slots = (
        "{time: [9:30, 12:00, 06:15], f: [1.40, 2.80, .5, +5, 7], iso: {0100: 2, 0800: 1, 1.40: 1}, res: [1_080, 0x10]}"
    )
    expected = {
        "time": ["9:30", "12:00", "06:15"], "f": ["1.40", "2.80", ".5", "+5", "7"], "iso": ["0100", "0800", "1.40"],
        "res": ["1_080", "0x10"],
    }  # fmt: skip
    path = spec_file(good)
    overrides = [
        "generator.model=mini",
        f"prompts.slots={slots}",
        "prompts.templates=['{objects} {time} {f} {iso} {res}']",
    ]
    spec = load_spec(path, [*overrides, "prompts.background_templates=['{time}']"])
    assert {slot: list(values) for slot, values in spec.prompts.slots.items()} == expected
    again = load_yaml(yaml.safe_dump(spec.dump(), sort_keys=False))
    assert DatasetSpec.parse(again) == spec
    assert load_yaml(slots)["iso"] == {"0100": 2, "0800": 1, 1.4: 1}
    for twice in ("{1.4: 1, 1.40: 2}", "{1: 1, +1: 2}", "{1: 1, true: 2}", "{1: 1, '1': 2}"):
        with pytest.raises(SpecError, match="stands twice"):
            load_yaml(twice)
    spec = load_spec(path, ["prompts.slots.f=[1.4, 1.40]"])
    assert list(spec.prompts.slots["f"]) == ["1.4", "1.40"]
    names = "[007, 2024-01-01, 2024-01-01 10:00:00, 0o7, 0b11, 1:30, 1e5, '1.40', 'no', =]"
    spec = load_spec(path, [f"classes={names}"])
    assert [c.name for c in spec.classes] == [str(name) for name in yaml.load(names, yaml.BaseLoader)]
    assert DatasetSpec.parse(load_yaml(yaml.safe_dump(spec.dump()))) == spec


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("seed=0123", "seed: got '0123'; takes a whole number, written in plain decimal"),
        ("count=0x10", "count: got '0x10'; takes a whole number, written in plain decimal"),
        ("count=1_000", "count: got '1_000'; takes a whole number, written in plain decimal"),
        ("budget=1:30", "budget: got '1:30'; takes a number, written in plain decimal"),
        ("splits={train: 1:30.5}", "splits.train: got '1:30.5'; takes a number, written in plain decimal"),
        ("classes=[1.40]", "classes.0.name: got 1.40; takes text; put it in quotes"),
        ("classes=[7]", "classes.0.name: got 7; takes text; put it in quotes"),
        ("classes=[{name: cat, synonyms: [on]}]", "classes.0.synonyms.0: got True; takes text; put it in quotes (with"),
        ("prompts.slots={light: [on, off]}", "prompts.slots: got True for 'light'; takes text; put it in quotes (with"),
        ("prompts.slots={light: {off: 2}}", "prompts.slots: got False for 'light'; takes text; put it in quotes (with"),
        ("prompts.slots={light: [~]}", "prompts.slots: got None for 'light'; takes text; put it in quotes"),
        ("prompts.slots={light: [1, '1']}", "prompts.slots: got '1' more than once for 'light'"),
    ],
)  # fmt: skip
def test_numbers_that_are_none_and_text_that_is_none_are_refused(
    spec_file: SpecFile, good: dict[str, Any], override: str, line: str
) -> None:
    with pytest.raises(SpecError) as error:
        load_spec(spec_file(good), [override])
    assert line in str(error.value)


def test_many_problems_of_one_backend_are_counted(good: dict[str, Any]) -> None:
    options = {f"x{i}": i for i in range(200)}
    with pytest.raises(SpecError) as error:
        DatasetSpec.parse({**good, "count": 0, "generator": options})
    assert len(error.value.problems) == MAX_PROBLEMS
    assert str(error.value.problems[-1]) == "and 152 problems more"


def test_a_check_says_which_key_within_its_mapping_is_wrong() -> None:
    """Whatever its message looks like: the key does not come from the text."""

    class Ordered(BaseModel):
        least: int
        greatest: int

        @model_validator(mode="after")
        def _ordered(self) -> Self:
            if self.least > self.greatest:
                raise WrongValue(f"least: got {self.least}; takes at most {self.greatest}", "least")
            if self.least < 0:
                raise ValueError("greatest: takes what is above 0")
            return self

    lines = []
    for least in (3, -1):
        with pytest.raises(ValidationError) as error:
            Ordered.model_validate({"least": least, "greatest": 2})
        lines += [str(problem) for _, problem in problems_of(error.value, Ordered)]
    assert lines == [
        "least: least: got 3; takes at most 2",
        "got {'least': -1, 'greatest': 2}; greatest: takes what is above 0",
    ]


def test_keys_and_choices_are_named_also_within_lists_and_mappings() -> None:
    class Inner(BaseModel):
        model_config = ConfigDict(extra="forbid")
        colour: tuple[Literal["red", "green"], ...] = ()

    class Outer(BaseModel):
        many: dict[str, list[Inner] | None] = {}

    with pytest.raises(ValidationError) as error:
        Outer.model_validate({"many": {"a": [{"color": []}, {"colour": ["gren"]}]}})
    lines = [str(problem) for _, problem in problems_of(error.value, Outer)]
    assert lines == [
        "many.a.0.color: unknown key (did you mean 'colour'?); it takes: colour",
        "many.a.1.colour.0: got 'gren'; takes 'red' or 'green' (did you mean 'green'?)",
    ]


TWINS: list[tuple[dict[str, Any], str]] = [
    ({"classes": ["caf\u00e9", "cafe\u0301"]}, "classes: got 'cafe\u0301' twice"),
    ({"classes": ["Stra\u00dfe", "STRASSE"]}, "classes: got 'STRASSE' twice"),
    ({"classes": ["\u0130zmir", "i\u0307zmir"]}, "classes: got 'i\u0307zmir' twice"),
    ({"classes": ["apple", "app\u200dle"]}, "twice, for 'apple'"),
    ({"classes": ["red apple", "red\u202fapple"]}, "twice, for 'red apple'"),
    ({"prompts.slots.ground": ["caf\u00e9", "cafe\u0301"]}, "prompts.slots: got 'cafe\u0301' more than once"),
    ({"prompts.slots.ground": {"sand": 1, "sand ": 1}}, "prompts.slots: got 'sand ' more than once"),
    ({"splits": {"train": 0.5, "Train": 0.5}}, "splits: got 'train' and 'Train', which some file systems"),
    ({"filters": {"sharpness": {}, "Sharpness": {"use": "sharpness"}}}, "filters: got 'sharpness' and 'Sharpness'"),
    ({"exporters": {"coco": {}, "COCO": {"use": "coco"}}}, "exporters: got 'coco' and 'COCO'"),
    ({"exporters": {"images": {"use": "coco"}}}, "exporters: got 'images', which is a folder of the run itself"),
    ({"exporters": {"Jobs": {"use": "coco"}}}, "exporters: got 'Jobs', which is a folder of the run itself"),
    ({"filters": {"image_id": {"use": "sharpness"}}}, "filters: got 'image_id', which is a column"),
    ({"filters": {"Instance": {"use": "sharpness"}}}, "filters: got 'Instance', which is a column"),
    ({"filters": {"Not_Found": {"use": "sharpness"}}}, "filters: got 'Not_Found', which is the name of a reason"),
]


@pytest.mark.parametrize(("change", "line"), TWINS)
def test_names_that_would_be_taken_for_others_are_refused(
    good: dict[str, Any], change: dict[str, Any], line: str
) -> None:
    with pytest.raises(SpecError) as error:
        DatasetSpec.parse(changed(good, change))
    assert line in str(error.value)


def test_a_class_says_how_prompts_name_it_and_what_exports_call_it(good: dict[str, Any]) -> None:
    def of(**keys: Any) -> DatasetSpec:
        return DatasetSpec.parse({**good, "classes": [{"name": "apple", **keys}, "orange", "tree"]})

    assert of(prompt="a red apple").classes[0].prompt == {"a red apple": 1.0}
    assert of(prompt=["a red apple", "two apples"]).classes[0].prompt == {"a red apple": 1.0, "two apples": 1.0}
    assert of(prompt={"a red apple": 3, "an apple": 1}).classes[0].prompt == {"a red apple": 3.0, "an apple": 1.0}
    spec = of(id=53, supercategory="food")
    found = [(c.id, c.exported_id, c.supercategory) for c in spec.categories]
    assert found == [(1, 53, "food"), (2, 2, ""), (3, 3, "")]
    assert DatasetSpec.parse(spec.dump()) == spec
    for keys, line in (
        ({"prompt": ["apple", "apple "]}, "classes.0.prompt: got 'apple ' more than once for 'prompt'"),
        ({"prompt": {"apple": 0}}, "classes.0.prompt: got {'apple': 0}; takes printable text of at most 1,000"),
        ({"prompt": ""}, "classes.0.prompt: got ''; takes printable text"),
        ({"prompt": [True]}, "classes.0.prompt: got True for 'prompt'; takes text; put it in quotes"),
        ({"id": 0}, "classes.0.id: got 0; takes 1 or more"),
        ({"id": 3}, "classes: got the id 3 twice, for 'apple' and for 'tree'; a class without one has its position"),
    ):
        with pytest.raises(SpecError) as error:
            of(**keys)
        assert line in str(error.value)


def test_what_specs_of_earlier_versions_say_of_classes_has_the_same_fingerprints(good: dict[str, Any]) -> None:
    spec = DatasetSpec.parse(good)
    assert "class_prompts" not in made_from(spec, {}) and "categories" not in exported_by(spec, "coco")
    own = {**good, "classes": [{"name": "apple", "prompt": "a red apple", "id": 9}, "orange", "tree"]}
    assert made_from(DatasetSpec.parse(own), {})["class_prompts"] == {"apple": {"a red apple": 1.0}}
    assert exported_by(DatasetSpec.parse(own), "coco")["categories"] == [[9, ""], [2, ""], [3, ""]]


def test_names_that_prompts_should_hardly_say_are_noted(good: dict[str, Any]) -> None:
    classes = ["apple", {"name": "orange", "prompt": "an orange"}, "tree"]
    spec = DatasetSpec.parse({**good, "classes": classes})
    assert not advice(spec, Stages.of(spec))
    classes = ["aerosol can/spray can", "back_bumper", {"name": "a_b", "prompt": "it"}]
    spec = DatasetSpec.parse({**good, "classes": classes})
    (note,) = [str(note) for note in advice(spec, Stages.of(spec))]
    assert note == (
        "classes: got 'aerosol can/spray can', and 1 more like it, and prompts say 'an aerosol can/spray can'; a "
        "class takes other words as its `prompt`"
    )


def test_names_that_a_run_folder_has_are_kept_from_exporters_and_filters(finished: Build) -> None:
    run, spec = finished.run, finished.spec
    assert {p.name for p in run.root.iterdir() if p.is_dir()} - set(spec.exporters) == set(RUN_FOLDERS)
    columns = run.tables.read(run.paths.table("measures", 0)).column_names
    assert set(columns) - set(spec.filters) == set(MEASURE_COLUMNS)


# JSON Schema


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def as_json(raw: Any) -> Any:
    """As an editor sees it: keys are text."""
    return json.loads(json.dumps(raw))


def test_schema_takes_good_specs(validator: jsonschema.Draft202012Validator, good: dict[str, Any]) -> None:
    for path in (ROOT / "specs").glob("*.yaml"):
        validator.validate(as_json(yaml.safe_load(path.read_text())))
        validator.validate(as_json(load_spec(path).dump()))
    for key, short, long in FORMS:
        for form in (short, long):
            if form is not None:
                validator.validate(as_json(changed(deepcopy(good), {key: form})))


# What a schema can say; the rest are checks across fields or of models
@pytest.mark.parametrize(
    "label",
    [
        "wrong type",
        "text for a list",
        "number for text",
        "unknown key",
        "unknown key of a class",
        "unknown key of layout",
        "unknown key of prompts",
        "unknown key of a template",
        "unknown option of generator",
        "unknown option of a filter",
        "unknown option of an exporter",
        "unknown generator",
        "unknown filter",
        "no name",
        "empty classes",
        "height no multiple of 8",
        "name that is a path",
        "negative count",
        "quota below 0",
        "quota mistyped",
        "65 objects",
        "device mistyped",
        "threshold out of range",
        "on_fail mistyped",
        "version of another time",
    ],
)
def test_schema_refuses(label: str, validator: jsonschema.Draft202012Validator, good: dict[str, Any]) -> None:
    assert validator.is_valid(as_json(good))
    content = next(b[1] for b in BROKEN if b[0] == label)
    assert not validator.is_valid(as_json(changed(good, content)))


def keys_of(schema: Any, where: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every named key in a JSON Schema, with what is said of it."""
    if isinstance(schema, dict):
        for name, value in schema.get("properties", {}).items():
            yield f"{where}.{name}", value
        for key, value in schema.items():
            yield from keys_of(value, where if key in {"properties", "anyOf"} else f"{where}/{key}")
    elif isinstance(schema, list):
        for value in schema:
            yield from keys_of(value, where)


def test_schema_explains_every_key() -> None:
    keys = list(keys_of(json_schema()))
    assert len(keys) > 60
    assert [where for where, value in keys if len(value.get("description", "")) < 2] == []
