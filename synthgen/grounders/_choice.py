"""Which boxes of a detector are kept: each with its best class, above its threshold, and once for each object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from synthgen import masks
from synthgen.grounders._views import View, pieces

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Candidates:
    """What a detector says of one image.

    Attributes:
        boxes: float32 (P, 4), xyxy px.
        logits: float32 (P, Q), of every query.
        category_id: int64 (Q,), of every query.
        cut: bool (P,), whether a box ends at the edge of a tile; None if the whole image was looked at once.
    """

    boxes: Floats
    logits: Floats
    category_id: Ids
    cut: NDArray[np.bool_] | None = None

    @classmethod
    def of(cls, found: Sequence[tuple[View, Floats, Floats]], category_id: Ids, size: tuple[int, int]) -> Candidates:
        """Of all views of an image of this height and width: of each, boxes in its px, and logits."""
        if len(found) == 1:  # the whole image
            return cls(*found[0][1:], category_id)
        boxes = [view.in_image(boxes) for view, boxes, _ in found]
        cut = [view.cuts(part, size) for (view, _, _), part in zip(found, boxes, strict=True)]
        logits = [logits for _, _, logits in found]
        return cls(np.concatenate(boxes), np.concatenate(logits), category_id, np.concatenate(cut))


@dataclass(frozen=True, slots=True)
class Choice:
    """How boxes are chosen.

    Attributes:
        thresholds: category id -> the score that a box needs more than.
        nms_iou, cross_class_nms_iou, max_boxes: options of the detector.
        exclusive: sets of category ids. An object is of one class of a set only.
    """

    thresholds: Mapping[int, float]
    nms_iou: float
    cross_class_nms_iou: float
    max_boxes: int
    exclusive: Sequence[frozenset[int]] = ()

    def of(self, found: Candidates, size: tuple[int, int]) -> tuple[Floats, Ids, dict[str, Floats]]:
        """-> boxes (N, 4) in an image of this height and width, category ids (N,) and scores (N,), best first."""
        height, width = size
        # Classes and boxes are compared by logits, since several probabilities can round to 1.
        category_id, logit = found.category_id[found.logits.argmax(1)], found.logits.max(1)
        score = probability(logit)
        threshold = np.array([self.thresholds[i] for i in category_id.tolist()], np.float32)
        boxes = np.clip(found.boxes, 0, np.array([width, height, width, height], np.float32))
        inside = (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)  # at least a pixel, and not wholly in OWLv2's padding
        kept = ((score > threshold) & inside).nonzero()[0]
        if found.cut is not None:
            kept = kept[~pieces(boxes[kept], category_id[kept], found.cut[kept])]
        # Classes that exclude each other are one class where boxes of the same object are sought.
        as_one = category_id.copy()
        for classes in self.exclusive:
            as_one[np.isin(category_id, list(classes))] = min(classes)
        for across, iou in ((False, self.nms_iou), (True, self.cross_class_nms_iou)):
            kept = kept[suppress(boxes[kept], logit[kept], as_one[kept], iou, across=across)]
        kept = kept[: self.max_boxes]
        scores = {"grounding_score": score[kept]}
        if self.exclusive:
            scores["class_margin"] = self._margins(found, boxes, kept, category_id, score)
        return boxes[kept], category_id[kept], scores

    def _margins(self, found: Candidates, boxes: Floats, kept: Ids, category_id: Ids, score: Floats) -> Floats:
        """The score of each kept box minus the best score that a class that its class excludes has there: in the box
        itself, or in one that overlaps it by more than `nms_iou`. 1 for a class that excludes none."""
        margins = np.ones(len(kept), np.float32)
        for place, i in enumerate(kept.tolist()):
            rivals = {c for classes in self.exclusive if category_id[i] in classes for c in classes} - {category_id[i]}
            if rivals:
                there = masks.box_iou(boxes[i : i + 1], boxes)[0] > self.nms_iou
                there[i] = True
                of_rivals = found.logits[there][:, np.isin(found.category_id, list(rivals))]
                margins[place] = score[i] - probability(of_rivals.max(initial=-np.inf, keepdims=True)).max()
        return margins


def probability(logit: Floats) -> Floats:
    """The sigmoid, without overflow."""
    found: Floats = np.exp(-np.logaddexp(0, -logit.astype(np.float64))).astype(np.float32)
    return found


def suppress(boxes: Floats, scores: Floats, category_id: Ids, iou: float, *, across: bool) -> Ids:
    """Greedy non-maximum suppression of boxes (N, 4), xyxy -> positions that stay, best first; ties in order.

    A box is dropped if it overlaps by more than `iou` with a better box that stays. `across`: only boxes of different
    classes are compared; otherwise only boxes of one class.
    """
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable").tolist():
        rivals = [k for k in kept if (category_id[k] != category_id[i]) == across]
        if not rivals or masks.box_iou(boxes[i : i + 1], boxes[rivals]).max() <= iou:
            kept.append(i)
    return np.array(kept, np.int64)
