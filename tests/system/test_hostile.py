"""Bad and hostile input: refused in a line for each problem, in a moment, with nothing written, run or asked of a
network. What a spec may not say in more ordinary ways is in `test_spec.py`."""

import json
import os
import pickle
import re
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from harmless import DEEDS, LONGEST, bomb, harmless, one_line, require_quick
from PIL import Image

from synthgen.backends import Request
from synthgen.calibration import truths
from synthgen.errors import BackendError, Problem, SpecError, SynthgenError
from synthgen.generators import diffusion
from synthgen.grounders import detector
from synthgen.masks import encode_rle, rle_runs
from synthgen.models import clip, weights
from synthgen.models.clip import ClipConfig, ClipModel
from synthgen.models.sam.checkpoint import PATCH_EMBEDDING, SamFiles
from synthgen.models.sam.model import SamModel
from synthgen.pipeline.check import check
from synthgen.segmenters.sam import Config as SamConfig
from synthgen.spec import DatasetSpec, load_spec
from synthgen.types import Category

SpecFile = Callable[..., Path]

# Specs


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else "x"


def text_of(keys: dict[str, Any]) -> str:
    return yaml.safe_dump(keys, allow_unicode=True)


# (what it is, a file's content, or changes of a good spec by key.path; what is said of it)
SPECS: list[tuple[str, Any, str]] = [
    # The text
    ("an open bracket", "name: a\nclasses: [apple\ncount: 1\n", "line 3, column 6"),
    ("a tab", "name: a\n\tcount: 1\n", "line 2, column 1"),
    ("two colons", "name: a\nseed: b: c\n", "line 2, column 8"),
    ("an open quote", 'name: "a\n', "line 2, column 1"),
    ("bad indentation", "name: a\n  count: 1\n", "line 2, column 8"),
    ("an alias without an anchor", "name: *nobody\n", "line 1, column 7"),
    ("two documents", "name: a\n---\nname: b\n", "expected a single document in the stream, but found another"),
    ("a version of another time", "%YAML 9.9\n---\nname: a\n", "line 1, column 1"),
    ("a character that starts nothing", "name: @a\n", "line 1, column 7"),
    ("a NUL", "name: a\ncount: \x00\n", "the character U+0000 in line 2, column 8"),
    ("an escape of a terminal", "name: \x1b[2Ja\n", "the character U+001B in line 1, column 7"),
    ("an escape of no character", 'name: "\\U00110000"\n', "in line 1, column 10"),
    ("an escape of no number of C's", 'name: "\\U80010000"\n', "in line 1, column 10"),
    ("a version of 5,000 digits", f"%YAML 1.{'1' * 5000}\n---\nname: a\n", "in line 1, column 9"),
    ("half a character", 'name: "\\ud800"\n', "lone surrogate) in line 1, column 7"),
    ("a NUL, escaped", 'name: "a\\0b"\n', "name: got 'a\\x00b'"),
    ("UTF-16", "name: a\n".encode("utf-16"), "it is not UTF-8 text"),
    ("Latin-1", "name: ä\n".encode("latin-1"), "it is not UTF-8 text"),
    ("a picture", b"\x89PNG\r\n\x1a\n\x00\x00", "it is not UTF-8 text"),
    ("a pickle", pickle.dumps({"name": "a"}), "it is not UTF-8 text"),
    ("nothing", "", "got an empty file"),
    ("a comment only", "# nothing\n", "got an empty file"),
    ("a list", "- a\n- b\n", "got list"),
    ("a word", "hello\n", "got str"),
    ("a JSON number", "1e3\n", "got str"),
    # Keys and tags
    ("a key twice", "name: a\ncount: 1\nname: b\n", "'name' stands twice, again in line 3, column 1"),
    ("a key twice, further in", "prompts: {slots: {a: [x], a: [y]}}\n", "line 1, column 27"),
    ("a list as a key", "? [a]\n: b\n", "line 1, column 3"),
    ("a mapping as a key", "? {a: b}\n: c\n", "line 1, column 3"),
    ("a number as a key", "7: a\n", "7: "),
    ("a date as a key", "2024-01-01: a\n", "2024"),
    ("a tag that runs a command", "name: !!python/object/apply:os.system ['touch owned']\n", "line 1, column 7"),
    ("a tag that makes an object", "name: !!python/object/new:os.popen ['touch owned']\n", "line 1, column 7"),
    ("a tag that names a function", "name: !!python/name:os.system\n", "line 1, column 7"),
    ("a tag that imports", "name: !!python/module:antigravity\n", "line 1, column 7"),
    ("a tag of nobody", "name: !owner/thing x\n", "line 1, column 7"),
    ("a tag of 10 kB", f"name: !{'x' * 10_000} y\n", "line 1, column 7"),
    ("bytes", "name: !!binary /////w==\n", "line 1, column 7"),
    ("a set", "generator: {call_options: {a: !!set {x, y}}}\n", "line 1, column 31"),
    ("a wrong tag of a scalar", "count: !!int x\n", "'x', which is no int in line 1, column 8"),
    ("a wrong tag of nothing", 'count: !!int ""\n', "which is no int in line 1, column 8"),
    ("a wrong tag of a word", "count: !!bool perhaps\n", "which is no bool in line 1, column 8"),
    ("a wrong tag of a date", "count: !!timestamp x\n", "which is no timestamp in line 1, column 8"),
    ("a wrong tag of a list", "count: !!str [a]\n", "line 1, column 8"),
    ("a list called a mapping", "count: !!map [a]\n", "line 1, column 8"),
    ("a day that there is not", "name: !!timestamp 2024-13-41\n", "line 1, column 7"),
    ("a merge of a number", "<<: 3\n", "line 1, column 5"),
    # Size
    ("an alias bomb", bomb(9), "its aliases stand for more than 100,000 values"),
    ("an alias bomb by merging", "a: &a {" + ", ".join(f"k{i}: v" for i in range(2000)) + "}\nb:\n" + "".join(
        f"- {{<<: *a, x{i}: 1}}\n" for i in range(60)), "its aliases stand for more than 100,000 values"),
    ("an alias of itself", "name: &a [*a]\n", "line 1, column 7"),
    ("an alias of itself, by merging", "name: &a {<<: *a}\n", "line 1, column 7"),
    ("nested lists", "a: " + "[" * 50_000, "nested too deeply"),
    ("nested mappings", "a: " + "{a: " * 20_000, "nested too deeply"),
    ("nested dashes", "- " * 50_000, "nested too deeply"),
    ("a million and one characters", "# " + "x" * 1_000_000, "at most 1,000,000 characters"),
    ("10 MB", b"#" * 10_000_000, "at most 1,000,000 characters"),
    ("200,000 values", "a: [" + "1," * 200_000 + "]\n", "more than 40,000 values in line 1, column"),
    ("a number of 100,000 digits", f"count: {'9' * 100_000}\n", "takes at most 100 digits in line 1, column 8"),
    ("a hexadecimal one", f"count: 0x{'f' * 100_000}\n", "count: got '0xfff"),
    ("one of base 60", f"count: {'1:' * 100_000}1\n", "count: got '1:1:"),
    ("one of base 60 with a point", f"count: {'1:' * 100_000}1.5\n", "count: got '1:1:"),
    ("30,000 unknown keys", "".join(f"k{i}: 1\n" for i in range(15_000)), "problems more"),
    # Types
    ("everything null", text_of(dict.fromkeys(("name", "count", "height", "width", "classes", "prompts"))), "count: "),
    ("everything a list", "\n".join(f"{key}: [[]]" for key in ("name", "count", "classes", "filters")), "count: "),
    ("filters that are a list", {"filters": ["sharpness"]}, "filters: got ['sharpness']"),
    ("filters that are a number", {"filters": 3}, "filters: got 3"),
    ("a filter that is a number", {"filters": {"sharpness": 3}}, "filters.sharpness: got 3"),
    ("exporters that are text", {"exporters": "coco"}, "exporters: got 'coco'"),
    ("a deep list for a number", {"count": nested(40)}, "count: got [["),
    ("a word for a size", {"height": "large"}, "height: got 'large'"),
    ("yes for a seed", {"seed": True}, "seed: got True"),
    ("a date for a name", "name: !!timestamp 2024-01-01\n", "name: got datetime.date(2024, 1, 1)"),
    ("a date for a class", "classes: [!!timestamp 2024-01-01]\n", "classes.0.name: got datetime.date"),
    ("no for a class", "classes: [no, yes]\n", "classes.0.name: got False; takes text; put it in quotes"),
    ("a list for a class", {"classes": [["apple"]]}, "classes.0: got ['apple']"),
    ("a number for a synonym", {"classes": [{"name": "apple", "synonyms": [3]}]}, "classes.0.synonyms.0: got 3"),
    ("a word for splits", {"splits": "train"}, "splits: got 'train'"),
    ("a list for slots", {"prompts.slots": ["ground"]}, "prompts.slots: got ['ground']"),
    ("a mapping for a slot's value", {"prompts.slots.ground": [{"a": 1}]}, "prompts.slots: got {'a': 1}"),
    ("a number for a template", {"prompts.templates": [3]}, "prompts.templates.0: got 3"),
    ("a number for a model", {"generator.model": 3}, "generator.model: got 3"),
    ("a list for a device", {"segmenter.device": ["cpu"]}, "segmenter.device: got ['cpu']"),
    ("a word for a layout", {"layout": "grid"}, "layout: got 'grid'"),
    # Numbers
    ("a count beyond all", {"count": 10**9}, "count: got 1000000000; takes at most 9,999,999"),
    ("a count of 90 digits", {"count": 10**90}, "count: got 1000"),
    ("images beyond the disk", {"count": 9_999_999, "height": 4096, "width": 4096}, "GB free"),
    ("an infinite budget", "budget: .inf\n", "budget: got inf"),
    ("a budget that is none", "budget: .nan\n", "budget: got nan"),
    ("an image of 1 px", {"height": 8}, "height: got 8; takes 64 or more"),
    ("an image of 100,000 px", {"width": 100_000}, "width: got 100000; takes at most 4,096"),
    ("an image of no whole cells", {"width": 129}, "width: got 129; takes a multiple of 8"),
    ("an image of 90 digits", {"width": 10**90}, "width: got 1000"),
    ("no steps", {"generator.num_inference_steps": 0}, "generator.num_inference_steps: got 0; takes 1 or more"),
    ("a million steps", {"generator.num_inference_steps": 10**6}, "takes at most 1,000"),
    ("guidance that is none", "generator: {guidance_scale: .nan}\n", "generator.guidance_scale: got nan"),
    ("a batch of none", {"segmenter.batch_size": 0}, "segmenter.batch_size: got 0; takes 1 or more"),
    ("a batch of a million", {"generator.batch_size": 10**6}, "takes at most 1,024"),
    ("a shard of a million", {"shard_size": 10**6}, "shard_size: got 1000000; takes at most 4,096"),
    ("a negative seed", {"seed": -1}, "seed: got -1"),
    ("a seed beyond 63 bits", {"seed": 2**63}, "seed: got 9223372036854775808"),
    ("a threshold that is none", "filters: {sharpness: {min: .nan}}\n", "filters.sharpness.min: got nan"),
    ("an infinite threshold", "filters: {sharpness: {max: -.inf}}\n", "filters.sharpness.max: got -inf"),
    ("thresholds that nothing passes", {"filters.sharpness": {"min": 5, "max": 1}}, "must not be above `max`"),
    ("a grid of a million points", {"grounder": {"use": "everything", "points_per_side": 1000}}, "at most 128"),
    ("weights that are none", "objects_per_image: {1: .nan}\n", "objects_per_image.1: got nan"),
    ("weights beyond all", {"objects_per_image": {1: 1e300, 2: 1e300}}, "at most 1,000,000"),
    ("no weight at all", {"objects_per_image": {1: 0, 2: 0}}, "not all 0"),
    ("a billion objects", {"objects_per_image": [1, 10**9]}, "from 0 to 64"),
    ("a billion objects, weighted", {"objects_per_image": {10**9: 1}}, "from 0 to 64"),
    ("a weight of a template", {"prompts.templates": [{"text": "{objects}", "weight": 1e308}]}, "at most 1,000,000"),
    ("a weight of a slot's value", {"prompts.slots.ground": {"sand": 1e308}}, "at most 1,000,000"),
    ("splits of 0.5", {"splits": {"train": 0.3, "val": 0.2}}, "these sum to 0.5"),
    ("splits of nothing", {"splits": {}}, "these sum to 0"),
    ("a split of less than nothing", {"splits": {"train": 1.5, "val": -0.5}}, "splits: got"),
    ("quotas that cannot be met", {"min_instances_per_class": 10**8}, "min_instances_per_class: got quotas of"),
    ("a quota of 90 digits", {"min_instances_per_class": 10**90}, "at most 1,000,000,000"),
    ("a layout that cannot fit", {"layout": {"size": [0.9, 1.0]}, "objects_per_image": 8}, "do not fit into 128x128"),
    ("64 large things", {"layout": {"size": [0.5, 0.5], "max_overlap": 0.01}, "objects_per_image": 64}, "do not fit"),
    ("a margin of half the image", {"layout.margin": 0.5}, "layout.margin: got 0.5; takes less than 0.5"),
    ("two sizes that are three", {"layout.size": [0.1, 0.2, 0.3]}, "layout.size: got"),
    # Many
    ("no classes", {"classes": []}, "classes: got []; takes at least 1 entry"),
    ("20,000 classes", {"classes": [f"c{i}" for i in range(20_000)]}, "takes at most 2,000 entries"),
    ("2,000 classes that the model does not know", {"classes": [f"c{i}" for i in range(2000)]}, "1,980 more"),
    ("30,000 words that it does not know", {
        "prompts": {"templates": ["{objects} {s0} {s1} {s2} {s3}"], "background_templates": ["{s0}"],
                    "slots": {f"s{i}": [f"w{j + 9000 * i}" for j in range(9000)] for i in range(4)}},
     }, "more that 'mini' does not know"),
    ("a slot of 20,000 values", {"prompts.slots.ground": [f"w{i}" for i in range(20_000)]}, "at most 10,000 of 1,000"),
    ("200 synonyms", {"classes": [{"name": "apple", "synonyms": [f"s{i}" for i in range(200)]}]}, "at most 100 en"),
    ("5,000 filters", {"filters": {f"f{i}": {"use": "class_agreement"} for i in range(5000)}}, "at most 50 entries"),
    ("5,000 exporters", {"exporters": {f"e{i}": {"use": "coco"} for i in range(5000)}}, "at most 100 entries"),
    ("1,000 splits", {"splits": {f"s{i}": 0.001 for i in range(1000)}}, "at most 100 entries"),
    ("10,000 templates", {"prompts.templates": ["{objects}"] * 10_000}, "at most 100 entries"),
    ("10,000 wrong classes", {"classes": [1] * 10_000}, "problems more"),
    # Names
    ("a name of another folder", {"name": "../../etc"}, "name: got '../../etc'"),
    ("a name from the root", {"name": "/etc/cron.d/x"}, "name: got '/etc/cron.d/x'"),
    ("a name that is a folder up", {"name": ".."}, "name: got '..'"),
    ("a name with a NUL", {"name": "a\0b"}, "name: got 'a\\x00b'"),
    ("a name with a line's end", {"name": "fruit\n"}, "name: got 'fruit\\n'"),
    ("a name that clears the screen", {"name": "\x1b[2J"}, "name: got '\\x1b[2J'"),
    ("a name of 10 kB", {"name": "x" * 10_000}, "name: got 'xxx"),
    ("an empty name", {"name": ""}, "name: got ''"),
    ("a name that is an option", {"name": "--out"}, "name: got '--out'"),
    ("a filter of another folder", {"filters": {"../../x": {"use": "sharpness"}}}, "filters.../../x: "),
    ("an exporter of another folder", {"exporters": {"../x": {"use": "coco"}}}, "exporters.../x: "),
    ("a filter of 10 kB", {"filters": {"x" * 10_000: {}}}, "takes the name of a built-in"),
    ("a split with a line's end", {"splits": {"train\n": 1}}, "splits.train\\n: "),
    ("a key that clears the screen", {"\x1b[2J": 1}, "\\x1b[2J: unknown key"),
    ("a key of 10 kB", {"x" * 10_000: 1}, "unknown key"),
    ("a key that is turned round", {"\u202etnuoc": 1}, "\\u202etnuoc: unknown key"),
    ("a class with a line's end", {"classes": ["apple\nerror: all is well"]}, "takes printable text"),
    ("a class that is turned round", {"classes": ["\u202eelppa"]}, "classes: got '\\u202eelppa'"),
    ("a class of spaces", {"classes": ["   "]}, "takes printable text"),
    ("a class of 10 kB", {"classes": ["x" * 10_000]}, "classes.0.name: got 'xxx"),
    ("an emoji that the model does not know", {"classes": ["🍎"]}, "got '🍎'"),
    ("classes that differ in case", {"classes": ["apple", "APPLE"]}, "takes each name and synonym once"),
    ("mistyped keys", {"clases": 1, "seeed": 1}, "did you mean 'seed'?"),
    ("a mistyped option", {"generator.guidance": 3}, "did you mean 'guidance_scale'?"),
    # Prompts
    ("an attribute", {"prompts.templates": ["{objects.__class__.__mro__}"]}, "is no slot"),
    ("an index", {"prompts.templates": ["{objects[0]}"]}, "is no slot"),
    ("a place", {"prompts.templates": ["{0} {objects}"]}, "{0} is no slot"),
    ("no name", {"prompts.templates": ["{} {objects}"]}, "{} is no slot"),
    ("a width of gigabytes", {"prompts.templates": ["{objects!r:>99999999}"]}, "is no slot"),
    ("a width from a slot", {"prompts.templates": ["{objects:{ground}}"]}, "is no slot"),
    ("a conversion", {"prompts.templates": ["{objects!a}"]}, "is no slot"),
    ("a brace too many", {"prompts.templates": ["{objects}}"]}, "prompts.templates.0.text: "),
    ("a slot of 10 kB", {"prompts.templates": ["{objects} {" + "x" * 4000 + "}"]}, "names the slot 'xxx"),
    ("a template of 30 kB", {"prompts.templates": ["{objects} " + "x" * 30_000]}, "takes at most 20,000 characters"),
    ("a slot that is `objects`", {"prompts.slots.objects": ["x"]}, "and not 'objects'"),
    ("a slot that is no name", {"prompts.slots": {"a.b": ["x"]}}, "prompts.slots: got the name 'a.b'"),
    # Models and modules
    ("a model from the root", {"generator.model": "/etc"}, "'/etc' is no diffusers pipeline folder"),
    ("a model that is a file", {"generator.model": "/etc/passwd"}, "is no diffusers pipeline folder"),
    ("a SAM that is no checkpoint", {"segmenter.model": "/etc/passwd"}, "takes a .pth, .pt or .safetensors file"),
    ("a SAM that is a device", {"segmenter.model": "/dev/zero"}, "takes a .pth, .pt or .safetensors file"),
    ("a model of a folder up", {"generator.model": "../../../nowhere"}, "does not exist"),
    ("a model in the midst of ..", {"generator.model": "a/../../../b"}, "does not exist"),
    ("a model with a NUL", {"generator.model": "./a\0b"}, "'./a\\x00b' does not exist"),
    ("a model of 10 kB", {"generator.model": "./" + "x" * 10_000}, "does not exist"),
    ("a model of 10 kB on the hub", {"generator.model": "o/" + "x" * 10_000}, "does not exist"),
    ("a model of nobody's home", {"generator.model": "~nobody-of-this-name/x"}, "does not exist"),
    ("a model that is empty", {"generator.model": ""}, "'' does not exist"),
    ("a model that is a URL", {"generator.model": "https://example.org/x"}, "does not exist"),
    ("a model that is a command", {"generator.model": "a/$(touch owned)"}, "--download 'a/$(touch owned)'"),
    ("a model that is missing", {"generator.model": "nobody/nothing"},
     "fetch it with: synthgen models --download nobody/nothing"),
    ("a SAM that is missing", {"segmenter.model": "vit_h"}, "(2.6 GB); fetch it with: synthgen models --download vit"),
    ("a detector that is missing", {"grounder": "detector", "layout": None}, "fetch it with: synthgen models"),
    ("a CLIP that is missing", {"filters.class_agreement.model": "openai/clip-vit-base-patch32"}, "(0.6 GB)"),
    ("a revision of another folder", {"generator": {"model": "a/b", "revision": "../../../etc"}}, "has no revision"),
    ("a variant of another folder", {"generator": {"model": "a/b", "variant": "../x"}}, "has no variant"),
    ("a module of Python's", {"generator": "os.path"}, "generator.use: 'os.path' is no backend"),
    ("a module that opens a page", {"generator": "antigravity.x"}, "generator.use: 'antigravity.x' is no backend"),
    ("a module that prints", {"filters": {"a": {"use": "this.that"}}}, "filters.a.use: 'this.that' is no backend"),
    ("a module that is a script", {"segmenter": "idlelib.__main__"}, "is no backend"),
    ("a module of a folder up", {"grounder": "..x"}, "grounder.use: got '..x'"),
    ("a module beside this one", {"grounder": ".x"}, "a module's full name starts with no dot"),
    ("a module with a space", {"exporters": {"coco": {"use": "a b"}}}, "exporters.coco.use: got 'a b'"),
    ("a module that is a path", {"generator": "/tmp/x.py"}, "generator.use: got '/tmp/x.py'"),
    ("a module that is a statement", {"generator": "os;print(1)"}, "generator.use: got 'os;print(1)'"),
    ("a module with a NUL", {"generator": "a\0.b"}, "generator.use: got 'a\\x00.b'"),
    ("a module of 10 kB", {"generator": "x." * 5000 + "y"}, "generator.use: got 'x.x."),
    ("an empty module", {"generator": ""}, "generator.use: got ''"),
    ("our own modules", {"generator": "synthgen.cli"}, "is no backend"),
    ("a filter as a generator", {"generator": "sharpness"}, "no generator is called 'sharpness'"),
    ("a scheduler that is a class of Python's", {"generator.scheduler": "os.system"}, "no such scheduler"),
    ("arguments that are ours", {"generator.call_options": {"output_type": "pt"}}, "cannot stand here"),
    ("an image that is ignored", {"filters.sharpness.on_fail": "drop"}, "it measures images, and takes 'reject'"),
    ("on_fail that is none", {"filters.stability.on_fail": "maybe"}, "filters.stability.on_fail: got 'maybe'"),
    ("on_fail that is a list", {"filters.stability.on_fail": ["reject"]}, "filters.stability.on_fail: got ['reject']"),
    ("a prompt of no word", {"filters.class_agreement.prompt": "a photo"}, "filters.class_agreement.prompt: got"),
    ("a confusable of no class", {"filters.class_agreement.confusables": {"pear": []}}, "no class is called 'pear'"),
]  # fmt: skip

