"""What tests of generators share."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tiny import MAKERS

from synthgen import devices


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """Models that a test loads are not kept for the next one."""
    yield
    devices.forget(devices.loaded())


@pytest.fixture(scope="session")
def saved(tmp_path_factory) -> Callable[[str], Path]:
    """Name in `MAKERS` -> the folder that `save_pretrained` made. Only for reading."""
    root = tmp_path_factory.mktemp("pipelines")

    def folder(name: str) -> Path:
        if not (root / name).exists():
            torch.manual_seed(0)
            MAKERS[name]().save_pretrained(root / name)
        return root / name

    return folder
