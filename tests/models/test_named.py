"""What `check` says of the models that a spec names."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from synthgen.generators import diffusion
from synthgen.models import MINI

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path / "cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    return cache


def cached(cache: Path, name: str, source: Path) -> Path:
    """Puts a folder into the hub's cache as the newest of a repository -> its snapshot."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    shutil.copytree(source, repository / "snapshots" / COMMIT)
    return repository / "snapshots" / COMMIT


@pytest.mark.parametrize("both", [False, True], ids=["a folder", "a folder and the hub's"])
def test_a_folder_that_takes_the_place_of_a_model_of_the_hub_is_noted(
    both: bool, good: dict[str, Any], spec_file: Callable[..., Path], synthgen: Any, tmp_path: Path, hub_cache: Path
) -> None:
    shutil.copytree(MINI / "clip", tmp_path / "me" / "clip")
    if both:
        cached(hub_cache, "me/clip", MINI / "clip")
    good["filters"] = {"prompt_agreement": {"model": "me/clip", "min": 0.1}}
    code, _, err = synthgen("check", spec_file(good))
    also = ", though that is on this machine, too" if both else ""
    assert code == 0
    assert (
        f"note: filters.prompt_agreement.model: 'me/clip' is the folder {tmp_path / 'me' / 'clip'}, and not the model "
        f"of this id on the hub{also}; to use the hub's, start from another working directory"
    ) in err
    good["filters"]["prompt_agreement"]["model"] = str(tmp_path / "me" / "clip")  # nothing else can be meant
    assert "note: filters.prompt_agreement.model" not in synthgen("check", spec_file(good))[2]


def test_a_snapshot_that_lacks_files_is_refused_with_the_command_that_fetches_them(
    good: dict[str, Any], spec_file: Callable[..., Path], synthgen: Any, hub_cache: Path
) -> None:
    clip = cached(hub_cache, "me/clip", MINI / "clip")
    pipeline = cached(hub_cache, "me/pipeline", MINI / "diffusion")
    (clip / "model.safetensors").rename(clip / "model-00001-of-00002.safetensors")
    weights = "unet/diffusion_pytorch_model.safetensors"
    (pipeline / weights).unlink()
    good["generator"] = {"model": "me/pipeline", "revision": COMMIT[:9]}
    good["filters"] = {"prompt_agreement": {"model": "me/clip", "min": 0.1}}
    code, _, err = synthgen("check", spec_file(good))
    lines = [line for line in err.splitlines() if "not whole" in line]
    assert code == 2 and len(lines) == 2
    missing = "model-00002-of-00002.safetensors, model.safetensors.index.json"
    assert lines[1].endswith(f"missing: {missing}; fetch what is missing with: synthgen models --download me/clip")
    assert "missing: unet" in lines[0]
    assert lines[0].endswith(
        f"; fetch what is missing with: synthgen models --download me/pipeline --revision {COMMIT[:9]}"
    )
    shutil.copytree(pipeline, clip.parents[2] / "folder")  # nothing fetches what lacks in a folder of the user's
    good["generator"] = {"model": str(clip.parents[2] / "folder")}
    (line, _) = [line for line in synthgen("check", spec_file(good))[2].splitlines() if "not whole" in line]
    assert "--download" not in line


def test_weights_that_the_hubs_client_shares_between_repositories_are_in_their_place(hub_cache: Path) -> None:
    """The client's own code moves the weights into the store that all repositories of its cache share."""
    shared = pytest.importorskip("huggingface_hub.utils._shared_blobs", reason="came with huggingface_hub 2")
    weights = cached(hub_cache, "me/pipeline", MINI / "diffusion") / "unet" / "diffusion_pytorch_model.safetensors"
    blob = hub_cache / "models--me--pipeline" / "blobs" / "0123"
    blob.parent.mkdir()
    size = weights.rename(blob).stat().st_size
    weights.symlink_to(blob)
    assert shared.publish_blob_to_shared_store(
        blob_path=str(blob), xet_hash=hashlib.sha256(b"").hexdigest(), cache_dir=hub_cache, expected_size=size
    )
    assert weights.resolve().is_relative_to(hub_cache / "blobs")
    (files,) = diffusion.Backend(diffusion.Config(use="diffusion", model="me/pipeline"), []).models()
    assert list(files.problems()) == []
    blob.unlink()
    blob.symlink_to(MINI / "diffusion" / "unet" / weights.name)
    (problem,) = files.problems()
    assert "leads out of its model's folder" in problem.message
