"""What the work of each stage is made from, as hashes: a run of any earlier version must find its own again."""

from pathlib import Path
from typing import Any, get_args

import pytest

from synthgen.base.sealed import sha256_json
from synthgen.errors import SpecError
from synthgen.judging.reviews import Review, ReviewLog
from synthgen.pipeline.build import Build
from synthgen.pipeline.fingerprints import DEPENDENCIES, reported_by
from synthgen.pipeline.stages import Stages
from synthgen.spec import DatasetSpec
from synthgen.store.paths import StageName
from synthgen.store.run import Run

# No model of it lies here: its weights are those that the run has recorded.
MODEL = {"model": "nobody/nothing", "revision": "0123456789abcdef0123456789abcdef01234567"}
SPEC: dict[str, Any] = {
    "name": "fixed",
    "description": "For hashes.",
    "seed": 7,
    "count": 6,
    "height": 128,
    "width": 192,
    "shard_size": 4,
    "classes": [
        "apple",
        {"name": "car", "synonyms": ["auto"], "prompt": "a red car", "aspect_ratio": [1.2, 2], "id": 9},
    ],
    "objects_per_image": {0: 1, 2: 3},
    "prompts": {
        "templates": ["a photo of {objects} on {ground}"],
        "background_templates": [{"text": "a photo of {ground}", "weight": 2}],
        "slots": {"ground": {"grass": 2, "sand": 1}},
        "negative_prompt": "blur",
    },
    "layout": {"size": [0.3, 0.5]},
    "min_instances_per_class": 2,
    "splits": {"train": 0.75, "val": 0.25},
    "generator": {**MODEL, "num_inference_steps": 4},
    "segmenter": MODEL,
    "filters": {
        "mask_area": {"min": 0.01, "on_fail": "ignore"},
        "near_duplicate": {"max_distance": 3},
        "prompt_agreement": {**MODEL, "min": 0.2},
    },
    "exporters": {"coco": {}, "split": {"use": "coco", "images_in": "images/{split}"}},
}


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """A run of two shards whose marks name files of known content."""
    run, spec = Run.at(tmp_path, "fixed", 1), DatasetSpec.parse(SPEC)
    model = {**MODEL, "weights": "the weights", "licences": [["none", "about:blank"]]}
    keys = ("generator", "segmenter", "filters.prompt_agreement")
    run.facts.write_spec(spec.dump())
    run.facts.write(
        {
            "run": 1,
            "synthgen": "1",
            "made_from": {},
            "models": dict.fromkeys(keys, model),
            "spec": "0" * 64,
        }
    )
    for shard in range(2):
        for stage, name in (("plan", "jobs"), ("generate", "images"), ("label", "labels"), ("measure", "measures")):
            commit(run, stage, shard, f"{name}/{shard:05d}.parquet")
    commit(run, "judge", None, "verdicts.parquet", "quality.json")
    return Build(run, spec, Stages.of(spec))


def commit(run: Run, stage: Any, shard: int | None, *names: str) -> None:
    for name in names:
        (run.root / name).parent.mkdir(exist_ok=True)
        (run.root / name).write_text(f"the content of {name}")
    run.marks.commit(stage, shard, "", [run.root / name for name in names])


INPUTS = {
    ("plan", 0): "37c75991458a140f3de101f3b05f7a2bae7826c012833fffd5e3d2c8e78e39d7",
    ("generate", 0): "383fceb02f8b7d17df6361049dba272222d05574e463a09b46427e95b5691a0b",
    ("generate", 1): "6ee6f71c5f7cc145043afdaf59979b2753d2b6a9d618d0087ff7337657108422",
    ("label", 0): "da66329aa549e69a02d92acee8f7438c50ba15fa2ccafff7b149bb5086e1603a",
    ("label", 1): "2f3bc09d7ba9b1ddcd082f46c5f7f9232c0374fb96b22d47bd2e55cf3fdf4f2f",
    ("measure", 0): "ce37c293dcd1066958f2742abcbd271b07cac47536208f46d27ef739014224c8",
    ("measure", 1): "7a344cfc38f3ffc81a985ed64a1366559d6c05f3163185b23cbd0579c85d6c88",
    ("judge", None): "8fc59a8de0b673815456eadabc7bfb1b9af057b49b62e74a7172895060b1760f",
    ("export", "coco"): "d69761ef8f92447457357a4a73ad1469df30aea6da227f51970703c579a101cb",
    ("export", "split"): "049ed9ce7d1d24f6ea37a362614c20cef2b74719d753bf392ee22e7425d461b1",
}
AFTER_A_REVIEW = "87d1a1be3f9d1bd6ca1e5eef5e9b8e342f2bbc389a4b16a420b900d38b0ede4a"
REPORT_WITHOUT_TEMPLATES = "cee322cff3829007a4555dd0571a58663e21c57f428cb9ddbbe13f72da9a032c"
UPSTREAM: dict[str, set[str]] = {
    "plan": set(),
    "generate": {"plan"},
    "label": {"plan", "generate"},
    "measure": {"generate", "label"},
    "judge": {"measure"},
    "export": {"judge", "label", "measure"},
    "report": {"judge", "generate", "label", "measure"},
}


@pytest.mark.parametrize(("stage", "piece"), INPUTS)
def test_hashes_are_those_of_runs_in_peoples_hands(build: Build, stage: StageName, piece: int | str | None) -> None:
    assert build.inputs(stage, piece) == INPUTS[stage, piece]


