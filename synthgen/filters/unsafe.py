"""Nudity."""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from synthgen import devices
from synthgen.backends import Model, ThresholdConfig, ThresholdFilter
from synthgen.errors import BackendError
from synthgen.models.named import PackagedModel
from synthgen.types import Sample

INSTALL = "pip install 'synthgen[unsafe]'"
LICENCE = ("AGPL-3.0", "https://github.com/notAI-tech/NudeNet")
SIDE = 320  # px: the image size that the model was trained with

Part = Literal[
    "FEMALE_GENITALIA_COVERED",
    "FACE_FEMALE",
    "BUTTOCKS_EXPOSED",
    "FEMALE_BREAST_EXPOSED",
    "FEMALE_GENITALIA_EXPOSED",
    "MALE_BREAST_EXPOSED",
    "ANUS_EXPOSED",
    "FEET_EXPOSED",
    "BELLY_COVERED",
    "FEET_COVERED",
    "ARMPITS_COVERED",
    "ARMPITS_EXPOSED",
    "FACE_MALE",
    "BELLY_EXPOSED",
    "MALE_GENITALIA_EXPOSED",
    "ANUS_COVERED",
    "FEMALE_BREAST_COVERED",
    "BUTTOCKS_COVERED",
]


class Config(ThresholdConfig):
    """Options of `unsafe`."""

    min: float | None = Field(None, ge=0, le=1, description="Least probability kept.")
    max: float | None = Field(0.25, ge=0, le=1, description="Greatest probability kept; NudeNet itself uses 0.25.")
    parts: tuple[Part, ...] = Field(
        (
            "FEMALE_BREAST_EXPOSED",
            "FEMALE_GENITALIA_EXPOSED",
            "MALE_GENITALIA_EXPOSED",
            "BUTTOCKS_EXPOSED",
            "ANUS_EXPOSED",
        ),
        min_length=1,
        description="The classes of NudeNet that count.",
    )


class Backend(ThresholdFilter[Config]):
    """The greatest probability, in [0, 1], of any of `parts` anywhere in the image, by the model 320n of NudeNet 3.

    Bare feet, bellies, armpits and men's chests do not count unless `parts` names them. The model sees the image with
    its long side scaled to 320 px, so it overlooks what is small. It detects nudity and nothing else: no violence, no
    symbols.

    The weights, a YOLOv8n, come in the wheel of `nudenet`, and run on the CPU in one thread. The wheel's metadata says
    MIT; its licence file and the weights themselves say AGPL-3.0. So the package is in an extra of its own.

    The model gets red, green and blue in this order, as YOLOv8 is trained. `NudeDetector` of the package swaps the
    channels of an image that OpenCV has read twice, so its model gets blue first, which lowers probabilities a little.
    """

    scope = "image"

    def models(self) -> Sequence[Model]:
        return [PackagedModel(self.config.use, ("nudenet", "onnxruntime"), INSTALL, LICENCE)]

    def measure(self, sample: Sample) -> NDArray[Any]:
        """-> float32 (): probability."""
        probabilities = self.probabilities(sample.image)
        return np.asarray(max(probabilities[part] for part in self.config.parts), np.float32)

    def probabilities(self, image: NDArray[np.uint8]) -> dict[str, float]:
        """Class -> its greatest probability in any box that the model proposes."""
        import cv2

        session, names = devices.resident("nudenet", load)
        height, width = image.shape[:2]
        long = max(height, width)
        square = np.zeros((long, long, 3), np.uint8)
        square[:height, :width] = image
        pixels = cv2.dnn.blobFromImage(square, 1 / 255, (SIDE, SIDE))
        # (1, 4 + classes, boxes): the first four numbers of a box are its coordinates.
        (boxes,) = session.run(None, {session.get_inputs()[0].name: pixels})
        return dict(zip(names, boxes[0, 4:].max(1).tolist(), strict=True))


def load() -> tuple[Any, list[str]]:
    """-> the model, and the names of its classes, from the model's file.

    Raises:
        BackendError: the packages are not installed, or have no weights in them.
    """
    package = find_spec("nudenet")
    files = [Path(folder) / "320n.onnx" for folder in (package and package.submodule_search_locations) or ()]
    try:
        from onnxruntime import InferenceSession, SessionOptions
    except ImportError as error:
        raise BackendError(f"filter unsafe: cannot import onnxruntime ({error}): {INSTALL}") from error
    if not any(file.is_file() for file in files):
        raise BackendError(f"filter unsafe: nudenet, with 320n.onnx in it, is not here: {INSTALL}")
    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    file = next(file for file in files if file.is_file())
    session = InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = literal_eval(session.get_modelmeta().custom_metadata_map["names"])
    return session, [names[i] for i in range(len(names))]
