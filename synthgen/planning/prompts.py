"""The words of prompts: a template whose slots are filled, with the objects that an image is asked for."""

from __future__ import annotations

from collections.abc import Sequence

from synthgen.planning.draws import Dealer
from synthgen.spec import DatasetSpec, template_slots


class PromptDealer:
    """Deals templates, slot values and words for classes, each in proportion to its weight.

    Args:
        key: of the round. Equal keys give equal choices.
    """

    def __init__(self, spec: DatasetSpec, *key: object) -> None:
        templates = {
            True: spec.prompts.templates,
            False: spec.prompts.background_templates,
        }  # by whether it has objects
        self._texts = {
            kind: [(t.text, sorted(template_slots(t.text) - {"objects"})) for t in ts] for kind, ts in templates.items()
        }
        self._templates = {
            kind: Dealer({i: t.weight for i, t in enumerate(ts)}, *key, "template") for kind, ts in templates.items()
        }
        self._slots = {name: Dealer(values, *key, "slot", name) for name, values in spec.prompts.slots.items()}
        self._things = {c.id: with_article(c.name) for c in spec.categories}
        self._words = {i: Dealer(c.prompt, *key, "words", c.name) for i, c in enumerate(spec.classes, 1) if c.prompt}

    def template(self, has_objects: bool) -> tuple[str, dict[str, str]]:
        """The next template, and a value for each of its slots."""
        text, names = self._texts[has_objects][self._templates[has_objects].deal()]
        return text, {name: self._slots[name].deal() for name in names}

    def prompt(self, template: str, slots: dict[str, str], asked: Sequence[int]) -> str:
        """The template with its slots filled and its objects named. `asked`: category ids."""
        things = [self._words[c].deal() if c in self._words else self._things[c] for c in asked]
        return template.format(objects=enumeration(things), **slots)


def with_article(name: str) -> str:
    """`umbrella` -> "an umbrella"."""
    return ("an " if name[0].lower() in "aeiou" else "a ") + name


def enumeration(things: Sequence[str]) -> str:
    """`["a cat", "an umbrella"]` -> "a cat and an umbrella"."""
    return " and ".join(things)
