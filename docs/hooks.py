"""Fills the reference pages of the site from the code, so that they cannot become stale.

mkdocs calls `on_page_markdown` for every page (https://www.mkdocs.org/user-guide/configuration/#hooks). A page names
what it wants by a comment, such as `<!-- generated: commands -->`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from inspect import cleandoc
from pathlib import Path
from typing import Any

import typer.main

from synthgen.backends import KINDS, backend_module, builtin
from synthgen.cli import app
from synthgen.models.families import family
from synthgen.models.families.family import Recommendation
from synthgen.models.families.table import FAMILIES
from synthgen.models.signatures import parameters
from synthgen.orchestration.profile import Profile
from synthgen.spec.schema import json_schema

MARKER = re.compile(r"<!-- generated: ([a-z]+) -->")
ROOT = Path(__file__).parent.parent
# The mappings inside a spec: name in the JSON Schema -> heading of its section.
MAPPINGS = {"ClassSpec": "A class", "PromptSpec": "Prompts", "Template": "A prompt template", "LayoutSpec": "Layout",
            "ProvenanceSpec": "Provenance", "SigningSpec": "Signatures", "LicenceSpec": "Licence",
            "PublicationSpec": "Publication",
            "Lora": "A LoRA", "Embedding": "A textual inversion"}  # fmt: skip
SCALARS = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true` or `false`"}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A page's Markdown with every marker replaced by what it names."""
    return MARKER.sub(lambda marker: PARTS[marker[1]](), markdown)


def commands() -> str:
    """A section for each command of `synthgen`, in the groups of `synthgen --help`."""
    root: Any = typer.main.get_command(app)
    context = root.make_context("synthgen", [], resilient_parsing=True)
    groups: dict[str, list[str]] = {}
    for name in root.list_commands(context):
        command = root.get_command(context, name).load()
        if not command.hidden:
            panel = getattr(command, "rich_help_panel", None)
            with command.make_context(f"synthgen {name}", [], parent=None, resilient_parsing=True) as inner:
                text = _command(name, inner, command)
            groups.setdefault(panel if isinstance(panel, str) else "", []).append(text)
    return "\n\n".join(part for group, texts in groups.items() for part in (f"## {group}", *texts) if part != "## ")


