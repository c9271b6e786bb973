"""What a command prints for programs, held against its schema; nothing that the schema does not name may be in it."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import sparsesync
from tests.support.filesystems import need

FOLDER = Path(sparsesync.__file__).parent / "schemas"


@functools.cache
def _validator(name: str) -> Any:
    try:
        import jsonschema
    except ImportError:
        need(False, "jsonschema is not installed")
    whole = json.loads((FOLDER / f"{name}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(whole)
    return jsonschema.Draft202012Validator(_closed(whole))


def _closed(schema: Any) -> Any:
    """A schema that allows no property that it does not describe."""
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    return {**closed, "additionalProperties": False} if schema.get("type") == "object" else closed


def document(text: str | bytes) -> dict[str, Any]:
    """The object that a command has printed, which has to be as its schema says."""
    found: dict[str, Any] = json.loads(text)
    command, name, _ = found["schema"].split("/")
    assert command == "sparsesync"
    _validator(name).validate(found)
    return found


def fields(text: str | bytes) -> dict[str, Any]:
    """What of the object is the command's own."""
    found = document(text)
    return {name: value for name, value in found.items() if name not in ("schema", "status", "failure")}
