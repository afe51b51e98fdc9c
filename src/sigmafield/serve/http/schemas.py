"""JSON schemas of what clients send and get, from the classes that check it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import docstring_parser
import msgspec

from sigmafield.core.parameters import fields_of, schema_of
from sigmafield.recipes.recipe import Recipe
from sigmafield.serve.http.bodies import Clone, NewJob, NewPriority
from sigmafield.serve.http.openai import Generation
from sigmafield.serve.jobs import JobRecord, Output
from sigmafield.serve.limits import ENTRIES, Limits
from sigmafield.serve.public_names import FOLDERS, IMAGES, NESTED
from sigmafield.serve.uploads import Upload

HIDDEN = ("request", "owner", "place", "client", "shown")
"""Fields of a job's record that its clients do not see."""

AN_IMAGE = (
    "Given as upload:ID, see POST /v1/uploads; as data:image/png;base64,…; or by its name in the server's folder."
)
A_MODEL = "A name of GET /v1/models."

CHOICES = {"model": "/v1/models", "sampler": "/v1/samplers", "schedule": "/v1/schedules", "guidance": "/v1/guidance"}
"""Where the names are listed that an entry of a recipe takes; the document has it as "x-choices", for forms."""


def components(default: str, limits: Limits) -> dict[str, Any]:
    """All schemas that routes refer to.

    Args:
        default: The model of recipes that name none.
        limits: How much a recipe may ask for.
    """
    kinds = (NewJob, NewPriority, Clone, Generation, JobRecord, Upload)
    _, found = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    for kind in (*kinds, Output):
        _describe(found[kind.__name__], kind)
    recipe = {"$ref": "#/components/schemas/Recipe"}
    found["NewJob"]["properties"]["recipe"] = {"anyOf": [recipe, {"type": "null"}]}
    found["Job"] = _job(found.pop("JobRecord"), recipe)
    found["Output"]["properties"]["url"] = {"type": "string", "description": "Its address on this server."}
    text = {"type": "string"}
    return found | {
        "Recipe": recipe_schema(default, limits),
        "Model": _object(id=text, object=text, kind=text, loaded={"type": "boolean"}, default={"type": "boolean"}),
        "Named": _object(name=text, about=text, parameters={"type": "object"}),
        "Images": _object(
            created={"type": "integer"}, data={"type": "array", "items": {"type": "object"}}, output_format=text
        ),
        "Error": _object(
            error=_object(message=text, type=text, field={"type": ["string", "null"]})
            | {"description": "What is wrong."}
        ),
    }


def recipe_schema(default: str, limits: Limits) -> dict[str, Any]:
    """The schema of a recipe as clients post it: each entry with its type, default, range and sentence."""
    found: dict[str, Any] = {}
    for group in reversed(Recipe.__mro__):
        if is_dataclass(group):
            found |= schema_of(group)["properties"] if group is not Recipe else {}
    own = fields_of(Recipe)
    found = {"prompt": own["prompt"].schema(), "negative": own["negative"].schema(), **found}
    found["version"] = {"const": 2, "description": "Of the form of recipes."}
    for name in IMAGES:
        about = str(found[name].get("description", "")).replace(": its path or, in Python, an image in memory", "")
        found[name]["description"] = f"{about.replace('; path or image', '')} {AN_IMAGE}"
        found[name]["contentMediaType"] = "image/*"
    for name in FOLDERS:
        found[name]["description"] = f"{found[name]['description']} {A_MODEL}"
    found["model"] = {"type": "string", "description": f"The model. {A_MODEL}", "default": default}
    for name, keys in NESTED.items():
        inner = found[name]["items"]["properties"]
        for key in keys:
            inner[key] = (
                {"type": "string", "description": AN_IMAGE, "contentMediaType": "image/*"}
                if key == "image"
                else {"type": "string", "description": A_MODEL, "x-choices": "/v1/models"}
            )
    for name, most in (("steps", limits.max_steps), ("batch", limits.max_batch), ("frames", limits.max_frames)):
        found[name]["maximum"] = most
    for name in ENTRIES:
        found[name]["maxItems"] = limits.max_entries
    for name, path in CHOICES.items():
        found[name]["x-choices"] = path
    about = (Recipe.__doc__ or "").partition("\n")[0]
    return {
        "type": "object", "description": about, "properties": found, "required": ["prompt"],
        "additionalProperties": False,
    }  # fmt: skip


def _job(record: Mapping[str, Any], recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a job as clients see it, from that of its record."""
    known = {name: each for name, each in record["properties"].items() if name not in HIDDEN}
    required = [field.name for field in fields(JobRecord) if field.name in known]
    known["recipe"] = {**recipe, "description": "Of a job that draws a recipe."}
    known["workflow"] = {"type": "object", "description": "Of a job that runs a workflow: its nodes by id."}
    return {"type": "object", "description": record["description"], "properties": known, "required": required}


def _describe(schema: dict[str, Any], kind: type) -> None:
    """Give a schema the sentences of a class's docstring."""
    parsed = docstring_parser.parse(kind.__doc__ or "", docstring_parser.DocstringStyle.GOOGLE)
    schema["description"] = parsed.short_description or ""
    for each in parsed.params:
        if each.arg_name in schema["properties"]:
            schema["properties"][each.arg_name]["description"] = " ".join((each.description or "").split())


def _object(**entries: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": entries, "required": list(entries)}


def parts_of(kind: type | None, schemas: Mapping[str, Any], files: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a form: files, and the fields of a class."""
    own: Mapping[str, Any] = {} if kind is None else schemas[kind.__name__]["properties"]
    needed: Iterable[str] = [] if kind is None else schemas[kind.__name__].get("required", [])
    return {"type": "object", "properties": {**files, **own}, "required": [next(iter(files)), *needed]}
