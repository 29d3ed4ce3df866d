import numpy as np
import pytest

from synthgen.base.colours import class_colour
from synthgen.masks import mask_boxes
from synthgen.report.sheet import Tile, contact_sheet
from synthgen.types import Instances


def tile(
    height: int = 64, width: int = 64, categories: tuple[int, ...] = (1,), caption: str = "", rejected: bool = False
) -> Tile:
    """A grey image with a square in its middle for each category."""
    masks = np.zeros((len(categories), height, width), bool)
    masks[:, height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = True
    instances = Instances(masks, mask_boxes(masks), np.array(categories, np.int64))
    return Tile(np.full((height, width, 3), 128, np.uint8), instances, caption, rejected)


def has_colour(sheet: np.ndarray, colour: tuple[int, int, int], within: int = 12) -> bool:
    return bool((np.abs(sheet.astype(int) - colour).max(-1) <= within).any())


@pytest.mark.parametrize(
    ("count", "columns", "shape"),
    [
        (1, 8, (10 + 266, 10 + 266)),  # no wider than its tiles
        (3, 2, (10 + 2 * 266, 10 + 2 * 266)),
        (0, 8, (10, 10 + 266)),
    ],
)
def test_size(count: int, columns: int, shape: tuple[int, int]) -> None:
    sheet = contact_sheet([tile()] * count, {1: "cup"}, columns=columns)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (*shape, 3)


def test_masks_are_tinted_where_they_are() -> None:
    sheet = contact_sheet([tile()], {1: "cup"})
    image = sheet[10 : 10 + 256, 10 : 10 + 256]
    middle = image[100:156, 100:156].reshape(-1, 3)
    expected = 128 * 0.82 + np.array(class_colour(1)) * 0.18
    assert np.abs(middle - expected).max() <= 2
    assert (image[-30:, -30:] == 128).all()  # far from the object nothing is drawn
    assert has_colour(image[60:68, 100:156], class_colour(1))  # the contour, at a quarter of the height


def test_the_box_is_drawn_and_labelled() -> None:
    image = contact_sheet([tile()], {1: "cup"})[10 : 10 + 256, 10 : 10 + 256]
    label = image[30:64, 64:110]
    assert (np.abs(label.astype(int) - class_colour(1)).max(-1) < 12).mean() > 0.2
    assert not has_colour(image[100:156, 100:156], class_colour(1))  # and the label leaves the object alone


def test_input_is_left_alone() -> None:
    given = tile(256, 256)
    contact_sheet([given], {1: "cup"})
    assert (given.image == 128).all()


def test_colours_are_distinct_and_stable() -> None:
    colours = [class_colour(i) for i in range(1, 41)]
    assert len(set(colours)) == 40
    first = np.array(colours[:12])
    gaps = np.abs(first[:, None] - first).sum(-1) + 1000 * np.eye(12, dtype=int)
    assert gaps.min() > 60
    assert all(0 <= v <= 255 for colour in colours for v in colour)


@pytest.mark.parametrize(
    "name",
    [
        "a very long class name indeed " * 40,
        "W" * 5000,
        "日本語 😀",
        "two\nlines\x00\t\u202e",
        "\ud800",
        "",
    ],
)
def test_any_words_fit(name: str) -> None:
    plain = contact_sheet([tile(caption="x")] * 2, {1: "cup"}, title="x")
    sheet = contact_sheet([tile(caption=name or "x")] * 2, {1: name}, title=name or "x")
    assert sheet.shape == plain.shape
    gap = slice(10 + 256, 10 + 256 + 10)  # between the two tiles
    assert (sheet[50:, gap] == sheet[-1, -1]).all()


@pytest.mark.parametrize("category", [0, 99])
def test_a_class_without_name(category: int) -> None:
    contact_sheet([tile(categories=(category,))], {})


def test_no_instances_and_empty_masks() -> None:
    bare = Tile(np.full((64, 64, 3), 128, np.uint8), Instances.empty(64, 64))
    assert (contact_sheet([bare], {})[10:266, 10:266] == 128).all()
    unseen = Instances(np.zeros((1, 64, 64), bool), np.array([[8, 8, 40, 40]], np.float32), np.ones(1, np.int64))
    assert has_colour(contact_sheet([Tile(bare.image, unseen)], {1: "cup"}), class_colour(1))


@pytest.mark.parametrize(("height", "width"), [(64, 128), (300, 100), (1024, 768), (1, 200), (5, 5)])
def test_other_sizes(height: int, width: int) -> None:
    sheet = contact_sheet([tile(height, width), tile()], {1: "cup"}, tile_px=128)
    assert sheet.shape[1] <= 5 + 2 * (128 + 5)


def test_rejected_tiles_are_red() -> None:
    red = (240, 68, 62)
    kept = contact_sheet([tile(categories=(), caption="#1")], {})
    rejected = contact_sheet([tile(categories=(), caption="#1 sharpness", rejected=True)], {})
    assert not has_colour(kept, red, 0)
    assert has_colour(rejected, red, 0)
    assert rejected.shape == kept.shape


def test_same_bytes() -> None:
    tiles = [tile(caption="#1", categories=(1, 2, 30))]
    first, second = (contact_sheet(tiles, {1: "cup", 2: "tree"}, title="t") for _ in range(2))
    assert (first == second).all()


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="columns"):
        contact_sheet([tile()], {}, columns=0)
