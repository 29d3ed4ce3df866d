"""Masks of Label Studio's brush, also as its own library writes and reads them."""

import json
from pathlib import Path

import numpy as np
import pytest
from readers import run_reader

from synthgen.base.brush_rle import decode_brush, encode_brush


def runs(mask: np.ndarray) -> np.ndarray:
    """The runs of a mask, row by row; the first is background."""
    flat = mask.reshape(-1).astype(int)
    edges = np.flatnonzero(np.diff(flat, prepend=0))
    return np.diff(edges, prepend=0, append=len(flat))


def masks() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    found = [random.random((7, 9)) < share for share in (0.0, 0.1, 0.5, 0.9, 1.0)]
    large = np.zeros((300, 400), bool)
    large[40:290, 5:390] = True
    large[100:110, 100:110] = False
    return [*found, large, np.ones((300, 400), bool), np.zeros((1, 1), bool), np.ones((1, 1), bool)]


def test_masks_come_back() -> None:
    for mask in masks():
        assert np.array_equal(decode_brush(encode_brush(runs(mask)), *mask.shape), mask)


SCRIPT = """
import json, sys
import numpy as np
from label_studio_sdk.converter.brush import decode_rle, encode_rle, mask2rle
found = []
for mask, rle in json.load(open(sys.argv[1])):
    mask = np.array(mask, np.uint8)
    assert (decode_rle(rle).reshape(*mask.shape, 4) == mask[..., None] * 255).all()
    found.append(mask2rle(mask * 255))
soft = np.array([[0, 1, 127, 128, 200, 255]], np.uint8)  # a soft edge
print(json.dumps([found, mask2rle(soft)]))
"""


def test_it_is_the_encoding_of_label_studio(tmp_path: Path) -> None:
    ours = [encode_brush(runs(mask)) for mask in masks()]
    file = tmp_path / "masks.json"
    file.write_text(json.dumps([[m.astype(int).tolist(), rle] for m, rle in zip(masks(), ours, strict=True)]))
    theirs, soft = run_reader(SCRIPT, file)
    for mask, a, b in zip(masks(), ours, theirs, strict=True):
        assert a == b[: len(a)] and set(b[len(a) :]) <= {0}
        assert np.array_equal(decode_brush(b, *mask.shape), mask)
    assert decode_brush(soft, 1, 6).tolist() == [[False] * 3 + [True] * 3]


def test_listed_values_are_read() -> None:
    """Label Studio's editor lists values that do not repeat: two pixels, of which the second is half covered."""
    bits = f"{8:032b}" + f"{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    bits += "0" + "00" + f"{7:03b}" + "".join(f"{value:08b}" for value in (9, 9, 9, 127, 9, 9, 9, 128))
    bits += "0" * (-len(bits) % 8)
    data = [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
    assert decode_brush(data, 1, 2).tolist() == [[False, True]]


GOOD = encode_brush(np.array([2, 3, 1]))


@pytest.mark.parametrize(
    ("data", "size", "words"),
    [
        (GOOD, (2, 4), "24 values of 8 bits, expected 32 of 8"),
        (GOOD[:-3], (2, 3), "cut short"),
        ([], (2, 3), "cut short"),
        ([0, 0, 0, 24, 8, *GOOD[5:]], (2, 3), "24 values of 2 bits, expected 24 of 8"),
        ([*GOOD[:7], 255, 255, 255, 255, 255], (2, 3), "does not sum to the image"),
        ([256, *GOOD], (2, 3), "no list of bytes"),
        ([-1], (2, 3), "no list of bytes"),
        (["0"], (2, 3), "no list of bytes"),
    ],
)
def test_what_is_refused(data: list[int], size: tuple[int, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        decode_brush(data, *size)


def test_garbled_data_is_refused_or_read() -> None:
    random = np.random.default_rng(1)
    for _ in range(500):
        data = list(GOOD)
        for _ in range(random.integers(1, 4)):
            data[random.integers(len(data))] = int(random.integers(256))
        try:
            assert decode_brush(data, 2, 3).shape == (2, 3)
        except ValueError as error:
            assert str(error).startswith("an RLE ")
