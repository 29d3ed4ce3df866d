"""Makes the images of a batch, even if the model runs out of memory, fails, or returns black images."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synthgen import devices
from synthgen.errors import BackendError, OutOfRoom, SynthgenError
from synthgen.planning.jobs import retry_seed
from synthgen.types import Job

RETRIES = 3  # further seeds for an image that failed

Image = NDArray[np.uint8]
Generate = Callable[[Sequence[Job]], NDArray[np.uint8]]


@dataclass
class Attempts:
    """Makes batches, and records what went wrong.

    Attributes:
        strict: refuses to make smaller batches if memory is short, since their pixels differ slightly.
        again: image id -> number of the retry that made it, from 1.
        failed: image id -> why it could not be made. A black image takes its place.
        most: how many images fit into memory at once; None: no limit is known.
        smaller: number of batches that were split because memory was short.
    """

    generate: Generate
    strict: bool = False
    again: dict[int, int] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    most: int | None = None
    smaller: int = 0

    def make(self, batch: Sequence[Job]) -> list[Image]:
        """An image, uint8 (H, W, 3), for each job. An image that fails is made again alone, with further seeds; the
        others of its batch are kept.

        Raises:
            OutOfRoom: one image does not fit into memory, or, if strict, the batch does not.
            BackendError: no image of the batch can be made, so the fault is not in single images.
        """
        images, errors = self._together(batch)
        if len(batch) == len(errors) and not any(isinstance(error, _Black) for error in errors.values()):
            raise BackendError(f"generator: no image of this batch can be made: {_words(next(iter(errors.values())))}")
        for i, error in errors.items():
            images[i] = self._again(batch[i], error)
        return [image for image in images if image is not None]

    def _together(self, batch: Sequence[Job]) -> tuple[list[Image | None], dict[int, Exception]]:
        """An image for each job; and index -> error, for the jobs whose image is missing or black."""
        if self.most and len(batch) > self.most:
            return self._in_smaller(batch, self.most)
        try:
            images: list[Image | None] = list(self._shaped(batch))
        except SynthgenError:
            raise
        except Exception as error:
            is_memory = devices.is_out_of_memory(error)
            if is_memory:
                traceback.clear_frames(error.__traceback__)  # the frames hold tensors of the failed batch
                if devices.release(keep=1):  # the models of other stages took the memory
                    return self._together(batch)
            if is_memory and (self.strict or len(batch) == 1):
                raise OutOfRoom(_too_large(batch, error)) from error
            if len(batch) == 1:
                return [None], {0: error}
            if not is_memory:
                return self._in_smaller(batch, 1)  # one by one, to find the images that fail
            self.most = (len(batch) + 1) // 2
            self.smaller += 1
            return self._in_smaller(batch, self.most)
        return images, {i: _Black() for i, image in enumerate(images) if image is not None and not image[..., :3].any()}

    def _shaped(self, batch: Sequence[Job]) -> NDArray[np.uint8]:
        """The model's images of a batch, uint8 (B, H, W, 3), or (B, H, W, 4) with an alpha channel.

        Raises:
            BackendError: their number, size or dtype is wrong. Some models round sizes, and the labels of such images
                would not fit the jobs.
        """
        images = np.asarray(self.generate(batch))
        expected = (len(batch), batch[0].height, batch[0].width, 4 if images.shape[-1:] == (4,) else 3)
        if images.shape != expected or images.dtype != np.uint8:
            raise BackendError(
                f"generator: made {images.dtype} images of shape {images.shape}; takes uint8 of shape {expected} "
                "(images, height, width, RGB); set a size that the model makes"
            )
        return images

    def _in_smaller(self, batch: Sequence[Job], size: int) -> tuple[list[Image | None], dict[int, Exception]]:
        images, errors = list[Image | None](), dict[int, Exception]()
        for start in range(0, len(batch), size):
            some_images, some_errors = self._together(batch[start : start + size])
            images += some_images
            errors |= {start + i: error for i, error in some_errors.items()}
        return images, errors

    def _again(self, job: Job, error: Exception) -> Image:
        for attempt in range(1, RETRIES + 1):
            (image,), errors = self._together([replace(job, seed=retry_seed(job.seed, attempt))])
            if image is not None and not errors:
                self.again[job.id] = attempt
                return image
            error = errors[0]
        self.failed[job.id] = _words(error)
        return np.zeros((job.height, job.width, 3), np.uint8)

    def notes(self, batch: Sequence[Job]) -> dict[str, Any]:
        """What went wrong with a batch, as notes of its mark; empty if nothing did."""
        ids = {job.id for job in batch}
        notes = {
            "again": {str(i): attempt for i, attempt in self.again.items() if i in ids},
            "failed": {str(i): words for i, words in self.failed.items() if i in ids},
        }
        return {name: values for name, values in notes.items() if values}


class _Black(Exception):
    """A black image: the model computed NaN, or its safety checker replaced an image it flagged."""

    def __str__(self) -> str:
        return "the picture is black"


def _too_large(batch: Sequence[Job], error: Exception) -> str:
    size = f"{len(batch)} image{'s' * (len(batch) > 1)} of {batch[0].width}x{batch[0].height} px at once"
    return f"not enough memory for {size}; set a smaller generator.batch_size or size ({_words(error)})"


def _words(error: Exception) -> str:
    """An error in one line of at most 200 characters."""
    text = " ".join(str(error).split())[:200]
    return text if isinstance(error, _Black) else f"{type(error).__name__}: {text}"
