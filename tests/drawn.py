"""Labels drawn by hand, whose pixels are known, for tests of exporters."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from synthgen.backends import Exporter
from synthgen.masks import encode_rle, mask_areas, mask_boxes
from synthgen.store.export_folder import ExportedFolder, exporting
from synthgen.store.run import Run
from synthgen.types import Annotation, Category, DatasetInfo, Job, Record

HEIGHT, WIDTH = 48, 64
HOSTILE = 'chaise "longue" </script>\\ \u2028 日本語 😀'
INFO = DatasetInfo(
    "rooms",
    "Rooms.",
    (Category(1, "cup"), Category(2, HOSTILE, ("seat",)), Category(3, "../con"), Category(4, "CUP 'x'")),
    ("train", "val", "test"),
    (("CreativeML Open RAIL-M", "https://example.org/licence"),),
)
Y, X = np.mgrid[:HEIGHT, :WIDTH]


def disc(x: int, y: int, radius: float) -> np.ndarray:
    return (X - x) ** 2 + (Y - y) ** 2 <= radius**2


RING = disc(44, 24, 15) & ~disc(44, 24, 9)
SHAPES = {
    "disc": disc(14, 14, 10),
    "ring": RING,
    "nested": RING | disc(44, 24, 3),  # a part within the hole of another
    "two parts": disc(8, 38, 6) | disc(56, 8, 5),
    "pixel": disc(63, 47, 0),
    "line": (Y == 45) & (X > 20) & (X < 40),
    "border": X < 3,
    "diagonal": ((X == 30) & (Y == 3)) | ((X == 31) & (Y == 4)),
    "whole": np.ones((HEIGHT, WIDTH), bool),
    "empty": np.zeros((HEIGHT, WIDTH), bool),
}


class ListedRecords:
    """See `backends.Records`."""

    content_hash = hashlib.sha256(b"rooms").hexdigest()

    def __init__(self, records: Sequence[Record]) -> None:
        self.listed = list(records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.listed)

    def split(self, name: str) -> Iterator[Record]:
        return (record for record in self.listed if record.job.split == name)


def label(number: int, category_id: int, mask: np.ndarray, *, ignore: bool = False, instance: int = 0) -> Annotation:
    """A label of a mask, bool (H, W)."""
    ((x1, y1, x2, y2),) = mask_boxes(mask[None]).tolist()
    scores = {"predicted_iou": float(np.float32(0.9)), "clip": float("nan")}
    (rle,) = encode_rle(mask[None])
    box = (x1, y1, x2 - x1, y2 - y1)
    return Annotation(number, category_id, rle, box, int(mask_areas(mask[None])[0]), ignore, scores, instance)


def drawn(folder: Path, *images: tuple[str, Sequence[tuple[Any, ...]]], first: int = 1) -> ListedRecords:
    """Records of images, each of one colour: their split, and for each object its class's id, its mask or the name of
    one of `SHAPES`, and perhaps True for one to be ignored. Ids count from `first`, 1 for labels."""
    folder.mkdir(parents=True, exist_ok=True)
    records, labels = [], 0
    for number, (split, objects) in enumerate(images, first):
        path = folder / f"{number:06d}.png"
        cv2.imwrite(str(path), np.full((HEIGHT, WIDTH, 3), 20 * number % 256, np.uint8))
        job = Job(
            number, 1, 0, number - 1, "f", split, f"a cup on {HOSTILE}", "blurry", {"place": HOSTILE}, (1, 2), None,
            2**62 + number, HEIGHT, WIDTH,
        )  # fmt: skip
        annotations = []
        for instance, (category_id, shape, *ignore) in enumerate(objects):
            labels += 1
            mask = SHAPES[shape] if isinstance(shape, str) else shape
            annotations.append(label(labels, category_id, mask, ignore=bool(ignore and ignore[0]), instance=instance))
        checksum = hashlib.sha256(path.read_bytes()).hexdigest()
        records.append(Record(job, path, tuple(annotations), {"sharpness": 123.456789}, checksum))
    return ListedRecords(records)


def export(exporter: Exporter[Any], records: ListedRecords, root: Path, info: DatasetInfo = INFO) -> list[str]:
    """Into a folder of this name in a run folder; -> what the exporter said of losses."""
    with exporting(Run(root.parent), root.name, "inputs") as folder:
        exporter.export(info, records, folder)
    return list(folder.notes.get("losses", []))


def verified(exporter: Exporter[Any], records: ListedRecords, root: Path) -> list[tuple[str, str]]:
    return list(exporter.verify(ExportedFolder(Run(root.parent), root.name), records))


def contents(root: Path) -> dict[str, bytes]:
    """Name -> bytes of each file in a folder."""
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
