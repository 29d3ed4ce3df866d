"""One polygon that shows all of a mask: seams join its parts and its holes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

# The polygon's corners lie in the outermost pixels, so many hundredths from their left or upper edges. Readers that cut
# decimals off and readers that round them find the same pixels, as long as an image has fewer than 10,000 of them side
# by side. Seams go through the middle between both.
PIXEL, NEAR, MIDDLE, FAR = 100, 1, 25, 49
Point = tuple[int, int]


def single_polygon(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The corners, int64 (N, 2), x and y in hundredths of a pixel, of one polygon around a mask, bool (H, W), that is
    not empty. A coordinate modulo `PIXEL` is `NEAR`, `MIDDLE` or `FAR`.

    `cv2.fillPoly` fills it by the even-odd rule and draws its edges too, so at the mask's own size it shows every pixel
    of the mask. Edges are vertical or horizontal: points that a reader adds on them lie on the same pixels. A hole's
    seam runs up through the mask and costs no pixel. The seam between two parts is a line, or an angle, as short as
    there is one, and shows the pixels on its way.
    """
    # findContours walks through the centres of pixels. At twice the size it walks on either side of the edges between
    # pixels, and halving and rounding up gives these edges, as in `masks.mask_polygons`.
    wide = (mask.astype(np.uint16) * 0x101).view(np.uint8)  # Both bytes of such a number are the pixel.
    doubled = wide.repeat(2, 0)
    contours, tree = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    rings = [_Ring(contour, mask) for contour in contours]
    if len(rings) == 1:
        return rings[0].points
    edges, is_hole = _Edges(rings, max(mask.shape)), tree[0, :, 3] >= 0
    for i in np.flatnonzero(is_hole):
        _join_hole(rings[i], edges, mask)
    for a, b in _shortest_ways(mask) if np.count_nonzero(~is_hole) > 1 else ():
        _join(edges.beside(*a), edges.beside(*b))
    return np.concatenate(list(_walk(rings[0])))


@dataclass(frozen=True, slots=True)
class _Place:
    """A point on an edge of a ring."""

    ring: _Ring
    edge: int
    point: Point


