"""The dataset card: `README.md` with Hugging Face's YAML header (https://huggingface.co/docs/hub/datasets-cards)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
import yaml

from synthgen.base.hub_card import licence_fields, size_category
from synthgen.base.markdown import markdown_text
from synthgen.judging.quality import Quality
from synthgen.judging.summary import markdown_tables
from synthgen.pipeline.build import Build
from synthgen.pipeline.export import content_hash
from synthgen.pipeline.licences import UsedModel, public_name, recorded_models
from synthgen.spec import DatasetSpec


def dataset_card(build: Build, quality: dict[str, Any]) -> str:
    """The card of the accepted images: Markdown with a YAML header."""
    found, used = Quality.read(quality), models_of(quality)
    header = {
        "pretty_name": build.spec.name,
        **licence_of(used),
        "task_categories": ["object-detection", "image-segmentation"],
        "tags": ["synthetic", "coco", "instance-segmentation"],
        "viewer": False,  # it would show the images without their labels
        "size_categories": [size_category(found.accepted)],
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, autoescape=False, keep_trailing_newline=True, finalize=None,
    )  # fmt: skip
    environment.filters["text"] = markdown_text
    return environment.get_template("card.md.j2").render(
        header=yaml.safe_dump(header, sort_keys=False, allow_unicode=True).strip(),
        spec=build.spec,
        quality=found,
        precision=found.precision,
        content_hash=content_hash(build),
        models=used,
        forbidding=forbidding(used),
        # The template is part of what a report is made from, see `reported_by`: were this section a part of it, every
        # finished run of an earlier version would write its report again.
        tables=markdown_tables(found) + _loading(build.spec),
        exporters=list(build.spec.exporters),
    )


def _loading(spec: DatasetSpec) -> str:
    """The section that says how to load the labels; "" without a COCO export."""
    images_in = getattr(spec.exporters.get("coco"), "images_in", None)
    if images_in is None:
        return ""
    split = next(iter(spec.splits))
    images = json.dumps(f"coco/{images_in.replace('{split}', split)}")
    return f"""
## Loading

{_by_datasets(spec)} The labels are read as COCO:

```python
from torchvision.datasets import CocoDetection  # and pip install pycocotools

dataset = CocoDetection({images}, {json.dumps(f"coco/annotations/instances_{split}.json")})
image, labels = dataset[0]
```
"""


def _by_datasets(spec: DatasetSpec) -> str:
    """What `datasets` gives, in a sentence."""
    exporters = (name for name, config in spec.exporters.items() if config.use == "huggingface")
    if (name := next(exporters, None)) is None:
        return "`datasets.load_dataset` gives the images alone."
    return f"`datasets.load_dataset({json.dumps(name)})` gives images and labels."


def models_of(quality: Mapping[str, Any]) -> list[UsedModel]:
    """The models of a run with their licences, by names for other people; as `quality.json` lists them."""
    used = recorded_models({str(model["stage"]): model for model in quality["models"]})
    return [replace(model, name=public_name(model.name)) for model in used]


def forbidding(used: Iterable[UsedModel]) -> list[UsedModel]:
    """The models whose licences forbid that the dataset is used commercially, each once."""
    return list({model.name: model for model in used if model.licence.commercial == "no"}.values())


def licence_of(used: Sequence[UsedModel]) -> dict[str, str]:
    """The licence of the images in the Hub's terms: the models' licence if all have the same one."""
    licences = {(model.licence.name, model.licence.url) for model in used if model.licence.name}
    return licence_fields(licences, some_unknown=any(not model.licence.name for model in used))
