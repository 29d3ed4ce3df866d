"""The rows of families, by the class. tests/generators/test_families.py runs a tiny model of each."""

from __future__ import annotations

from collections.abc import Mapping

from synthgen.models.families import classic, diffusion_transformers, large
from synthgen.models.families.family import Family, Recommendation

# Modular pipelines. Their scales go to a guider, or to every step of a schedule: `generators/_modular.py`.
_MODULAR = (
    Family(
        "Flux3ModularPipeline",
        paired=True,
        scheduler=False,
        recommended=(Recommendation(50, 4.0),),
        side=1024,
        singles="its prompt upsampler takes one prompt",
    ),
    Family(
        "Flux3DistilledModularPipeline",
        None,
        paired=True,
        scheduler=False,
        recommended=(Recommendation(16, None),),
        side=1024,
        singles="its prompt upsampler takes one prompt",
    ),
    Family(
        "AnimaModularPipeline",
        paired=True,
        scheduler=False,
        recommended=(Recommendation(50, 4.0),),
        side=1024,
    ),
    Family(
        "Ideogram4ModularPipeline",
        paired=True,
        scheduler=False,
        recommended=(Recommendation(48, None),),
        side=2048,
    ),
)
_ALL = (*classic.ROWS, *large.ROWS, *diffusion_transformers.ROWS, *_MODULAR)
FAMILIES: Mapping[str, Family] = {row.pipeline: row for row in _ALL}