def _command(name: str, context: Any, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    names = [str(p.metavar or p.name.upper()) for p in arguments]
    rows = [(f"`{n}`", p.help or "") for n, p in zip(names, arguments, strict=True)]
    for option in command.params:
        if option not in arguments and (record := option.get_help_record(context)):
            rows.append((f"`{_plain(record[0])}`", _plain(record[1])))
    usage = " ".join(["synthgen", name, *["[OPTIONS]"] * (len(rows) > len(names)), *names])
    text = f"### synthgen {name}\n\n{cleandoc(command.help or '')}\n\n```text\n{usage}\n```"
    return text + (f"\n\n{_table(('argument or option', 'what it does'), rows)}" if rows else "")


def _plain(text: str) -> str:
    """What typer says of an option, without its signs for types and limits."""
    for pattern, words in (
        (r"<(int|float|integer|str|text)( range)?>", "VALUE"),
        (r"(?<=[ -])<([\w|]+)>", r"\1"),
        (r"([\d.]+)<=x<=([\d.]+)", r"\1 to \2"),
        (r"x>=([\d.]+)", r"at least \1"),
    ):
        text = re.sub(pattern, words, text)
    return " ".join(text.split())


def keys() -> str:
    """A table of keys for the spec, for each mapping inside it and for each built-in backend."""
    schema = json_schema()
    for kind in KINDS.values():
        schema["properties"][kind.key]["default"] = list(kind.defaults) if kind.many else kind.defaults[0]
    sections = [f"## The spec\n\n{_keys(schema)}"]
    sections += [f"## {title}\n\n{_described(schema['$defs'][name])}" for name, title in MAPPINGS.items()]
    for name in KINDS:
        sections.append(f"## {name.capitalize()}s")
        sections += [f"### {name} `{use}`\n\n{_backend(name, use)}" for use in builtin(name)]
    return "\n\n".join(sections)


def _backend(kind: str, use: str) -> str:
    module = backend_module(kind, use)
    about = cleandoc(module.__doc__ or "").partition("\n\n")[0]
    return f"{about}\n\n{_keys(module.Config.model_json_schema(), use)}"


def profile() -> str:
    """A table of the keys of a profile file."""
    return _keys(Profile.model_json_schema())


def quickstart() -> str:
    """The spec that `make demo` runs."""
    return f"```yaml\n{(ROOT / 'specs' / 'quickstart.yaml').read_text(encoding='utf-8')}```"


def template() -> str:
    """The spec that `synthgen new fruit` writes."""
    text = (ROOT / "synthgen" / "spec" / "template.yaml").read_text(encoding="utf-8")
    return f"```yaml\n{text.replace('NAME', 'fruit', 1)}```"


# What docs/families.json says of a class -> the short form for the table, which the page explains.
SHORT = {
    "": "no", "equal to upstream": "equal", "each image its own": "own", "together": "yes", "one at a time": "singly",
    "multiples of latents' sides": "latent", "multiples of two latents' sides": "2 latents",
}  # fmt: skip


def families() -> str:
    """A table of pipeline classes, as tests measured each with a small random model (docs/families.json)."""
    measured = json.loads((ROOT / "docs" / "families.json").read_text(encoding="utf-8"))
    columns = ("text", "negative", "guidance", "sizes", "batch", "seeds", "lora")
    rows: dict[tuple[str, ...], None] = {}
    for cells in sorted(measured.values(), key=lambda cells: (cells["pipeline"], cells["guidance"])):
        kind = cells["pipeline"]
        shown = [_short(cells[name]) for name in columns]
        others = ["not run" if _sibling(kind, word) else "–" for word in ("Img2Img", "Inpaint", "ControlNet")]
        usual = "; ".join(_recommended(r) for r in family(kind).recommended)
        row = (f"`{kind.removesuffix('Pipeline')}`", *shown, *others, _short(cells["boxes"]), usual)
        rows[row] = None  # models of a class that differ in nothing are one row
    head = ("class", "text", "negative", "guidance", "sizes", "batch", "seeds", "LoRA", "img2img", "inpaint", "control",
            "boxes", "by default")  # fmt: skip
    return _table(head, rows)


def _short(cell: str) -> str:
    if cell in SHORT:
        return SHORT[cell]
    if multiple := re.fullmatch(r"multiples of (\d+) px", cell):
        return f"{multiple[1]} px"
    if option := re.fullmatch(r"with call_options\.(\w+)", cell):
        return f"with `{option[1]}`"
    return f"`{cell}`" if "_" in cell else cell


def refused() -> str:
    """A table of pipeline classes that `check` refuses."""
    rows = [(f"`{name}`", row.refused) for name, row in sorted(FAMILIES.items()) if row.refused]
    return _table(("class", "why"), rows)


def _sibling(kind: str, word: str) -> bool:
    """Whether diffusers has a class for the same models that takes images."""
    return parameters(kind.replace("Pipeline", f"{word}Pipeline"), "__call__", "pipelines") is not None


def _recommended(usual: Recommendation) -> str:
    scale = "" if usual.guidance_scale is None else f" at {usual.guidance_scale:g}"
    return f"{usual.num_inference_steps} steps{scale}" + (f" ({usual.word})" if usual.word else "")


def formats() -> str:
    """A table of formats, as tests measured what consumers find in each (docs/formats.json)."""
    rows = []
    for name, found in _measured_formats().items():
        masks = "–"
        if "mean_iou" in found:
            is_exact = found["worst_iou"] == 1
            masks = "identical" if is_exact else f"{found['mean_iou']:.4f}, {found['worst_iou']:.3f}"
        rows.append(
            (
                name,
                found["consumer"],
                f"{found['objects']}",
                f"{found['box_px']:g}" if "box_px" in found else "–",
                masks,
            )
        )
    return _table(("format", "read by", "labels", "box", "masks"), rows)


def losses() -> str:
    """What exporters said of their losses, a list for each format."""
    said = {name: found["losses"] for name, found in _measured_formats().items() if found["losses"]}
    return "\n".join(f"- {name}\n" + "\n".join(f"    - {line}" for line in lines) for name, lines in said.items())


def _measured_formats() -> dict[str, dict[str, Any]]:
    measured: dict[str, dict[str, Any]] = json.loads((ROOT / "docs" / "formats.json").read_text(encoding="utf-8"))
    return measured


PARTS: Mapping[str, Callable[[], str]] = {
    part.__name__: part for part in (commands, families, formats, keys, losses, profile, quickstart, refused, template)
}


def _described(schema: Mapping[str, Any]) -> str:
    return "\n\n".join(filter(None, [cleandoc(schema.get("description", "")), _keys(schema)]))


def _keys(schema: Mapping[str, Any], use: str = "") -> str:
    needed = schema.get("required", ())
    rows = []
    for key, value in schema["properties"].items():
        if key == "use" and use:
            value = {"const": use, "description": "Names this backend."}
        default = f"`{_yaml(value['default'])}`" if "default" in value else "needed" if key in needed else ""
        rows.append((f"`{key}`", _takes(value), default, value.get("description", "")))
    return _table(("key", "takes", "default", "what it is"), rows)


def _takes(schema: Mapping[str, Any]) -> str:
    """A JSON Schema in words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        title = MAPPINGS[name]
        return f"[{title[0].lower()}{title[1:]}](#{title.lower().replace(' ', '-')})"
    if "const" in schema:
        return f"`{_yaml(schema['const'])}`"
    if names := re.fullmatch(r"\^\(([\w|]+)\(:\\d\+\)\?\)\$", schema.get("pattern", "")):  # devices
        return ", ".join(f"`{name}`" for name in (*names[1].split("|"), "cuda:0"))
    if "enum" in schema:
        return ", ".join(f"`{_yaml(value)}`" for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_forms(schema["anyOf"])))
    kinds = schema.get("type")
    if isinstance(kinds, list):
        return " or ".join(_takes({**schema, "type": kind}) for kind in kinds)
    if kinds == "null":
        return "`null`"
    if kinds == "array":
        if "prefixItems" in schema:
            return f"[{', '.join(_takes(item) for item in schema['prefixItems'])}]"
        if schema.get("minItems") == schema.get("maxItems") == 2 and "type" in schema["items"]:
            return "[least, most]"
        return _with_limits("list of " + _takes(schema["items"]), schema)
    if kinds == "object":
        values = schema.get("additionalProperties")
        return _with_limits("mapping" + (f" to {_takes(values)}" if isinstance(values, dict) else ""), schema)
    return _with_limits(SCALARS.get(str(kinds), "anything"), schema)


def _forms(forms: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The alternatives of a value. Every backend has a section of its own, so one link stands for all of a kind."""
    titles = {str(form.get("title", "")) for form in forms}
    for kind in KINDS:
        if f"a {kind} of yours" in titles:
            yield f"[name or options of a backend](#{kind}s)"
            return
    for form in forms:
        yield _takes(form)


def _with_limits(takes: str, schema: Mapping[str, Any]) -> str:
    limits = _limits(schema)
    return f"{takes}, {limits}" if limits else takes


def _limits(schema: Mapping[str, Any]) -> str:
    least, most = schema.get("minimum"), schema.get("maximum")
    limits = [f"{_number(least)} to {_number(most)}"] if least is not None and most is not None else []
    if not limits:
        limits += [f"at least {_number(least)}"] if least is not None else []
        limits += [f"at most {_number(most)}"] if most is not None else []
    for key, words in {
        "exclusiveMinimum": "above {}", "exclusiveMaximum": "below {}", "multipleOf": "a multiple of {}",
        "minLength": "at least {} characters", "maxLength": "at most {} characters", "minItems": "at least {}",
        "maxItems": "at most {}", "minProperties": "at least {}", "maxProperties": "at most {}",
    }.items():  # fmt: skip
        if key in schema and not (key == "minLength" and schema[key] == 1):
            limits.append(words.format(_number(schema[key])))
    if "pattern" in schema:
        limits.append(f"matching `{schema['pattern']}`")
    return ", ".join(limits)


def _number(value: float) -> str:
    if isinstance(value, int) and value >= 2**31 and value & (value - 1) == 0:
        return f"2^{value.bit_length() - 1}"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _yaml(value: Any) -> str:
    """A default as a spec would say it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_yaml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value) or '""'


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(
        f"| {' | '.join(' '.join(cell.split()).replace('|', '&#124;') for cell in line)} |" for line in lines
    )
