"""What image files carry beside their pixels: XMP, EXIF, a colour profile, C2PA. Read from a PNG, and put into PNG,
JPEG and WebP files without touching the pixels.

Sources: PNG 3rd edition, 11.3 (iTXt, iCCP, eXIf); XMP Specification, part 3, 1.1 (where a packet goes); ICC.1:2022,
annex B (profiles in JPEG); WebP Container Specification; C2PA Technical Specification 2.2, A.3 (caBX, APP11, C2PA).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from synthgen.base import xmp

MAX_UNPACKED = 16_000_000  # bytes of a compressed profile or packet: few kilobytes can unpack to gigabytes
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_XMP_KEYWORD = b"XML:com.adobe.xmp\0"
_SEGMENT = 65_533  # the most bytes of a JPEG segment, without its marker and length
_EXIF, _XMP, _ICC = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0"
_EXTENDED_XMP = b"http://ns.adobe.com/xmp/extension/\0"


class Metadata(NamedTuple):
    """What a file carries, each as bytes, empty if it has none.

    Attributes:
        xmp: a packet.
        exif: a TIFF structure.
        icc: an ICC profile.
        c2pa: a manifest store (JUMBF).
    """

    xmp: bytes = b""
    exif: bytes = b""
    icc: bytes = b""
    c2pa: bytes = b""

    @classmethod
    def of_png(cls, data: bytes) -> Metadata:
        """
        Raises:
            ValueError: something compressed unpacks to more than `MAX_UNPACKED`, or not at all.
        """
        found: dict[str, bytes] = {}
        for kind, content in _chunks(data):
            if kind == b"iTXt" and content.startswith(_XMP_KEYWORD):
                is_compressed, rest = content[len(_XMP_KEYWORD) :][:1] == b"\1", content[len(_XMP_KEYWORD) + 2 :]
                text = rest.split(b"\0", 2)[-1]  # after the language and the translated keyword
                found["xmp"] = _unpacked(text) if is_compressed else text
            elif kind == b"iCCP":
                found["icc"] = _unpacked(content.partition(b"\0")[2][1:])
            elif kind == b"eXIf":
                found["exif"] = content
            elif kind == b"caBX":
                found["c2pa"] = content
        return cls(**found)

    def put_into(self, data: bytes) -> bytes:
        """A PNG, JPEG or lossy WebP file, which carries none of this yet, with all of it.

        Raises:
            ValueError: the file is of another format, or its format cannot hold as much.
        """
        if not any(self):
            return data
        if data.startswith(_PNG):
            return self._png(data)
        if data.startswith(_JPEG):
            return self._jpeg(data)
        if data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8 ":
            return self._webp(data)
        raise ValueError("it is no PNG, JPEG or lossy WebP")

    def _png(self, data: bytes) -> bytes:
        chunks = {
            b"iCCP": self.icc and b"ICC profile\0\0" + zlib.compress(self.icc),
            b"eXIf": self.exif,
            b"iTXt": self.xmp and _XMP_KEYWORD + b"\0\0\0\0" + self.xmp,
            b"caBX": self.c2pa,
        }
        written = b"".join(png_chunk(kind, content) for kind, content in chunks.items() if content)
        after = len(_PNG) + 25  # the header
        return data[:after] + written + data[after:]

    def _jpeg(self, data: bytes) -> bytes:
        if len(self.exif) > _SEGMENT - len(_EXIF):
            raise ValueError(f"its EXIF has {len(self.exif):,} bytes; a JPEG holds {_SEGMENT - len(_EXIF):,}")
        segments = [(0xE1, _EXIF + self.exif)] if self.exif else []
        standard, extended, digest = xmp.split(self.xmp, _SEGMENT - len(_XMP))
        segments += [(0xE1, _XMP + standard)] if standard else []
        segments += [(0xE1, part) for part in _extended_xmp(extended, digest)]
        profiles = _parts(self.icc, _SEGMENT - len(_ICC) - 2)
        if len(profiles) > 255:
            raise ValueError(f"its colour profile has {len(self.icc):,} bytes, which is more than a JPEG holds")
        segments += [(0xE2, _ICC + bytes([n, len(profiles)]) + part) for n, part in enumerate(profiles, 1)]
        segments += [(0xEB, part) for part in _jumbf(self.c2pa)]
        written = b"".join(struct.pack(">BBH", 0xFF, marker, len(part) + 2) + part for marker, part in segments)
        after = 2  # The JFIF segment, if there is one, stays the first.
        if data[2:4] == b"\xff\xe0":
            after += 2 + int.from_bytes(data[4:6], "big")
        return data[:after] + written + data[after:]

    def _webp(self, data: bytes) -> bytes:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
        flags = 0x20 * bool(self.icc) | 0x08 * bool(self.exif) | 0x04 * bool(self.xmp)
        size = [(side - 1).to_bytes(3, "little") for side in (width, height)]
        before = [(b"VP8X", bytes([flags, 0, 0, 0]) + size[0] + size[1]), (b"ICCP", self.icc)]
        behind = [(b"EXIF", self.exif), (b"XMP ", self.xmp), (b"C2PA", self.c2pa)]
        parts = [_riff(before), data[12:], _riff(behind)]
        return b"RIFF" + struct.pack("<I", 4 + sum(map(len, parts))) + b"WEBP" + b"".join(parts)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The chunks of a PNG: type and content. Pixels are not copied."""
    at = len(_PNG)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > len(data):
            return
        if kind != b"IDAT":
            yield kind, data[at + 8 : at + 8 + length]
        at += 12 + length


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG: its length, its kind, what it holds, and their checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _unpacked(data: bytes) -> bytes:
    stream = zlib.decompressobj()
    try:
        unpacked = stream.decompress(data, MAX_UNPACKED)
    except zlib.error as error:
        raise ValueError("what it carries beside its pixels is damaged") from error
    if not stream.eof:
        raise ValueError(f"what it carries beside its pixels is cut short, or has more than {MAX_UNPACKED:,} bytes")
    return unpacked


def _parts(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def _extended_xmp(extended: bytes, digest: bytes) -> Iterator[bytes]:
    """The segments of an extended packet. Each has the packet's MD5 sum, its length and the part's place in it."""
    start = 0
    for part in _parts(extended, 65_400):
        yield _EXTENDED_XMP + digest + struct.pack(">II", len(extended), start) + part
        start += len(part)


def _jumbf(store: bytes) -> Iterator[bytes]:
    """The segments of a manifest store (ISO 19566-5, D.2). Each repeats the length and the type of the box."""
    for number, part in enumerate(_parts(store[8:], 64_000), 1):
        yield struct.pack(">2sHI", b"JP", 1, number) + store[:8] + part


def _riff(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """RIFF chunks; those without content are left out. Each has an even length."""
    return b"".join(
        kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
        for kind, content in chunks
        if content
    )
