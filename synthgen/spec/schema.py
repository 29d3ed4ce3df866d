"""The JSON Schema of specs, with which editors complete and check them."""

from __future__ import annotations

from typing import Any

from synthgen.backends import KINDS, backend_module, builtin
from synthgen.spec import DatasetSpec


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a spec as people write it. It has the short forms and the options of all built-in backends."""
    schema = DatasetSpec.model_json_schema()
    definitions = schema["$defs"]

    def options(kind: str, default: str | None = None) -> dict[str, Any]:
        dotted = {"type": "string", "pattern": r"\.", "description": "The dotted name of your module."}
        forms: list[dict[str, Any]] = [{"type": "string", "enum": builtin(kind)}, dotted]
        for name in builtin(kind):
            config = backend_module(kind, name).Config
            part = config.model_json_schema(ref_template="#/$defs/{model}")
            for option, inner in config.sections.items():
                part["properties"][option]["items"] = {"$ref": f"#/properties/{KINDS[inner].key}"}
            definitions.update(part.pop("$defs", {}))
            part["properties"]["use"] = {"const": name, "description": "The backend."}
            part["required"] = [r for r in part.get("required", []) if r != "use" or name != default]
            part["title"] = f"{kind} {name}"
            forms.append({k: v for k, v in part.items() if v != []})
        own = {"type": "object", "required": ["use"], "properties": {"use": dotted}}
        return {"anyOf": [*forms, {**own, "title": f"a {kind} of yours"}]}

    properties = schema["properties"]
    for kind in KINDS.values():
        described = {"description": properties[kind.key]["description"]}
        if not kind.many:
            properties[kind.key] = {**described, **options(kind.name, kind.defaults[0])}
            continue
        named = {}
        for name in builtin(kind.name):
            named[name] = {
                "description": (backend_module(kind.name, name).__doc__ or "").partition("\n")[0],
                "anyOf": [
                    {"type": "null"},
                    *(f for f in options(kind.name, name)["anyOf"] if f.get("title") == f"{kind.name} {name}"),
                ],
            }
        properties[kind.key] = {
            **described,
            "type": "object",
            "properties": named,
            "additionalProperties": options(kind.name),
        }
    keys = {kind.key for kind in KINDS.values()}
    schema["required"] = [r for r in schema["required"] if r not in keys]
    text, number = {"type": "string"}, {"type": "integer", "minimum": 0, "maximum": 64}
    properties["classes"]["items"] = {"anyOf": [text, properties["classes"]["items"]]}
    properties["objects_per_image"]["anyOf"] = [
        number,
        {"type": "array", "items": number, "minItems": 2, "maxItems": 2},
        {"type": "object", "additionalProperties": properties["objects_per_image"].pop("additionalProperties")},
    ]
    properties["objects_per_image"].pop("type")
    prompts = definitions["PromptSpec"]["properties"]
    for key in ("templates", "background_templates"):
        items = {"anyOf": [text, prompts[key].pop("items")]}
        prompts[key] = {**prompts[key], "type": ["array", "string"], "items": items}
    prompts["slots"]["additionalProperties"] = {
        "anyOf": [{"type": "array", "items": {"type": ["string", "number"]}}, prompts["slots"]["additionalProperties"]]
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
