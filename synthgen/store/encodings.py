"""The image files of an export: the bytes that they have for the PNG of a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from synthgen.backends import ImageEncoding
from synthgen.base.image_metadata import Metadata
from synthgen.base.pictures import require_png
from synthgen.base.signing import Signer
from synthgen.base.xmp import Origin
from synthgen.store.images import AS_STORED
from synthgen.types import Box


class Lossy(NamedTuple):
    """A lossy encoding: a name ending and a parameter that tell OpenCV which one, and its usual quality."""

    ending: str
    parameter: int
    quality: int


LOSSY = {
    "jpeg": Lossy(".jpg", cv2.IMWRITE_JPEG_QUALITY, 95),
    "webp": Lossy(".webp", cv2.IMWRITE_WEBP_QUALITY, 90),
}


class UnreadableImage(ValueError):
    """The file of an image is no PNG that can be decoded."""


@dataclass(frozen=True, slots=True)
class Encoder:
    """How an export encodes its images.

    Attributes:
        quality: of JPEG and WebP, from 1 to 100; None: 95 and 90.
        signer: signs every file; None: files are not signed.
    """

    quality: int | None = None
    signer: Signer | None = None

    def keeps(self, encoding: ImageEncoding) -> bool:
        """Whether the files of the export are those of the run, byte by byte."""
        return encoding not in LOSSY and self.signer is None

    def encoded(self, png: bytes, encoding: ImageEncoding) -> bytes:
        """The file of an export for an image of the run, with everything that the image carries beside its pixels. JPEG
        and WebP leave out its alpha channel.

        Raises:
            UnreadableImage: it is no PNG that can be decoded.
            ValueError: the encoding cannot hold what it carries, or it cannot be signed.
        """
        if self.keeps(encoding):
            return png
        carried = Metadata.of_png(png)
        if encoding in LOSSY:
            return self._marked(self._packed(decoded(png), encoding), carried, png)
        return self._signed(png, carried, png)

    def crops(self, png: bytes, boxes: Iterable[Box], encoding: ImageEncoding) -> Iterator[bytes]:
        """Parts of an image of the run, each as a file with everything that the image carries beside its pixels.

        Args:
            boxes: xyxy px, each with at least one pixel.
            encoding: link and copy make PNGs, which keep an alpha channel.

        Raises: see `encoded`.
        """
        pixels, carried = decoded(png, with_alpha=encoding not in LOSSY), Metadata.of_png(png)
        for x0, y0, x1, y1 in boxes:
            crop = np.ascontiguousarray(pixels[y0:y1, x0:x1])
            yield self._marked(self._packed(crop, encoding), carried, png)

    def _packed(self, pixels: NDArray[np.uint8], encoding: ImageEncoding) -> bytes:
        if encoding not in LOSSY:
            return cv2.imencode(".png", pixels)[1].tobytes()
        ending, parameter, usual = LOSSY[encoding]
        quality = usual if self.quality is None else self.quality
        return cv2.imencode(ending, pixels, [parameter, quality])[1].tobytes()

    def _marked(self, data: bytes, carried: Metadata, source: bytes) -> bytes:
        """A file that was encoded anew, with what its source carries. A signature takes in the source's own."""
        kept = carried._replace(c2pa=b"") if self.signer else carried
        return self._signed(kept.put_into(data), carried, source)

    def _signed(self, data: bytes, carried: Metadata, source: bytes) -> bytes:
        if self.signer is None:
            return data
        return self.signer.signed(data, Origin.of(carried.xmp), source if carried.c2pa else b"")


def decoded(png: bytes, *, with_alpha: bool = False) -> NDArray[np.uint8]:
    """The pixels of an image of a run as they lie in the file, uint8 (H, W, 3), BGR, or (H, W, 4), BGRA.

    Args:
        with_alpha: keeps an alpha channel, if there is one.

    Raises:
        UnreadableImage: it is no PNG of eight bits that can be decoded.
    """
    try:
        require_png(png)
    except ValueError as error:
        raise UnreadableImage(str(error)) from error
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION if with_alpha else AS_STORED
    pixels = cv2.imdecode(np.frombuffer(png, np.uint8), flags)
    if pixels is None or pixels.dtype != np.uint8:
        raise UnreadableImage("its pixels cannot be decoded")
    return np.asarray(pixels, np.uint8)
