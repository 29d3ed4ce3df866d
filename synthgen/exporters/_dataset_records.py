"""The records in the Parquet files of a Hugging Face dataset, as `croissant.json` describes them."""

from __future__ import annotations

from synthgen.backends import RecordField, RecordSet

SCALARS = {
    "image_id": ("sc:Integer", "The image's number."),
    "width": ("sc:Integer", "Its width in px."),
    "height": ("sc:Integer", "Its height in px."),
    "prompt": ("sc:Text", "The prompt that it was made from."),
    "seed": ("sc:Integer", "The seed of its noise."),
}
# mlcroissant 1.1.1 reads no list of `cr:BoundingBox` from Parquet.
OBJECTS = {
    "id": ("sc:Integer", "The number of each object."),
    "bbox": ("sc:Float", "The box of each object's mask in px: x, y, width, height."),
    "category": ("sc:Integer", "The class of each object: its place in `classes`, from 0."),
    "area": ("sc:Integer", "The number of pixels of each object's mask."),
    "iscrowd": ("sc:Integer", "1 for a region that is to be ignored."),
}


def record_set(folder: str) -> RecordSet:
    """The images of the files in a folder, with their labels."""
    fields = [
        RecordField("image", "sc:ImageObject", "The image.", {"column": "image"}, {"jsonPath": "bytes"}),
        *(RecordField(name, kind, words, {"column": name}) for name, (kind, words) in SCALARS.items()),
        *(
            RecordField(f"objects_{name}", kind, words, {"column": "objects"}, {"jsonPath": name}, is_list=True)
            for name, (kind, words) in OBJECTS.items()
        ),
        RecordField(
            "split", "sc:Text", "The split.", {"fileProperty": "filename"}, {"regex": r"^(.+)-\d{5}-of-\d{5}\.parquet$"}
        ),
    ]
    words = "The images of all splits, with their labels."
    return RecordSet("images", words, f"{folder}/*.parquet", "application/x-parquet", "image_id", tuple(fields))
