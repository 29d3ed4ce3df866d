"""benchmarks/gpu.py, with tiny models on the CPU: every row is there, and the real sizes are those of the published
models."""

import math
import re
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu

    return gpu


def test_it_measures_every_model(gpu: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "table.md"
    text = gpu.main(
        ["--size", "reduced", "--device", "cpu", "--batches", "2", "--rounds", "1", "--markdown", str(file)]
    )
    assert file.read_text() == text
    about, _, _, _, *lines = text.splitlines()
    assert "reduced sizes" in about and "torch" in about
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[0] for row in rows] == [*gpu.GENERATORS, *gpu.LABELLERS]
    for row in rows:
        cells = dict(zip(gpu.HEAD, row, strict=True))
        bare, ours = (float(cells[side].removesuffix("/s")) for side in ("bare loop", "synthgen"))
        assert bare > 0 and ours > 0 and math.isclose(ours / bare, float(cells["ratio"]), rel_tol=0.05, abs_tol=0.01)
        assert cells["batch"] == "2" and not cells["compiled"]  # a CPU compiles nothing unless it is asked to
    errors = capsys.readouterr().err
    assert all(re.search(rf"^{name} ", errors, re.M) for name in gpu.LABELLERS), "progress, row by row"


@pytest.mark.parametrize(
    ("name", "part", "kind", "billions"),
    [
        # The sizes of the files that are published, in bfloat16 or float16, are twice these.
        ("sdxl", "unet", diffusers.UNet2DConditionModel, 2.567),
        ("flux2_klein", "transformer", diffusers.Flux2Transformer2DModel, 3.876),
        ("qwen_image", "transformer", diffusers.QwenImageTransformer2DModel, 20.430),
    ],
)
def test_real_sizes(gpu: Any, name: str, part: str, kind: Any, billions: float) -> None:
    with torch.device("meta"):
        model = kind(**gpu.SETTINGS[name]["real"][part])
    assert sum(w.numel() for w in model.parameters()) / 1e9 == pytest.approx(billions, abs=0.001)


def test_the_text_encoder_of_flux2_klein_is_qwen3_4b(gpu: Any) -> None:
    with torch.device("meta"):
        config = transformers.Qwen3Config(**gpu.SETTINGS["flux2_klein"]["real"]["text_encoder"])
        model = transformers.Qwen3ForCausalLM(config)
    assert sum(w.numel() for w in model.parameters()) / 1e9 == pytest.approx(4.022, abs=0.001)
