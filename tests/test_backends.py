"""What every backend owes: the built-in ones, all of them, and a user's own."""

import contextlib
import importlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pydantic import ValidationError

from synthgen.backends import KINDS, Filter, ModelConfig, Request, backend_module, builtin
from synthgen.errors import BackendError, Problem, SpecError
from synthgen.models import ModelMissing
from synthgen.pipeline.build import Build
from synthgen.pipeline.stages import Stages
from synthgen.spec import DatasetSpec, unloaded
from synthgen.store.run import Run
from synthgen.types import Category, DatasetInfo, Grounding, Instances, Job, Sample

# The examples of docs/extend.md stand among them, as modules of the user's.
EVERY = [
    *((kind, name) for kind in KINDS for name in builtin(kind)),
    ("filter", "mylab.redness"),
    ("exporter", "mylab.csv_table"),
    ("generator", "mylab.noise"),
]
FILTERS = [name for kind, name in EVERY if kind == "filter"]
CATEGORIES = (Category(1, "apple", ("pome",)), Category(2, "tree"))
REQUEST = Request(128, 128, has_layout=True, words=frozenset({"a", "photo", "of", "on", "grass"}))
# Options without a default, each with the value that it has here.
REQUIRED: dict[tuple[str, str], dict[str, Any]] = {("grounder", "agreement"): {"of": ["layout", {"use": "layout"}]}}


def config(kind: str, name: str, **options: Any) -> Any:
    return backend_module(kind, name).Config(use=name, **REQUIRED.get((kind, name), {}), **options)


def build(kind: str, name: str, **options: Any) -> Any:
    return backend_module(kind, name).Backend(config(kind, name, **options), CATEGORIES)


def of_one_image() -> Job:
    asked, layout = (1, 2), ((8, 40, 60, 92), (66, 30, 122, 100))
    return Job(5, 1, 1, 4, "f", "train", "a photo of an apple on grass", "", {}, asked, layout, 11, 128, 128)


every = pytest.mark.parametrize(("kind", "name"), EVERY)


def test_there_are_backends_of_every_kind():
    assert {kind for kind, _ in EVERY} == set(KINDS)
    assert {("generator", "diffusion"), ("grounder", "layout"), ("grounder", "detector"), ("segmenter", "sam"),
            ("filter", "predicted_iou"), ("filter", "stability"), ("filter", "mask_area"), ("filter", "sharpness"),
            ("filter", "near_duplicate"), ("exporter", "coco")} <= set(EVERY)  # fmt: skip


