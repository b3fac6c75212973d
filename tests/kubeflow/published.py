"""The published API of Kubeflow Pipelines, v2beta1, as `kfp_server_api` carries it: paths, queries, bodies, types."""

import inspect
import re
from dataclasses import dataclass
from typing import Any

import kfp_server_api
from kfp_server_api import models

_CALL = re.compile(r"call_api\(\s*'(?P<path>[^']+)', '(?P<method>[A-Z]+)'")
_SERVICES = ("Pipeline", "PipelineUpload", "Run", "RecurringRun", "Experiment", "Healthz")


@dataclass(frozen=True)
class Operation:
    """One call: what it may be asked with, and what it answers with."""

    name: str
    method: str
    path: re.Pattern[str]
    queries: frozenset[str]
    body: str
    files: frozenset[str]
    answer: str


def _operations() -> list[Operation]:
    found = []
    for service in _SERVICES:
        for name, function in inspect.getmembers(getattr(kfp_server_api, f"{service}ServiceApi"), inspect.isfunction):
            if not name.endswith("_with_http_info"):
                continue
            source = inspect.getsource(function)
            call = _CALL.search(source)
            assert call
            body = re.search(r"body_params = local_var_params\['(\w+)'\]", source)
            answer = re.search(r"response_type='([^']+)'", source)
            found.append(
                Operation(
                    name=name.removesuffix("_with_http_info"),
                    method=call["method"],
                    path=re.compile(re.sub(r"\{\w+\}", "([^/:]+)", call["path"])),
                    queries=frozenset(re.findall(r"query_params\.append\(\('(\w+)'", source)),
                    body=_type_of(source, body[1]) if body else "",
                    files=frozenset(re.findall(r"local_var_files\['(\w+)'\]", source)),
                    answer=answer[1] if answer else "object",
                )
            )
    return sorted(found, key=lambda operation: operation.path.groups)  # names before placeholders


def _type_of(source: str, parameter: str) -> str:
    found = re.search(rf":type {parameter}: (\w+)", source)
    assert found
    return found[1]


OPERATIONS = _operations()


def operation(method: str, path: str) -> tuple[Operation, tuple[str, ...]] | None:
    """The call of a request, and the values in its path."""
    for entry in OPERATIONS:
        match = entry.path.fullmatch(path)
        if match and entry.method == method:
            return entry, match.groups()
    return None


def wrong(value: Any, kind: str, where: str = "") -> list[str]:
    """What of a value the published type does not allow: unknown attributes, and values of another type."""
    if value is None or kind == "object":
        return []
    if inner := re.fullmatch(r"list\[(.+)\]", kind):
        if not isinstance(value, list):
            return [f"{where} is no list"]
        return [problem for i, entry in enumerate(value) for problem in wrong(entry, inner[1], f"{where}[{i}]")]
    if inner := re.fullmatch(r"dict\(str, (.+)\)", kind):
        if not isinstance(value, dict):
            return [f"{where} is no map"]
        return [problem for key, entry in value.items() for problem in wrong(entry, inner[1], f"{where}.{key}")]
    plain: dict[str, type | tuple[type, ...]] = {
        "str": str, "datetime": str, "bool": bool, "int": int, "float": (int, float)
    }  # fmt: skip
    if kind in plain:
        return [] if isinstance(value, plain[kind]) else [f"{where} is {value!r}, not {kind}"]
    model = getattr(models, kind)
    if hasattr(model, "allowable_values"):
        return [] if value in model.allowable_values else [f"{where} is {value!r}, none of {model.allowable_values}"]
    if not isinstance(value, dict):
        return [f"{where} is no {kind}"]
    names = {json: model.openapi_types[name] for name, json in model.attribute_map.items()}
    unknown = [f"{where} has {key}, which {kind} has not" for key in value if key not in names]
    known = [(key, entry) for key, entry in value.items() if key in names]
    return unknown + [problem for key, entry in known for problem in wrong(entry, names[key], f"{where}.{key}")]
