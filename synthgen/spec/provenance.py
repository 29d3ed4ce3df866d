"""The keys that say what images tell of where they come from."""

from __future__ import annotations

from pydantic import Field

from synthgen.spec.section import Section


class ProvenanceSpec(Section):
    """What images tell of where they come from. Every image carries XMP with IPTC's `DigitalSourceType`, and the name
    and the version of the AI system that made it."""

    prompt: bool = Field(True, strict=True, description="The images carry their prompts, too.")
