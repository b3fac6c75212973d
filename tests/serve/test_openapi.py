"""Whatever a caller makes of the schema that the predictor serves, the predictor does not fail: schemathesis tries."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from schemathesis.checks import not_a_server_error

from tests.serve import tiny
from tests.serve.alone import Alone, predictor

pytestmark = pytest.mark.slow

EXAMPLES = 120  # of each of the paths that take anything
TRIED = hypothesis_settings(
    max_examples=EXAMPLES, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)
_ANY = {"anyOf": [{"type": kind} for kind in ("number", "integer", "boolean", "string", "null", "array", "object")]}
_FITS = {"month": "integer", "weekend": "boolean", "carrier": "string"}


def row(values: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """The schema of a row, given those of its values."""
    columns = {name: values(name) for name in tiny.ROW}
    return {"type": "object", "properties": columns, "required": list(columns), "additionalProperties": False}


ROWS = [row(lambda name: {"anyOf": [{"type": _FITS.get(name, "number")}, {"type": "null"}]}), row(lambda _: _ANY)]
V1 = {
    "type": "object",
    "properties": {"instances": {"type": "array", "items": {"anyOf": ROWS}, "minItems": 1}},
    "required": ["instances"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alone]:
    folder = tmp_path_factory.mktemp("openapi")
    with predictor(folder, tiny.write_binary(folder / "package")) as alone:
        yield alone


def served(alone: Alone) -> dict[str, Any]:
    """The schema that KServe serves, with what it leaves open: the names of model and tensors, and what V1 takes."""
    document: dict[str, Any] = httpx.get(f"{alone.url}/openapi.json").json()
    document["components"]["schemas"]["RequestInput"]["properties"]["name"] = {"enum": [*tiny.ROW, "x"]}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            named = {
                each["name"]: each for each in operation.get("parameters", []) if each["name"].startswith("model_")
            }
            if "model_name" in named:
                named["model_name"]["schema"] = {"enum": ["late"]}
            operation["parameters"] = [*named.values()]
            if path.startswith("/v1/") and method == "post":
                operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": V1}}}
    return document


def test_no_path_fails(alone: Alone) -> None:
    schema = schemathesis.openapi.from_dict(served(alone))
    schema.config.update(base_url=alone.url)
    statuses: dict[str, Counter[int]] = {}
    for found in schema.get_all_operations():
        operation = found.ok()

        @TRIED
        @given(operation.as_strategy())
        def tried(case: Any) -> None:
            response = case.call_and_validate(checks=[not_a_server_error])
            statuses.setdefault(case.operation.label, Counter())[response.status_code] += 1

        tried()
    print(statuses)
    assert statuses["POST /v1/models/{model_name}:predict"].keys() >= {200, 400}, "what is right is tried too"
    assert statuses["GET /v2/models/{model_name}"].keys() == {200, 404}, "404 where a version is asked for"
    assert alone.process.poll() is None
    assert not [line for line in alone.lines() if line["level"] == "ERROR"]
