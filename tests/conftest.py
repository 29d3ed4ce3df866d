import os

# Before torch is imported by any test: one thread, so that results do not depend on the machine, and no hub.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"

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