class _Ring:
    """A closed line around a part or a hole, with the mask on its left hand.

    Attributes:
        ends: int64 (N, 2), where its edges begin, on the lines between pixels. Edge i goes from i to i + 1; it is
            vertical for an even i, and horizontal for an odd one.
        points: int64 (M, 2), hundredths: the same, moved into the pixels of the mask. Two points stand for an end where
            two pixels touch diagonally: the centre of one, and the centre of the other.
        first: int64 (N + 1,), for each end the first of its points.
        seams: by edge, the places on it and the places on other rings that they are joined to.
    """

    def __init__(self, contour: NDArray[np.int32], mask: NDArray[np.bool_]) -> None:
        ends = (contour[:, 0].astype(np.int64) + 1) >> 1
        before = _turned(ends)
        ends = ends[(ends[:, 0] != before[:, 0]) | (ends[:, 1] != before[:, 1])]
        self.ends = ends if ends[0, 0] == ends[1, 0] else _turned(ends, -1)
        x, y = self.ends[::2, 0], self.ends[:, 1]
        # Downwards there is the mask to the right, upwards to the left; rightwards it is above, leftwards below.
        of_vertical = x * PIXEL + np.where(y[1::2] > y[::2], NEAR, FAR - PIXEL)
        of_horizontal = y[1::2] * PIXEL + np.where(_turned(x, -1) > x, FAR - PIXEL, NEAR)
        self.points = np.empty((len(y), 2), np.int64)
        self.points[::2, 0] = self.points[1::2, 0] = of_vertical
        self.points[1::2, 1], self.points[::2, 1] = of_horizontal, _turned(of_horizontal)
        self.first = np.arange(len(y) + 1)
        shown = mask[self.points[:, 1] // PIXEL, self.points[:, 0] // PIXEL]
        if not shown.all():
            outside = np.flatnonzero(~shown)
            behind = self._centres(outside, before=False)
            self.points[outside] = self._centres(outside - 1, before=True)
            self.points = np.insert(self.points, outside + 1, behind, 0)
            self.first += np.searchsorted(outside, self.first)
        self.seams: dict[int, list[tuple[_Place, _Place]]] = {}

    def _centres(self, edges: NDArray[np.int64], *, before: bool) -> NDArray[np.int64]:
        """The centres of the mask's pixels at the left hand of edges, before their ends or behind their beginnings."""
        begin, end = self.ends[edges], self.ends[(edges + 1) % len(self.ends)]
        along = np.sign(end - begin)
        left = np.stack((along[:, 1], -along[:, 0]), 1)
        pixels: NDArray[np.int64] = ((end * 2 - along if before else begin * 2 + along) + left - 1) // 2
        return pixels * PIXEL + FAR


def _turned(values: NDArray[Any], by: int = 1) -> NDArray[Any]:
    """`np.roll` along the first axis, by one, in a tenth of its time."""
    return np.concatenate((values[-by:], values[:-by]))


class _Edges:
    """The edges of all rings of a mask, to be found by a pixel."""

    def __init__(self, rings: list[_Ring], longest: int) -> None:
        self._rings, self._size = rings, longest + 2
        ring = np.repeat(np.arange(len(rings)), [len(ring.ends) for ring in rings])
        index = np.concatenate([np.arange(len(ring.ends)) for ring in rings])
        begin = np.concatenate([ring.ends for ring in rings])
        end = np.concatenate([_turned(ring.ends, -1) for ring in rings])
        level = begin[:, 1] == end[:, 1]
        forth = (end > begin).any(1)
        low, high = np.minimum(begin, end), np.maximum(begin, end)
        keys = self._key(level, forth, np.where(level, low[:, 1], low[:, 0]), np.where(level, low[:, 0], low[:, 1]))
        order = keys.argsort()
        self._keys = keys[order]
        self._length = (high - low).max(1)[order]
        self._where = np.stack((ring, index), 1)[order]

    def _key(self, level: Any, forth: Any, line: Any, at: Any) -> Any:
        """A number in whose order the edges of one direction and line stand side by side."""
        return ((level * 2 + forth) * self._size + line) * self._size + at

    def place(self, side: str, x: int, y: int) -> _Place | None:
        """The place on the top, bottom, left or right edge of a pixel, if a ring passes there."""
        key, (right, down) = {
            "top": (self._key(1, 0, y, x), (MIDDLE, NEAR)),
            "bottom": (self._key(1, 1, y + 1, x), (MIDDLE, FAR)),
            "left": (self._key(0, 1, x, y), (NEAR, MIDDLE)),
            "right": (self._key(0, 0, x + 1, y), (FAR, MIDDLE)),
        }[side]
        i = int(self._keys.searchsorted(key, "right")) - 1
        if i < 0 or key - self._keys[i] >= self._length[i]:
            return None
        ring, edge = self._where[i].tolist()
        return _Place(self._rings[ring], edge, (x * PIXEL + right, y * PIXEL + down))

    def beside(self, x: int, y: int) -> _Place:
        """A place on any edge of a pixel that lies beside a ring."""
        places = (self.place(side, x, y) for side in ("top", "bottom", "left", "right"))
        return next(place for place in places if place)


def _join(a: _Place, b: _Place) -> None:
    for one, other in ((a, b), (b, a)):
        one.ring.seams.setdefault(one.edge, []).append((one, other))


def _join_hole(ring: _Ring, edges: _Edges, mask: NDArray[np.bool_]) -> None:
    """Joins a hole with the ring above it. That ring reaches higher up than the hole, so the joints make no circle."""
    x, y = (int(v) for v in ring.ends[np.lexsort(ring.ends.T)[0]])  # the left end of an edge at the top
    gaps = np.flatnonzero(~mask[:y, x])
    lower = edges.place("bottom", x, y - 1)
    upper = edges.place("top", x, int(gaps[-1]) + 1 if len(gaps) else 0)
    assert lower and upper  # The mask's column begins and ends there.
    _join(lower, upper)


def _shortest_ways(mask: NDArray[np.bool_]) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Pairs of pixels (x, y) of two parts, which join all parts of a mask with the fewest steps along rows and columns:
    the minimum spanning tree of the parts, by Kruskal's method."""
    count, parts = cv2.connectedComponents(np.ascontiguousarray(mask, np.uint8), connectivity=8)
    gaps = (~mask).astype(np.uint8)
    _, sources = cv2.distanceTransformWithLabels(gaps, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    sources, parts, width = sources.reshape(-1), parts.reshape(-1), mask.shape[1]
    pixels = np.flatnonzero(mask)
    of_source = np.zeros(int(sources.max()) + 1, np.int64)
    of_source[sources[pixels]] = pixels
    owner = parts[of_source][sources]  # of each pixel of the image, the nearest part
    beside = np.flatnonzero(np.diff(owner.reshape(mask.shape), axis=1, append=owner[width - 1 :: width, None]))
    below = np.flatnonzero(owner[:-width] != owner[width:])
    both = np.concatenate((beside, below)), np.concatenate((beside + 1, below + width))
    pairs = of_source[sources[np.stack(both)]]
    owners = np.sort(owner[np.stack(both)], 0)
    y, x = np.divmod(pairs, width)
    far = np.abs(x[0] - x[1]) + np.abs(y[0] - y[1])
    order = np.lexsort((far, owners[1], owners[0]))  # The shortest way between two parts comes first.
    new = (np.diff(owners[:, order], axis=1, prepend=0) != 0).any(0)
    order = order[new]
    order = order[far[order].argsort(kind="stable")]
    joined = list(range(count))

    def group(part: int) -> int:
        while joined[part] != part:
            joined[part] = part = joined[joined[part]]
        return part

    for (one, other), (x0, x1), (y0, y1) in zip(
        owners[:, order].T.tolist(), x[:, order].T.tolist(), y[:, order].T.tolist(), strict=True
    ):
        if (a := group(one)) != (b := group(other)):
            joined[b] = a
            yield (x0, y0), (x1, y1)


def _walk(first: _Ring) -> Iterator[NDArray[np.int64]]:
    """The points of all joined rings: around each one once, and at each seam around what it leads to, and back."""
    ways = [_around(first, None)]
    while ways:
        step = next(ways[-1], None)
        if step is None:
            ways.pop()
        elif isinstance(step, _Place):
            ways.append(_around(step.ring, step))
        else:
            yield step


def _around(ring: _Ring, start: _Place | None) -> Iterator[NDArray[np.int64] | _Place]:
    """Once around a ring, from a place where a seam arrives back to it; on the way, the places that seams lead to."""
    edge = start.edge if start else 0
    turn = int(ring.first[edge + 1])
    points = np.concatenate((ring.points[turn:], ring.points[:turn]))
    if start:
        yield np.array([start.point])
    done = 0
    for at, e in sorted(((int(ring.first[e + 1]) - turn) % len(points), e) for e in ring.seams):
        yield points[done:at]
        done = at
        for here, there in ring.seams[e]:
            if here is not start:
                way = np.array([here.point, (there.point[0], here.point[1])])
                yield way
                yield there
                yield way[::-1]
    yield points[done:]
    if start:
        yield np.array([start.point])
