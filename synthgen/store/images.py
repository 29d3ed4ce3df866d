"""The images of a run: PNG files, in one folder for each shard."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from synthgen.base.file_lists import Entry
from synthgen.base.files import make_read_only
from synthgen.base.image_metadata import Metadata
from synthgen.base.pictures import require_png
from synthgen.errors import RunError
from synthgen.store.files import Files
from synthgen.store.marks import Mark, read_mark
from synthgen.store.paths import IMAGES, Paths

# The labels are of the pixels as they lie in the file, whatever orientation its EXIF names.
AS_STORED = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION


class Images:
    """The images of a run folder."""

    def __init__(self, files: Files) -> None:
        self._files, self._paths = files, files.paths

    def write(self, shard: int, image_id: int, image: NDArray[np.uint8], xmp: bytes = b"") -> Path:
        """Writes uint8 (H, W, 3), RGB, or (H, W, 4), RGBA, as a PNG. The file is read-only, because exports
        share it by a hard link.

        Args:
            xmp: the packet that the file carries.

        Raises:
            RunError: a link leads out of the run folder, see `Files.inside`.
        """
        path = self._paths.image(shard, image_id)
        self._files.inside(path.parent)  # only the parent: the file replaces a link with its name
        swap = cv2.COLOR_RGBA2BGRA if image.shape[-1] == 4 else cv2.COLOR_RGB2BGR
        ok, encoded = cv2.imencode(".png", cv2.cvtColor(image, swap))
        if not ok:
            raise RunError(f"cannot encode {path.name}: {image.dtype} {image.shape}")
        with self._files.writing(path) as file:
            file.write(Metadata(xmp=xmp).put_into(encoded.tobytes()))
            make_read_only(Path(file.name))
        return path

    def read(self, shard: int, image_id: int, checked_by: Mark | None = None) -> NDArray[np.uint8]:
        """Returns uint8 (H, W, 3), RGB, without the alpha channel that the file may have.

        Raises:
            RunError: the file is missing or unreadable, or its checksum differs from the mark `checked_by`.
        """
        data, name = self.read_bytes(shard, image_id), self._paths.name(self._paths.image(shard, image_id))
        if checked_by and checked_by.files.get(name, (0, ""))[1] != hashlib.sha256(data).hexdigest():
            raise RunError(
                f"{name} is not the image that was made: its checksum differs; delete it and run again to make it anew"
            )
        decoded = None
        with suppress(ValueError):
            require_png(data)
            decoded = cv2.imdecode(np.frombuffer(data, np.uint8), AS_STORED)
        if decoded is None:
            raise RunError(f"{name} is no readable image; delete it and run again to make it anew")
        return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)

    def read_bytes(self, shard: int, image_id: int) -> bytes:
        """The file of an image.

        Raises:
            RunError: it cannot be read, or a link leads out of the run folder.
        """
        path = self._paths.image(shard, image_id)
        try:
            return self._files.local(path).read_bytes()
        except OSError as error:
            raise RunError(f"{self._paths.name(path)} cannot be read: {error.strerror}") from error

    def count(self, shard: int) -> int:
        """The number of a shard's images on the disk now, to show progress."""
        return sum(1 for _ in self._paths.images(shard).glob("[0-9]*.png"))


def committed_images(folder: Path) -> dict[str, Entry]:
    """The images of a shard, by the mark in the run folder around `folder`: file name -> [size in bytes, sha256]. Empty
    if `folder` is not one of a run's folders of images."""
    if folder.parent.name != IMAGES or not folder.name.isdigit():
        return {}
    mark = read_mark(Paths(folder.parent.parent.resolve()).mark("generate", int(folder.name)))
    return {name.rpartition("/")[2]: entry for name, entry in mark.files.items()} if mark else {}
