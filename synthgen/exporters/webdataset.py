"""WebDataset: tars of images and labels, `{split}-000000.tar`, that trainers stream.

Read by `webdataset` and by Hugging Face's `datasets`. Format: https://github.com/webdataset/webdataset
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from os import SEEK_END
from typing import IO, Any

import orjson
from pydantic import Field

from synthgen.backends import ExportedFolder, Exporter, Folder, ImageOptions, Records, Request
from synthgen.base.wording import shown
from synthgen.errors import Problem
from synthgen.exporters._dataset_card import Card, Split, split_name, split_problems
from synthgen.exporters._dataset_reader import NOT_EXPORTED, require_image, require_line
from synthgen.exporters._dataset_rows import Survey, difference
from synthgen.exporters._dataset_writers import metadata_line
from synthgen.types import Category, DatasetInfo, Record

INDEX, CARD = "dataset.json", "README.md"
COLUMNS = {
    "png, jpg or webp": "the image, decoded to a `PIL.Image` when it is read",
    "json": "its labels and what it was made from: `annotations` are COCO's, with the name of the class as `category`",
    "__key__": "the image's number in the dataset, with zeros before it",
}
END = bytes(2 * tarfile.BLOCKSIZE)  # of a tar


class Config(ImageOptions):
    """Options of `webdataset`."""

    max_shard_bytes: int = Field(
        1_000_000_000, ge=1, description="Most bytes of a tar; an image that alone is larger has a tar of its own."
    )


class Backend(Exporter[Config]):
    """Writes two members for each image, in order of id: `000000000001.png` and `000000000001.json`. Equal datasets
    give equal bytes: members have no owner and the time 0.

    The JSON has `image_id`, `width`, `height`, `prompt`, `negative_prompt`, `seed`, `slots`, `measures` and
    `annotations`: COCO's `id`, `category_id`, `bbox` (x, y, width and height in px), `area`, `iscrowd` (1: to be
    ignored) and `segmentation` (compressed RLE), with the name of the class as `category`, and `scores`. A number that
    could not be measured is null.

    `dataset.json` has the classes, and for each tar of a split its name (`url`), its images (`nsamples`) and its
    annotations. `README.md` is a card that tells `datasets` the types and the splits, in whose names a `-` becomes
    `_`, and `all` becomes `all_`. Memory holds one image.
    """

    def check(self, request: Request) -> Iterable[Problem]:
        yield from super().check(request)
        yield from split_problems(request.splits)

    def export(self, info: DatasetInfo, records: Records, folder: Folder) -> None:
        names, survey = _Names(info.categories), Survey({split: [] for split in info.splits})
        writers: dict[str, _TarWriter] = {}
        with ExitStack() as stack:
            for record in records:
                split = record.job.split
                if split not in writers:
                    writers[split] = _TarWriter(folder, split, self.config.max_shard_bytes, stack)
                image = folder.image_bytes(record.image_path, encoding=self.config.images)
                members = [(self.config.image_name(record.job.id), image), (_labels_name(record), names.line(record))]
                survey.add(record, is_first=writers[split].add(members, len(record.annotations)))
            for writer in writers.values():
                writer.finish()
        shards = {split: writers[split].shards if split in writers else [] for split in info.splits}
        index = {"name": info.name, **({"subset": info.subset} if info.subset else {})}
        with folder.open(INDEX) as file:
            file.write(_index_text({**index, **_index(records.content_hash, info.categories, shards)}))
        splits = [
            Split(
                split_name(split), f"{split}-{'[0-9]' * 6}.tar", survey.images(split), survey.labels[split],
                *[sum(shard["bytes"] for shard in shards[split])] * 2,
            )
            for split in writers
        ]  # fmt: skip
        features = names.features(survey, self.config.image_ending[1:])
        with folder.open(CARD) as file:
            file.write(Card(info, survey, splits, features, COLUMNS, records.content_hash).text().encode())

    def verify(self, folder: ExportedFolder, records: Records) -> Iterator[tuple[str, str]]:
        """Compares each member with its record, and the index with the tars. Reports the first difference of each
        split."""
        names, readers = _Names(self.categories), dict[str, _TarReader]()
        is_same = self.config.images in {"link", "copy"}
        for record in records:
            reader = readers.setdefault(record.job.split, _TarReader(folder, record.job.split))
            reader.compare(record, self.config.image_name(record.job.id), names.line(record), is_same=is_same)
        found = [fault for reader in readers.values() if (fault := reader.finish())]
        found += [(name, NOT_EXPORTED) for name in (INDEX, CARD) if not folder.has(name)]
        if not found:
            shards = {split: reader.shards for split, reader in readers.items()}
            found += _index_faults(folder, _index(records.content_hash, self.categories, shards))
        yield from sorted(found)


def _labels_name(record: Record) -> str:
    return f"{record.job.id:012d}.json"


class _Names:
    """The labels of an image, with the names and ids of their classes."""

    def __init__(self, categories: Sequence[Category]) -> None:
        self._categories = {category.id: category for category in categories}

    def line(self, record: Record) -> bytes:
        job = record.job
        labels: dict[str, Any] = {
            "image_id": job.id,
            "width": job.width,
            "height": job.height,
            "prompt": job.prompt,
            "negative_prompt": job.negative_prompt,
            "seed": job.seed,
            "slots": dict(job.slots),
            "measures": dict(record.measures),
            "annotations": [
                {
                    "id": a.id,
                    "category_id": self._categories[a.category_id].exported_id,
                    "category": self._categories[a.category_id].name,
                    "bbox": a.bbox_xywh,
                    "area": a.area,
                    "iscrowd": int(a.ignore),
                    "segmentation": dict(a.rle),
                    "scores": dict(a.scores),
                }
                for a in record.annotations
            ],
        }
        if record.verdict != "accepted":
            labels |= {"verdict": record.verdict, "reasons": [*record.reasons]}
        return metadata_line(labels)

    def features(self, survey: Survey, image_key: str) -> Any:
        """The types as `datasets` loads them: `datasets.Features`. It would infer them from the first images, which
        may have no object."""
        from datasets import ClassLabel, Features, Image, List, Value

        annotation = {
            "id": Value("int64"),
            "category_id": Value("int64"),
            "category": ClassLabel(names=[category.name for category in self._categories.values()]),
            "bbox": List(Value("float64"), length=4),
            "area": Value("int64"),
            "iscrowd": Value("int8"),
            "segmentation": {"size": List(Value("int32"), length=2), "counts": Value("string")},
            **_mapping("scores", survey.scores, Value("float64")),
        }
        labels = {
            **{key: Value("int64") for key in ("image_id", "width", "height")},
            **{key: Value("string") for key in ("prompt", "negative_prompt")},
            "seed": Value("int64"),
            **_mapping("slots", survey.slots, Value("string")),
            **_mapping("measures", survey.measures, Value("float64")),
            "annotations": List(annotation),
        }
        if survey.has_verdicts:
            labels |= {"verdict": Value("string"), "reasons": List(Value("string"))}
        keys = {key: Value("string") for key in ("__key__", "__url__")}
        return Features({image_key: Image(), "json": labels, **keys})


def _mapping(key: str, names: Iterable[str], kind: Any) -> dict[str, Any]:
    """A column with a value for each name. Arrow has no mapping without keys."""
    return {key: dict.fromkeys(sorted(names), kind)} if names else {}


class _TarWriter:
    """The tars of one split, written one after the other.

    Attributes:
        shards: what the index says of each.
    """

    def __init__(self, folder: Folder, split: str, max_bytes: int, stack: ExitStack) -> None:
        self.shards: list[dict[str, Any]] = []
        self._folder, self._split, self._max_bytes = folder, split, max_bytes
        self._stack = stack.enter_context(ExitStack())
        self._file: IO[bytes]

    def add(self, members: Sequence[tuple[str, bytes]], annotations: int) -> bool:
        """Appends the members of an image; -> whether they are the first of a tar."""
        blocks = b"".join(map(_blocks, members))
        if is_first := not self.shards or self._file.tell() + len(blocks) + len(END) > self._max_bytes:
            self._stack.close()
            self.shards.append(_shard(self._split, len(self.shards)))
            self._file = self._stack.enter_context(self._open(self.shards[-1]))
        self._file.write(blocks)
        self.shards[-1]["nsamples"] += 1
        self.shards[-1]["annotations"] += annotations
        return is_first

    def finish(self) -> None:
        self._stack.close()

    @contextmanager
    def _open(self, shard: dict[str, Any]) -> Iterator[IO[bytes]]:
        with self._folder.open(shard["url"]) as file:
            yield file
            file.write(END)
            shard["bytes"] = file.tell()


def _blocks(member: tuple[str, bytes]) -> bytes:
    """A member of a tar. `tarfile.TarFile` would do it too, and keep each of them in memory."""
    name, data = member
    header = tarfile.TarInfo(name)  # its owner is nobody, and its time is 0
    header.size = len(data)
    return header.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def _shard(split: str, number: int) -> dict[str, Any]:
    """What the index says of a tar that is still empty."""
    return {"url": f"{split}-{number:06d}.tar", "nsamples": 0, "annotations": 0, "bytes": 0}


class _TarReader:
    """The tars of one split, read back until the first difference. `shards`: as the index should have them."""

    def __init__(self, folder: ExportedFolder, split: str) -> None:
        self.shards: list[dict[str, Any]] = []
        self._folder, self._split = folder, split
        self._fault = ""
        self._members = self._read()

    def compare(self, record: Record, image_name: str, line: bytes, *, is_same: bool) -> None:
        """
        Args:
            line: the labels that its JSON should have.
            is_same: whether the image was not encoded again.
        """
        if self._fault:
            return
        try:
            image = self._next(image_name)
            shard = self.shards[-1]
            require_image(image, record, is_same=is_same)
            require_line(self._next(_labels_name(record)), line, record)
            shard["nsamples"] += 1
            shard["annotations"] += len(record.annotations)
        except (ValueError, tarfile.TarError) as error:
            self._fault = str(error)

    def finish(self) -> tuple[str, str] | None:
        """The file that differs and how, or None."""
        try:
            if not self._fault and (member := next(self._members, None)):
                self._fault = f"has {member[0]} besides the images"
        except (ValueError, tarfile.TarError) as error:
            self._fault = str(error)
        return (self.shards[-1]["url"], self._fault) if self._fault else None

    def _next(self, name: str) -> bytes:
        found, data = next(self._members, ("no further member", b""))
        if found != name:
            raise ValueError(f"has {found} where {name} should be")
        return data

    def _read(self) -> Iterator[tuple[str, bytes]]:
        while not self.shards or self._folder.has(_shard(self._split, len(self.shards))["url"]):
            self.shards.append(_shard(self._split, len(self.shards)))
            if not self._folder.has(name := self.shards[-1]["url"]):
                raise ValueError(NOT_EXPORTED)
            with self._folder.open(name) as file:
                with tarfile.open(fileobj=file, mode="r:") as tar:
                    while (member := tar.next()) is not None:
                        is_plain = member.type in {tarfile.REGTYPE, tarfile.AREGTYPE}  # nor sparse, of any size
                        content = tar.extractfile(member) if is_plain else None
                        if content is None:
                            raise ValueError(f"has {member.name}, which is no file")
                        yield member.name, content.read()
                        tar.members.clear()  # type: ignore[attr-defined]  # it would keep all of them
                self.shards[-1]["bytes"] = file.seek(0, SEEK_END)


def _index(content_hash: str, categories: Sequence[Category], shards: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "content_hash": content_hash,
        "categories": [{"id": c.exported_id, "name": c.name, "supercategory": c.supercategory} for c in categories],
        "shards": shards,
    }


def _index_text(index: Mapping[str, Any]) -> bytes:
    return orjson.dumps(index, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _index_faults(folder: ExportedFolder, expected: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    try:
        with folder.open(INDEX) as file:
            found = orjson.loads(file.read())
        listed = {split: shards for split, shards in found["shards"].items() if shards}
        if wrong := difference({**{key: found[key] for key in expected}, "shards": listed}, expected):
            place, value, right = wrong
            raise ValueError(f"has {shown(value)} at {place}, expected {shown(right)}")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        yield INDEX, str(error) if isinstance(error, ValueError) else "is no index of tars"