# What a problem without a field says: where in the text, or of the text as a whole.
OF_THE_TEXT = (
    r"line \d+, column \d+$|nested too deeply|cannot read the spec|is a mapping of keys|at most 1,000,000|more$"
)


def changed(raw: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    for path, value in changes.items():
        *keys, last = path.split(".") if re.fullmatch(r"[\w.]+", path) else [path]
        place = raw
        for key in keys:
            place = place.setdefault(key, {})
        place[last] = value
    return raw


@pytest.mark.parametrize(("content", "said"), [case[1:] for case in SPECS], ids=[case[0] for case in SPECS])
def test_specs(
    content: Any, said: str, good: dict[str, Any], spec_file: SpecFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = spec_file(changed(good, content) if isinstance(content, dict) else content)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    before = set(sys.modules)
    with pytest.raises(SpecError) as told, harmless():
        check(load_spec(path), tmp_path / "out")
    assert told.value.exit_code == 2
    for problem in told.value.problems:
        one_line(str(problem))
        assert problem.field or re.search(OF_THE_TEXT, problem.message), problem
    assert any(said in str(problem) for problem in told.value.problems), str(told.value)[:2000]
    assert len(told.value.problems) <= 60
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cwd", "spec.yaml"] and not list(Path().iterdir())
    assert not {"antigravity", "this", "idlelib.__main__"} & (set(sys.modules) - before)


def test_there_are_enough_of_them() -> None:
    assert len(SPECS) >= 60 and len({name for name, _, _ in SPECS}) == len(SPECS)


def test_words_of_all_the_world_are_taken(good: dict[str, Any]) -> None:
    words = ["תפוח", "تفاحة", "りんご", "🍎", "👩‍🌾", "می‌خواهم", "naïve café", "O'Neill & Söhne"]
    spec = DatasetSpec.parse({**good, "classes": words})
    assert [c.name for c in spec.categories] == words


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("count", "takes key.path=value"),
        ("=3", "takes key.path=value"),
        ("count.x=3", "is no mapping of options"),
        ("a..b=3", "takes key.path=value"),
        ("name=!!python/object/apply:os.system [ls]", "line 1, column 1"),
        ("classes=" + bomb(9), "aliases"),
        ("count=" + "9" * 100_000, "takes at most 100 digits"),
        ("x" * 10_000, "takes key.path=value"),
        ("name=\x1b[2J", "U+001B"),
        ("\x1b[2J=3", "\\x1b[2J: unknown key"),
    ],
    ids=range(10),
)
def test_overrides(override: str, said: str, good: dict[str, Any], spec_file: SpecFile) -> None:
    path = spec_file(good)
    with pytest.raises(SpecError) as told, harmless():
        load_spec(path, [override])
    assert any(said in str(problem) for problem in told.value.problems), str(told.value)[:2000]
    for problem in told.value.problems:
        one_line(str(problem))


