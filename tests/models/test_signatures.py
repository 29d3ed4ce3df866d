"""Facts about diffusers' classes, read from its source."""

import inspect
from pathlib import Path

import diffusers
import pytest

from synthgen.models.signatures import bases, definition, fields, parameters, types_taken


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
    definition.cache_clear()
    known = parameters(name, method, folder)
    assert known is not None
    taken = inspect.signature(function).parameters.values()
    assert list(known) == [p.name for p in taken if p.name != "self" and p.kind is not p.VAR_KEYWORD]
    assert reads is None or len(read) == reads


def test_a_class_that_is_nowhere() -> None:
    assert parameters("NowherePipeline", "__call__", "pipelines") is None


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("FluxTransformer2DModel", "models"),
        ("SD3Transformer2DModel", "models"),
        ("UNet2DConditionModel", "models"),
        ("FluxPipeline", "pipelines"),
        ("StableDiffusion3Pipeline", "pipelines"),
        ("StableDiffusionPipeline", "pipelines"),
    ],
)
def test_bases_and_attributes_are_those_of_the_class(name: str, folder: str) -> None:
    kind = getattr(diffusers, name)
    assert bases(name, folder) >= {base.__name__ for base in kind.__bases__}
    assert bases(name, folder) <= {base.__name__ for base in kind.__mro__}
    for attribute in ("_repeated_blocks", "_optional_components", "_supports_group_offloading"):
        if attribute in (known := fields(name, folder)):
            assert known[attribute] == getattr(kind, attribute)


def test_types_of_parameters() -> None:
    taken = types_taken("StableDiffusion3Pipeline", "__init__", "pipelines")
    assert taken["text_encoder_3"] == "T5EncoderModel" and taken["tokenizer"] == "CLIPTokenizer"
    assert types_taken("NowherePipeline", "__init__", "pipelines") == {}
