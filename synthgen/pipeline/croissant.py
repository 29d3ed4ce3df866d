"""`croissant.json` beside an export: what is in it, in a format that search engines and loaders of datasets read.

Formats: http://mlcommons.org/croissant/1.1 and http://mlcommons.org/croissant/RAI/1.0; provenance as PROV-O.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import orjson

from synthgen import __version__
from synthgen.backends import RecordField, RecordSet
from synthgen.base.file_lists import Entry
from synthgen.base.wording import plain
from synthgen.errors import listed
from synthgen.pipeline.licences import public_name
from synthgen.pipeline.responsible_ai import Making, counted, statements
from synthgen.spec import PublicationSpec
from synthgen.types import DatasetInfo

NAME = "croissant.json"
MOST_FILES = 100  # of one kind in a folder that are listed each with its checksum; more are described together
MOST_FOLDERS = 100  # with files of one kind that are described each; more are described together
IMAGES = (".png", ".jpg", ".webp")
MEDIA_TYPES = {
    ".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp", ".json": "application/json",
    ".jsonl": "application/jsonlines", ".parquet": "application/x-parquet", ".csv": "text/csv", ".txt": "text/plain",
    ".xml": "text/xml", ".yaml": "application/yaml", ".tar": "application/x-tar", ".md": "text/markdown",
}  # fmt: skip
# The context of the format's appendix. mlcroissant 1.1.1 has schema.org at https, and text in a language by default.
CONTEXT = {
    "@language": "en", "@vocab": "https://schema.org/", "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/", "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/", "prov": "http://www.w3.org/ns/prov#",
    **{name: f"cr:{name}" for name in (
        "annotation", "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "excludes", "extract",
        "field", "fileProperty", "fileObject", "fileSet", "format", "includes", "isArray", "isLiveDataset", "jsonPath",
        "key", "md5", "parentField", "path", "readLines", "recordSet", "references", "regex", "repeated", "replace",
        "samplingRate", "sdVersion", "separator", "source", "subField", "transform", "unArchive", "value",
    )},
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "description": {"@container": "@language"},
    "name": {"@container": "@language"},
}  # fmt: skip
SPLITS = {"train": "TrainingSplit", "training": "TrainingSplit", "val": "ValidationSplit", "valid": "ValidationSplit",
          "validation": "ValidationSplit", "dev": "ValidationSplit", "test": "TestSplit"}  # fmt: skip


def document(
    info: DatasetInfo,
    making: Making,
    version: str,
    files: Iterable[tuple[str, Entry]],
    record_sets: Sequence[RecordSet],
) -> bytes:
    """The document: the same bytes for the same export.

    Args:
        version: the hash of the dataset's content.
        files: name, size and checksum of each file of the export. They are read once, one at a time.
    """
    names = [category.name for category in info.categories]
    described = info.description or f"Synthetic images with masks and boxes of {plain(listed(names), 2000)}."
    document = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"],
        "name": info.name,
        "description": " ".join(filter(None, (described, info.subset))),
        "version": f"1.0.0+{version}",
        "license": list(_licences(making)),
        **_published(making.spec.publication, info.name, version),
        "keywords": ["synthetic", "object detection", "instance segmentation"],
        "isLiveDataset": making.is_grown,
        "prov:wasGeneratedBy": list(_activities(making)),
        **statements(making, info),
        "distribution": [*_distribution(files), *map(_records_files, record_sets)],
        "recordSet": [_classes(info), _splits(info), *map(_record_set, record_sets)],
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _published(publication: PublicationSpec, name: str, version: str) -> dict[str, Any]:
    """Who publishes the dataset, where and when, and how it is cited."""
    creators = [{"@type": "sc:Person", "name": author} for author in publication.authors]
    creators += [{"@type": "sc:Organization", "name": organization} for organization in publication.organizations]
    made_by = {"@type": "sc:Organization", "name": "synthgen", "url": "https://pypi.org/project/synthgen/"}
    cited = {
        "title": name,
        "author": " and ".join("{" + creator["name"].translate({123: None, 125: None}) + "}" for creator in creators),
        "year": (publication.date or "")[:4],
        "url": publication.url or "",
        "note": f"Made by synthgen {__version__}; version {version}",
    }
    keys = ", ".join(f"{key} = {{{value}}}" for key, value in cited.items() if value)  # BibTeX
    return {
        "citeAs": f"@misc{{{name}, {keys}}}",
        "creator": creators or [made_by],
        **({"url": publication.url} if publication.url else {}),
        **({"datePublished": publication.date} if publication.date else {}),
    }


def _licences(making: Making) -> Iterator[dict[str, str]]:
    """The licences of the models, each once. Together they say what may be done with the dataset."""
    licences = dict.fromkeys((model.licence, public_name(model.name)) for model in making.models)
    of: dict[Any, list[str]] = {}
    for licence, name in licences:
        of.setdefault(licence, []).append(name)
    for licence, names in of.items():
        work = {"@type": "sc:CreativeWork", "name": licence.name or "unknown"}
        work |= {"url": licence.url} if licence.url else {}
        yield {**work, "description": f"The licence of {listed(names)}. {licence.says}."}
    if not of:
        yield {"@type": "sc:CreativeWork", "name": "unknown", "description": "No model made the images and labels."}


def _activities(making: Making) -> Iterator[dict[str, Any]]:
    """What made the dataset, step by step, with the models that did it."""
    spec = making.spec
    steps = {
        "generator": f"generation of images by `{spec.generator.use}`",
        "grounder": f"boxes and classes by `{spec.grounder.use}`",
        "segmenter": f"masks by `{spec.segmenter.use}`",
        "filters": "measurement of images and labels by filters",
    }
    for stage, label in steps.items():
        agents = [{"@type": "prov:SoftwareAgent", "prov:label": name} for name in making.models_of(stage)]
        agents.append({"@type": "prov:SoftwareAgent", "prov:label": f"synthgen {__version__}"})
        yield {"@type": "prov:Activity", "prov:label": label, "prov:wasAssociatedWith": agents}


def _distribution(files: Iterable[tuple[str, Entry]]) -> Iterator[dict[str, Any]]:
    """Files by folder and ending: a few with their checksums, and many, such as images, together."""
    groups: dict[tuple[str, str], list[tuple[str, Entry]]] = {}
    counts: dict[tuple[str, str], int] = {}
    for name, entry in files:
        folder = name.rpartition("/")[0]
        group = folder, _ending(name)
        counts[group] = counts.get(group, 0) + 1
        kept = groups.setdefault(group, [])
        if group[1] not in IMAGES and len(kept) <= MOST_FILES:
            kept.append((name, entry))
    together: dict[str, tuple[str, int]] = {}  # pattern -> ending, number of files
    for (folder, ending), kept in groups.items():
        if kept and len(kept) <= MOST_FILES:
            yield from (_file(name, entry) for name, entry in kept)
            continue
        is_one_of_many = sum(its_ending == ending for _, its_ending in groups) > MOST_FOLDERS
        parts = folder.split("/") if folder else []
        start = ["*"] * len(parts) if is_one_of_many else [glob.escape(part) for part in parts]
        pattern = "/".join([*start, f"*{glob.escape(ending)}"])
        together[pattern] = ending, together.get(pattern, ("", 0))[1] + counts[folder, ending]
    for pattern, (ending, count) in together.items():
        yield _file_set(f"files/{pattern}", counted(count, "file"), MEDIA_TYPES.get(ending), pattern)


def _ending(name: str) -> str:
    """The ending of a file's name with its dot; "" if there is none."""
    start, dot, ending = name.rpartition("/")[2].rpartition(".")
    return dot + ending if start else ""