@pytest.mark.parametrize("what", ["links in a circle", "a link to nowhere", "a device without end", "a folder"])
def test_paths_that_are_no_specs(what: str, tmp_path: Path) -> None:
    path = Path("/dev/zero") if what == "a device without end" else tmp_path
    if what.startswith("link"):
        path = tmp_path / "spec.yaml"
        path.symlink_to(path)
    elif what == "a link to nowhere":
        path = tmp_path / "spec.yaml"
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(SpecError) as told, harmless():
        load_spec(path)
    one_line(str(told.value))
    assert str(path) in str(told.value)


def test_links_in_place_of_models(good: dict[str, Any], spec_file: SpecFile, tmp_path: Path) -> None:
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for name in ("nowhere", "circle"):
        for key in ("generator", "segmenter"):
            path = spec_file(changed(good, {f"{key}.model": f"./{name}"}))
            with pytest.raises(SpecError, match="does not exist") as told, harmless():
                check(load_spec(path), tmp_path / "out")
            one_line(str(told.value.problems[0]))


CHILD = f"""
import json, os, resource, sys
deeds = []
DEEDS = {DEEDS!r}
def audit(event, arguments):
    if event.startswith(DEEDS):
        deeds.append(event)
    elif event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        deeds.append(f"open {{arguments[0]!r}}")
sys.addaudithook(audit)
place = sys.argv.pop(1)
code = None
try:
    from synthgen.cli import main
    main()
except SystemExit as stop:
    code = stop.code
used = resource.getrusage(resource.RUSAGE_SELF)
unit = 1 if sys.platform == "darwin" else 1024
told = {{"code": code, "deeds": list(deeds), "seconds": used.ru_utime + used.ru_stime, "bytes": used.ru_maxrss * unit}}
with open(place, "w") as file:
    json.dump(told, file)
"""
IN_A_PROCESS = [
    "an open bracket", "an alias bomb", "200,000 values", "one of base 60", "30,000 words that it does not know",
    "a tag that runs a command", "a module that opens a page", "5,000 filters",
]  # fmt: skip


