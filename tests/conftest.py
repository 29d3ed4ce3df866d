import os

# Before torch is imported by any test: one thread, so that results do not depend on the machine, and no hub.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"

import shutil
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

GOOD = {
    "name": "fruit",
    "count": 8,
    "height": 128,
    "width": 128,
    "classes": ["apple", "orange", "tree"],
    "objects_per_image": {0: 1, 1: 3, 2: 2},
    "prompts": {
        "templates": ["a photo of {objects} on {ground}"],
        "background_templates": ["a photo of {ground}"],
        "slots": {"ground": ["grass", "sand", "snow"]},
    },
    "layout": {"size": [0.34, 0.5], "margin": 0.02},
}

# What the embedded models make in two seconds. Nothing is asked of the pictures, so that tests do not depend on how
# good the models are, and no round is added to the first.
QUICK = {
    **GOOD,
    "budget": 1,
    "shard_size": 4,
    "generator": {"num_inference_steps": 4, "batch_size": 2},
    "filters": {
        "predicted_iou": {"min": None},
        "stability": {"min": None},
        "mask_area": {"min": None, "max": None},
        "sharpness": {"min": None},
        "near_duplicate": None,
    },
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with tests that take long, much of it waiting, come first: at the end, no worker is left alone with one."""
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture
def good() -> dict[str, Any]:
    """A small spec that the embedded models can make, as plain data."""
    return deepcopy(GOOD)


@pytest.fixture
def spec_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a spec into the test's folder: text or bytes as they are, plain data as YAML."""

    def write(content: Any, name: str = "spec.yaml") -> Path:
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            text = content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
            path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def quick() -> dict[str, Any]:
    """A spec that is run through in two seconds, as plain data."""
    return deepcopy(QUICK)


@pytest.fixture
def synthgen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """The command line in this process, in a folder of its own -> exit code, what it printed, its errors."""
    from synthgen import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["synthgen", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return call


@pytest.fixture(scope="session")
def run_through() -> Callable[..., Any]:
    """Does what the flow does, without Prefect: plain data, folder of run folders, run number -> the `Build`."""
    from runs import made

    return made


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, run_through: Callable[..., Any]) -> Any:
    """The `Build` of a finished run of `quick`. Only for reading."""
    return run_through(deepcopy(QUICK), tmp_path_factory.mktemp("finished"))


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Makes a folder a `PREFECT_HOME` whose database is set up already, as on a machine where Prefect has been before:
    to set one up takes a server twice as long as to start."""
    template = tmp_path_factory.mktemp("migrated")
    command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    subprocess.run(command, env={**environment, "PREFECT_HOME": str(template)}, check=True, capture_output=True)

    def make(home: Path) -> Path:
        home.mkdir(parents=True, exist_ok=True)
        shutil.copy(template / "prefect.db", home)
        return home

    return make


@pytest.fixture
def copied(finished: Any, tmp_path: Path) -> Path:
    """A copy of the finished run for a test to change: the folder of run folders. Hard links stay hard links."""
    shutil.copytree(finished.run.root.parent.parent, tmp_path / "out", copy_function=shutil.copy2)
    run = tmp_path / "out" / finished.run.root.relative_to(finished.run.root.parent.parent)
    for link in run.glob("coco/*/*.png"):
        (image,) = run.glob(f"images/*/{link.name}")
        link.unlink()
        link.hardlink_to(image)
    return tmp_path / "out"
