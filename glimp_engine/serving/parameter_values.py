"""Values that a model has written as bare text, as the JSON that a tool's schema makes of them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["as_json", "is_text", "parameters_of", "quoted", "types_of"]

TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
NULLS = ("null", "None")  # templates write None, as Python does

quoted = json.JSONEncoder(ensure_ascii=False).encode  # a string as JSON


def parameters_of(tools: Sequence[Any]) -> dict[str, Any]:
    """The schema of each tool's parameters, by the tool's name; tools as in OpenAI's API."""
    functions = [tool.get("function", tool) for tool in tools if isinstance(tool, Mapping)]
    found = [function for function in functions if isinstance(function, Mapping)]
    return {str(function["name"]): function.get("parameters") for function in found if "name" in function}


def types_of(parameters: Any, name: str) -> list[str]:
    """The types that a parameter may have, in its schema's order; none if the schema doesn't say.

    Of alternatives (anyOf, oneOf, allOf) and references it has the types of all, of an enum those of its values.
    """
    properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
    left = [properties.get(name) if isinstance(properties, Mapping) else None]
    types: dict[str, None] = {}
    references = set()
    while left:
        schema = left.pop(0)
        if not isinstance(schema, Mapping):
            continue
        reference, declared = schema.get("$ref"), schema.get("type")
        if isinstance(reference, str) and reference not in references:
            references.add(reference)
            left.insert(0, referred(parameters, reference))
        if declared:
            types.update(dict.fromkeys(filter(is_word, declared if isinstance(declared, list) else [declared])))
        else:
            parts = [schema.get(key) for key in ("anyOf", "oneOf", "allOf")]
            left[:0] = [option for part in parts if isinstance(part, list) for option in part]
            values = schema.get("enum", [schema["const"]] if "const" in schema else [])
            kinds = [TYPES.get(type(value)) for value in values] if isinstance(values, list) else []
            types.update(dict.fromkeys(filter(None, kinds)))
        if schema.get("nullable") is True:
            types["null"] = None
    return list(types)


def is_text(types: Sequence[str]) -> bool:
    """Whether a value of these types is a string, whatever is in it."""
    return "null" not in types and next(iter(types), "string") == "string"


def as_json(text: str, types: Sequence[str]) -> str:
    """The value as JSON: of the first of the types that it can be, else a string; null if it says so and may.

    What is JSON already stays as it was written.
    """
    bare = text.strip()
    if "null" in types and bare in NULLS:
        return "null"
    for kind in types:
        written = quoted(text) if kind == "string" else written_as(kind, bare)
        if written is not None:
            return written
    return quoted(text)


def written_as(kind: str, text: str) -> str | None:
    """The text as JSON of this type; None if it's no such thing."""
    if kind == "boolean":
        return text.lower() if text.lower() in ("true", "false") else None  # templates write True, as Python does
    try:
        value = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        return None
    if kind == "integer" and isinstance(value, float) and value.is_integer():
        return str(int(value))
    allowed = {"integer": (int,), "number": (int, float), "object": (dict,), "array": (list,)}.get(kind, ())
    return text if isinstance(value, allowed) and not isinstance(value, bool) else None


def referred(root: Any, reference: str) -> Any:
    """The part of a schema that a reference like #/$defs/name points at; None if there is none."""
    if reference != "#" and not reference.startswith("#/"):
        return None
    for part in reference.split("/")[1:]:
        root = root.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(root, Mapping) else None
    return root


def is_word(value: Any) -> bool:
    return isinstance(value, str)


def refuse(constant: str) -> None:
    """NaN and Infinity, which Python reads and JSON doesn't have."""
    raise ValueError(constant)
