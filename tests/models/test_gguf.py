"""Headers of GGUF files, as the package `gguf` writes them."""

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from synthgen.errors import BackendError
from synthgen.models.gguf import SCALARS, TYPES, require_gguf
from synthgen.models.weights import Held


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """64 x 32 numbers in blocks of 32 (34 bytes each), and 5 numbers of 4 bytes; settings of several kinds."""
    path, kind = tmp_path / "x.gguf", GGMLQuantizationType.Q8_0
    writer = gguf.GGUFWriter(path, "flux")
    writer.add_array("words", ["a", "b"])
    writer.add_array("numbers", [1, 2, 3])
    writer.add_bool("yes", True)
    matrix = np.ones((64, 32), np.float32)
    writer.add_tensor("matrix", gguf.quants.quantize(matrix, kind), raw_dtype=kind)
    writer.add_tensor("bias", np.ones(5, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_sizes_are_those_of_the_tensors(file: Path) -> None:
    assert require_gguf(file) == Held(tensors=2, largest=64 * 32, size=64 * 34 + 5 * 4)


def test_the_types_are_those_that_diffusers_computes_with() -> None:
    from diffusers.quantizers.gguf.utils import SUPPORTED_GGUF_QUANT_TYPES

    plain = (GGMLQuantizationType.F32, GGMLQuantizationType.F16)
    known = {int(kind): (kind.name, *GGML_QUANT_SIZES[kind]) for kind in (*plain, *SUPPORTED_GGUF_QUANT_TYPES)}
    assert known == TYPES
    assert len(SCALARS) == len(GGUFValueType)


def test_a_file_that_is_cut_anywhere_is_refused(file: Path) -> None:
    whole = file.read_bytes()
    for length in [*range(0, 300, 7), len(whole) // 2, len(whole) - 40]:
        file.write_bytes(whole[:length])
        with pytest.raises(BackendError, match=r"x\.gguf is no whole GGUF file: "):
            require_gguf(file)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"GGML" + bytes(60), "it begins with b'GGML'"),
        (struct.pack("<4sIQQ", b"GGUF", 1, 0, 0), "version 1; takes GGUF of version 2 or 3"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 2**60, 0), "takes at most 1,000,000"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 0, 2**60), "takes at most 1,000,000"),
        (struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, 2**63), "cut short, or too long"),
        (struct.pack("<4sIQQQcIIQ", b"GGUF", 3, 0, 1, 1, b"k", 9, 4, 2**62), "takes at most 1,000,000"),
        (struct.pack("<4sIQQQcI", b"GGUF", 3, 0, 1, 1, b"k", 77), "a value is of the type 77"),
        (
            struct.pack("<4sIQQQcIQIQ", b"GGUF", 3, 1, 0, 1, b"t", 1, 32, 16, 0),
            "is of the type 16; diffusers takes",
        ),
        (struct.pack("<4sIQQQcIQIQ", b"GGUF", 3, 1, 0, 1, b"t", 1, 2**40, 0, 0), "its tensors need 4,398,046,511,104"),
        (struct.pack("<4sIQQQcIQIQ", b"GGUF", 3, 1, 0, 1, b"t", 1, 33, 8, 0), "has no whole blocks of 32"),
        (struct.pack("<4sIQQQcI", b"GGUF", 3, 1, 0, 1, b"t", 2**31), "a tensor has 2,147,483,648 dimensions"),
    ],
)
def test_headers_that_ask_for_more_than_the_file_has(tmp_path: Path, header: bytes, message: str) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(header.ljust(200, b"\0") if b"GGML" not in header else header)
    with pytest.raises(BackendError) as raised:
        require_gguf(path)
    assert message in str(raised.value), raised.value


def test_tensors_that_share_their_bytes_are_counted_each(tmp_path: Path) -> None:
    """Each would be copied when it is read."""
    info = struct.pack("<QcIQIQ", 1, b"t", 1, 40, 0, 0)
    many = struct.pack("<4sIQQ", b"GGUF", 3, 100, 0) + info * 100
    (tmp_path / "x.gguf").write_bytes(many + bytes(500))
    with pytest.raises(BackendError, match="its tensors need 16,000 bytes"):
        require_gguf(tmp_path / "x.gguf")
