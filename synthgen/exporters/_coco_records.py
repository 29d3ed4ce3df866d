"""The records of a COCO export, as `croissant.json` describes them."""

from __future__ import annotations

from collections.abc import Iterator

from synthgen.backends import RecordField, RecordSet

SPLIT = RecordField(
    "split", "sc:Text", "The split.", {"fileProperty": "filename"}, {"regex": r"^[a-z]+_(.+)\.json$"}
)  # fmt: skip
IMAGES = {
    "id": ("sc:Integer", "The image's number: `image_id` of its annotations."),
    "file_name": ("sc:Text", "The image's file, in the folder of its split."),
    "height": ("sc:Integer", "Its height in px."),
    "width": ("sc:Integer", "Its width in px."),
    "prompt": ("sc:Text", "The prompt that it was made from."),
    "seed": ("sc:Integer", "The seed of its noise."),
}
ANNOTATIONS = {
    "id": ("sc:Integer", "The annotation's number."),
    "image_id": ("sc:Integer", "The image that the object is in."),
    "category_id": ("sc:Integer", "The object's class, see `classes`."),
    "bbox": ("cr:BoundingBox", "The box of its mask in px: x, y, width, height."),
    "area": ("sc:Integer", "The number of pixels of its mask."),
    "iscrowd": ("sc:Integer", "1 for a region that is to be ignored."),
}
RLE = {
    "size": ("sc:Integer", "Height and width of the mask in px."),
    "counts": ("sc:Text", "The mask as COCO's compressed RLE, which pycocotools reads."),
}


def record_sets(kind: str, *, has_rle: bool) -> Iterator[RecordSet]:
    """Images and annotations of the files `annotations/{kind}_{split}.json`.

    Args:
        has_rle: whether every mask is an RLE: readers of Croissant take a key that every record has.
    """
    files = f"annotations/{kind}_*.json"
    for name, fields in {"images": IMAGES, "annotations": ANNOTATIONS}.items():
        found = [
            RecordField(
                key, data_type, words, {"jsonPath": f"$.{name}[*].{key}"}, form="XYWH" if key == "bbox" else ""
            )
            for key, (data_type, words) in fields.items()
        ]  # fmt: skip
        if name == "annotations" and has_rle:
            found += [
                RecordField(
                    key, data_type, words, {"jsonPath": f"$.annotations[*].segmentation.{key}"}, is_list=key == "size"
                )
                for key, (data_type, words) in RLE.items()
            ]  # fmt: skip
        yield RecordSet(name, f"The {name} of all splits.", files, "application/json", "id", (*found, SPLIT))