def test_specs_and_stages_have_a_field_for_each_kind():
    keys = {kind.key for kind in KINDS.values()}
    assert keys <= set(DatasetSpec.model_fields) and keys == {field.name for field in fields(Stages)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_module_that_starts_with_an_underscore_is_a_helper(kind, tmp_path, monkeypatch):
    package = importlib.import_module(KINDS[kind].package)
    for name in ("_shared", "another"):
        (tmp_path / f"{name}.py").write_text("Config = Backend = object")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    assert "another" in builtin(kind) and "_shared" not in builtin(kind)
    with pytest.raises(LookupError, match=f"no {kind} is called '_shared'"):
        backend_module(kind, "_shared")


@every
def test_module_says_what_it_is(kind, name):
    module = backend_module(kind, name)
    assert module.__doc__ and module.__doc__.strip()
    assert issubclass(module.Backend, KINDS[kind].base)
    assert module.Backend.__doc__ and module.Backend.__module__ == module.__name__
    assert module.Backend.__doc__ not in {c.__doc__ for c in module.Backend.__mro__[1:]}


@every
def test_defaults_can_be_built(kind, name):
    backend = build(kind, name)
    assert backend.config.use == name
    assert backend.categories == CATEGORIES
    problems = list(backend.check(REQUEST))
    assert all(isinstance(p, Problem) for p in problems)
    assert all(isinstance(n, str) and isinstance(url, str) for n, url in _licences(backend))


# They stand in `run.json` and decide what a run has to do again: they change with the weights alone.
DIFFUSION = "95158903286f5cb28ec605873b31601d694a1d3e3b2d919d460a52f6d6333acd"
SAM = "41122c49ca2cda8b142a63264d82d5c32d6afa06c11a0882d7f2645ebe997f97"
CLIP = "f8874f8e0d58e1fe968ab5b13597e987eb7c68b5bd40e7ed5a4508bde6671a8f"


@pytest.mark.parametrize(
    ("kind", "name", "identity"),
    [
        ("generator", "diffusion", DIFFUSION),
        ("grounder", "layout", ""),
        ("grounder", "everything", f"{SAM} {CLIP}"),
        ("segmenter", "sam", SAM),
        ("filter", "sharpness", ""),
        ("filter", "class_agreement", CLIP),
        ("filter", "prompt_agreement", CLIP),
        ("filter", "near_duplicate_embedding", CLIP),
        ("filter", "consistency", SAM),
        ("filter", "unlabelled", f"{SAM} {CLIP}"),
        ("filter", "faces", "sha256:8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"),
        ("filter", "garbled_text", f"rapidocr=={version('rapidocr')}"),
        ("filter", "unsafe", f"nudenet=={version('nudenet')}"),
        ("exporter", "coco", ""),
    ],
)
def test_identities_are_those_that_runs_have_recorded(kind, name, identity):
    backend = build(kind, name)
    assert backend.identity() == identity
    assert len(list(backend.licences())) == len(re.findall(r"\b[0-9a-f]{64}\b", identity)) * (name != "faces")


def _licences(backend: Any) -> Any:
    """Of backends whose model is not here, none."""
    with contextlib.suppress(ModelMissing):
        return list(backend.licences())
    return []


@pytest.mark.parametrize(
    ("name", "of", "expected"),
    [
        ("layout", None, set()),
        ("detector", None, {2}),
        ("everything", None, {1, 2}),
        ("agreement", ["layout", {"use": "layout"}], set()),
        ("agreement", ["layout", "detector"], {2}),
        ("agreement", ["detector", "everything"], {1, 2}),
    ],
)
def test_grounders_say_which_classes_they_look_for(name, of, expected):
    grounder = backend_module("grounder", name).Backend(
        backend_module("grounder", name).Config(use=name, **({"of": of} if of else {})), CATEGORIES
    )
    job = replace(of_one_image(), asked=(2, 2), layout=None)
    assert grounder.looked_for(job) == expected
    # A run folder records it of a grounder of the user's, for commands that do not import that.
    recorded = {**unloaded.record(grounder, ""), "use": "own.grounder"}

    def read() -> Any:
        config = unloaded.UnloadedConfig.of({"use": "own.grounder"}, recorded)
        return unloaded.backend("grounder", config, CATEGORIES)

    assert read().looked_for(job) == expected
    del recorded["looks_for"]  # as runs of earlier versions have it
    assert read().looked_for(job) == set()


@every
def test_every_option_is_described_or_named_by_its_library(kind, name):
    """`num_inference_steps` needs no words; whatever has no description must be a name of the pipelines'."""
    plain = {n for n, f in backend_module(kind, name).Config.model_fields.items() if not f.description}
    assert plain <= {"num_inference_steps", "guidance_scale"}


@every
def test_unknown_options_are_refused(kind, name):
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        config(kind, name, no_such_option=1)


@every
def test_options_do_not_change(kind, name):
    with pytest.raises(ValidationError, match="frozen"):
        config(kind, name).use = "other"


@every
def test_fingerprint_leaves_out_what_decides_nothing(kind, name):
    made = config(kind, name)
    left_out = made.execution | made.judged
    assert left_out <= set(type(made).model_fields)
    assert made.untouched() <= set(type(made).added) <= set(type(made).model_fields)
    assert set(made.fingerprint()) == set(type(made).model_fields) - left_out - made.untouched()
    if isinstance(made, ModelConfig):
        assert left_out >= {"model", "revision", "device", "torch_dtype", "batch_size"}
    if kind == "filter":
        assert left_out >= {"on_fail"}


@every
def test_specs_take_it(kind, name, good):
    """By name, with its options, and back from the plain data that a run folder keeps."""
    options = {"use": name, **REQUIRED.get((kind, name), {})}
    good = {**good, KINDS[kind].key: {"mine": options} if KINDS[kind].many else options}
    spec = DatasetSpec.parse(good)
    assert DatasetSpec.parse(spec.dump()) == spec


def test_importing_and_building_brings_in_no_torch():
    """And takes no time: `check` builds all that a spec names."""
    code = f"""
import sys, time
from synthgen.backends import backend_module
started = time.process_time()
for kind, name in {EVERY!r}:
    module = backend_module(kind, name)
    module.Backend(module.Config(use=name, **{REQUIRED!r}.get((kind, name), {{}})), ())
heavy = {{"torch", "diffusers", "transformers", "segment_anything", "prefect", "pandas", "datasets"}}
print(sorted(heavy & set(sys.modules)))
assert time.process_time() - started < 2
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert run.stdout == "[]\n"


def test_a_module_in_the_folder_that_one_works_in(spec_file, good, tmp_path):
    """`synthgen check` finds it there, and says what its options take."""
    shutil.copytree(Path(__file__).parent / "mylab", tmp_path / "lab" / "mylab")
    for override, code in (("{redness: {use: mylab.redness, max: 40}}", 0), ("{redness: {use: mylab.rednes}}", 2)):
        synthgen = Path(sys.executable).with_name("synthgen")
        command = [synthgen, "check", spec_file(good), "--set", f"filters={override}"]
        run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path / "lab")
        assert run.returncode == code, run.stderr


@pytest.mark.parametrize(
    ("kind", "use", "message"),
    [
        ("filter", "sharpnes", r"no filter is called 'sharpnes' \(did you mean 'sharpness'\?\)"),
        ("filter", "no.such.module", "cannot import your module 'no.such.module'"),
        ("filter", "os.path", "'os.path' is no backend"),
        ("filter", "../sharpness", "cannot import your module"),
        ("generator", "", "no generator is called ''"),
        ("exporter", ".", "cannot import"),
        ("exporter", "a..b", "cannot import"),
        ("segmenter", "Sam", r"did you mean 'sam'\?"),
    ],
)
def test_names_that_name_nothing(kind, use, message):
    with pytest.raises(LookupError, match=message):
        backend_module(kind, use)


# On a real image


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    generator = build("generator", "diffusion", num_inference_steps=4)
    images = generator.generate([of_one_image()])
    assert images.dtype == np.uint8 and images.shape == (1, 128, 128, 3)
    return images[0]


@pytest.fixture(scope="module")
def sample(image) -> Sample:
    job = of_one_image()
    (grounding,) = build("grounder", "layout").ground([job], [image])
    assert isinstance(grounding, Grounding) and len(grounding) == 2
    np.testing.assert_array_equal(grounding.boxes, np.array(job.layout, np.float32))
    (instances,) = build("segmenter", "sam").segment([image], [grounding])
    assert isinstance(instances, Instances) and instances.masks.shape == (2, 128, 128)
    np.testing.assert_array_equal(instances.category_id, [1, 2])
    return Sample(job, image, instances)


@pytest.fixture
def samples(sample) -> dict[str, Sample]:
    job = replace(sample.job, asked=(), layout=())
    rng = np.random.default_rng(0)
    nothing = Instances.empty(128, 128)
    # Scores that some grounders give.
    given = dict.fromkeys(("class_margin", "witnesses"), np.full(len(sample.instances), 0.5, np.float32))
    sample = replace(sample, instances=replace(sample.instances, scores={**sample.instances.scores, **given}))
    unseen = replace(sample.instances, masks=np.zeros_like(sample.instances.masks))
    return {
        "usual": sample,
        "no objects": Sample(job, sample.image, nothing),
        "empty masks": Sample(sample.job, sample.image, unseen),
        "black": Sample(job, np.zeros((128, 128, 3), np.uint8), nothing),
        "white": Sample(job, np.full((128, 128, 3), 255, np.uint8), nothing),
        "noise": Sample(job, rng.integers(0, 256, (128, 128, 3)).astype(np.uint8), nothing),
    }


@pytest.mark.parametrize("name", FILTERS)
def test_filters_keep_their_shapes(name, samples):
    f: Filter[Any] = build("filter", name)
    assert f.scope in ("image", "instance")
    for what, sample in samples.items():
        before = sample.image.copy(), sample.instances.masks.copy()
        values = np.asarray(f.measure(sample), f.dtype)
        expected = (values.size,) if f.vector else () if f.scope == "image" else (len(sample.instances),)
        assert values.shape == expected, what
        assert np.isfinite(values.astype(np.float64)).all(), what
        np.testing.assert_array_equal(values, f.measure(sample), err_msg=what)
        np.testing.assert_array_equal(sample.image, before[0])
        np.testing.assert_array_equal(sample.instances.masks, before[1])


@pytest.mark.parametrize("name", FILTERS)
def test_filters_measure_many_as_one(name, samples):
    f: Filter[Any] = build("filter", name)
    together = f.measure_many(list(samples.values()))
    for what, values, sample in zip(samples, together, samples.values(), strict=True):
        # A float32 on a CPU may round otherwise in a batch, and then a float16 by one step.
        tolerance = {"rtol": 0, "atol": 2e-3 if f.dtype is np.float16 else 1e-6}
        np.testing.assert_allclose(values, f.measure(sample), **tolerance, err_msg=what)


@pytest.mark.parametrize("name", FILTERS)
def test_filters_judge_any_number_of_numbers(name, samples):
    f: Filter[Any] = build("filter", name)
    for count in (0, 1, 7):
        failed = f.fails(np.zeros((count, 8) if f.vector else count, f.dtype))
        assert failed.dtype == np.bool_ and failed.shape == (count,)
    if not f.whole_dataset:
        values = np.array([0.0, 0.3, 0.85, 1.0, 5.0, 1e6], f.dtype)
        together = f.fails(values)
        assert [bool(f.fails(values[i : i + 1])[0]) for i in range(6)] == together.tolist()
        if f.dtype is np.float32:
            assert f.fails(np.array([np.nan], np.float32)).all()


@pytest.mark.parametrize("name", ["predicted_iou", "stability", "box_agreement"])
def test_filters_of_scores_that_a_segmenter_does_not_give(name, sample):
    bare = Sample(sample.job, sample.image, replace(sample.instances, scores={}))
    with pytest.raises(BackendError, match=f"filter {name}: needs the score .*the labels have: none"):
        build("filter", name).measure(bare)


def test_exporter_on_a_real_run(finished, tmp_path):
    """`finished` has been through `coco`; here its records go through every exporter into another folder."""
    from synthgen.base.file_lists import read_entries
    from synthgen.pipeline.export import write_export
    from synthgen.store.records import Accepted
    from synthgen.store.run import Run

    info = DatasetInfo("fruit", "", finished.spec.categories, tuple(finished.spec.splits), ())
    for name in builtin("exporter"):
        for again in ("a", "b"):
            run = Run(tmp_path / again)
            exporter = backend_module("exporter", name).Backend(config("exporter", name), finished.spec.categories)
            records = Accepted(finished.run, finished.jobs, finished.stages.filters)
            write_export(run, name, "inputs", exporter, info, records)
            files = [run.root / file for file, _ in read_entries(run.paths.export_list(name))]
            assert files
            assert all(file.is_file() and file.is_relative_to(run.paths.export(name)) for file in files)
    first, second = (
        {p.relative_to(tmp_path / a).as_posix(): p.read_bytes() for p in (tmp_path / a).rglob("*") if p.is_file()}
        for a in ("a", "b")
    )
    for files in (first, second):
        for mark in [n for n in files if n.endswith(".json") and n.startswith("commits/")]:
            files.pop(mark)  # says how long it took
    assert first == second


# A user's own modules


OWN = {
    "colours": '''
"""Images of one colour each."""
import numpy as np
from pydantic import Field
from synthgen.backends import Config as Base, Generator
class Config(Base):
    brightness: int = Field(200, ge=1, le=255)
class Backend(Generator[Config]):
    def generate(self, jobs):
        colours = [np.random.default_rng(job.seed).integers(0, self.config.brightness, 3) for job in jobs]
        return np.stack([np.full((j.height, j.width, 3), c, np.uint8) for j, c in zip(jobs, colours)])
''',
    "boxes": '''
"""A mask is the whole of its box."""
import numpy as np
from synthgen.backends import Config as Base, Segmenter
from synthgen.types import Instances
class Config(Base):
    pass
class Backend(Segmenter[Config]):
    def segment(self, images, groundings):
        found = []
        for image, grounding in zip(images, groundings):
            masks = np.zeros((len(grounding), *image.shape[:2]), bool)
            for mask, (x0, y0, x1, y1) in zip(masks, grounding.boxes.astype(int)):
                mask[y0:y1, x0:x1] = True
            found.append(Instances(masks, grounding.boxes, grounding.category_id, grounding.scores))
        return found
''',
    "redness": '''
"""Mean red of the image."""
import numpy as np
from synthgen.backends import ThresholdConfig, ThresholdFilter
class Config(ThresholdConfig):
    pass
class Backend(ThresholdFilter[Config]):
    scope = "image"
    def measure(self, sample):
        return np.float32(sample.image[..., 0].mean())
''',
    "listing": '''
"""A line an image."""
from synthgen.backends import Config as Base, Exporter
class Config(Base):
    pass
class Backend(Exporter[Config]):
    def export(self, info, records, folder):
        with folder.open("list.txt") as file:
            for record in records:
                file.write(f"{record.job.id} {len(record.annotations)} {record.measures['red']}\\n".encode())
''',
    "shapeless": '''
"""Measures the wrong thing."""
import numpy as np
from synthgen.backends import ThresholdConfig, ThresholdFilter
class Config(ThresholdConfig):
    pass
class Backend(ThresholdFilter[Config]):
    scope = "image"
    def measure(self, sample):
        return np.zeros(3, np.float32)
''',
    "outside": '''
"""Writes where it may not."""
from synthgen.backends import Config as Base, Exporter
class Config(Base):
    pass
class Backend(Exporter[Config]):
    def export(self, info, records, folder):
        with folder.open("../../stolen.txt") as file:
            file.write(b"x")
''',
}


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    """A package of a user's, importable."""
    package = tmp_path / "ownpack"
    package.mkdir()
    for name, text in OWN.items():
        (package / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield package
    for name in [n for n in sys.modules if n.split(".")[0] == "ownpack"]:
        del sys.modules[name]


@pytest.fixture
def own_spec(own, good) -> dict[str, Any]:
    return {
        **good,
        "generator": "ownpack.colours",
        "segmenter": "ownpack.boxes",
        "filters": {"red": {"use": "ownpack.redness", "min": 60}},
        "exporters": {"lines": "ownpack.listing", "coco": None},
        "shard_size": 3,
    }


def test_own_modules_make_a_dataset(own_spec, run_through, tmp_path):
    build_ = run_through(own_spec, tmp_path / "out")
    quality = build_.quality()
    assert quality.accepted == 8 and quality.reasons["red"].images > 0
    root = build_.run.root
    lines = [line.split() for line in (root / "lines" / "list.txt").read_text().splitlines()]
    assert len(lines) == 8 and all(float(red) >= 60 for _, _, red in lines)
    annotations = 0
    for split in build_.spec.splits:
        with contextlib.redirect_stdout(None):
            coco = COCO(str(root / "coco" / "annotations" / f"instances_{split}.json"))
        annotations += len(coco.anns)
        for image_id, image in coco.imgs.items():
            assert [int(image_id), len(coco.getAnnIds(imgIds=image_id))] in [[int(i), int(n)] for i, n, _ in lines]
            assert image["measures"]["red"] >= 60
        for annotation in coco.anns.values():  # a mask that is its box
            assert annotation["area"] == annotation["bbox"][2] * annotation["bbox"][3]
    assert annotations == quality.instances
    again = run_through(own_spec, tmp_path / "again")
    for file in ("lines/list.txt", "verdicts.parquet"):
        assert (again.run.root / file).read_bytes() == (root / file).read_bytes()


def test_commands_that_only_read_a_run_import_none_of_its_modules(own, own_spec, run_through, synthgen, tmp_path):
    """A run folder may come from anybody, with a package of its name beside it. Those that run say what they import."""
    root = run_through(own_spec, tmp_path / "out").run.root
    spec, flag = root / "spec.yaml", tmp_path / "imported"
    notes = synthgen("judge", root)[2].splitlines()
    keys = {"generator": "colours", "segmenter": "boxes", "filters.red": "redness", "exporters.lines": "listing"}
    assert notes == [f"note: {k}: imported your module from {own / f'{name}.py'}" for k, name in keys.items()]
    code, status, told = synthgen("status", root)
    assert (code, told) == (0, "")
    verified = synthgen("verify", root)[1]
    assert "judge: done" in status and "export lines: done" in status and "report: done" in status

    for name in [n for n in sys.modules if n.split(".")[0] == "ownpack"]:
        del sys.modules[name]
    for file in own.glob("*.py"):
        file.write_text(f"open({str(flag)!r}, 'w').close()")
    path = list(sys.path)
    assert synthgen("status", root) == (0, status, "")
    assert synthgen("verify", root) == (0, verified, "")
    assert synthgen("show", root)[0] == 0
    code, listing, _ = synthgen(
        "runs",
        Path(__file__).parent.parent / "specs" / "quickstart.yaml",
        "--out",
        tmp_path / "out",
        "--set",
        "name=fruit",
    )
    assert code == 0 and listing.splitlines()[1].split()[:2] == ["1", "finished"]
    (root / "report.html").unlink()
    assert synthgen("report", root)[0] == 0 and (root / "report.html").is_file()
    with pytest.raises(BackendError, match=r"does not import your module 'ownpack\.redness'"):
        Build.read(Run(root)).stages.filters["red"].fails(np.zeros(1, np.float32))

    (tmp_path / "evil.py").write_text((own / "colours.py").read_text())
    spec.write_text(spec.read_text().replace("ownpack.colours", "evil.thing"))
    for command in ("status", "verify", "show", "report"):
        code, _, told = synthgen(command, root)
        assert code == 2 and (told.count("\n") == 1 or told.startswith("error: damaged: spec.yaml: "))
        assert "generator.use: this run folder holds no record of your module 'evil.thing'" in told
    assert not flag.exists() and sys.path == path and not {"evil", "ownpack"} & sys.modules.keys()


def test_the_working_folder_is_looked_into_for_modules_of_the_user_s_alone(synthgen, spec_file, good, tmp_path):
    """None that a package asks for is taken from there."""
    (tmp_path / "cups").mkdir()
    (tmp_path / "cups" / "colours.py").write_text(OWN["colours"])
    path = spec_file({**good, "generator": "cups.colours"})
    code, _, told = synthgen("check", spec_file(good, "plain.yaml"))
    assert code == 0 and str(tmp_path) not in sys.path
    code, _, told = synthgen("check", path)
    assert (code, told) == (0, f"note: generator: imported your module from {tmp_path / 'cups' / 'colours.py'}\n")
    sys.path.remove(str(tmp_path))
    for name in ("cups", "cups.colours"):
        del sys.modules[name]
    (tmp_path / "cups" / "colours.py").write_text("import nothing.like.this\n")
    code, _, told = synthgen("check", path)
    assert code == 2 and "cannot import your module 'cups.colours': No module named 'nothing'" in told


def test_own_options_are_checked_like_ours(own_spec):
    with pytest.raises(SpecError, match=re.escape("generator.brightness")):
        DatasetSpec.parse({**own_spec, "generator": {"use": "ownpack.colours", "brightness": 0}})
    with pytest.raises(SpecError, match=r"generator\.brigthness: unknown key \(did you mean 'brightness'\?\)"):
        DatasetSpec.parse({**own_spec, "generator": {"use": "ownpack.colours", "brigthness": 9}})


def test_a_module_that_helps_backends_is_none(monkeypatch):
    names = [SimpleNamespace(name=name) for name in ("_shared", "sharpness")]
    monkeypatch.setattr("pkgutil.iter_modules", lambda _: names)
    assert builtin("filter") == ["sharpness"]
    with pytest.raises(LookupError, match="no filter is called '_shared'"):
        backend_module("filter", "_shared")


def test_own_modules_that_cannot_be_imported(own):
    (own / "broken.py").write_text("def (\n")
    (own / "raises.py").write_text("1 / 0\n")
    with pytest.raises(LookupError, match=r"cannot import your module 'ownpack\.broken': invalid syntax"):
        backend_module("filter", "ownpack.broken")
    with pytest.raises(LookupError, match=r"cannot import your module 'ownpack\.raises': division by zero"):
        backend_module("filter", "ownpack.raises")


def test_own_modules_that_break_the_contract(own_spec, run_through, tmp_path):
    with pytest.raises(Exception, match=r"filters\.red: measured an array of shape \(3,\)"):
        run_through({**own_spec, "filters": {"red": {"use": "ownpack.shapeless"}}}, tmp_path / "out")
    with pytest.raises(Exception, match="may not write outside its folder"):
        run_through({**own_spec, "exporters": {"lines": "ownpack.outside"}}, tmp_path / "out2")
    assert not list(tmp_path.rglob("stolen.txt"))
