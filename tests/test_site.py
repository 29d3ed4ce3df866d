"""The documentation as a site: built with its links checked, and read in a browser without a network."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from browser import CHROMIUM, REASON, opened, overflow

ROOT = Path(__file__).parent.parent
PAGES = ("index", "extend", "filters", "operate", "reference/cli", "reference/spec", "reference/template")


def build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """What `make docs` does."""
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", config, "--site-dir", site]
    return subprocess.run(command, cwd=config.parent, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT / "mkdocs.yml", folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_a_link_that_leads_nowhere_is_an_error(tmp_path: Path) -> None:
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[0]
    (tmp_path / "docs" / "assets").mkdir(parents=True)
    for file in ("hooks.py", "assets/site.css", "assets/iframe-worker.js"):
        (tmp_path / "docs" / file).write_bytes((ROOT / "docs" / file).read_bytes())
    (tmp_path / "mkdocs.yml").write_text(settings, encoding="utf-8")
    page = tmp_path / "docs" / "index.md"
    for text, is_good in (("[here](#here)\n\n## Here", True), ("[x](#nowhere)", False), ("[x](none.md)", False)):
        page.write_text(f"# A page\n\n{text}\n", encoding="utf-8")
        done = build(tmp_path / "mkdocs.yml", tmp_path / "site")
        assert (done.returncode == 0) == is_good, done.stderr


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for tag in ('<script src="http', '<link rel="stylesheet" href="http', '<img src="http', "fonts.g"):
            assert tag not in text, (page, tag)


@pytest.mark.skipif(CHROMIUM is None, reason=REASON)
@pytest.mark.parametrize(("width", "height"), [(1360, 900), (390, 800)])
def test_the_site_can_be_read_as_files(site: Path, width: int, height: int) -> None:
    """Every page fits its window, and the search finds pages, with nothing but files."""
    with opened(width, height) as (page, complaints, asked):
        for name in PAGES:
            page.goto((site / f"{name}.html").as_uri())
            assert page.locator("h1").inner_text() and overflow(page) <= 0, name
        if width > 1000:
            page.click(".md-search__input")
            page.keyboard.type("segmentation")
            page.locator(".md-search-result__item", has_text="Export").first.wait_for()
    assert complaints == [] and all(url.startswith(("file:", "about:", "data:")) for url in asked)
