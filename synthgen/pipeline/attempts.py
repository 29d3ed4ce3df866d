"""The images of a batch, whatever the model does with some of them: out of memory, an error, a black picture."""

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

RETRIES = 3  # with further seeds, of an image that failed

Image = NDArray[np.uint8]
Generate = Callable[[Sequence[Job]], NDArray[np.uint8]]


@dataclass
class Attempts:
    """Makes batches, and remembers what went wrong.

    Attributes:
        strict: refuse to make smaller batches where memory does not do, since they have slightly other pixels.
        again: image id -> how many further seeds it took.
        failed: image id -> why there is no image of it: a black one stands in its place.
        most: images that memory does for at once; None: whatever was asked for.
        smaller: batches that were made in parts, for memory.
    """

    generate: Generate
    strict: bool = False
    again: dict[int, int] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    most: int | None = None
    smaller: int = 0

    def make(self, batch: Sequence[Job]) -> list[Image]:
        """An image, uint8 (H, W, 3), for each job. Those that fail are tried alone with their next seeds; the others
        of their batch are kept.

        Raises:
            OutOfRoom: memory does not do for one image, or, if strict, for the batch.
            BackendError: no image of the batch can be made, so it is not the images' fault.
        """
        made, wrong = self._together(batch)
        if len(batch) == len(wrong) and not any(isinstance(error, _Black) for error in wrong.values()):
            raise BackendError(f"generator: no image of this batch can be made: {_words(next(iter(wrong.values())))}")
        for place in wrong:
            made[place] = self._again(batch[place], wrong[place])
        return [image for image in made if image is not None]

    def _together(self, batch: Sequence[Job]) -> tuple[list[Image | None], dict[int, Exception]]:
        """An image for each job or, by its place, what is wrong with it."""
        if self.most and len(batch) > self.most:
            return self._in_parts(batch, self.most)
        try:
            images: list[Image | None] = list(self._shaped(batch))
        except SynthgenError:
            raise
        except Exception as error:
            full = devices.is_out_of_memory(error)
            if full:
                traceback.clear_frames(error.__traceback__)  # they hold what was computed so far
                if devices.release(keep=1):  # the models of other stages were in the way
                    return self._together(batch)
            if full and (self.strict or len(batch) == 1):
                raise OutOfRoom(_too_large(batch, error)) from error
            if len(batch) == 1:
                return [None], {0: error}
            if not full:
                return self._in_parts(batch, 1)  # to find which of them it is
            self.most = (len(batch) + 1) // 2
            self.smaller += 1
            return self._in_parts(batch, self.most)
        return images, {i: _Black() for i, image in enumerate(images) if image is not None and not image.any()}

    def _shaped(self, batch: Sequence[Job]) -> NDArray[np.uint8]:
        """What the model makes of a batch.

        Raises:
            BackendError: images of another number, size or dtype than was asked for. Some models round sizes, and
                labels of such images would fit no job.
        """
        images = np.asarray(self.generate(batch))
        wanted = (len(batch), batch[0].height, batch[0].width, 3)
        if images.shape != wanted or images.dtype != np.uint8:
            raise BackendError(
                f"generator: made {images.dtype} images of shape {images.shape}, and uint8 of {wanted} were asked for "
                "(images, height, width, RGB); set a size that the model makes"
            )
        return images

    def _in_parts(self, batch: Sequence[Job], size: int) -> tuple[list[Image | None], dict[int, Exception]]:
        images, wrong = list[Image | None](), dict[int, Exception]()
        for start in range(0, len(batch), size):
            part, bad = self._together(batch[start : start + size])
            images += part
            wrong |= {start + place: why for place, why in bad.items()}
        return images, wrong

    def _again(self, job: Job, error: Exception) -> Image:
        for attempt in range(1, RETRIES + 1):
            (image,), wrong = self._together([replace(job, seed=retry_seed(job.seed, attempt))])
            if image is not None and not wrong:
                self.again[job.id] = attempt
                return image
            error = wrong[0]
        self.failed[job.id] = _words(error)
        return np.zeros((job.height, job.width, 3), np.uint8)

    def notes(self, batch: Sequence[Job]) -> dict[str, Any]:
        """What went wrong with a batch, for its mark; nothing if nothing did."""
        ids = {job.id for job in batch}
        found = {
            "again": {str(i): n for i, n in self.again.items() if i in ids},
            "failed": {str(i): why for i, why in self.failed.items() if i in ids},
        }
        return {name: value for name, value in found.items() if value}


class _Black(Exception):
    """A black picture: not a number went through the model, or its safety checker minded the picture."""

    def __str__(self) -> str:
        return "the picture is black"


def _too_large(batch: Sequence[Job], error: Exception) -> str:
    size = f"{len(batch)} image{'s' * (len(batch) > 1)} of {batch[0].width}x{batch[0].height} px at once"
    return f"not enough memory for {size}; set a smaller generator.batch_size or size ({_words(error)})"


def _words(error: Exception) -> str:
    """In one line, and not too long a one."""
    text = " ".join(str(error).split())[:200]
    return text if isinstance(error, _Black) else f"{type(error).__name__}: {text}"
