"""How files of annotation tools name a label of a run: by its image and its number in the image.

The image stands in it because people copy objects, with all that the tool keeps of them, into other images.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_LABEL = re.compile(r"(\d{1,18})-(\d{1,9})")
_NUMBERS = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")
_MOST = 1_000_000  # labels of an image that a list of numbers may name


def label_id(image_id: int, instance: int) -> str:
    return f"{image_id}-{instance}"


def instance_of(text: str, image_id: int) -> int | None:
    """The number of the label that a text names; None if it names none, or a label of another image."""
    match = _LABEL.fullmatch(text)
    return int(match[2]) if match and int(match[1]) == image_id else None


def ranges(numbers: Iterable[int]) -> str:
    """Numbers as text, such as `0-2 5`."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and spans[-1][1] == number - 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return " ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)


def numbers_in(text: str) -> frozenset[int] | None:
    """The numbers that `ranges` has written; None for any other text."""
    matches = [_NUMBERS.fullmatch(word) for word in text.split()]
    spans = [(int(match[1]), int(match[2] or match[1])) for match in matches if match]
    if len(spans) < len(matches) or sum(max(0, b - a + 1) for a, b in spans) > _MOST:
        return None
    return frozenset(number for a, b in spans for number in range(a, b + 1))
