"""`report.html`, as a browser shows it and as text."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import orjson
import pytest
from browser import CHROMIUM, REASON, opened, overflow, ready, serving
from conftest import QUICK
from huggingface_hub import DatasetCard

from synthgen.base.files import sha256
from synthgen.base.sealed import sha256_json
from synthgen.errors import RunError
from synthgen.pipeline.build import Build
from synthgen.pipeline.judge import judge_run
from synthgen.report import card, page
from synthgen.spec import DatasetSpec
from synthgen.store.run import Run

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason=REASON)
HOSTILE = ["<script>alert(1)</script>", "../../x", "شجرة abc", "🍎🍏", "a" * 190]
PROMPT = "x" * 10_000 + "</script><script>alert(2)</script>\n{objects}"


@pytest.fixture(scope="module")
def run(finished: Any, run_through: Any, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """A run with accepted, rejected and near-duplicate images."""
    files = sorted(finished.run.root.glob("measures/*.parquet"))
    sharp = sorted(
        row["sharpness"] for f in files for row in finished.run.tables.read(f).to_pylist() if row["instance"] is None
    )
    filters = {**QUICK["filters"], "sharpness": {"min": sharp[2]}, "near_duplicate": {"max_distance": 16}}
    return run_through({**QUICK, "filters": filters, "seed": 0}, tmp_path_factory.mktemp("report"))


class Texts(HTMLParser):
    """The numbers and the words of a page: `data` elements, and text that is no text of the user's (`bdi`)."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.data: list[tuple[dict[str, str], str]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        if tag in {"meta", "link", "img", "input", "br"}:
            return
        self.stack.append(tag)
        if tag == "data":
            self.data.append((dict(attributes), ""))

    def handle_endtag(self, tag: str) -> None:
        while self.stack and self.stack.pop() != tag:
            pass

    def handle_data(self, text: str) -> None:
        if "data" in self.stack:
            self.data[-1] = (self.data[-1][0], self.data[-1][1] + text)
        elif not {"bdi", "style", "script", "option", "title", "code"} & set(self.stack):
            self.words.append(text)


def texts(html: str) -> Texts:
    parser = Texts()
    parser.feed(html)
    return parser


def test_every_number_is_in_quality_json(run: Build) -> None:
    found, quality = texts(run.run.paths.report.read_text("utf-8")), orjson.loads(run.run.paths.quality.read_bytes())
    assert len(found.data) > 100
    for attributes, text in found.data:
        value: Any = quality
        for part in attributes["data-key"].split("."):
            value = value[int(part)] if isinstance(value, list) else value[part]
        assert attributes["value"] == str(value)
        assert text in {form(value) for name, form in page.FORMATS.items() if value is not None or name == "number"}
    others = [word for word in found.words if re.search(r"\d", word)]
    assert others == [], "numbers that nothing holds against quality.json"


def test_it_loads_nothing(run: Build) -> None:
    html = run.run.paths.report.read_text("utf-8")
    assert "default-src 'none'" in html
    addresses = re.findall(r"""(?:src|href|url|action)\s*[=(]\s*["']?([^"'\s)>]+)""", html)
    assert {a.split(":")[0] if a.startswith("data:") else a[0] for a in addresses} <= {"data", "#"}
    assert "http://" not in html and "https://" not in html and "@import" not in html


def test_it_is_written_once(run: Build) -> None:
    before = run.run.paths.report.stat().st_mtime_ns
    assert page.write(run) == run.run.paths.report
    assert run.run.paths.report.stat().st_mtime_ns == before


def test_a_run_that_was_not_judged_has_none(tmp_path: Path, good: dict[str, Any]) -> None:
    from synthgen.pipeline.check import check

    spec = DatasetSpec.parse(good)
    build = Build.start(Run.at(tmp_path, "fruit", 1), spec, check(spec, tmp_path))
    with pytest.raises(RunError, match="has not been judged yet"):
        page.write(build)


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(run: Build, width: int) -> None:
    quality = orjson.loads(run.run.paths.quality.read_bytes())
    samples = quality["samples"]
    with opened(width) as (tab, complaints, asked):
        tab.goto(run.run.paths.report.as_uri())
        assert overflow(tab) <= 0

        def shown() -> set[int]:
            cards = tab.locator("#cards > .card:visible data[data-key$=image_id]")
            return {int(text) for text in cards.all_inner_texts()}

        for kind in ("worst", "borderline", "random"):
            tab.locator(f".tabs label:has([value={kind}])").click()
            assert shown() == {row["image_id"] for row in samples[kind]} and shown()
        tab.locator(".tabs label:has([value=worst])").click()
        tab.select_option("[name=reason]", "sharpness")
        assert shown() == {row["image_id"] for row in samples["worst"] if "sharpness" in row["reasons"]}
        tab.select_option("[name=reason]", "")
        tab.locator(".tabs label:has([value=random])").click()
        tab.select_option("[name=split]", "train")
        assert shown() == {row["image_id"] for row in samples["random"] if row["split"] == "train"}
        tab.select_option("[name=split]", "")
        tab.select_option("[name=class]", "1")
        rows = run.run.tables.read(run.run.paths.verdicts).to_pylist()
        apples = {row["image_id"] for row in rows if row["category_id"] == 1}
        assert shown() == apples & {row["image_id"] for row in samples["random"]}
        assert tab.locator("#shown").inner_text() == (f"{len(shown())} image" + "s" * (len(shown()) != 1))
        tab.select_option("[name=class]", "")
        tab.locator("[name=labels]").uncheck()
        assert tab.locator("#cards .card:visible .labels").first.is_hidden()
        tab.locator("#cards .card:visible .open").first.click()
        assert tab.locator("dialog[open] img").is_visible()
        tab.keyboard.press("Escape")
        assert tab.locator("dialog[open]").count() == 0
        assert tab.locator("#duplicates figure").count() == len(quality["duplicates"])
        assert complaints == []
        assert [a for a in asked if not a.startswith(("file:", "data:"))] == []


