"""The contents of a side of a diff, in few numbers for each image, and which images of two sides are the same."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from synthgen.dataset.distributions import Tally
from synthgen.dataset.labels import Image, Label, Object, digest
from synthgen.dataset.sides import Side
from synthgen.errors import RunError

By = Literal["content", "name"]
Pairs = NDArray[np.int64]  # (N, 2): the positions of an image in A and in B
_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Named:
    """An image as people find it: its id, its split and the name of its file, without folder and ending."""

    id: int
    split: str
    name: str


@dataclass(frozen=True, slots=True)
class Totals:
    """A dataset in numbers. `objects`: without the `ignored` ones. `content_hash`: "" for COCO files."""

    address: str
    images: int
    objects: int
    ignored: int
    content_hash: str


class Contents:
    """A side, read once. An image's position is its place among the images in the order in which the side first speaks
    of them. It takes about 400 bytes of memory, and four for each score of its labels.

    Attributes:
        tally: the objects.
        key: uint64 (N, 2), by which images are matched: a hash of the file's bytes or of its name.
        labels: uint64 (N,), the sum of the hashes of the labels of each image, which does not depend on their order.

    Raises:
        RunError: the side cannot be read, has an image twice, or has labels of an image that it lacks.
    """

    def __init__(self, side: Side, by: By) -> None:
        self.side, self.tally = side, Tally()
        self._positions: dict[tuple[str, int], int] = {}
        self._sizes, self._names = array("i"), list[str | None]()
        key, labels = array("Q"), array("Q")
        for entry in side.read(checksums=by == "content"):
            of_image = entry.split, entry.id if isinstance(entry, Image) else entry.image_id
            if (position := self._positions.setdefault(of_image, len(labels))) == len(labels):
                self._names.append(None)
                self._sizes.extend((0, 0))
                key.extend((0, 0))
                labels.append(0)
            if isinstance(entry, Label):
                labels[position] = (labels[position] + digest(entry.object.dumps())) & _MASK
                self.tally.add(entry.object.category, entry.area, entry.object.ignore, entry.scores)
                continue
            if self._names[position] is not None:
                raise RunError(f"{side.address} has two images with the id {entry.id}")
            self._names[position] = entry.name
            self._sizes[2 * position : 2 * position + 2] = array("i", (entry.height, entry.width))
            key[2 * position : 2 * position + 2] = array("Q", _key(entry, by))
        self._places = list(self._positions)
        if None in self._names:
            _, image_id = self._places[self._names.index(None)]
            raise RunError(f"{side.address} has labels of image {image_id}, which is not among its images")
        self.key = np.frombuffer(key, np.uint64).reshape(-1, 2)
        self.labels = np.frombuffer(labels, np.uint64)

    def __len__(self) -> int:
        return len(self.labels)

    def position(self, label: Label) -> int:
        """
        Raises:
            RunError: the image was not there when the side was read first.
        """
        try:
            return self._positions[label.split, label.image_id]
        except KeyError:
            raise RunError(f"{self.side.address} has changed while it was read; compare it again") from None

    def named(self, position: int) -> Named:
        split, image_id = self._places[position]
        return Named(image_id, split, self._names[position] or "")

    def size(self, position: int) -> tuple[int, int]:
        """Height and width, px; zeros if the side does not say."""
        height, width = self._sizes[2 * position : 2 * position + 2]
        return height, width

    def others(self, positions: NDArray[np.int64]) -> tuple[Named, ...]:
        """The images at all other positions, in order of id."""
        rest = np.setdiff1d(np.arange(len(self)), positions).tolist()
        return tuple(sorted(map(self.named, rest), key=lambda image: (image.id, image.split)))

    def images_by_split(self) -> Mapping[str, int]:
        return Counter(split for split, _ in self._places if split)

    def totals(self) -> Totals:
        return Totals(
            self.side.address, len(self), self.tally.classes.total(), self.tally.ignored, self.side.content_hash
        )

    def columns(self) -> dict[str, NDArray[Any]]:
        """What images are matched by: a row each."""
        splits = {split: digest(split.encode()) for split, _ in self._places}
        return {
            "low": self.key[:, 0],
            "high": self.key[:, 1],
            "labels": self.labels,
            "split": np.array([splits[split] for split, _ in self._places], np.uint64),
            "id": np.array([image_id & _MASK for _, image_id in self._places], np.uint64),
        }


def _key(image: Image, by: By) -> tuple[int, int]:
    if by == "name":
        return digest(image.name.encode(errors="surrogateescape")), 0
    return int(image.sha256[:16], 16), int(image.sha256[16:32], 16)


def paired(a: Contents, b: Contents) -> Pairs:
    """The images that are in both, in order of their positions in A.

    The same picture may be there several times. Then those with the same labels, split and id go together first, and
    each is in one pair at most.
    """
    of_a, of_b = a.columns(), b.columns()
    rest_a, rest_b = np.arange(len(a)), np.arange(len(b))
    found = []
    for more in (("labels", "split", "id"), ("labels", "split"), ("labels",), ("id",), ()):
        names = ("low", "high", *more)
        i, j = _matches([of_a[n][rest_a] for n in names], [of_b[n][rest_b] for n in names])
        found.append(np.stack([rest_a[i], rest_b[j]], 1))
        rest_a, rest_b = np.delete(rest_a, i), np.delete(rest_b, j)
    pairs = np.concatenate(found)
    return pairs[np.argsort(pairs[:, 0])]


def _matches(a: Sequence[NDArray[Any]], b: Sequence[NDArray[Any]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs the rows of two tables, given by their columns: the k-th row of A of some content with the k-th row of B of
    the same content. Returns their indices, each (N,)."""
    columns = [np.concatenate(both) for both in zip(a, b, strict=True)]
    order = np.lexsort(columns)
    is_new = np.zeros(len(order), bool)
    for column in columns:
        is_new[1:] |= column[order][1:] != column[order][:-1]
    group, is_b = np.cumsum(is_new), order >= len(a[0])
    key_a, key_b = (
        of * len(order) + np.arange(len(of)) - np.searchsorted(of, of) for of in (group[~is_b], group[is_b])
    )
    _, i, j = np.intersect1d(key_a, key_b, assume_unique=True, return_indices=True)
    return order[~is_b][i], order[is_b][j] - len(a[0])


class Spilled:
    """The labels of some images of a side, read again into a temporary file. Memory holds 16 bytes for each label.

    Args:
        positions: of the images.
    """

    def __init__(self, contents: Contents, positions: NDArray[np.int64], file: IO[bytes]) -> None:
        self._file = file
        wanted = np.zeros(len(contents), bool)
        wanted[positions] = True
        holders, ends = array("q"), array("q", [0])
        for entry in contents.side.read(checksums=False) if len(positions) else ():
            if isinstance(entry, Label) and wanted[position := contents.position(entry)]:
                holders.append(position)
                ends.append(ends[-1] + file.write(entry.object.dumps()))
        self._ends = ends
        self._order = np.argsort(holders, kind="stable")
        self._holders = np.asarray(holders)[self._order]

    def of(self, position: int) -> list[Object]:
        first, last = np.searchsorted(self._holders, (position, position + 1)).tolist()
        return [self._read(k) for k in self._order[first:last].tolist()]

    def _read(self, k: int) -> Object:
        self._file.seek(self._ends[k])
        return Object.loads(self._file.read(self._ends[k + 1] - self._ends[k]))