def in_a_process(tmp_path: Path, *arguments: object) -> tuple[dict[str, Any], list[str]]:
    """The command line in a process of its own -> what it did and used; its lines of errors."""
    (tmp_path / "cwd").mkdir()
    command = [sys.executable, "-c", CHILD, tmp_path / "used.json", *arguments]
    # By way of a shell: the memory of a process that has been forked counts as the child's, before it becomes another.
    done = subprocess.run(
        ["sh", "-c", '"$0" "$@"; exit $?', *map(str, command)],
        cwd=tmp_path / "cwd",
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.stdout == ""
    assert not list((tmp_path / "cwd").iterdir())
    used: dict[str, Any] = json.loads((tmp_path / "used.json").read_bytes())
    return used, done.stderr.splitlines()


@pytest.mark.parametrize("name", IN_A_PROCESS)
def test_specs_in_a_process_of_their_own(name: str, good: dict[str, Any], spec_file: SpecFile, tmp_path: Path) -> None:
    content, said = next(case[1:] for case in SPECS if case[0] == name)
    path = spec_file(changed(good, content) if isinstance(content, dict) else content)
    used, lines = in_a_process(tmp_path, "run", path, "--out", tmp_path / "out")
    assert used["code"] == 2 and used["deeds"] == []
    require_quick(used["seconds"])
    assert used["bytes"] < 1e9
    assert any(said in line for line in lines) and all(line.startswith("error: ") for line in lines)
    assert all(len(line) < LONGEST + 10 for line in lines)
    assert not (tmp_path / "out").exists()


# Weights


def safetensors(tensors: dict[str, tuple[int, int]], size: int = 16, length: int | None = None) -> bytes:
    """A file of float32 tensors of one dimension, by their offsets."""
    entries = {n: {"dtype": "F32", "shape": [(b - a) // 4], "data_offsets": [a, b]} for n, (a, b) in tensors.items()}
    header = json.dumps(entries).encode()
    return (len(header) if length is None else length).to_bytes(8, "little") + header + bytes(size)


WHOLE = safetensors({"a": (0, 8), "b": (8, 16)})
CORRUPT: list[tuple[str, bytes]] = [
    ("empty", b""),
    ("text", b"these are no weights"),
    ("a header of exabytes", safetensors({"a": (0, 16)}, length=2**62)),
    ("a header longer than the file", safetensors({"a": (0, 16)}, length=10_000)),
    ("a header that is no JSON", (9).to_bytes(8, "little") + b"{'a': 1}}" + bytes(16)),
    ("a header that is a list", (2).to_bytes(8, "little") + b"[]" + bytes(16)),
    ("a header of words", (10).to_bytes(8, "little") + b'{"a": "b"}'),
    ("a nested header", (50_000).to_bytes(8, "little") + b"[" * 50_000),
    ("offsets out of range", safetensors({"a": (0, 2**40)})),
    ("offsets backwards", safetensors({"a": (16, 0)})),
    ("offsets that overlap", safetensors({"a": (0, 16), "b": (8, 16)})),
    ("offsets with a gap", safetensors({"a": (0, 4), "b": (8, 16)})),
    ("cut short", WHOLE[:-4]),
    ("with something behind", WHOLE + b"more"),
    ("a pickle", pickle.dumps({"a": 1})),
]


@pytest.mark.parametrize("content", [case[1] for case in CORRUPT], ids=[case[0] for case in CORRUPT])
def test_corrupt_safetensors(content: bytes, tmp_path: Path) -> None:
    """Wherever they lie: as a SAM, as a detector, as a part of a pipeline."""
    (tmp_path / "sam.safetensors").write_bytes(content)
    with pytest.raises(BackendError, match="is no whole safetensors file") as told, harmless():
        weights.require_safetensors(tmp_path / "sam.safetensors")
    one_line(str(told.value))
    with pytest.raises(BackendError, match="was not loaded") as told:
        SamModel.of(str(tmp_path / "sam.safetensors"), None, "cpu", "float32")
    one_line(str(told.value))
    put(tmp_path / "detector", {"config.json": {"model_type": "owlv2"}, "model.safetensors": content})
    config = detector.Config(use="detector", model=str(tmp_path / "detector"))
    with harmless():
        (of_sam,) = SamFiles(SamConfig(use="sam", model=str(tmp_path / "sam.safetensors"))).problems()
        (of_detector,) = detector.Backend(config, (Category(1, "apple"),)).check(REQUEST)
    assert all("is no whole safetensors file" in problem.message for problem in (of_sam, of_detector))
    folder = pipeline(tmp_path / "model")
    (folder / "unet" / "model.safetensors").write_bytes(content)
    (problem,) = problems_of(folder)
    assert problem.field == ".model" and "is no whole safetensors file" in problem.message
    one_line(str(problem))


def test_whole_safetensors(tmp_path: Path) -> None:
    from safetensors import safe_open

    (tmp_path / "a.safetensors").write_bytes(WHOLE)
    weights.require_safetensors(tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", "np") as file:
        assert sorted(file.keys()) == ["a", "b"]


class Touch:
    """As a pickle: a file that is made when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


class Memory:
    """As a pickle: any amount of memory. `torch.load(weights_only=True)` takes it."""

    def __reduce__(self) -> Any:
        return bytearray, (10**12,)


def saved(thing: Any, **options: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        import torch

        file = folder / "sam.pth"
        torch.save(thing(folder, torch) if callable(thing) else thing, file, **options)
        return file

    return make


def written(content: bytes, name: str = "sam.pth") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def cut(folder: Path) -> Path:
    file = saved(lambda _, torch: {PATCH_EMBEDDING: torch.zeros(768, 3, 16, 16)})(folder)
    file.write_bytes(file.read_bytes()[:5000])
    return file


def zipped(folder: Path) -> Path:
    """40 kB that unpack to 40 MB."""
    file = folder / "sam.pth"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("sam/data.pkl", bytes(40_000_000))
    return file


def two_pickles(folder: Path) -> Path:
    file = folder / "sam.pth"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("sam/data.pkl", pickle.dumps({}, 2))
        archive.writestr("other/data.pkl", pickle.dumps(Touch(folder / "owned"), 2))
    return file


def other_archive(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "sam.pth", "w") as archive:
        archive.writestr("weights.txt", "none")
    return folder / "sam.pth"


def behind_a_pickle(folder: Path) -> Path:
    """To Python's zipfile an archive of tensors, to torch a pickle."""
    file = saved(lambda _, torch: {PATCH_EMBEDDING: torch.zeros(768, 3, 16, 16)})(folder)
    file.write_bytes(pickle.dumps(Touch(folder / "owned"), 2) + file.read_bytes())
    return file


def raw_pickle(protocol: int) -> Callable[[Path], Path]:
    return lambda folder: written(pickle.dumps(Touch(folder / "owned"), protocol))(folder)


SHAPE = {
    "image_size": 128, "patch_size": 8, "embed_dim": 192, "depth": 6, "num_heads": 6, "global_attn_indexes": [0],
    "window_size": 0, "prompt_embed_dim": 128, "mlp_dim": 512, "iou_head_hidden_dim": 128,
}  # fmt: skip


def carded(card: Any, weights: bytes | None = WHOLE) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "m").mkdir()
        text = card if isinstance(card, bytes) else json.dumps(card).encode()
        (folder / "m" / "synthgen.json").write_bytes(text)
        if weights is not None:
            (folder / "m" / "w.safetensors").write_bytes(weights)
        return folder / "m"

    return make


def shaped(**changes: Any) -> Callable[[Path], Path]:
    return carded({"sam": {**SHAPE, **changes}, "weights": "w.safetensors"}, safetensors({PATCH_EMBEDDING: (0, 16)}))


def dangling(folder: Path) -> Path:
    made = carded({"sam": SHAPE, "weights": "w.safetensors"}, None)(folder)
    (made / "w.safetensors").symlink_to(folder / "gone")
    return made


SAMS: list[tuple[str, Callable[[Path], Path], str]] = [
    ("a pickle that touches a file", saved(lambda at, _: {PATCH_EMBEDDING: Touch(at / "owned")}), "more than tensors"),
    ("the same beside a tensor", saved(
        lambda at, torch: {PATCH_EMBEDDING: torch.zeros(768, 3, 16, 16), "x": Touch(at / "owned")}),
     "more than tensors"),
    ("the same as torch 1.5 wrote", saved(
        lambda at, _: {PATCH_EMBEDDING: Touch(at / "owned")}, _use_new_zipfile_serialization=False),
     "more than tensors"),
    ("the same in protocol 5", saved(lambda at, _: {"x": Touch(at / "owned")}, pickle_protocol=5), "more than tensors"),
    ("a bare pickle", raw_pickle(2), "more than tensors"),
    ("a bare pickle of protocol 0", raw_pickle(0), "more than tensors"),
    ("a bare pickle of protocol 4", raw_pickle(4), "more than tensors"),
    ("a pickle beside the pickle", two_pickles, "has not one `data.pkl`"),
    ("a pickle of a terabyte", saved(lambda *_: {PATCH_EMBEDDING: Memory()}), "tensors (__builtin__ bytearray)"),
    ("a terabyte as torch 1.5 wrote", saved(lambda *_: Memory(), _use_new_zipfile_serialization=False),
     "more than tensors"),
    ("an archive that unpacks to more", zipped, "its parts are compressed"),
    ("an archive cut short", cut, "was not loaded"),
    ("an archive of nothing", written(b"PK\x05\x06" + bytes(18)), "was not loaded"),
    ("an archive of another kind", other_archive, "has not one `data.pkl`"),
    ("an archive behind a pickle", behind_a_pickle, "more than tensors"),
    ("text", written(b"not a checkpoint"), "was not loaded"),
    ("nothing", written(b""), "was not loaded"),
    ("a picture", written(b"\x89PNG\r\n\x1a\n" + bytes(100)), "was not loaded"),
    ("another format", written(b"", "sam.bin"), "takes a .pth, .pt or .safetensors file"),
    ("a folder without a card", lambda folder: folder, "has no card of a SAM"),
    ("a folder called .pth", lambda folder: (folder / "sam.pth").mkdir() or folder / "sam.pth", "has no card of a SAM"),
    ("a list", saved([1, 2]), f"has no '{PATCH_EMBEDDING}'"),
    ("a number", saved(3), f"has no '{PATCH_EMBEDDING}'"),
    ("another state dict", saved(lambda _, torch: {"weight": torch.zeros(2)}), f"has no '{PATCH_EMBEDDING}'"),
    ("a word for a tensor", saved(lambda *_: {PATCH_EMBEDDING: "x"}), f"has no '{PATCH_EMBEDDING}'"),
    ("a word beside a tensor", saved(lambda _, torch: {PATCH_EMBEDDING: torch.zeros(768, 3, 16, 16), "x": "y"}),
     "has 'x', which is no tensor"),
    ("a number as a name", saved(lambda _, torch: {PATCH_EMBEDDING: torch.zeros(768, 3, 16, 16), 3: torch.zeros(1)}),
     "has 3, which is no tensor"),
    ("whole numbers", saved(lambda _, torch: {PATCH_EMBEDDING: torch.zeros(768, 3, 16, 16, dtype=torch.int64)}),
     "no tensor of numbers with a point"),
    ("no dimensions", saved(lambda _, torch: {PATCH_EMBEDDING: torch.zeros(())}), "is a SAM of width 0"),
    ("an odd width", saved(lambda _, torch: {PATCH_EMBEDDING: torch.zeros(5, 3, 16, 16)}), "is a SAM of width 5"),
    ("missing keys", saved(lambda _, torch: {PATCH_EMBEDDING: torch.zeros(768, 3, 16, 16)}), "does not fit"),
    ("wrong shapes", saved(lambda _, torch: {PATCH_EMBEDDING: torch.zeros(768, 1)}), "does not fit"),
    ("what is no number", saved(lambda _, torch: {PATCH_EMBEDDING: torch.full((768, 3, 16, 16), float("nan"))}),
     "holds numbers that are not finite"),
    ("a card that is no JSON", carded(b"{"), "is no valid model card"),
    ("a card that is a list", carded([]), "is no valid model card"),
    ("a card nested deeply", carded(b"[" * 100_000), "is no valid model card"),
    ("a card that is no text", carded(b"\xff\xfe"), "is no valid model card"),
    ("a card of unknown keys", carded({"run": "rm -rf /"}), "is no valid model card: run: "),
    ("a card of wrong types", carded({"sam": {**SHAPE, "depth": "deep"}}), "is no valid model card: sam.depth: "),
    ("a billion layers", shaped(depth=10**9), "is no valid model card: sam.depth: "),
    ("no patches", shaped(patch_size=0), "is no valid model card: sam.patch_size: "),
    ("no heads", shaped(num_heads=0), "is no valid model card: sam.num_heads: "),
    ("images of a million px", shaped(image_size=2**20), "is no valid model card: sam.image_size: "),
    ("heads that do not divide", shaped(num_heads=5), "is no multiple of `num_heads`"),
    ("an odd width within", shaped(prompt_embed_dim=7), "does not fit the dimensions of its model"),
    ("dimensions of another", shaped(depth=7), "does not fit the dimensions of its model"),
    ("weights of another folder", carded({"sam": SHAPE, "weights": "../../x.pth"}), "takes the name of a file there"),
    ("weights from the root", carded({"sam": SHAPE, "weights": "/etc/passwd"}), "takes the name of a file there"),
    ("weights that are the folder", carded({"sam": SHAPE, "weights": "."}), "takes the name of a file there"),
    ("weights with a NUL", carded({"sam": SHAPE, "weights": "a\0.pth"}), "takes the name of a file there"),
    ("weights that lead nowhere", dangling, "takes the name of a file there"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "said"), [case[1:] for case in SAMS], ids=[case[0] for case in SAMS])
def test_sams(make: Callable[[Path], Path], said: str, tmp_path: Path) -> None:
    import torch  # before anything is watched

    assert torch
    path = make(tmp_path)
    there = sorted(tmp_path.rglob("*"))
    with harmless():
        found = list(SamFiles(SamConfig(use="sam", model=str(path))).problems())
    if found:
        (problem,) = found
        message = problem.message
    else:
        with pytest.raises(SynthgenError) as told, harmless():
            SamModel.of(str(path), None, "cpu", "float32")
        assert told.value.exit_code == 2
        message = str(told.value)
    one_line(message)
    assert said in message
    assert sorted(tmp_path.rglob("*")) == there and not (tmp_path / "owned").exists()


# Folders of diffusers and transformers

REQUEST = Request(128, 128, has_layout=False, words=frozenset({"apple"}))
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "unet": ["diffusers", "UNet2DConditionModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "safety_checker": [None, None],
    "requires_safety_checker": False,
}


def put(folder: Path, files: dict[str, Any]) -> Path:
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return folder


def pipeline(folder: Path) -> Path:
    """What passes for a pipeline, without its weights being read."""
    return put(folder, {
        "model_index.json": INDEX, "unet/config.json": {"_class_name": "UNet2DConditionModel"},
        "unet/model.safetensors": WHOLE, "tokenizer/tokenizer.json": {}, "scheduler/scheduler_config.json": {},
    })  # fmt: skip


def problems_of(folder: Path) -> list[Problem]:
    backend = diffusion.Backend(diffusion.Config(use="diffusion", model=str(folder)), (Category(1, "apple"),))
    with harmless():
        return list(backend.check(REQUEST))


def test_the_pipeline_that_is_damaged_below_passes(tmp_path: Path) -> None:
    assert problems_of(pipeline(tmp_path)) == []


def index(**changes: Any) -> dict[str, Any]:
    return {"model_index.json": {**INDEX, **changes}}


def layout(folder: str, **changes: Any) -> dict[str, Any]:
    return {"layout": {"form": "t2i_adapter", "folder": folder, "palette": {"apple": [1.0]}, **changes}}


PIPELINES: list[tuple[str, dict[str, Any], str]] = [
    ("an index that is no JSON", {"model_index.json": b"{"}, "no readable model_index.json"),
    ("an index that is a list", {"model_index.json": []}, "no readable model_index.json"),
    ("an index that is no text", {"model_index.json": b"\xff\x00"}, "no readable model_index.json"),
    ("an index nested deeply", {"model_index.json": b"[" * 100_000}, "no readable model_index.json"),
    ("an index of 11 MB", {"model_index.json": b" " * 11_000_000 + b"{}"}, "no readable model_index.json"),
    ("an index without a class", {"model_index.json": {"unet": ["diffusers", "X"]}}, "no readable model_index.json"),
    ("a pipeline of its own", index(_class_name=["pipeline", "Mine"]), "names the pipeline ['pipeline', 'Mine']"),
    ("a pipeline that is a path", index(_class_name="../../x"), "names the pipeline '../../x'"),
    ("a part of a module of Python's", index(unet=["os", "system"]), "takes unet from 'os'"),
    ("a part of a module of the user's", index(unet=["mylab.evil", "X"]), "takes unet from 'mylab.evil'"),
    ("a part of a file of its own", index(unet=["my_unet", "Mine"]), "takes unet from 'my_unet'"),
    ("a part of diffusers' insides", index(unet=["diffusers.utils", "X"]), "takes unet from 'diffusers.utils'"),
    ("code beside a part", {"unet/diffusers.py": b"open('owned', 'w')"}, "holds code"),
    ("a part of another folder", index(**{"../../etc": ["diffusers", "X"]}), "says ../../etc: "),
    ("a part of nothing", index(unet=[]), "says unet: []"),
    ("a part of numbers", index(unet=[5, 6]), "says unet: [5, 6]"),
    ("half a part", index(unet=["diffusers", None]), "says unet: ['diffusers', None]"),
    ("a part that is not there", index(vae=["diffusers", "AutoencoderKL"]), "missing: vae"),
    ("a class that takes code", index(unet=["transformers", "AutoModel"]), "takes the class that it stands for"),
    ("a tokenizer that takes code", index(tokenizer=["transformers", "AutoTokenizer"]), "takes the class that it"),
    ("a config that is no JSON", {"unet/config.json": b"{"}, "cannot be read"),
    ("a card that is no JSON", {"synthgen.json": b"{"}, "is no valid model card"),
    ("sizes of words", {"synthgen.json": {"sizes": [["a", "b"]]}}, "is no valid model card: sizes.0.0: "),
    ("a palette that is none", {"synthgen.json": layout("adapter", palette={"apple": "red"})}, "no valid model card"),
    ("a colour that is no number", {"synthgen.json": b'{"layout": {"form": "t2i_adapter", "folder": "adapter", '
     b'"palette": {"apple": [NaN]}}}'}, "is no valid model card: layout.palette.apple.0: "),
    ("a colour of 10,000 channels", {"synthgen.json": layout("adapter", palette={"apple": [0.0] * 10_000})},
     "is no valid model card: layout.palette.apple: "),
    ("an adapter made smaller a million times", {"synthgen.json": layout("adapter", downscale=10**6)},
     "is no valid model card: layout.downscale: "),
    ("an adapter of another folder", {"synthgen.json": layout("../../x")}, "takes a folder inside the model's"),
    ("an adapter from the root", {"synthgen.json": layout("/etc")}, "takes a folder inside the model's"),
    ("an adapter that is the model", {"synthgen.json": layout(".")}, "takes a folder inside the model's"),
    ("an adapter with a NUL", {"synthgen.json": layout("a\0b")}, "takes a folder inside the model's"),
    ("an adapter that is not there", {"synthgen.json": layout("adapter")}, "missing: adapter"),
    ("an adapter in a pickle", {"synthgen.json": layout("adapter"), "adapter/config.json": {},
     "adapter/diffusion_pytorch_model.bin": pickle.dumps({})}, "missing: adapter (weights in safetensors)"),
]  # fmt: skip


@pytest.mark.parametrize(("files", "said"), [case[1:] for case in PIPELINES], ids=[case[0] for case in PIPELINES])
def test_pipelines(files: dict[str, Any], said: str, tmp_path: Path) -> None:
    (problem,) = problems_of(put(pipeline(tmp_path / "model"), files))
    assert problem.field == ".model" and said in problem.message
    one_line(str(problem))


@pytest.mark.parametrize("suffix", [".bin", ".ckpt", ".pt", ".pth", ".pkl"])
def test_pickles_in_place_of_safetensors(suffix: str, tmp_path: Path) -> None:
    folder = pipeline(tmp_path / "model")
    (folder / "unet" / "model.safetensors").unlink()
    (folder / "unet" / f"diffusion_pytorch_model{suffix}").write_bytes(pickle.dumps(Touch(tmp_path / "owned")))
    (problem,) = problems_of(folder)
    assert "missing: unet (weights in safetensors)" in problem.message
    assert not (tmp_path / "owned").exists()


def test_links_within_pipelines(tmp_path: Path) -> None:
    folder = put(pipeline(tmp_path / "model"), {"synthgen.json": layout("adapter")})
    put(tmp_path / "elsewhere", {"config.json": {}, "model.safetensors": WHOLE})
    (folder / "adapter").symlink_to(tmp_path / "elsewhere")
    (problem,) = problems_of(folder)
    assert f"adapter leads out of its model's folder, to {tmp_path / 'elsewhere'}" in problem.message
    (folder / "adapter").unlink()
    put(folder, {"adapter/config.json": {}, "adapter/model.safetensors": WHOLE})
    assert problems_of(folder) == []
    (folder / "unet" / "model.safetensors").unlink()
    (folder / "unet" / "model.safetensors").symlink_to(tmp_path / "gone")
    (problem,) = problems_of(folder)
    assert problem.message.endswith("model' is not whole on this machine; missing: unet/model.safetensors")
    (folder / "tokenizer" / "tokenizer.json").unlink()
    (folder / "unet" / "model.safetensors").unlink()
    (problem,) = problems_of(folder)
    assert "missing: unet (weights in safetensors), tokenizer (its vocabulary)" in problem.message


# (what it is, files of the folder, what is said)
OTHERS: list[tuple[str, dict[str, Any], str]] = [
    ("no config", {}, "has no config.json"),
    ("a config that is no JSON", {"config.json": b"{"}, "has no config.json"),
    ("a config that is a list", {"config.json": []}, "has no config.json"),
    ("a config nested deeply", {"config.json": b"[" * 100_000}, "has no config.json"),
    ("another model", {"config.json": {"model_type": "llama"}}, "is of model_type 'llama'"),
    ("a type of 10 kB", {"config.json": {"model_type": "x" * 10_000}}, "is of model_type 'xxx"),
    ("a type that is a list", {"config.json": {"model_type": ["clip"]}}, "is of model_type"),
    ("a pickle", {"config.json": {"model_type": "TYPE"}, "pytorch_model.bin": pickle.dumps({})},
     "has no .safetensors weights"),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["clip", "owlv2"])
@pytest.mark.parametrize(("files", "said"), [case[1:] for case in OTHERS], ids=[case[0] for case in OTHERS])
def test_other_models(kind: str, files: dict[str, Any], said: str, tmp_path: Path) -> None:
    """A CLIP, and a detector."""
    put(tmp_path, {
        name: json.loads(json.dumps(content).replace("TYPE", kind)) if isinstance(content, dict) else content
        for name, content in files.items()
    })  # fmt: skip
    with harmless():
        if kind == "clip":
            (problem,) = clip.ClipFiles(ClipConfig(use="clip", model=str(tmp_path)), ["apple"]).problems()
        else:
            config = detector.Config(use="detector", model=str(tmp_path))
            (problem,) = detector.Backend(config, (Category(1, "apple"),)).check(REQUEST)
    assert problem.field == ".model" and said in problem.message
    one_line(str(problem))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"model.safetensors": b"none"}, "is no whole safetensors file"),
        ({"model.safetensors": WHOLE}, "has no tokenizer"),
        ({"model.safetensors": WHOLE, "tokenizer.json": b"{"}, "was not loaded"),
    ],
    ids=["corrupt weights", "no tokenizer", "a tokenizer that is no JSON"],
)
def test_clips_that_cannot_be_loaded(files: dict[str, Any], said: str, tmp_path: Path) -> None:
    put(tmp_path, {"config.json": {"model_type": "clip"}, **files})
    with pytest.raises(BackendError) as told:
        ClipModel.of(ClipConfig(use="clip", model=str(tmp_path), device="cpu"))
    one_line(str(told.value))
    assert said in str(told.value)


