"""Every example of docs/clients.md, run as it stands: through the gateway, and against the predictor itself."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fti.common.settings import Settings
from fti.serve.local.runner import running
from fti.serve.local.status import read
from tests.serve import tiny
from tests.serve.conftest import publish

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[2] / "docs" / "clients.md").read_text()
GATEWAY = "localhost:8080"


@dataclass(frozen=True)
class Example:
    """A fenced block, and the block of text after it: what it prints."""

    language: str
    code: str
    output: str
    title: str

    @property
    def of_gateway(self) -> bool:
        return any(word in self.code for word in ("x-variant", "x-fti-unit", "x-fti-service", "fti predict"))


def examples() -> list[Example]:
    found = []
    for section in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]:
        blocks = re.findall(r"^```(bash|python)\n(.*?)^```\n```text\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
        found += [Example(*block, title=section.partition("\n")[0]) for block in blocks]
    return found


@dataclass(frozen=True)
class Addresses:
    gateway: str
    http: str
    grpc: str
    home: str


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Addresses]:
    folder = tmp_path_factory.mktemp("clients")
    settings = Settings.from_env({"FTI_HOME": str(folder / "home")})
    publish(settings, tiny.write_binary(folder / "package"), "late")
    with running(settings) as endpoints:
        stable = read(settings)["services"]["late"]["actual"]["revisions"]["stable"]
        gateway = endpoints["late"].removeprefix("http://").partition("/")[0]
        ports = (f"127.0.0.1:{stable[port]}" for port in ("port", "grpc_port"))
        yield Addresses(gateway, *ports, str(settings.home))


def test_no_example_is_left_out() -> None:
    fences = len(re.findall(r"^```(?:bash|python)$", PAGE, re.MULTILINE))
    assert len(examples()) == fences >= 8


@pytest.mark.parametrize("direct", [False, True], ids=["gateway", "predictor"])
@pytest.mark.parametrize("example", examples(), ids=lambda example: re.sub(r"\W+", "-", example.title))
def test_example(addresses: Addresses, example: Example, direct: bool) -> None:
    if direct and example.of_gateway:
        pytest.skip("only a gateway heeds these headers")
    own = addresses.grpc if "grpc" in example.code.lower() else addresses.http
    code = example.code.replace(GATEWAY, own if direct else addresses.gateway)
    command = ["bash", "-ec", code] if example.language == "bash" else [sys.executable, "-c", code]
    environ = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "FTI_HOME": addresses.home}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.rstrip("\n") == example.output.rstrip("\n"), done.stderr


@pytest.mark.parametrize("direct", [False, True], ids=["gateway", "predictor"])
def test_kserves_clients_with_binary_data(addresses: Addresses, direct: bool) -> None:
    from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
    from kserve.protocol.infer_type import RequestedOutput

    datatypes = dict.fromkeys(tiny.ROW, "FP32") | {"month": "INT64", "weekend": "BOOL", "carrier": "BYTES"}
    rest, rpc = (addresses.http, addresses.grpc) if direct else (addresses.gateway, addresses.gateway)
    wanted = pytest.approx(tiny.expected(tiny.ROW, 0.0), abs=1e-5)

    def request(binary: bool, asked: list[Any] | None) -> Any:
        inputs = []
        for name, value in tiny.ROW.items():
            kind = {"FP32": np.float32, "BYTES": object}.get(datatypes[name])
            values = np.array([value.encode() if isinstance(value, str) else value] * 2, dtype=kind)
            inputs.append(InferInput(name, [2], datatypes[name]))
            inputs[-1].set_data_from_numpy(values, binary_data=binary)
        return InferRequest("late", inputs, request_outputs=asked)

    async def ask() -> None:
        client = InferenceRESTClient(RESTConfig(protocol="v2"))
        async with InferenceGRPCClient(rpc) as over_grpc:
            for binary in (True, False):
                for asked in (None, [RequestedOutput("probability", {"binary_data": True})]):
                    answer = await client.infer(f"http://{rest}", request(binary, asked), model_name="late")
                    assert answer.get_output_by_name("probability").as_numpy()[1, 1] == wanted
                answer = await over_grpc.infer(request(binary, None))
                assert answer.get_output_by_name("probability").as_numpy()[1, 1] == wanted

    asyncio.run(ask())