def _file(name: str, entry: Entry) -> dict[str, str]:
    return {
        "@type": "cr:FileObject",
        "@id": quote(name),
        "name": name,
        "contentUrl": name,
        "contentSize": f"{entry[0]} B",
        "encodingFormat": MEDIA_TYPES.get(_ending(name), "application/octet-stream"),
        "sha256": entry[1],
    }


def _file_set(identifier: str, description: str, media_type: str | None, pattern: str) -> dict[str, str]:
    return {
        "@type": "cr:FileSet",
        "@id": quote(identifier),
        "name": identifier,
        "description": description,
        "encodingFormat": media_type or "application/octet-stream",
        "includes": pattern,
    }


def _classes(info: DatasetInfo) -> dict[str, Any]:
    rows = [
        {"classes/id": c.exported_id, "classes/name": c.name, "classes/supercategory": c.supercategory}
        for c in info.categories
    ]
    columns = {"id": "sc:Integer", "name": "sc:Text", "supercategory": "sc:Text"}
    return _table("classes", "The classes of the labels, in the order of the spec.", "sc:Enumeration", columns, rows)


def _splits(info: DatasetInfo) -> dict[str, Any]:
    rows = [
        {"splits/name": split} | ({"splits/url": f"cr:{SPLITS[split.lower()]}"} if split.lower() in SPLITS else {})
        for split in info.splits
    ]
    is_known = all("splits/url" in row for row in rows)
    columns = {"name": "sc:Text", **({"url": "sc:URL"} if is_known else {})}
    rows = [{key: value for key, value in row.items() if is_known or key == "splits/name"} for row in rows]
    return _table("splits", "The splits.", "cr:Split", columns, rows)


def _table(
    name: str, description: str, data_type: str, columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """A record set whose records stand in the document."""
    fields = [
        {"@type": "cr:Field", "@id": f"{name}/{key}", "name": key, "dataType": kind} for key, kind in columns.items()
    ]
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": description,
        "dataType": data_type,
        "key": {"@id": f"{name}/{next(iter(columns))}"},
        "field": fields,
        "data": rows,
    }


def _records_files(records: RecordSet) -> dict[str, Any]:
    return _file_set(f"files/{records.name}", f"The files with the {records.name}.", records.media_type, records.files)


def _record_set(records: RecordSet) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": records.name,
        "name": records.name,
        "description": records.description,
        **({"key": {"@id": f"{records.name}/{records.key}"}} if records.key else {}),
        "field": [_field(records, one) for one in records.fields],
    }


def _field(records: RecordSet, one: RecordField) -> dict[str, Any]:
    source: dict[str, Any] = {"fileSet": {"@id": f"files/{records.name}"}, "extract": dict(one.extract)}
    source |= {"transform": dict(one.transform)} if one.transform else {}
    source |= {"format": one.form} if one.form else {}
    return {
        "@type": "cr:Field",
        "@id": f"{records.name}/{one.name}",
        "name": one.name,
        "description": one.description,
        "dataType": one.type,
        **({"repeated": True} if one.is_list else {}),
        "source": source,
    }