# Images and their truth


def png(width: int, height: int) -> bytes:
    """A PNG that says it is so large, and holds a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


def coco(**changes: Any) -> dict[str, Any]:
    square = np.zeros((1, 20, 30), bool)
    square[0, 2:12, 5:20] = True
    return {
        "images": [{"id": 1, "file_name": "1.png", "width": 30, "height": 20, **changes.pop("image", {})}],
        "categories": [{"id": 1, "name": "apple"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 150, "bbox": [5, 2, 15, 10],
                         "segmentation": encode_rle(square)[0], **changes.pop("annotation", {})}],
        **changes,
    }  # fmt: skip


def rle(counts: Any, size: Any = (20, 30)) -> dict[str, Any]:
    return {"annotation": {"segmentation": {"size": size, "counts": counts}}}


def polygon(*corners: Any) -> dict[str, Any]:
    return {"annotation": {"segmentation": list(corners)}}


def named(name: Any) -> dict[str, Any]:
    return coco(image={"file_name": name})


SQUARE = [5, 2, 20, 2, 20, 12, 5, 12]
TRUTHS: list[tuple[str, Any, str]] = [
    ("no JSON", b"{", "--truth: cannot read"),
    ("no text", b"\xff\xfe\x00", "--truth: "),
    ("nothing", b"", "--truth: cannot read"),
    ("nested deeply", b"[" * 100_000, "nested too deeply"),
    ("a list", [], "is no COCO file"),
    ("a word", "coco", "is no COCO file"),
    ("images that are a number", coco(images=3), "is no COCO file"),
    ("annotations that are words", coco(annotations=["a"]), "is no COCO file"),
    ("categories without names", coco(categories=[{"id": 1}]), "is no COCO file"),
    ("categories that are none", coco(categories=None), "is no COCO file"),
    ("ids of two kinds", coco(images=[{"id": 1}, {"id": "a"}]), "is no COCO file"),
    ("an id that is a list", coco(image={"id": [1]}), "is no COCO file"),
    ("another class", coco(categories=[{"id": 1, "name": "\x1b[2Jpear" * 900}]), "has no instance of the spec's"),
    ("a file of another folder", named("../outside.png"), "lies outside"),
    ("a file of the system", named("../" * 30 + "etc/passwd"), "lies outside"),
    ("a file from the root", named("/etc/passwd"), "lies outside"),
    ("a link out of the folder", named("link.png"), "lies outside"),
    ("links in a circle", named("circle.png"), "there is no image"),
    ("a file that is not there", named("gone.png"), "there is no image"),
    ("a file that is the folder", named("."), "there is no image"),
    ("a file with a NUL", named("a\0b.png"), "there is no image"),
    ("a file of 10 kB", named("x" * 10_000), "there is no image"),
    ("a file that is a number", named(7), "is no COCO file"),
    ("a bomb", coco(image={"file_name": "bomb.png", "width": 50_000, "height": 50_000}), "at most 50,000,000 px"),
    ("a bomb that is said to be small", named("bomb.png"), "decompression bomb"),
    ("a smaller bomb", coco(image={"file_name": "large.png", "width": 9000, "height": 9000}), "at most 50,000,000 px"),
    ("an image of another size", coco(image={"width": 31}, **polygon(SQUARE)), "has 30x20 px, and 31x20 px in"),
    ("an image of a size beyond all", coco(image={"width": 10**9, "height": 10**9}), "has 1000000000x1000000000 px"),
    ("an image of 400 digits", coco(image={"width": 10**400}), "at most 50,000,000 px"),
    ("an image of no size", coco(image={"width": None}), "image 1 in truth.json has Nonex20 px; takes"),
    ("an image of half a pixel", coco(image={"width": 30.5}), "image 1 in truth.json has 30.5x20 px; takes"),
    ("two images with one id", coco(images=[*coco()["images"], {**coco()["images"][0], "file_name": "whole.png"}]),
     "has two `images` with the id 1"),
    ("two categories with one id", coco(categories=[{"id": 1, "name": "apple"}, {"id": 1, "name": "orange"}]),
     "has two `categories` with the id 1"),
    ("two annotations with one id", coco(annotations=coco()["annotations"] * 2), "has two `annotations` with the id 1"),
    ("two images that are one file", coco(images=[*coco()["images"], {**coco()["images"][0], "id": 2}],
     annotations=[{**coco()["annotations"][0], "id": i, "image_id": i} for i in (1, 2)]), "has 2 `images` with"),
    ("a truncated image", named("cut.png"), "cannot read"),
    ("text called .png", named("text.png"), "cannot read"),
    ("PostScript called .png", named("script.png"), "cannot read"),
    ("an empty image", named("empty.png"), "cannot read"),
    ("no segmentation", coco(annotation={"segmentation": None}), "objects left out: 1, of them 1 with no segmentation"),
    ("no polygon", coco(annotation={"segmentation": []}), "1 with no segmentation"),
    ("a number", coco(annotation={"segmentation": 7}), "1 with a segmentation that is neither"),
    ("half a polygon", coco(**polygon([1, 2, 3, 4, 5])), "1 with a polygon of fewer than 3 corners"),
    ("half a corner", coco(**polygon([5, 2, 20, 2, 20, 12, 5])), "or half a corner"),
    ("a polygon without brackets", coco(annotation={"segmentation": SQUARE}), "1 with a segmentation that is neither"),
    ("a polygon of words", coco(**polygon(["a"] * 6)), "1 with a segmentation that is neither"),
    ("a polygon of words that are numbers", coco(**polygon([str(n) for n in SQUARE])), "1 with a segmentation that is"),
    ("a polygon of no numbers", coco(**polygon([float("nan")] * 6)), "1 with a corner far outside the image"),
    ("a polygon beyond all", coco(**polygon([0, 0, 1e9, 0, 1e9, 1e9])), "1 with a corner far outside the image"),
    ("a polygon of 400 digits", coco(**polygon([10**400] * 6)), "1 with a segmentation that is neither"),
    ("a polygon without an inside", coco(**polygon([5, 5, 5, 5, 5, 5])), "1 with no pixel"),
    ("a polygon of kilometres", coco(**polygon([-30, -20, 60, 40] * 12_000)), "1 with an outline longer than 2,000"),
    ("RLE of another size", coco(**rle([0, 600], [10, 60])), "1 with RLE of another size than the image's"),
    ("RLE of terabytes", coco(**rle([0, 10**12], [10**6, 10**6])), "1 with RLE of another size than the image's"),
    ("RLE of no size", coco(**rle([0, 600], 5)), "1 with a segmentation that is neither"),
    ("RLE of no pixel", coco(**rle([600])), "1 with no pixel"),
    ("negative runs", coco(**rle([-5, 605])), "1 with RLE that does not sum to the image"),
    ("runs too long", coco(**rle([0, 601])), "1 with RLE that does not sum to the image"),
    ("runs too short", coco(**rle([0, 5])), "1 with RLE that does not sum to the image"),
    ("runs of words", coco(**rle(["a", "b"])), "1 with RLE that does not sum to the image"),
    ("runs of fractions", coco(**rle([0.5, 599.5])), "1 with RLE that does not sum to the image"),
    ("compressed runs too short", coco(**rle("04")), "1 with RLE that does not sum to the image"),
    ("compressed runs cut short", coco(**rle("0ooo")), "1 with a segmentation that is neither"),
    ("compressed runs, garbled", coco(**rle("\u00ff\u0001")), "1 with a segmentation that is neither"),
    ("compressed runs beyond all", coco(**rle("o" * 1000)), "1 with a segmentation that is neither"),
    ("a category that is none", coco(annotation={"category_id": 2}), "1 with a category that the file does not have"),
    ("a million masks", coco(annotations=[{**coco()["annotations"][0], "id": i} for i in range(20)]), "too many"),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images, some of them hostile."""
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (30, 20), "red").save(images / "1.png")
    Image.new("RGB", (30, 20)).save(tmp_path / "outside.png")
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(noise).save(images / "whole.png")
    put(images, {
        "bomb.png": png(50_000, 50_000), "large.png": png(9000, 9000), "text.png": b"not an image", "empty.png": b"",
        "cut.png": (images / "whole.png").read_bytes()[:500],
        "script.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 30 20\n%%EndComments\n(owned) (w) file\n%%EOF\n",
    })  # fmt: skip
    (images / "link.png").symlink_to(tmp_path / "outside.png")
    (images / "circle.png").symlink_to(images / "circle.png")
    return images


