"""Backends that cost next to nothing, in a package of a user's (`write_parts`), and a spec that uses them."""

from pathlib import Path
from typing import Any

_COMMON = """
import numpy as np
from synthgen.backends import Config as Base, Exporter, Generator, Segmenter, ThresholdConfig, ThresholdFilter
from synthgen.types import Instances
from cheap_parts.moment import come
class Config(Base):
    version: int = 1
"""
MODULES = {
    "__init__": "",
    # Backends report here where a run is. The run makes the file `HALTED` and waits where `HALT` names the point.
    "moment": """
import os, time
from pathlib import Path
def come(where):
    if os.environ.get("HALT") == where:
        Path(os.environ["HALTED"]).touch()
        time.sleep(300)
""",
    "noise": _COMMON
    + """
class Backend(Generator[Config]):
    def generate(self, jobs):
        come("generate")
        return [np.random.default_rng(j.seed).integers(0, 256, (j.height, j.width, 3), np.uint8) for j in jobs]
""",
    "whole": _COMMON
    + """
class Backend(Segmenter[Config]):
    def segment(self, images, groundings):
        come("segment")
        return [self.one(image.shape[:2], grounding) for image, grounding in zip(images, groundings)]
    def one(self, shape, grounding):
        boxes = np.tile(np.float32([0, 0, shape[1], shape[0]]), (len(grounding), 1))
        return Instances(np.ones((len(grounding), *shape), bool), boxes, grounding.category_id, grounding.scores)
""",
    "corner": _COMMON
    + """
class Config(ThresholdConfig):
    pass
class Backend(ThresholdFilter[Config]):
    scope = "image"
    def measure(self, sample):
        come("measure")
        return np.float32(sample.image[0, 0, 0])
""",
    "lines": _COMMON
    + """
class Backend(Exporter[Config]):
    def export(self, info, records, folder):
        with folder.open("lines.txt") as file:
            for record in records:
                file.write(f"{record.job.id}\\n".encode())
                come("export")
""",
}
SPEC: dict[str, Any] = {
    "name": "cheap",
    "count": 2,
    "height": 64,
    "width": 64,
    "shard_size": 2,
    "classes": ["apple", "car"],
    "objects_per_image": 1,
    "prompts": {"templates": ["{objects}"]},
    "layout": {},
    "generator": {"use": "cheap_parts.noise"},
    "segmenter": {"use": "cheap_parts.whole"},
    "filters": {"corner": {"use": "cheap_parts.corner", "min": 1}},
    "exporters": {"lines": {"use": "cheap_parts.lines"}, "coco": {}},
}


def write_parts(folder: Path) -> None:
    """The package `cheap_parts` in a folder, which is to be on the path."""
    (folder / "cheap_parts").mkdir()
    for name, text in MODULES.items():
        (folder / "cheap_parts" / f"{name}.py").write_text(text)
