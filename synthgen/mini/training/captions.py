"""Captions of composed scenes, and every word that they can have."""

from collections.abc import Sequence

import numpy as np

from synthgen.mini.backgrounds import BACKGROUNDS
from synthgen.mini.scenes import CLASSES, COLOURS, Thing

_COUNTS = {2: "two", 3: "three", 4: "four"}
_PLURALS = {"bus": "buses", "fish": "fish", "strawberry": "strawberries"}


def caption(background: str, things: Sequence[Thing], rng: np.random.Generator | None = None) -> str:
    """The caption of a scene, as in "a photo of a blue car and two ducks on grass".

    Without `rng` the caption is complete and always the same. With it, groups come in any order, a group's colour is
    left out with probability 0.3, and its things are listed ("a duck and a duck", as in a spec's prompts) with 0.3.
    """
    groups: dict[tuple[str, str], int] = {}
    colourless: dict[tuple[int, str | None], bool] = {}
    for thing in things:
        kind = (thing.category, thing.colour)
        if kind not in colourless:
            colourless[kind] = rng is not None and rng.random() < 0.3
        key = ("" if colourless[kind] else thing.colour or "", CLASSES[thing.category])
        groups[key] = groups.get(key, 0) + 1
    order = list(groups)
    if rng is not None:
        order = [order[i] for i in rng.permutation(len(order))]
    phrases: list[str] = []
    for colour, name in order:
        count = groups[colour, name]
        if count in _COUNTS and (rng is None or rng.random() >= 0.3):
            phrases.append(f"{_COUNTS[count]} {colour} {plural(name)}".replace("  ", " "))
        else:
            single = f"{colour} {name}".strip()
            phrases.extend([("an " if single[0] in "aeiou" else "a ") + single] * count)
    return f"a photo of {' and '.join(phrases)} on {background}" if phrases else f"a photo of {background}"


def plural(name: str) -> str:
    """The plural of a class: "strawberries" for "strawberry"."""
    return _PLURALS.get(name, name + "s")


def words() -> list[str]:
    """The words that a tokenizer must know: all that captions can have, and a few with which prompts join them."""
    names = [word for name in CLASSES for word in f"{name} {plural(name)}".split()]
    joining = [",", ".", "a", "an", "and", "at", "by", "in", "near", "of", "on", "photo", "the", "with"]
    return sorted({*names, *joining, *COLOURS, *BACKGROUNDS, *_COUNTS.values()})