@pytest.mark.parametrize(
    ("provenance", "changed"),
    [({"prompt": True}, set()), ({"prompt": False}, {"plan", "generate"}),
     ({"c2pa": {"certificate": "c.pem", "key": "k.pem"}}, {"export"})],
)  # fmt: skip
def test_what_images_say_is_made_from_the_spec_where_it_decides_files(
    build: Build, provenance: dict[str, Any], changed: set[str]
) -> None:
    spec = DatasetSpec.parse({**SPEC, "provenance": provenance})
    other = Build(build.run, spec, Stages.of(spec))
    assert {stage for (stage, piece), inputs in INPUTS.items() if other.inputs(stage, piece) != inputs} == changed
    if changed == {"export"}:  # by whom, not where the key lies
        for key, is_same in (("key", True), ("certificate", False)):
            moved = DatasetSpec.parse({**SPEC, "provenance": {"c2pa": {**provenance["c2pa"], key: "other.pem"}}})
            inputs = Build(build.run, moved, Stages.of(moved)).inputs("export", "coco")
            assert (inputs == other.inputs("export", "coco")) == is_same


@pytest.mark.parametrize(
    ("key", "value", "changed"),
    [("publication", {}, set()), ("publication", {"date": "2026-11-28"}, {"export"}),
     ("licence", {"commercial": True, "accept": ["mini"]}, set())],
)  # fmt: skip
def test_publication_is_a_part_of_exports_and_the_licence_of_nothing(
    build: Build, key: str, value: dict[str, Any], changed: set[str]
) -> None:
    spec = DatasetSpec.parse({**SPEC, key: value})
    other = Build(build.run, spec, Stages.of(spec))
    assert {stage for (stage, piece), inputs in INPUTS.items() if other.inputs(stage, piece) != inputs} == changed


def test_hashes_with_reviews_are_those_of_runs_in_peoples_hands(build: Build) -> None:
    with ReviewLog.open(build.run.paths.reviews) as log:
        log.add(Review(1, None, "reject", None, "random", "0" * 16))
    assert build.inputs("judge") == AFTER_A_REVIEW
    assert build.inputs("export", "coco") == INPUTS["export", "coco"]  # not before they are judged


def test_the_hash_of_a_report_is_what_runs_will_have_in_peoples_hands(build: Build) -> None:
    """But for the templates, which may change. Images count, because the dataset's version is made of their files."""
    fingerprint = reported_by(build.spec)
    marks = [
        build.run.marks.read("judge"),
        *(build.run.marks.read(stage, s) for s in (0, 1) for stage in ("generate", "label", "measure")),
    ]
    assert build.inputs("report") == sha256_json([fingerprint, *(mark.outputs for mark in marks if mark)])
    assert fingerprint.pop("templates").keys() == {"card.md.j2", "report.css", "report.html.j2", "report.js"}
    assert sha256_json(fingerprint) == REPORT_WITHOUT_TEMPLATES


def test_the_store_knows_the_marks_of_every_row(build: Build) -> None:
    for work in build.work():
        if build.run.marks.read(*work) is None:
            build.run.marks.commit(*work, "", [])
    assert {(stage, piece) for stage, piece, mark in build.run.marks.read_all() if mark} == set(build.work())


def test_every_row_of_the_table_is_tested() -> None:
    assert UPSTREAM.keys() == DEPENDENCIES.keys() == set(get_args(StageName))


@pytest.mark.parametrize("stage", DEPENDENCIES)
def test_a_stage_is_made_from_the_stages_upstream_and_no_others(build: Build, stage: StageName) -> None:
    piece = build.pieces(stage)[-1]
    before, upstream = build.inputs(stage, piece), UPSTREAM[stage]
    for other in DEPENDENCIES:
        for shard in (0, 1) if DEPENDENCIES[other].per == "shard" else (None,):
            is_read = other in upstream and (DEPENDENCIES[stage].per != "shard" or shard == piece)
            mark = build.run.marks.read(other, shard)
            if other == stage or mark is None:
                continue
            changed = [build.run.root / name for name in mark.files]
            for file in changed:
                file.write_text("other content")
            build.run.marks.commit(other, shard, "", changed)
            assert (build.inputs(stage, piece) != before) == is_read
            build.run.marks.withdraw(other, shard)
            if other != "plan":  # without whose mark there is no such shard
                assert (build.inputs(stage, piece) is None) == is_read
            for file in changed:
                file.write_text(f"the content of {file.relative_to(build.run.root).as_posix()}")
            build.run.marks.commit(other, shard, "", changed)
            assert build.inputs(stage, piece) == before


def test_an_export_does_not_depend_on_the_numbers_of_the_report(build: Build) -> None:
    before = {stage: build.inputs(stage, piece) for stage, piece in (("export", "coco"), ("report", None))}
    build.run.paths.quality.write_text("other times")
    build.run.marks.commit("judge", None, "", [build.run.paths.verdicts, build.run.paths.quality])
    assert build.inputs("export", "coco") == before["export"]
    assert build.inputs("report") != before["report"]


def test_no_model_is_looked_up_for_a_stage_that_uses_none(build: Build) -> None:
    """So a run is judged, exported and reported where its models are not."""
    build.run.paths.facts.unlink()  # the weights are not known any more
    assert build.inputs("judge") == INPUTS["judge", None]
    assert build.inputs("export", "coco") == INPUTS["export", "coco"]
    assert build.inputs("report")
    with pytest.raises(SpecError, match=r"generator\.model"):
        build.inputs("generate", 0)
