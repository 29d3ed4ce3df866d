"""COCO files of any tool, as annotated images."""

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from annotated import square
from pycocotools import mask as coco_mask

from synthgen.errors import RunError
from synthgen.masks import decode_rle
from synthgen.review.annotated import AnnotatedImage, AnnotatedObject
from synthgen.review.coco import read_coco

RLE = square(8, 16, 10, 64, 48)
POLYGONS = [[8, 16, 18, 16, 18, 26, 8, 26], [1, 1, 3, 1, 3, 4, 1, 4]]
CONTENT = {
    "images": [
        {"id": 3, "file_name": "images/train\\000000000012.jpg", "height": 64, "width": 48},
        {"id": 5, "file_name": "photo.png", "height": 64, "width": 48},
        {"id": 6, "height": 64, "width": 48},
    ],
    "annotations": [
        {"id": 1, "image_id": 5, "category_id": 8, "segmentation": RLE, "bbox": [0, 0, 1, 1], "iscrowd": 1},
        {"id": 2, "image_id": 3, "category_id": 9, "segmentation": POLYGONS},
        {"id": 3, "image_id": 5, "category_id": 9, "segmentation": {"size": [64, 48], "counts": [64, 6, 64 * 46 + 58]}},
        {"id": 4, "image_id": 5, "category_id": 9, "segmentation": [], "bbox": [1.5, 2, 3, 4.5]},
    ],
    "categories": [{"id": 8, "name": "cup"}, {"id": 9, "name": "Tüte, \"rot\""}],
}  # fmt: skip


def read(folder: Path, content: Any) -> list[AnnotatedImage]:
    file = folder / "coco.json"
    file.write_bytes(content if isinstance(content, bytes) else orjson.dumps(content))
    return list(read_coco(file))


def test_images_are_known_by_the_names_of_their_files(tmp_path: Path) -> None:
    """An export names files by ids, which tools keep while they count images anew."""
    first, second, third = read(tmp_path, CONTENT)
    assert [image.image_id for image in (first, second, third)] == [12, 5, 6]
    assert {image.size for image in (first, second, third)} == {(64, 48)}
    assert not first.is_numbered and first.classes == {"cup", 'Tüte, "rot"'} and third.objects == ()
    assert (first.tolerance_iou, second.tolerance_iou, third.tolerance_iou) == (0.98, 0.98, 1.0)


def test_masks_of_every_form(tmp_path: Path) -> None:
    first, second, _ = read(tmp_path, CONTENT)
    (polygons,) = first.objects
    mask = decode_rle([polygons.rle or {}], 64, 48)[0]
    parts = coco_mask.frPyObjects(POLYGONS, 64, 48)
    assert np.array_equal(mask, coco_mask.decode(coco_mask.merge(parts))) and mask[16:26, 8:18].all()
    compressed, runs, box = second.objects
    assert compressed == AnnotatedObject(None, "cup", RLE, None, None, "annotation 1")
    assert runs.rle and decode_rle([runs.rle], 64, 48)[0].nonzero()[1].tolist() == [1] * 6
    assert (box.rle, box.box_xyxy, box.category) == (None, (1.5, 2.0, 4.5, 6.5), 'Tüte, "rot"')


@pytest.mark.parametrize(
    ("key", "entry", "words"),
    [
        ("images", {"id": True}, "the id of an image is True, expected a whole number"),
        ("images", {"height": 10**6, "width": 10**6}, "it is 1,000,000 x 1,000,000 px, expected an image of at most"),
        ("images", {"height": 2.5}, "the height of image 3 is 2.5, expected a whole number"),
        ("annotations", {"image_id": None}, "the image_id of an annotation is None, expected a whole number"),
        ("annotations", {"segmentation": {"size": [64, 48], "counts": "00000"}}, "annotation 1 has RLE that does not"),
        ("annotations", {"segmentation": {"size": [64, 48], "counts": [10**9]}}, "annotation 1 has RLE that does not"),
        ("annotations", {"segmentation": {"counts": "1"}}, "annotation 1 has a segmentation that is neither polygons"),
        ("annotations", {"segmentation": [[0, 0, 9, 9, 10**9, 3]]}, "annotation 1 has a corner far outside the image"),
        ("annotations", {"segmentation": None, "bbox": [0, 0, 1]}, "annotation 1 has neither a segmentation nor a b"),
        ("annotations", {"segmentation": None, "bbox": [9, 9, -1, 5]}, "annotation 1 has a box from (9, 9) to (8, 14)"),
        ("categories", {"name": 7}, "category 8 has no name"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused_in_one_sentence(tmp_path: Path, key: str, entry: Any, words: str) -> None:
    content = orjson.loads(orjson.dumps(CONTENT))
    content[key][0] |= entry
    with pytest.raises(RunError) as error:
        read(tmp_path, content)
    assert words in str(error.value) and str(error.value).startswith(str(tmp_path)) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"images": [1]}', b'{"images": [NaN]}', b'{"images": [' + b"[" * 100_000, b"\xff\xfe"]
)
def test_what_is_no_coco_file_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(RunError, match=r"coco\.json"):
        read(tmp_path, content)
    with pytest.raises(RunError, match="cannot be read"):
        list(read_coco(tmp_path / "none.json"))
