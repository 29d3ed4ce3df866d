"""RLE, boxes, areas, polygons and IoU of masks. Masks are bool (N, H, W); boxes are half-open xyxy px, (N, 4)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

MAX_OUTLINE_PX = 2_000_000  # The longest outline of a polygon; pycocotools needs 100 B of memory for each pixel of it.


def encode_rle(masks: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Encodes masks, bool (N, H, W), as COCO RLEs, `{"size": [h, w], "counts": str}`, without loss."""
    if len(masks) == 0:
        return []
    # The encoder takes (H, W, N) in Fortran order, which has the same bytes as (N, W, H) in C order. OpenCV transposes
    # in tiles that fit the cache, in a tenth of NumPy's time.
    columns = np.empty((len(masks), masks.shape[2], masks.shape[1]), np.uint8)
    for mask, transposed in zip(masks.view(np.uint8), columns, strict=True):
        cv2.transpose(mask, transposed)
    encoded = coco_mask.encode(columns.transpose(2, 1, 0))
    return [{"size": [int(v) for v in rle["size"]], "counts": rle["counts"].decode("ascii")} for rle in encoded]


def decode_rle(rles: Sequence[Mapping[str, Any]], height: int, width: int) -> NDArray[np.bool_]:
    """Decodes the COCO RLEs of one image to masks, bool (N, H, W).

    pycocotools checks neither sizes nor runs: it allocates whatever a size asks for, and leaves uninitialised memory
    where the runs end early.

    Raises:
        ValueError: an RLE has another size, or runs that do not sum to it.
    """
    masks = np.empty((len(rles), height, width), bool)
    for rle, mask in zip(rles, masks, strict=True):
        if rle["size"] != [height, width]:
            raise ValueError(f"an RLE of another size than {height}x{width}")
        runs = rle_runs(rle["counts"])
        if runs.min(initial=0) < 0 or runs.sum() != height * width:
            raise ValueError("an RLE that does not sum to the image")
        columns = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height)
        cv2.transpose(columns.view(np.uint8), mask.view(np.uint8))  # as in `encode_rle`
    return masks


def decode_crop(rle: Mapping[str, Any]) -> tuple[int, int, NDArray[np.bool_]]:
    """Decodes the part of a COCO RLE that has pixels: (x, y, mask), the left and upper end of the mask's box in px, and
    the mask within it, bool (h, w). An empty mask gives (0, 0, mask) with h = w = 0. It costs the pixels of the box's
    columns, not of the image.

    Raises:
        ValueError: its runs do not sum to its size.
    """
    height, width = rle["size"]
    runs = rle_runs(rle["counts"])
    if runs.min(initial=0) < 0 or runs.sum() != height * width:
        raise ValueError("an RLE that does not sum to the image")
    filled = np.flatnonzero(runs[1::2]) * 2 + 1  # the runs that have pixels
    if len(filled) == 0:
        return 0, 0, np.zeros((0, 0), bool)
    first, last = int(filled[0]), int(filled[-1]) + 1
    left, before = divmod(int(runs[:first].sum()), height)
    behind = -(before + int(runs[first:last].sum())) % height
    shown = np.concatenate(([False], np.arange(last - first) % 2 == 0, [False]))
    columns = np.repeat(shown, np.concatenate(([before], runs[first:last], [behind]))).reshape(-1, height)
    rows = np.flatnonzero(columns.any(0))
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    inner = np.ascontiguousarray(columns[:, top:bottom]).view(np.uint8)
    return left, top, cv2.transpose(inner).view(bool)  # as in `encode_rle`


