"""JSON Schema of files, by which editors complete them and underline what is wrong."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaValue

from replaykit.config.reading import VARIABLE

_ABOUT = ("description", "default", "examples", "deprecated")
_SEVERAL = ("anyOf", "oneOf", "allOf")
_VARIABLE = {
    "type": "string",
    "pattern": VARIABLE.pattern,
    "description": "${NAME} or ${NAME:-default}: from the environment",
}


def json_schema(model: type[BaseModel]) -> JsonSchemaValue:
    """Of a file that this model checks, as people write it: what is filled in from the environment is right
    anywhere.

    Of draft 7, which every editor knows.
    """
    found = model.model_json_schema(by_alias=True)
    parts = {name: _written(part) for name, part in found.pop("$defs", {}).items()}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        **_written(found),
        "$defs": {**parts, "Variable": _VARIABLE},
    }


def _written(schema: Any) -> Any:
    """A schema and all that it is made of, without what is only of Python."""
    if not isinstance(schema, dict):
        return schema
    out = {k: v for k, v in schema.items() if k != "title"}
    if "pattern" in out or not isinstance(out.get("default"), str | int | float):  # not as one would write it
        out.pop("default", None)
    for name in ("properties", "patternProperties"):
        if name in out:
            out[name] = {n: _written(s) for n, s in out[name].items()}
    for name in ("items", "additionalProperties"):
        if name in out:
            out[name] = _written(out[name])
    for name in _SEVERAL:
        if name in out:
            out[name] = [_written(s) for s in out[name] if s != {"type": "null"}]
    if len(out.get("anyOf", ())) == 1:  # what need not be there; but what is there has a value
        out = {**out.pop("anyOf")[0], **out}
    return _or_variable(out) if _is_narrow(out) else out


def _is_narrow(schema: dict[str, Any]) -> bool:
    """Whether it is of one value, and refuses some texts."""
    kind = schema.get("type")
    texts = kind == "string" or (isinstance(kind, list) and "string" in kind)
    return "enum" in schema or kind in ("integer", "number", "boolean") or (texts and "pattern" in schema)


def _or_variable(schema: dict[str, Any]) -> dict[str, Any]:
    about = {k: schema[k] for k in _ABOUT if k in schema}
    own = {k: v for k, v in schema.items() if k not in about}
    return {**about, "anyOf": [own, {"$ref": "#/$defs/Variable"}]}
