"""Threads, dtypes and memory, by numbers given to them: no test needs a device besides the CPU."""

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from synthgen import devices

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")


@pytest.fixture(autouse=True)
def nothing_loaded() -> Iterator[None]:
    devices.forget(devices.loaded())
    yield
    devices.forget(devices.loaded())


# Threads


@pytest.mark.parametrize(
    ("own", "limits", "expected"),
    [
        ("0::/\n", {}, 4),
        ("0::/\n", {"": "max 100000"}, 4),
        ("0::/\n", {"": "200000 100000"}, 2),
        ("0::/a/b\n", {"a": "150000 100000", "a/b": "max 100000"}, 1),  # the part of a CPU would stop all threads
        ("0::/a\n", {"a": "50000 100000"}, 1),
        ("0::/a\n", {"a": "900000 100000"}, 4),
        ("0::/a\n", {"a": "many"}, 4),
        ("0::/a\n", {"b": "100000 100000"}, 4),  # another's
        ("3:cpu:/a\n", {"a": "100000 100000"}, 4),  # version 1 has other files
    ],
)
def test_cores_given(tmp_path, monkeypatch, own, limits, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 5}, raising=False)
    (tmp_path / "own").write_text(own)
    for group, text in limits.items():
        (tmp_path / "cgroups" / group).mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroups" / group / "cpu.max").write_text(text + "\n")
    assert devices.cores_given(tmp_path / "cgroups", tmp_path / "own") == expected
    assert devices.cores_given(tmp_path / "cgroups", tmp_path / "nowhere") == 4


@pytest.mark.parametrize(
    ("given", "cores", "expected"), [(None, 2, "2"), ("7", 2, "7"), (None, 10**6, "None")]
)  # the last: a machine whose cores are all given, where torch counts better
def test_threads_are_set_before_torch_is_there(given, cores, expected):
    code = (
        f"import os; os.cpu_count = lambda: 10**6; os.sched_getaffinity = lambda _: range({cores})\n"
        "import sys, synthgen.devices; print(os.environ.get('OMP_NUM_THREADS'), 'torch' in sys.modules)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    environment |= {"OMP_NUM_THREADS": given} if given else {}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert run.stdout == f"{expected} False\n"


# dtype


@pytest.mark.parametrize(
    ("device", "native", "expected"),
    [(CPU, True, torch.bfloat16), (CPU, False, torch.float32), (CUDA, True, torch.bfloat16),
     (CUDA, False, torch.float16), (torch.device("mps"), False, torch.float16)],
)  # fmt: skip
def test_dtype(monkeypatch, device, native, expected):
    monkeypatch.setattr(devices, "computes_bfloat16", lambda _: native)
    assert devices.torch_dtype("auto", device) is expected
    assert devices.torch_dtype("float32", device) is torch.float32


def test_bfloat16_that_is_emulated_does_not_count(monkeypatch):
    """torch says that it supports it on chips that are slower by it."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert not devices.computes_bfloat16(CUDA)
    for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, probe, lambda: False)
    assert not devices.computes_bfloat16(CPU)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert devices.computes_bfloat16(CPU)
    assert not devices.computes_bfloat16(torch.device("mps"))


# Memory


class Card:
    """A device of 100 bytes, of which 5 are somebody else's, as `devices` sees it."""

    def __init__(self) -> None:
        self.loads: list[str] = []
        self.others = 5

    def memory(self, device: Any = None) -> tuple[int, int]:
        return 100 - self.others - sum(len(model) for model in devices.loaded().values()), 100

    def load(self, name: str, size: int) -> bytes:
        def make() -> bytes:
            self.loads.append(name)
            assert devices.make_room(size)
            return bytes(size)

        return devices.resident(name, make)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    made = Card()
    monkeypatch.setattr(devices, "device_memory", made.memory)
    return made


def test_what_fits():
    assert devices.fits(75, 100, 100) and not devices.fits(76, 100, 100)
    assert devices.fits(7 * 10**9, 12 * 10**9, 12 * 10**9)  # SDXL in half precision
    assert not devices.fits(7 * 10**9, 8 * 10**9, 8 * 10**9)


def test_several_models_stay_when_they_fit(card):
    for _ in range(2):
        for name, size in (("diffusion", 40), ("sam", 20), ("clip", 10)):
            assert len(card.load(name, size)) == size
    assert card.loads == ["diffusion", "sam", "clip"]


def test_else_the_one_that_was_not_used_for_longest_goes(card):
    card.load("diffusion", 40)
    card.load("sam", 20)
    card.load("diffusion", 40)
    card.load("clip", 30)
    assert list(devices.loaded()) == ["diffusion", "clip"]
    card.load("sam", 65)
    assert list(devices.loaded()) == ["sam"]
    assert not devices.make_room(80) and not devices.loaded()


def test_a_model_that_says_nothing_of_its_size_sends_others_away_too(card):
    def load() -> bytes:
        card.others += 65
        return b""

    card.load("sam", 50)
    devices.resident("clip", load)
    assert list(devices.loaded()) == ["clip"]


def test_no_memory_while_loading(card):
    def load() -> bytes:
        if devices.loaded():
            raise torch.OutOfMemoryError("CUDA out of memory")
        return b"sam"

    devices.resident("diffusion", lambda: b"unet")
    assert devices.resident("sam", load) == b"sam"
    assert list(devices.loaded()) == ["sam"]

    def never() -> bytes:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        devices.resident("larger", never)


def test_other_errors_of_loading_send_nobody_away():
    devices.resident("diffusion", lambda: b"unet")
    with pytest.raises(ZeroDivisionError):
        devices.resident("broken", lambda: bytes(1 // 0))
    assert list(devices.loaded()) == ["diffusion"]


def test_release():
    for name in "abc":
        devices.resident(name, lambda name=name: name)
    devices.resident("a", lambda: "loaded again")
    assert devices.release(keep=1) == 2 and devices.loaded() == {"a": "a"}
    assert devices.release(keep=1) == 0
    assert devices.release() == 1


def test_the_system_shares_out_the_memory_of_a_cpu():
    assert devices.device_memory(CPU) is None
    assert devices.make_room(10**18, CPU)


def test_a_card_is_asked_before_anything_is_on_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (3, 4))
    assert not torch.cuda.is_initialized()
    assert devices.device_memory(CUDA) == (3, 4)
    assert devices.device_memory() is None


def test_to_numpy():
    values = torch.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(devices.to_numpy(values), values.numpy())


# Compiling


@pytest.mark.parametrize(
    ("choice", "device", "capability", "triton", "expected"),
    [("auto", CPU, (8, 0), True, False), ("auto", CUDA, (8, 0), True, True), ("auto", CUDA, (6, 1), True, False),
     ("auto", CUDA, (8, 0), False, False), ("always", CPU, (0, 0), False, True), ("never", CUDA, (9, 0), True, False)],
)  # fmt: skip
def test_what_is_compiled(monkeypatch, choice, device, capability, triton, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(devices, "find_spec", lambda name: triton or None)
    assert devices.compiles(choice, device) is expected


@pytest.mark.parametrize(
    ("batch_size", "sizes"),
    [(8, {1: 1, 2: 2, 3: 4, 4: 4, 5: 8, 8: 8, 9: 9}), (6, {1: 1, 2: 2, 3: 3, 4: 6}), (5, {1: 1, 2: 2, 3: 3, 4: 5}),
     (1, {1: 1})],
)  # fmt: skip
def test_padded_sizes(batch_size, sizes):
    assert {count: devices.padded_size(count, batch_size) for count in sizes} == sizes
