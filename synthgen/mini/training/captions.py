"""Captions of composed scenes, and every word that they can have."""

from collections.abc import Sequence

import numpy as np

from synthgen.mini.backgrounds import BACKGROUNDS
from synthgen.mini.scenes import CLASSES, COLOURS, Thing

_COUNTS = {2: "two", 3: "three", 4: "four"}
_PLURALS = {"bus": "buses", "fish": "fish", "strawberry": "strawberries"}


def caption(background: str, things: Sequence[Thing], rng: np.random.Generator | None = None) -> str:
    """What a scene shows, as in "a photo of a blue car and two ducks on grass".

    Without `rng` complete and always the same. With it groups come in any order, a group's colour is left out with
    probability 0.3, and its count is written out ("a duck and a duck", as a dataset spec's prompts have it) with 0.3.
    """
    groups: dict[tuple[str, str], int] = {}
    dropped: dict[tuple[int, str | None], bool] = {}
    for thing in things:
        kind = (thing.category, thing.colour)
        if kind not in dropped:
            dropped[kind] = rng is not None and rng.random() < 0.3
        key = ("" if dropped[kind] else thing.colour or "", CLASSES[thing.category])
        groups[key] = groups.get(key, 0) + 1
    order = list(groups)
    if rng is not None:
        order = [order[i] for i in rng.permutation(len(order))]
    parts: list[str] = []
    for colour, name in order:
        count = groups[colour, name]
        if count in _COUNTS and (rng is None or rng.random() >= 0.3):
            parts.append(f"{_COUNTS[count]} {colour} {plural(name)}".replace("  ", " "))
        else:
            one = f"{colour} {name}".strip()
            parts.extend([("an " if one[0] in "aeiou" else "a ") + one] * count)
    return f"a photo of {' and '.join(parts)} on {background}" if parts else f"a photo of {background}"


def plural(name: str) -> str:
    """The plural of a class: "strawberries" of "strawberry"."""
    return _PLURALS.get(name, name + "s")


def words() -> list[str]:
    """Every word that a caption can have, and the few that prompts join them with: what a tokenizer must know."""
    names = [word for name in CLASSES for word in f"{name} {plural(name)}".split()]
    joining = [",", ".", "a", "an", "and", "at", "by", "in", "near", "of", "on", "photo", "the", "with"]
    return sorted({*names, *joining, *COLOURS, *BACKGROUNDS, *_COUNTS.values()})