def read(spec: DatasetSpec, file: Path, images: Path) -> None:
    for _ in truths.from_coco(spec, file, images, 5).images:
        pass


@pytest.mark.parametrize(("content", "said"), [case[1:] for case in TRUTHS], ids=[case[0] for case in TRUTHS])
def test_truths(
    content: Any, said: str, good: dict[str, Any], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(truths, "MAX_MASK_PIXELS", 10_000)
    file = tmp_path / "truth.json"
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    spec, there = DatasetSpec.parse(good), sorted(tmp_path.rglob("*"))
    with pytest.raises(SpecError) as told, harmless():
        read(spec, file, folder)
    (problem,) = told.value.problems
    assert problem.field in {"--truth", "--images"} and said in str(problem)
    one_line(str(problem))
    assert sorted(tmp_path.rglob("*")) == there


def test_the_truth_that_is_damaged_above_is_read(good: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    spec = DatasetSpec.parse(good)
    runs = [5 * 20 + 2, *[10, 10] * 14, 10, 600 - 5 * 20 - 2 - 14 * 20 - 10]
    for truth in (coco(), coco(**polygon(SQUARE)), coco(**rle(runs))):
        (tmp_path / "truth.json").write_text(json.dumps(truth))
        (one,) = truths.from_coco(spec, tmp_path / "truth.json", folder, 5).images
        assert one.masks.sum() == 150 and one.masks[0, 2:12, 5:20].all()


def test_compressed_runs_are_read_as_pycocotools_does() -> None:
    from pycocotools import mask

    rng = np.random.default_rng(0)
    for share in (0.001, 0.1, 0.5, 0.99):
        drawn = rng.random((1, 300, 200)) < share
        (one,) = encode_rle(drawn)
        runs = rle_runs(one["counts"]).tolist()
        assert sum(runs) == 300 * 200 and sum(runs[1::2]) == drawn.sum()
        assert mask.frPyObjects({"size": [300, 200], "counts": runs}, 300, 200)["counts"] == one["counts"].encode()


@pytest.mark.parametrize("name", ["a file of the system", "nested deeply"])
def test_truths_in_a_process_of_their_own(
    name: str, good: dict[str, Any], folder: Path, spec_file: SpecFile, tmp_path: Path
) -> None:
    content, said = next(case[1:] for case in TRUTHS if case[0] == name)
    file = tmp_path / "truth.json"
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    numbers = tmp_path / "numbers.json"
    used, lines = in_a_process(
        tmp_path, "calibrate", spec_file(good), "--truth", file, "--images", folder, "--json", numbers
    )
    assert used["code"] == 2 and used["bytes"] < 1e9 and not numbers.exists()
    assert len(lines) == 1 and lines[0].startswith("error: --") and said in lines[0]
