"""The texts that a detector is asked: which, in what words, and whether the model takes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from synthgen.backends import Request
from synthgen.base.wording import plain, shown
from synthgen.errors import Problem
from synthgen.grounders._detectors import FAMILIES, DetectorFiles, Family
from synthgen.models import read_json
from synthgen.models.tokens import Counter, counter
from synthgen.types import Category, Job

MAX_REPORTED = 20  # queries that one check reports as too long
Excluded = Mapping[int, frozenset[int]]  # category id -> those that an object of it cannot be of


@dataclass(frozen=True, slots=True)
class Query:
    """A text that the detector looks for, with its class."""

    category_id: int
    word: str


def queries(job: Job, categories: Sequence[Category], excluded: Excluded | None = None) -> list[Query]:
    """The queries of a job's image: the names and synonyms of its classes, each once, in the order of the classes.
    `excluded`: classes that are looked for besides."""
    asked = _with_excluded(job.asked, excluded or {})
    chosen = [category for category in categories if category.id in asked]
    return [Query(c.id, word) for c in chosen for word in dict.fromkeys((c.name, *c.synonyms))]


def _with_excluded(asked: Iterable[int], excluded: Excluded) -> set[int]:
    asked = set(asked)
    return asked.union(*(excluded.get(i, frozenset()) for i in asked))


def text_of(word: str, family: Family, prompt: str) -> str:
    """What a model is asked for a name or synonym. `prompt`: the detector's option."""
    if family.asks == "queries":
        return prompt.replace("{}", word)
    if family.asks == "concepts":
        return word
    # Full stops and question marks separate queries: SPECIAL_TOKENS in modeling_grounding_dino.py.
    return " ".join(word.lower().replace(".", " ").replace("?", " ").split())


def query_problems(
    files: DetectorFiles, prompt: str, categories: Sequence[Category], excluded: Excluded, request: Request
) -> Iterable[Problem]:
    """Names and synonyms that a model on this machine does not take."""
    path, family = files.path(), FAMILIES[files.inspect()[0]]
    reader = counter(path, path)
    if reader is None:
        return
    most = family.most_tokens_of(read_json(path / "config.json"))
    if family.asks == "caption":
        yield from _caption_problems(family, reader, most, categories, excluded, request.max_objects)
        return
    words = [word for c in categories for word in (c.name, *c.synonyms)]
    tokens = reader.counts([text_of(word, family, prompt) for word in words])
    long = [(word, n) for word, n in zip(words, tokens, strict=True) if n > most]
    field, or_prompt = (".prompt", ", or `prompt`") if family.asks == "queries" else ("classes", "")
    for word, n in long[:MAX_REPORTED]:
        message = f"the query for {shown(word)} has {n} tokens, and {family.name} takes {most}; shorten it{or_prompt}"
        yield Problem(field, plain(message, 500))
    if more := long[MAX_REPORTED:]:
        yield Problem(field, f"the queries for {len(more):,} more have too many tokens")


def _caption_problems(
    family: Family,
    reader: Counter,
    most: int,
    categories: Sequence[Category],
    excluded: Excluded,
    max_objects: int,
) -> Iterable[Problem]:
    """Names without a word, and too many words for one image: the model takes all texts of an image as one."""
    lengths: dict[int, int] = {}
    for category in categories:
        words = list(dict.fromkeys((category.name, *category.synonyms)))
        texts = [text_of(word, family, "") for word in words]
        for word in (word for word, text in zip(words, texts, strict=True) if not text):
            yield Problem("classes", f"got {shown(word)}; {family.name} takes a name with a letter or a digit")
        lengths[category.id] = sum(n - 1 for n in reader.counts(texts))  # with its full stop, and without two ends
    with_excluded = {i: sum(lengths[j] for j in _with_excluded([i], excluded)) for i in lengths}
    asked = sorted(lengths, key=lambda i: -with_excluded[i])[:max_objects]
    longest = _with_excluded(asked, excluded)
    if (tokens := sum(lengths[i] for i in longest) + 2) > most:
        yield Problem(
            "classes",
            f"the names and synonyms of {len(longest)} classes, as an image may ask for, have {tokens} tokens, and "
            f"{family.name} takes {most}; ask for fewer objects an image, or shorten them",
        )
