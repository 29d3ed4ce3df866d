"""What the models' libraries remark is told, and each remark once."""

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from synthgen.cli.results import print_remarks
from synthgen.models import MINI, remarks


@pytest.fixture
def heard() -> Iterator[None]:
    """Nothing was heard yet."""
    remarks.forget()
    yield
    remarks.forget()


@pytest.mark.usefixtures("heard")
def test_each_is_kept_once(capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        remarks.listen()
        for name in ("diffusers.models.unets", "transformers"):
            logging.getLogger(name).warning("it is\n  %s", "odd")
            logging.getLogger(name).info("by the way")
    assert remarks.notes() == {"remarks": ["diffusers says: it is odd", "transformers says: it is odd"]}
    logging.getLogger("diffusers").warning("it is odd")
    logging.getLogger("diffusers").warning("The following part of your input was truncated because CLIP can only …")
    assert remarks.notes() == {}
    for i in range(100):
        logging.getLogger("diffusers").warning(f"{i}: {'x' * 1000}")
    (more,) = remarks.notes().values()
    assert len(more) == remarks.MAX_REMARKS - 2 and max(map(len, more)) < 350
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("heard")
def test_a_run_tells_them_and_not_for_each_shard(
    quick: dict[str, Any], run_through: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    shutil.copytree(MINI / "diffusion", model)
    settings = json.loads((model / "unet" / "config.json").read_text())
    (model / "unet" / "config.json").write_text(json.dumps({**settings, "surprise": 1}))
    quick["generator"]["model"] = str(model)
    build = run_through(quick, tmp_path / "out")
    assert len(build.run.marks.shards()) == 2
    capsys.readouterr()
    print_remarks(build)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: diffusers says: The config attributes {'surprise': 1} were passed to UNet2D")