@pytest.fixture(scope="module")
def hostile(run_through: Any, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Classes and prompts that mean harm, over a generator and grounder that take any words."""
    import sys

    folder = tmp_path_factory.mktemp("hostile")
    (folder / "hostile_lab").mkdir()
    (folder / "hostile_lab" / "anything.py").write_text(
        "import numpy as np\n"
        "from synthgen.backends import Config as Base, Generator\n"
        "class Config(Base):\n    pass\n"
        "class Backend(Generator[Config]):\n"
        "    def generate(self, jobs):\n"
        "        return np.stack([np.random.default_rng(j.seed).integers(0, 255, (j.height, j.width, 3), np.uint8)"
        " for j in jobs])\n"
    )
    sys.path.insert(0, str(folder))
    raw = {
        **QUICK, "classes": HOSTILE, "description": "<b>bold</b> " + "y" * 200,
        "prompts": {
            "templates": [PROMPT + " {slot}"], "background_templates": ["<i>{slot}"], "slots": {"slot": HOSTILE},
        },
        "generator": {"use": "hostile_lab.anything"}, "filters": {"sharpness": {"min": 1.0}},
    }  # fmt: skip
    try:
        return run_through(raw, folder / "out")
    finally:
        sys.path.remove(str(folder))


@needs_browser
def test_hostile_words_are_shown_as_text(hostile: Build) -> None:
    for width in (1280, 390):
        with opened(width) as (tab, complaints, asked):
            tab.on("dialog", lambda dialog: complaints.append(dialog.message))
            tab.goto(hostile.run.paths.report.as_uri())
            assert overflow(tab) <= 0
            assert complaints == [] and len(asked) >= 1
            assert tab.locator("script").count() == 1 and tab.locator("i i, b b").count() == 0
            text = tab.locator("#distributions").inner_text()
            for name in HOSTILE[:4]:
                assert name in text
    assert {p.name for p in hostile.run.root.parent.parent.parent.iterdir()} == {"out", "hostile_lab"}


def test_hostile_words_in_the_card(hostile: Build) -> None:
    text = hostile.run.paths.card.read_text("utf-8")
    assert "<script>" not in text and "<b>" not in text
    loaded = DatasetCard.load(hostile.run.paths.card)
    assert loaded.data.to_dict()["pretty_name"] == "fruit"


def test_the_card_is_hugging_faces(run: Build) -> None:
    loaded = DatasetCard.load(run.run.paths.card)
    found = loaded.data.to_dict()
    assert found["license"] == "apache-2.0"
    assert found["size_categories"] == ["n<1K"]
    assert set(found["task_categories"]) == {"object-detection", "image-segmentation"}
    quality = orjson.loads(run.run.paths.quality.read_bytes())
    assert f"| images | {quality['accepted']} |" in loaded.text
    assert "label precision | not reviewed" in loaded.text


def test_the_templates_are_those_of_finished_runs(run: Build) -> None:
    """Their text is part of what a report is made from: with another one, every finished run writes its report again.
    Who changes a template on purpose writes its checksum here."""
    folder = Path(page.__file__).parent
    assert sha256_json(
        {file.name: sha256(file) for file in folder.iterdir() if file.suffix in {".j2", ".css", ".js"}}
    ) == ("f0a7f0d9903f0baabcc23c1fb106c356e5bfee724490e83f6f5a84cd7ee27bb1")


def test_the_card_says_how_the_labels_are_loaded(run: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = DatasetCard.load(run.run.paths.card)
    assert loaded.data.to_dict()["viewer"] is False
    code = loaded.text.partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(run.run.root)
    found: dict[str, Any] = {}
    exec(code, found)
    assert found["image"].width and all("bbox" in label for label in found["labels"])


def test_the_card_names_the_export_that_datasets_loads_whole(run: Build) -> None:
    assert "`datasets.load_dataset` gives the images alone." in run.run.paths.card.read_text(encoding="utf-8")
    spec = DatasetSpec.parse({**run.spec.dump(), "exporters": {"coco": {}, "hub": {"use": "huggingface"}}})
    assert '`datasets.load_dataset("hub")` gives images and labels.' in card.dataset_card(
        replace(run, spec=spec), orjson.loads(run.run.paths.quality.read_bytes())
    )


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        ([], {"license": "unknown"}),
        ([("a", [["MIT", "https://m"]])], {"license": "mit"}),
        ([("a", [["Own", "https://o"]])], {"license": "other", "license_name": "own", "license_link": "https://o"}),
        ([("a", [["MIT", "m"]]), ("b", [["Own", "o"]])], {"license": "other", "license_name": "mixed-see-card"}),
        ([("./models/sd77", [])], {"license": "unknown"}),
        ([("a", [["MIT", "m"]]), ("b", [])], {"license": "other", "license_name": "mixed-see-card"}),
    ],
)
def test_licence(models: list[tuple[str, Any]], expected: dict[str, str]) -> None:
    from synthgen.report.card import licence_of, models_of

    listed = [
        {"stage": f"filters.{i}", "model": name, "licences": licences} for i, (name, licences) in enumerate(models)
    ]
    assert licence_of(models_of({"models": listed})) == expected


def test_a_licence_that_forbids_commercial_use_is_in_the_headline(run: Build) -> None:
    quality = orjson.loads(run.run.paths.quality.read_bytes())
    allowed = [page.page(run, quality), card.dataset_card(run, quality)]
    (generator,) = [model for model in quality["models"] if model["stage"] == "generator"]
    stated = {"field": ".model", "model": "./private/sd77", "revision": None}
    generator["stated"] = [{**stated, "licences": [["cc-by-nc-4.0", "https://example.org"]]}]
    forbidden = [page.page(run, quality), card.dataset_card(run, quality)]
    for before, after in zip(allowed, forbidden, strict=True):
        assert "may not be used commercially" not in before and "may be used commercially" in before
        headline = after.partition("This dataset may not be used commercially.")[2][:300]
        assert "cc-by-nc-4.0" in headline and "sd77" in headline and "non-commercial purposes" in headline
        assert "private" not in headline
    assert "https:" not in forbidden[0]  # the report loads nothing, and links to nothing


def test_reports_of_earlier_versions_say_what_is_known(run: Build) -> None:
    """Their `quality.json` has one model for each backend, with the licences that were known then."""
    quality = orjson.loads(run.run.paths.quality.read_bytes())
    for model in quality["models"]:
        del model["stated"]
    quality["models"][0] |= {"model": "black-forest-labs/FLUX.1-dev", "licences": []}
    for text in (page.page(run, quality), card.dataset_card(run, quality)):
        assert "This dataset may not be used commercially." in text


def test_the_version_of_the_dataset_is_that_of_its_exports(run: Build) -> None:
    mark = run.run.marks.read("export", "coco")
    assert mark is not None
    version = mark.notes["content_hash"]
    assert f"dataset version: <code>{version}</code>" in run.run.paths.report.read_text("utf-8")
    assert f"| version | `{version}` |" in run.run.paths.card.read_text("utf-8")


@pytest.mark.parametrize(
    ("model", "shown"),
    [
        ("stabilityai/sd-turbo", "stabilityai/sd-turbo"),
        ("scribble", "scribble"),
        ("./models/sd77", "sd77"),
        ("../sd77/", "sd77"),
        ("~/sd77", "sd77"),
        ("/home/me/models/sd77", "sd77"),
        ("my/own/sd77", "sd77"),
    ],
)
def test_no_path_of_the_machine_is_in_the_card(model: str, shown: str) -> None:
    from synthgen.pipeline.licences import public_name

    assert public_name(model) == shown


def test_a_large_run_has_no_larger_report(tmp_path: Path, monkeypatch: Any) -> None:
    """Records of `benchmarks/records.py`, which takes this to 100,000 images."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    from synthgen.bench.synthesis import synthesise

    sizes = []
    for images in (500, 5000):
        build = synthesise(tmp_path / str(images), images)
        judge_run(build)
        sizes.append(page.write(build).stat().st_size)
    assert sizes[0] < 5e6 and sizes[1] < 1.2 * sizes[0]


@needs_browser
def test_hostile_words_in_a_review(hostile: Build) -> None:
    root = hostile.run.root
    with (
        serving(root, "--queue", "borderline", cwd=root.parents[2]) as (_, address),
        opened() as (tab, complaints, _asked),
    ):
        tab.on("dialog", lambda dialog: complaints.append(dialog.message))
        tab.goto(address)
        ready(tab, 0, 8)
        assert complaints == [] and overflow(tab) <= 0
        assert tab.locator("script").count() == 1
        tab.keyboard.press("1")
        tab.keyboard.press("c")
        assert HOSTILE[0] in tab.locator("#classes").inner_text()


def test_a_run_that_fell_behind_says_so(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = Build.open(Run(copied / "fruit" / "run-0001"))
    build.run.paths.report.unlink()
    line = "run 1: yield 12.5 %, after 97.1 % in the 3 runs before it (p = 1e-09)"
    asked: list[list[int]] = []
    monkeypatch.setattr(page, "drop", lambda past: asked.append([p.number for p in past]) or line)
    assert line in page.write(build).read_text(encoding="utf-8")
    assert asked == [[1]]
