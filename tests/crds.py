"""KServe's own schemas, where they lie beside the checkout."""

from pathlib import Path
from typing import Any

import pytest
import yaml

CRD = Path(__file__).parents[2] / "shared" / "crds" / "serving.kserve.io_inferenceservices.yaml"


def check_inference_service(manifest: dict[str, Any]) -> None:
    """Validates a manifest as the API server does with strict field validation; skips where there is no schema."""
    import jsonschema

    if not CRD.exists():
        pytest.skip("KServe's CRDs lie outside of the repository")
    crd = yaml.load(CRD.read_text(), Loader=yaml.CSafeLoader)
    schema = _closed(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
    jsonschema.Draft7Validator(schema).validate(manifest)


def _closed(schema: Any) -> Any:
    """The schema with unknown fields as errors."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if isinstance(closed.get("properties"), dict) and "type" in schema and closed["properties"].keys() != {"name"}:
        closed.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-preserve-unknown-fields") or schema.get("properties", {}).keys() == {"metadata"}:
        closed.pop("additionalProperties", None)
    return closed
