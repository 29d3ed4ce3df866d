"""A part of a dataset: some classes, under other names; fewer objects of frequent classes; fewer empty images."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from synthgen.backends import SubsetOptions
from synthgen.store.content import Stored
from synthgen.types import Annotation, Category, DatasetInfo, Record


class Subset:
    """The records that remain, with the classes that remain: see `backends.Records` and `SubsetOptions`.

    Images are taken run by run, within a run in the order of a hash of their ids, and one is left out if it would bring
    a class above its most. So a run that joins a growing dataset changes nothing of the part that was there. Memory
    holds a few hundred bytes an image if images are left out, and one image else.
    """

    def __init__(self, records: Stored, categories: Sequence[Category], options: SubsetOptions) -> None:
        self.categories, self._ids = _mapped(categories, options)
        self._old = {c.id: frozenset(old for old, new in self._ids.items() if new == c.id) for c in self.categories}
        self._records, self._options = records, options
        self._chosen: set[int] | None = None
        self.images = 0  # before images are left out; 0 while none are counted
        if options.max_per_class is not None or options.negatives is not None:
            self._chosen = self._choose()

    def __iter__(self) -> Iterator[Record]:
        return self._select(self._records)

    def split(self, name: str) -> Iterator[Record]:
        return self._select(self._records.split(name))

    def info(self, info: DatasetInfo) -> DatasetInfo:
        """What the part says of itself."""
        return replace(info, categories=self.categories, subset=self._sentence())

    def _select(self, records: Iterable[Record]) -> Iterator[Record]:
        for record in records:
            if self._chosen is None or record.job.id in self._chosen:
                yield self._converted(record)

    def _converted(self, record: Record) -> Record:
        ids, least, job = self._ids, self._options.min_area or 0, record.job
        kept = tuple(
            replace(a, category_id=ids[a.category_id], ignore=a.ignore or a.area < least)
            for a in record.annotations
            if a.category_id in ids
        )
        asked = [i for i, category_id in enumerate(job.asked) if category_id in ids]
        layout = None if job.layout is None else tuple(job.layout[i] for i in asked)
        job = replace(job, asked=tuple(ids[job.asked[i]] for i in asked), layout=layout)
        looked_for = frozenset(new for new, old in self._old.items() if old <= record.looked_for)
        dropped = frozenset(ids[old] for old in record.dropped if old in ids)
        return replace(record, job=job, annotations=kept, looked_for=looked_for, dropped=dropped)

    def _choose(self) -> set[int]:
        """The ids of the images that remain."""
        held, runs = dict[int, tuple[tuple[int, int], ...]](), dict[int, int]()
        for record in self._records:
            held[record.job.id] = _counts(self._converted(record).annotations)
            runs[record.job.id] = record.job.run
        self.images = len(held)
        order = sorted(held, key=lambda image_id: (runs[image_id], hashlib.sha256(b"%d" % image_id).digest()))
        most, total = self._options.max_per_class, Counter[int]()
        chosen = []
        for image_id in (i for i in order if held[i]):
            counts = dict(held[image_id])
            if most is None or all(total[c] + n <= most for c, n in counts.items()):
                total.update(counts)
                chosen.append(image_id)
        empty = [image_id for image_id in order if not held[image_id]]
        if (share := self._options.negatives) is not None:
            empty = empty[: int(len(chosen) * share / (1 - share) + 1e-9)]
        return {*chosen, *empty}

    def _sentence(self) -> str:
        options, said = self._options, []
        if isinstance(options.classes, Mapping):
            renamed = (f"{old} as {new}" if new else f"no {old}" for old, new in options.classes.items())
            said.append(f"classes: {', '.join(renamed)}")
        elif options.classes:
            said.append(f"only the classes {', '.join(options.classes)}")
        if options.min_area is not None:
            said.append(f"objects of fewer than {options.min_area} px as regions to be ignored")
        if options.max_per_class is not None:
            said.append(f"at most {options.max_per_class} objects of a class")
        if options.negatives is not None:
            said.append(f"at most {options.negatives:.4g} of the images without an object")
        if self._chosen is not None:
            said.append(f"{len(self._chosen)} of {self.images} images")
        return "; ".join(said)


def part_options(options: object) -> SubsetOptions | None:
    """The options of an exporter if they ask for a part of the dataset; None if they take all of it."""
    if isinstance(options, SubsetOptions) and not SubsetOptions.added <= options.untouched():
        return options
    return None


def subset_of(records: Stored, info: DatasetInfo, options: object) -> tuple[Stored, DatasetInfo]:
    """The part that the options of an exporter ask for, and what it says of itself."""
    if (asked := part_options(options)) is None:
        return records, info
    part = Subset(records, info.categories, asked)
    return part, part.info(info)


def _counts(annotations: Sequence[Annotation]) -> tuple[tuple[int, int], ...]:
    return tuple(Counter(a.category_id for a in annotations if not a.ignore).items())


def _mapped(categories: Sequence[Category], options: SubsetOptions) -> tuple[tuple[Category, ...], dict[int, int]]:
    """The classes that remain, and the new id of each old one that does."""
    has_own_ids = any(category.own_id for category in categories)  # These stay; otherwise ids have no gaps.
    made: dict[str, Category] = {}
    ids = {}
    for category in categories:
        if (name := options.exported_name(category.name)) is None:
            continue
        first = made.get(name)
        if first is None:
            own = category.exported_id if has_own_ids else None
            made[name] = replace(category, id=len(made) + 1, name=name, own_id=own)
        else:
            made[name] = replace(first, synonyms=tuple(dict.fromkeys((*first.synonyms, *category.synonyms))))
        ids[category.id] = made[name].id
    return tuple(made.values()), ids
