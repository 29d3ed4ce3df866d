"""What the tests of several stages take."""

import shutil

import numpy as np
import pytest
from builds import numbers

from synthgen import models
from synthgen.generators import diffusion


@pytest.fixture
def generated(monkeypatch) -> list[int]:
    """Ids of images in the order in which the generator makes them."""
    made: list[int] = []
    generate = diffusion.Backend.generate

    def spy(self, jobs):
        made.extend(job.id for job in jobs)
        return generate(self, jobs)

    monkeypatch.setattr(diffusion.Backend, "generate", spy)
    return made


@pytest.fixture(scope="session")
def perturbed_sam(tmp_path_factory) -> str:
    """The embedded SAM with slightly other weights."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("models") / "sam"
    shutil.copytree(models.MINI / "sam", folder)
    file = folder / models.read_card(folder).weights
    state = load_file(file)
    save_file({n: t * 1.01 if n.startswith("mask_decoder") else t for n, t in state.items()}, file)
    return str(folder)


@pytest.fixture
def median(finished) -> float:
    """A least sharpness that half of the images of the finished run have."""
    return float(np.median(numbers(finished, "sharpness")))
