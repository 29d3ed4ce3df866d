"""XMP: what an image says of where it comes from.

Packets: XMP Specification, part 1 (ISO 16684-1). Fields: IPTC Photo Metadata Standard 2025.1,
https://www.iptc.org/std/photometadata/specification/IPTC-PhotoMetadata-2025.1.html
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from synthgen import __version__

# https://cv.iptc.org/newscodes/digitalsourcetype: made by a model, or a picture of which a model made a part.
DigitalSourceType = Literal["trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"]
SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
TOOL = f"synthgen {__version__}"
_NAMESPACES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "xmpNote": "http://ns.adobe.com/xmp/note/",
}
_FIELDS = {
    "digital_source_type": "Iptc4xmpExt:DigitalSourceType",
    "system": "Iptc4xmpExt:AISystemUsed",
    "version": "Iptc4xmpExt:AISystemVersionUsed",
    "prompt": "Iptc4xmpExt:AIPromptInformation",
}
_KEPT = {*_FIELDS.values(), "xmp:CreatorTool"}  # in a standard packet beside an extended one
_WRAPPER = re.compile(rb"<\?xpacket[^>]*\?>")
# Characters that XML 1.0 cannot hold, not even escaped.
_UNFIT = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an image comes from.

    Attributes:
        system, version: the AI system that made it, and which version of it.
        prompt: what it was asked for.
    """

    digital_source_type: DigitalSourceType = "trainedAlgorithmicMedia"
    system: str = ""
    version: str = ""
    prompt: str = ""

    def packet(self) -> bytes:
        """The XMP packet, which holds no date: equal origins give equal bytes. Empty fields are left out."""
        values = {_FIELDS[name]: getattr(self, name) for name in _FIELDS}
        values["Iptc4xmpExt:DigitalSourceType"] = SOURCE_TYPES + self.digital_source_type
        return _packet({**values, "xmp:CreatorTool": TOOL})

    @classmethod
    def of(cls, packet: bytes) -> Origin:
        """What a packet says, whoever wrote it; the defaults for all that it does not say."""
        found = _values(packet)
        said = {name: found.get(field, "") for name, field in _FIELDS.items()}
        kind = said["digital_source_type"].removeprefix(SOURCE_TYPES)
        known: dict[str, DigitalSourceType] = {each: each for each in get_args(DigitalSourceType)}
        return cls(known.get(kind, "trainedAlgorithmicMedia"), said["system"], said["version"], said["prompt"])


def split(packet: bytes, most: int) -> tuple[bytes, bytes, bytes]:
    """A packet as a standard one of at most `most` bytes and an extended one that holds everything (XMP Specification,
    part 3, 1.1.3.1).

    Returns:
        The standard packet, the extended one, and its MD5 sum in hexadecimal, which the standard one names. The last
        two are empty if the packet fits.
    """
    if len(packet) <= most:
        return packet, b"", b""
    extended = _WRAPPER.sub(b"", packet).strip()
    digest = hashlib.md5(extended, usedforsecurity=False).hexdigest().upper()
    found = _values(packet)
    kept = {name: value for name, value in found.items() if name in _KEPT and len(value) <= 1000}
    return _packet({**kept, "xmpNote:HasExtendedXMP": digest}), extended, digest.encode()


def _packet(values: Mapping[str, str]) -> bytes:
    written = {name: escape(_UNFIT.sub("\ufffd", value), {"\r": "&#13;"}) for name, value in values.items() if value}
    used = {"rdf", *(name.partition(":")[0] for name in written)}
    lines = [
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>',
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{_NAMESPACES["rdf"]}">',
        '<rdf:Description rdf:about=""'
        + "".join(f' xmlns:{prefix}="{uri}"' for prefix, uri in _NAMESPACES.items() if prefix in used - {"rdf"})
        + ">",
        *(f"<{name}>{value}</{name}>" for name, value in written.items()),
        "</rdf:Description></rdf:RDF></x:xmpmeta>",
        '<?xpacket end="r"?>',
    ]
    return "\n".join(lines).encode()


def _values(packet: bytes) -> dict[str, str]:
    """The plain values of a packet by their names, such as `xmp:CreatorTool`, in the namespaces that are known here.
    Empty if it is no XML, or declares entities, which may expand to any size."""
    if b"<!" in packet:
        return {}
    try:
        root = ElementTree.fromstring(_WRAPPER.sub(b"", packet).strip())
    except ElementTree.ParseError:
        return {}
    prefixes = {f"{{{uri}}}": f"{prefix}:" for prefix, uri in _NAMESPACES.items()}
    found: dict[str, str] = {}
    for description in root.iter(f"{{{_NAMESPACES['rdf']}}}Description"):
        for name, value in (*description.items(), *((field.tag, field.text or "") for field in description)):
            uri, brace, rest = name.partition("}")
            if brace and uri + brace in prefixes:
                found[prefixes[uri + brace] + rest] = value
    return found
