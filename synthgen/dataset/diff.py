"""What differs between two datasets, A and B: their images, labels and splits, and how their objects are distributed.

Images are matched by the bytes of their files, so ids and names do not matter. Each side is read once, and leaves few
numbers for each image. Then it is read again for the labels of those images whose numbers differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from tempfile import TemporaryFile

from synthgen.dataset.contents import By, Contents, Named, Pairs, Spilled, Totals, paired
from synthgen.dataset.distributions import Shares, Spread
from synthgen.dataset.labels import Change, changes
from synthgen.dataset.sides import RecordsSide, Side
from synthgen.errors import RunError
from synthgen.spec import differences


@dataclass(frozen=True, slots=True)
class Pair:
    """An image that is in A and in B.

    Attributes:
        changes: of its labels.
    """

    a: Named
    b: Named
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True, slots=True)
class Diff:
    """What differs between A and B.

    Attributes:
        by: how images were matched: by the bytes of their files, or by the names of the files.
        removed, added: images of A that B does not have, and the reverse, in order of id.
        alike: how many of these have a name that an image on the other side has, so only their bytes differ.
        relabelled: images in both whose labels differ.
        moved: images in both that are in another split.
        classes_removed, classes_added: names of classes that one side does not have, whether or not an object has them.
        splits: images by split.
        classes, sizes: objects by class and by size, without objects to be ignored.
        scores: by name.
    """

    by: By
    a: Totals
    b: Totals
    removed: tuple[Named, ...]
    added: tuple[Named, ...]
    alike: int
    relabelled: tuple[Pair, ...]
    moved: tuple[Pair, ...]
    classes_removed: tuple[str, ...]
    classes_added: tuple[str, ...]
    splits: Shares
    classes: Shares
    sizes: Shares
    scores: dict[str, Spread]

    @property
    def is_equal(self) -> bool:
        """Whether images, labels, splits and classes are the same. Scores may differ."""
        found = (self.removed, self.added, self.relabelled, self.moved, self.classes_removed, self.classes_added)
        return not any(found)


def diff(a: Side, b: Side, by: By | None = None) -> Diff:
    """Compares two datasets.

    Args:
        by: how to match images; None: by content where both sides have the images, else by name.

    Raises:
        RunError: a side cannot be read, or lacks the images that `by` needs.
    """
    by = by or ("content" if a.has_files and b.has_files else "name")
    for side in (a, b):
        if by == "content" and not side.has_files:
            raise RunError(f"{side.address} has no images beside its annotations; add --match name")
    left, right = Contents(a, by), Contents(b, by)
    pairs = paired(left, right)
    removed, added = left.others(pairs[:, 0]), right.others(pairs[:, 1])
    scores = {**left.tally.scores, **right.tally.scores}
    return Diff(
        by=by,
        a=left.totals(),
        b=right.totals(),
        removed=removed,
        added=added,
        alike=len({image.name for image in removed} & {image.name for image in added}),
        relabelled=tuple(_relabelled(left, right, pairs)),
        moved=tuple(_moved(left, right, pairs)),
        classes_removed=tuple(name for name in a.categories if name not in b.categories),
        classes_added=tuple(name for name in b.categories if name not in a.categories),
        splits=Shares.of(left.images_by_split(), right.images_by_split()),
        classes=Shares.of(left.tally.classes, right.tally.classes),
        sizes=Shares.of(left.tally.sizes, right.tally.sizes),
        scores={name: Spread.of(left.tally.values(name), right.tally.values(name)) for name in scores},
    )


def _relabelled(left: Contents, right: Contents, pairs: Pairs) -> Iterator[Pair]:
    pairs = pairs[left.labels[pairs[:, 0]] != right.labels[pairs[:, 1]]]
    with ExitStack() as stack:
        files = [stack.enter_context(TemporaryFile()) for _ in range(2)]
        labels = [Spilled(c, pairs[:, k], file) for k, (c, file) in enumerate(zip((left, right), files, strict=True))]
        for i, j in pairs.tolist() if len(pairs) else ():
            found = changes(labels[0].of(i), labels[1].of(j), *left.size(i))
            if found:  # The same labels may be written in other words, such as a mask as polygons.
                yield Pair(left.named(i), right.named(j), tuple(found))


def _moved(left: Contents, right: Contents, pairs: Pairs) -> Iterator[Pair]:
    for i, j in pairs.tolist():
        a, b = left.named(i), right.named(j)
        if a.split != b.split and a.split and b.split:
            yield Pair(a, b)


def spec_changes(a: Side, b: Side) -> list[str]:
    """The values that differ in the specs of two runs or grown datasets, each as `key.path: A -> B`."""
    if isinstance(a, RecordsSide) and isinstance(b, RecordsSide):
        return differences(a.spec, b.spec)
    return []
