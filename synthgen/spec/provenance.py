"""The keys that say what images tell of where they come from."""

from __future__ import annotations

from pydantic import Field, field_validator

from synthgen.errors import WrongValue
from synthgen.spec.section import Section


class SigningSpec(Section):
    """Signs by C2PA with a certificate of yours. The files and the key are read when an export is written."""

    certificate: str = Field(
        min_length=1,
        max_length=4096,
        description="A PEM file: the certificate and those of the authorities that vouch for it, in this order. Or `$` "
        "and the name of an environment variable that holds the PEM.",
    )
    key: str = Field(
        min_length=1,
        max_length=4096,
        description="The private key: a PEM file, or `$` and the name of an environment variable that holds the PEM.",
    )

    @field_validator("key")
    @classmethod
    def _is_no_key(cls, value: str) -> str:
        if "-----BEGIN" in value:
            raise WrongValue("got a key itself; takes the path of a PEM file, or $NAME of an environment variable")
        return value


class ProvenanceSpec(Section):
    """What images tell of where they come from. Every image carries XMP with IPTC's `DigitalSourceType`, and the name
    and the version of the AI system that made it."""

    c2pa: SigningSpec | None = Field(
        None, description="Signs the images of exports by C2PA; needs the extra `c2pa`. Null: they are not signed."
    )
    prompt: bool = Field(True, strict=True, description="The images carry their prompts, too.")
