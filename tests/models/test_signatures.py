"""Parameters of diffusers' classes, read from its source."""

import inspect
from pathlib import Path

import diffusers
import pytest

from synthgen.models.signatures import parameters


@pytest.mark.parametrize(
    ("name", "method", "folder", "reads"),
    [
        ("StableDiffusionXLPipeline", "__call__", "pipelines", 1),
        ("FluxPipeline", "__call__", "pipelines", 1),
        ("DDIMScheduler", "step", "schedulers", 1),
        ("DPMSolverMultistepScheduler", "step", "schedulers", None),  # its file has another name
    ],
)
def test_they_are_those_of_the_class(
    name: str, method: str, folder: str, reads: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = getattr(getattr(diffusers, name), method)  # its import reads files too
    read, text = list[Path](), Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda self, **options: (read.append(self), text(self, **options))[1])
    parameters.cache_clear()
    known = parameters(name, method, folder)
    assert known is not None
    taken = inspect.signature(function).parameters.values()
    assert list(known) == [p.name for p in taken if p.name != "self" and p.kind is not p.VAR_KEYWORD]
    assert reads is None or len(read) == reads


def test_a_class_that_is_nowhere() -> None:
    assert parameters("NowherePipeline", "__call__", "pipelines") is None
