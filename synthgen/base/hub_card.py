"""Terms of dataset cards on the Hugging Face hub (https://huggingface.co/docs/hub/datasets-cards)."""

from __future__ import annotations

import re
from collections.abc import Collection

# Identifiers of licences that the Hub knows, by the names that our models' cards give.
LICENCES = {"Apache-2.0": "apache-2.0", "MIT": "mit", "CreativeML OpenRAIL-M": "creativeml-openrail-m",
            "CreativeML Open RAIL++-M": "openrail++", "CC-BY-4.0": "cc-by-4.0"}  # fmt: skip
# Upper ends of the Hub's classes of size, in images.
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def size_category(images: int) -> str:
    """The Hub's class of size for a number of images."""
    return next((name for most, name in SIZES if images < most), "1M<n<10M")


def licence_fields(licences: Collection[tuple[str, str]], *, some_unknown: bool = False) -> dict[str, str]:
    """The keys of a card that say under which licence images are: the models' licence if all have the same one.

    Args:
        licences: (name, url) of each licence of the models.
        some_unknown: whether there is a model whose licence is not known.
    """
    found = sorted(set(licences))
    only = found[0][0] if len(found) == 1 and not some_unknown else ""
    if identifier := LICENCES.get(only) or (only in LICENCES.values() and only):
        return {"license": identifier}
    if not found:
        return {"license": "unknown"}
    if len(found) > 1 or some_unknown:
        return {"license": "other", "license_name": "mixed-see-card"}
    name, link = found[0]
    identifier = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")
    return {"license": "other", "license_name": identifier or "see-card", "license_link": link}
