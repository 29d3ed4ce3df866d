"""A headless Chromium of the system, driven by Playwright, with nothing on the network but what a test serves."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
REASON = "needs Chromium, such as Debian's package `chromium`"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking",
             "--disable-component-update", "--disable-sync"]  # fmt: skip


@contextmanager
def opened(width: int = 1280, height: int = 900) -> Iterator[tuple[Any, list[str], list[str]]]:
    """-> a page, what its console complains of, and every address that it asks for."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": width, "height": height})
        complaints: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: complaints.append(message.text) if message.type != "log" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        yield page, complaints, asked
        browser.close()


def overflow(page: Any) -> int:
    """px by which a page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - innerWidth"))


@contextmanager
def serving(
    root: Path, *options: str, cwd: Path | None = None, browser: str = "", env: Mapping[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`synthgen review`, really: -> its process and the address that it prints. `browser`: a command to open it with,
    as Python's `webbrowser` takes it."""
    command = [sys.executable, "-m", "synthgen.cli", "review", str(root), *options]
    command += [] if browser else ["--no-browser"]
    environment = {**os.environ, **(env or {}), "BROWSER": browser}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=cwd, env=environment) as process:
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+/\?token=\S+", process.stdout.readline())
        assert found is not None
        try:
            yield process, found.group()
        finally:
            process.kill()


def ready(tab: Any, done: int, of: int) -> None:
    """Waits until so many verdicts are in, and the next item is on the page."""
    from playwright.sync_api import expect

    expect(tab.locator("#done")).to_have_text(f"{done} of {of}")
    expect(tab.locator("body")).to_have_attribute("aria-busy", "false")
