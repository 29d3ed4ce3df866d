"""The image files of an export: the bytes that they have for the PNG of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from synthgen.backends import ImageEncoding
from synthgen.base.image_metadata import Metadata
from synthgen.base.pictures import require_png
from synthgen.base.signing import Signer
from synthgen.base.xmp import Origin
from synthgen.store.images import AS_STORED


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
        data = png
        if encoding in LOSSY:
            kept = carried._replace(c2pa=b"") if self.signer else carried
            data = kept.put_into(self._pixels(png, LOSSY[encoding]))
        if self.signer:
            data = self.signer.signed(data, Origin.of(carried.xmp), png if carried.c2pa else b"")
        return data

    def _pixels(self, png: bytes, lossy: Lossy) -> bytes:
        try:
            require_png(png)
        except ValueError as error:
            raise UnreadableImage(str(error)) from error
        if (pixels := cv2.imdecode(np.frombuffer(png, np.uint8), AS_STORED)) is None:
            raise UnreadableImage("its pixels cannot be decoded")
        quality = lossy.quality if self.quality is None else self.quality
        return cv2.imencode(lossy.ending, pixels, [lossy.parameter, quality])[1].tobytes()
