"""Captions of composed scenes."""

import re

import numpy as np
import pytest

from synthgen.mini.scenes import CLASSES, COLOURS, Thing, draw
from synthgen.mini.training.captions import caption, plural, words


def thing(name: str, colour: str | None = None) -> Thing:
    return Thing(CLASSES.index(name), colour, (0, 0, 9, 9))


def test_same_state_same_caption() -> None:
    one, two = np.random.default_rng(3), np.random.default_rng(3)
    for _ in range(30):
        a, b = draw(one), draw(two)
        assert caption(a.background, a.things, one) == caption(b.background, b.things, two)
    assert one.random() == two.random()


CAPTIONS = [
    ("grass", [], "a photo of grass"),  # background only
    ("sand", [("apple", None)], "a photo of an apple on sand"),  # an
    ("snow", [("car", "blue")], "a photo of a blue car on snow"),  # colour
    ("sky", [("umbrella", None)], "a photo of an umbrella on sky"),
    ("sky", [("umbrella", "red")], "a photo of a red umbrella on sky"),  # the article is the colour's
    ("wood", [("bus", "red")] * 2, "a photo of two red buses on wood"),
    ("brick", [("strawberry", None)] * 3, "a photo of three strawberries on brick"),
    ("water", [("fish", None)] * 4, "a photo of four fish on water"),
    ("water", [("duck", None)] * 5, "a photo of " + " and ".join(["a duck"] * 5) + " on water"),  # no word for five
    ("grass", [("car", "blue"), ("duck", None), ("duck", None)], "a photo of a blue car and two ducks on grass"),
    ("grass", [("duck", None), ("cup", "red"), ("duck", None)], "a photo of two ducks and a red cup on grass"),
    ("sand", [("car", "red"), ("car", "blue")], "a photo of a red car and a blue car on sand"),  # apart by colour
    ("sand", [("sports ball", None)] * 2, "a photo of two sports balls on sand"),
]


@pytest.mark.parametrize(("background", "named", "text"), CAPTIONS)
def test_caption(background: str, named: list[tuple[str, str | None]], text: str) -> None:
    assert caption(background, [thing(*name) for name in named]) == text


def test_captions_vary() -> None:
    rng = np.random.default_rng(0)
    things = [thing("car", "blue"), thing("duck"), thing("duck")]
    said = [caption("grass", things, rng) for _ in range(1000)]
    ducks, cars = ("two ducks", "a duck and a duck"), ("a blue car", "a car")
    pairs = [(car, duck) for car in cars for duck in ducks]
    orders = {f"a photo of {a} and {b} on grass" for pair in pairs for a, b in (pair, pair[::-1])}
    assert set(said) == orders
    assert 0.25 < np.mean(["blue" not in text for text in said]) < 0.35
    assert 0.25 < np.mean(["two" not in text for text in said]) < 0.35


def test_every_word_is_known() -> None:
    rng = np.random.default_rng(1)
    drawn = [draw(rng, most=4) for _ in range(2000)]
    texts = [caption(scene.background, scene.things, rng) for scene in drawn]
    texts += [caption(scene.background, scene.things) for scene in drawn]
    said = {word for text in texts for word in re.findall(r"\w+|[^\w\s]", text)}
    assert said <= set(words())
    assert words() == sorted(set(words()))
    assert {"with", "in", "the", ",", "sports", "balls", "four", *plural("bus").split(), *COLOURS} <= set(words())
