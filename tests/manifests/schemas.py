"""Objects checked as an API server with strict field validation checks them: core kinds and custom resources."""

from functools import cache
from typing import Any

import jsonschema
import yaml

from tests.crds import CRD, _closed

FOLDER = CRD.parent


@cache
def crd(plural_and_group: str) -> dict[str, Any] | None:
    """A CustomResourceDefinition, such as `serving.kserve.io_inferenceservices`, or None where it is not here."""
    path = FOLDER / f"{plural_and_group}.yaml"
    if not path.exists():
        return None
    definition: dict[str, Any] = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
    return definition


@cache
def validator(plural_and_group: str, version: str) -> jsonschema.Draft7Validator | None:
    """Checks objects of a custom kind, unknown fields too; None where its schema is not here."""
    definition = crd(plural_and_group)
    if definition is None:
        return None
    (schema,) = (each["schema"] for each in definition["spec"]["versions"] if each["name"] == version)
    return jsonschema.Draft7Validator(_int_or_string(_closed(schema["openAPIV3Schema"])))


def _int_or_string(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_int_or_string(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: _int_or_string(value) for key, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        schema.pop("type", None)
    return schema