def rle_runs(counts: str | bytes) -> NDArray[np.int64]:
    """The runs, (N,), of a compressed COCO RLE, read as `rleFrString` in COCO's maskApi.c does.

    Raises:
        ValueError: `counts` is no such RLE.
    """
    if not isinstance(counts, str | bytes):
        raise ValueError("an RLE whose runs are no text")
    digits = np.frombuffer(counts.encode() if isinstance(counts, str) else counts, np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(digits & 32 == 0)  # A run is digits of five bits, the lowest first; its last has no bit 32.
    if len(digits) and (digits.min() < 0 or digits.max() > 63 or digits[-1] & 32):
        raise ValueError("an RLE that is garbled, or cut short")
    begins = np.concatenate([np.zeros(1, np.int64), ends + 1])[:-1]
    index = np.arange(len(digits)) - np.repeat(begins, ends - begins + 1)  # of each digit in its run
    if index.max(initial=0) > 6:
        raise ValueError("an RLE with a run of more than 32 bits")
    runs = np.add.reduceat((digits & 31) << (5 * index), begins) if len(begins) else begins
    runs -= np.where(digits[ends] & 16, 1 << (5 * (index[ends] + 1)), 0)
    for first in (1, 2):  # from the fourth on, a run is coded as its difference from the run two before
        runs[first::2] = runs[first::2].cumsum()
    return runs


def segmentation_rle(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """The compressed RLE of the `segmentation` of an annotation in anybody's COCO file: of polygons, or of an RLE with
    or without compression. The mask may be empty. pycocotools returns it, so its `counts` are bytes.

    pycocotools trusts sizes, counts and corners, and allocates the memory that they imply. So all are checked first.

    Raises:
        ValueError: it is neither polygons nor RLE of an image of this size, px. The message is a reason in the form
            "an object with <reason>".
    """
    if not segmentation:
        raise _NoMaskError("no segmentation")
    try:
        if isinstance(segmentation, list):
            polygons = [_checked_polygon(polygon, height, width) for polygon in segmentation]
            rle: dict[str, Any] = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
            return rle
        if list(segmentation["size"]) != [height, width]:
            raise _NoMaskError("RLE of another size than the image's")
        runs = segmentation["counts"]
        runs = rle_runs(runs).tolist() if isinstance(runs, str) else runs
        if not all(type(run) is int and run >= 0 for run in runs) or sum(runs) != height * width:
            raise _NoMaskError("RLE that does not sum to the image")
        rle = coco_mask.frPyObjects({"size": [height, width], "counts": list(runs)}, height, width)
    except _NoMaskError:
        raise
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise _NoMaskError("a segmentation that is neither polygons nor RLE") from error
    return rle


class _NoMaskError(ValueError):
    """The reason why a segmentation gives no mask."""


def _checked_polygon(corners: Any, height: int, width: int) -> list[float]:
    if not all(type(number) in {int, float} for number in corners):
        raise TypeError
    pairs = np.array(corners, np.float64)
    if len(pairs) < 6 or len(pairs) % 2:
        raise _NoMaskError("a polygon of fewer than 3 corners, or half a corner")
    pairs = pairs.reshape(-1, 2)
    side = np.array((width, height))
    if not ((pairs >= -side) & (pairs <= 2 * side)).all():  # Annotation tools leave some corners a little outside.
        raise _NoMaskError("a corner far outside the image")
    if np.abs(np.diff(pairs, axis=0, append=pairs[:1])).max(1).sum() > MAX_OUTLINE_PX:
        raise _NoMaskError(f"an outline longer than {MAX_OUTLINE_PX:,} px")
    polygon: list[float] = pairs.reshape(-1).tolist()
    return polygon


def mask_areas(masks: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The number of pixels of each mask, bool (N, H, W) -> int64 (N,)."""
    return np.array([cv2.countNonZero(mask) for mask in np.ascontiguousarray(masks).view(np.uint8)], np.int64)


def mask_boxes(masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The tight box of each mask, bool (N, H, W) -> half-open xyxy px, float32 (N, 4); zeros for an empty mask."""
    rectangles = [cv2.boundingRect(mask) for mask in np.ascontiguousarray(masks).view(np.uint8)]  # x, y, width, height
    boxes = np.array(rectangles, np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def box_iou(a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """IoU of every box of `a` (N, 4) with every box of `b` (M, 4), xyxy -> float32 (N, M); 0 for empty boxes."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inner = np.clip(high - low, 0, None).prod(-1)
    area_a = np.clip(a[:, 2:] - a[:, :2], 0, None).prod(-1)
    area_b = np.clip(b[:, 2:] - b[:, :2], 0, None).prod(-1)
    union = area_a[:, None] + area_b[None] - inner
    return np.asarray(np.divide(inner, union, out=np.zeros_like(inner, np.float64), where=union > 0), np.float32)


def mask_iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> NDArray[np.float32]:
    """IoU of every mask of `a` (N, H, W) with every mask of `b` (M, H, W) -> float32 (N, M); 0 for empty masks."""
    pixels = a.shape[1] * a.shape[2]  # `reshape` cannot infer it where there are no masks
    flat_a, flat_b = a.reshape(len(a), pixels).astype(np.float32), b.reshape(len(b), pixels).astype(np.float32)
    inner = flat_a @ flat_b.T
    union = flat_a.sum(1)[:, None] + flat_b.sum(1)[None] - inner
    return np.asarray(np.divide(inner, union, out=np.zeros_like(inner), where=union > 0), np.float32)


def paired_mask_iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> NDArray[np.float32]:
    """IoU of each mask of `a` (N, H, W) with the same one of `b` (N, H, W) -> float32 (N,); 0 for two empty masks."""
    union = np.maximum((a | b).sum((1, 2)), 1)
    return np.asarray((a & b).sum((1, 2)) / union, np.float32)


def mask_polygons(mask: NDArray[np.bool_]) -> list[list[float]]:
    """The COCO polygons `[x1, y1, x2, y2, …]`, px, of one mask, bool (H, W): one a component; none if it is empty.

    Corners lie on the edges between pixels. So pycocotools' rasteriser gives the same mask back, even of lines and
    single pixels, and the polygons' areas sum to the mask's pixels. COCO's polygons have no holes: a component with
    holes is cut by the fewest vertical lines through all of them. Every polygon is simple, and none overlaps another.
    """
    left, top, width, height = cv2.boundingRect(np.ascontiguousarray(mask).view(np.uint8))
    if width == 0:
        return []
    inner = mask[top : top + height, left : left + width]  # Components of a whole image take ten times as long.
    found = _components(inner, left, top)
    return [polygon for x, y, component in found for polygon in _component_polygons(component, x, y)]


def _components(mask: NDArray[Any], x: int, y: int) -> Iterator[tuple[int, int, NDArray[np.bool_]]]:
    """Yields (x, y, crop) of each 4-connected component. `x`, `y`: the position, px, of `mask` itself in the image."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(np.ascontiguousarray(mask, np.uint8), connectivity=4)
    for label in range(1, count):
        left, top, width, height = (int(v) for v in stats[label, :4])
        yield x + left, y + top, labels[top : top + height, left : left + width] == label


def _component_polygons(component: NDArray[np.bool_], x: int, y: int) -> Iterator[list[float]]:
    height, width = component.shape
    _, _, stats, _ = cv2.connectedComponentsWithStats((~component).astype(np.uint8), connectivity=4)
    left, top, wide, high = stats[1:, :4].T
    hole = (left > 0) & (top > 0) & (left + wide < width) & (top + high < height)

    # The fewest columns that meet every hole: the last column of the hole that ends first, and so on.
    cuts: list[int] = []
    for last, first in sorted(zip((left + wide - 1)[hole].tolist(), left[hole].tolist(), strict=True)):
        if not cuts or cuts[-1] < first:
            cuts.append(last)
    if cuts:
        for begin, end in zip([0, *cuts], [*cuts, width], strict=True):
            for strip_x, strip_y, strip in _components(component[:, begin:end], x + begin, y):
                yield _outline(strip, strip_x, strip_y)
    else:
        yield _outline(component, x, y)


def _outline(component: NDArray[np.bool_], x: int, y: int) -> list[float]:
    """The polygon around a component without holes."""
    # findContours walks through the centres of pixels. At twice the size, pixel i becomes 2i and 2i + 1. Halving and
    # rounding up moves the first to the pixel's near edge, i, and the second to its far edge, i + 1.
    doubled = component.astype(np.uint8).repeat(2, 0).repeat(2, 1)
    contours, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    corners = (contours[0].reshape(-1, 2) + 1) // 2
    corners = corners[(corners != np.roll(corners, 1, 0)).any(1)]
    polygon: list[float] = (corners + np.array((x, y))).reshape(-1).astype(float).tolist()
    return polygon


def polygon_iou(polygons: list[list[float]], mask: NDArray[np.bool_]) -> float:
    """IoU of polygons, rasterised by pycocotools, with the mask that they outline, bool (H, W); 0 if there are none."""
    if not polygons:
        return 0.0
    height, width = mask.shape
    raster = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))).astype(bool)
    return float(mask_iou(raster[None], mask[None])[0, 0])


def mask_path(mask: NDArray[np.bool_], tolerance_px: float = 0.5) -> str:
    """The `d` of an SVG path around one mask, bool (H, W), in px, to be filled by the even-odd rule; "" if it is empty.

    The path is for display: its corners may lie `tolerance_px` off.
    """
    doubled = np.ascontiguousarray(mask, np.uint8).repeat(2, 0).repeat(2, 1)  # see `_outline`
    contours, _ = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    pieces = []
    for contour in contours:
        exact = (contour + 1) // 2
        rough = cv2.approxPolyDP(exact, tolerance_px, True)
        corners = (rough if len(rough) > 2 else exact).reshape(-1, 2)  # a thin mask keeps its exact corners
        pieces.append("M" + "L".join(f"{x} {y}" for x, y in corners) + "Z")
    return "".join(pieces)
