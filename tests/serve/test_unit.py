"""The unit that the gateway reads from a request's body."""

import json
import subprocess
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from fti.common.inference_service import Revision, Service
from fti.serve.local import envoy
from fti.serve.local.plan import Replica
from fti.serve.local.ports import HOST, Ports
from fti.serve.local.routes import routes

pytestmark = pytest.mark.slow

COLUMN = "tail number"
V1, V2 = "/v1/models/late:predict", "/v2/models/late/infer"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """The gateway's own listener and routes, whose every answer is the unit instead of a predictor's."""
    folder = tmp_path_factory.mktemp("unit")
    service = Service("late", Revision("a" * 64, "/a"), unit=COLUMN)
    table = routes([Replica("late", "stable", service.stable, 100, 1, 2, unit=service.unit)])
    for route in table["virtual_hosts"][0]["routes"]:
        if "route" in route:
            unit = {"header": {"key": "unit", "value": "%REQ(x-fti-unit)%"}, "keep_empty_value": True}
            route |= {"direct_response": {"status": 200}, "response_headers_to_add": [unit]}
            del route["route"]
    with Ports() as ports:
        port = ports.reserve()
        config = envoy.bootstrap(port, ports.reserve(), folder / "clusters.yaml", folder / "routes.yaml")
        (folder / "envoy.yaml").write_text(yaml.safe_dump(config))
        for name, kind, resources in (
            ("clusters", "cluster.v3.Cluster", []),
            ("routes", "route.v3.RouteConfiguration", [table]),
        ):
            response = envoy.discovery_response(1, kind, resources)
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(response))
        command = [envoy.binary(), "-c", str(folder / "envoy.yaml"), "--concurrency", "1", "--disable-hot-restart"]
        with (folder / "log").open("wb") as log, httpx.Client(base_url=f"http://{HOST}:{port}") as client:
            process = subprocess.Popen([*command, "--log-level", "warning"], stdout=log, stderr=log)
            try:
                deadline = time.monotonic() + 30
                while unit_of(client, V1, b"{}") is None:
                    assert time.monotonic() < deadline, (folder / "log").read_text()
                    time.sleep(0.05)
                yield client
            finally:
                process.terminate()
                process.wait(20)


def unit_of(client: httpx.Client, path: str, body: bytes, **headers: str) -> str | None:
    """The unit that goes to the predictor; None where nothing answers."""
    try:
        answer = client.post(path, content=body, headers=headers)
    except httpx.HTTPError:
        return None
    return answer.headers.get("unit", "") if answer.status_code == 200 else None


def v2(values: list[Any], nested: bool = False) -> dict[str, Any]:
    data = [[value] for value in values] if nested else values
    return {
        "inputs": [
            {"name": "other", "shape": [1], "datatype": "BYTES", "data": ["x"] * len(values)},
            {"name": COLUMN, "shape": [len(values)], "datatype": "BYTES", "data": data},
        ]
    }


names = st.text(min_size=1, max_size=12) | st.integers(-(2**63), 2**63).map(str)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
slow_start = hypothesis_settings(deadline=None, max_examples=150)


@slow_start
@given(name=names, rows=st.integers(1, 4), ascii_only=st.booleans(), indent=st.sampled_from([None, 2]), more=anything)
def test_it_is_that_of_all_rows(
    gateway: httpx.Client, name: str, rows: int, ascii_only: bool, indent: int | None, more: Any
) -> None:
    wanted = quote(name, safe="")
    for path, message in (
        (V1, {"instances": [{"more": more, COLUMN: name}] * rows}),
        (V2, v2([name] * rows)),
        (V2, v2([name] * rows, nested=True)),
    ):
        body = json.dumps(message, ensure_ascii=ascii_only, indent=indent)
        assert unit_of(gateway, path, body.encode("utf-8", "surrogatepass")) == wanted


@slow_start
@given(body=st.binary(max_size=60) | anything.map(lambda value: json.dumps({"instances": value}).encode()))
def test_what_names_nobody_goes_on_unnamed(gateway: httpx.Client, body: bytes) -> None:
    assert unit_of(gateway, V1, body) == ""


@pytest.mark.parametrize(
    ("message", "unit"),
    [
        ({"instances": [{COLUMN: 7}]}, "7"),
        ({"instances": [{COLUMN: 9007199254740993}]}, "9007199254740993"),  # as it was written
        ({"instances": [{COLUMN: "a"}, {COLUMN: "b"}]}, ""),  # about several units
        ({"instances": [{COLUMN: "a"}, {}]}, ""),
        ({"instances": [{COLUMN: None}]}, ""),
        ({"instances": [{COLUMN: True}]}, ""),
        ({"instances": [{COLUMN: ""}]}, ""),
        ({"instances": [{COLUMN: ["a"]}]}, ""),
        ({"instances": [{"other": f'"{COLUMN}": "b"', COLUMN: "a"}]}, "a"),  # it is read, not searched for
        ({"instances": [{"other": {COLUMN: "b"}, COLUMN: "a"}]}, "a"),
        ({"instances": [{COLUMN: "a", "long": "x" * 30_000}]}, "a"),
        ({"instances": [{COLUMN: "a", "long": "x" * 33_000}]}, ""),
        ({"instances": [{COLUMN: "a" * 256}]}, "a" * 256),
        ({"instances": [{COLUMN: "a" * 257}]}, ""),
        ({"instances": [{COLUMN: "a", "deep": [[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]}]}, ""),
    ],
)
def test_cases(gateway: httpx.Client, message: Any, unit: str) -> None:
    assert unit_of(gateway, V1, json.dumps(message).encode()) == unit


def test_who_calls_goes_before_the_body(gateway: httpx.Client) -> None:
    body = json.dumps({"instances": [{COLUMN: "a"}]}).encode()
    assert unit_of(gateway, V1, body, **{"x-fti-unit": "b"}) == "b"
    assert unit_of(gateway, V1, body, **{"x-fti-unit": ""}) == "a"
