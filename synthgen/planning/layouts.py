"""Where in an image its objects are asked for: boxes that fit and do not overlap too much."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, exp, log

from synthgen.errors import Problem, SpecError
from synthgen.planning.draws import stream
from synthgen.spec import LayoutSpec
from synthgen.types import Box

ASPECT_RATIO = (0.6, 1.6)  # of boxes, if neither the spec nor the model gives one
MIN_SIDE_PX = 8
TRIES = 2000


def place_boxes(
    layout: LayoutSpec, ratios: Sequence[tuple[float, float]], height: int, width: int, *key: object
) -> tuple[Box, ...]:
    """A box, xyxy px, for each aspect-ratio range, by rejection. Late tries draw smaller boxes, down to the least size.

    Args:
        ratios: (least, most) width over height of each box.
        height, width: of the image, px.
        key: what the boxes are for. Equal keys give equal boxes.

    Raises:
        SpecError: no boxes fit in 2,000 tries.
    """
    draw = stream("layout", *key)
    low_x, low_y = ceil(layout.margin * width), ceil(layout.margin * height)
    free_x, free_y, shorter = width - 2 * low_x, height - 2 * low_y, min(height, width)
    least, span = layout.size[0], layout.size[1] - layout.size[0]
    logs = [(log(low), log(high) - log(low)) for low, high in ratios]
    # This is one loop with few calls, because placing boxes takes longer than the rest of planning.
    for attempt in range(TRIES):
        boxes: list[Box] = []
        more = least + span * min(1, 2 * (1 - attempt / TRIES)) - least
        for low, spread in logs:
            ratio = exp(low + spread * draw())
            long = (least + more * draw()) * shorter
            w, h = (round(long), round(long / ratio)) if ratio >= 1 else (round(long * ratio), round(long))
            w, h = w if w > MIN_SIDE_PX else MIN_SIDE_PX, h if h > MIN_SIDE_PX else MIN_SIDE_PX
            if w > free_x or h > free_y:
                break
            x = low_x + int(draw() * (free_x - w + 1))
            y = low_y + int(draw() * (free_y - h + 1))
            box = (x, y, x + w, y + h)
            for other in boxes:
                apart = x >= other[2] or other[0] >= box[2] or y >= other[3] or other[1] >= box[3]
                if not apart and _share_covered(box, other) > layout.max_overlap:
                    break
            else:
                boxes.append(box)
                continue
            break
        else:
            return tuple(boxes)
    raise SpecError(
        [
            Problem(
                "layout",
                f"{len(ratios)} objects of at least {layout.size[0]:g} of the shorter side do not fit into "
                f"{width}x{height} px with margin {layout.margin:g} and max_overlap {layout.max_overlap:g}; "
                "ask for fewer or smaller ones",
            )
        ]
    )


def _share_covered(a: Box, b: Box) -> float:
    """How much of the smaller box the other one covers, from 0 to 1."""
    inner = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return inner / min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
