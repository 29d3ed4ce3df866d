"""Where computing happens: device, dtype, threads; and the one place where a loaded model is kept."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Hashable
from importlib.metadata import version
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

from synthgen.errors import BackendError

if TYPE_CHECKING:
    import torch

# Before torch is imported. By default OpenMP's threads spin while they wait for each other, and where anything else
# runs on the machine, they wait for threads that are not running: then this is not slower by halves, but many times.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

T = TypeVar("T")

_resident: dict[Hashable, Any] = {}
_lock = Lock()


def resident(key: Hashable, load: Callable[[], T]) -> T:
    """The model for `key`, loaded at its first use in this process and kept."""
    with _lock:
        if key not in _resident:
            _resident[key] = load()
        found: T = _resident[key]
        return found


def torch_device(name: str) -> torch.device:
    """A spec's `device` -> a device that is there; `auto` prefers CUDA, then MPS, then CPU."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BackendError(
            f"device: {name!r} asked for, but torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise BackendError("device: 'mps' asked for, but torch sees no MPS device")
    return device


def torch_dtype(name: str, device: torch.device) -> torch.dtype:
    """A spec's `torch_dtype` on a device; `auto` is float32 on CPU, else bfloat16 if it is native, else float16."""
    import torch

    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float16


def environment(device: str, dtype: str, batch_size: int) -> dict[str, str | int]:
    """What pixels depend on besides the spec: chip, device, dtype, threads, batch size and library versions."""
    import torch

    place = torch_device(device)
    chip = torch.cuda.get_device_name(place) if place.type == "cuda" else platform.machine()
    packages = ("torch", "diffusers", "transformers", "segment-anything", "opencv-python-headless")
    return {
        "chip": chip,
        "device": place.type,
        "torch_dtype": str(torch_dtype(dtype, place)).removeprefix("torch."),
        "batch_size": batch_size,
        "threads": torch.get_num_threads(),
        **{name: version(name) for name in packages},
    }
