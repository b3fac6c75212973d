"""The predictor's application without a process of its own: what it answers, whatever comes."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from fti.common.errors import PackageError
from fti.common.model_package import ModelPackage, write_package
from tests.serve import tiny

paths = st.sampled_from(["/v1/models/m:predict", "/v2/models/m/infer", "/v1/models/n:predict", "/v2/models/m", "/é"])
headers = st.dictionaries(
    st.sampled_from(["content-type", "inference-header-content-length", "content-encoding", "x-variant"]),
    st.sampled_from(["application/json", "application/octet-stream", "", "12", "-1", "gzip", "; charset=utf-8"]),
)
bodies = st.binary(max_size=50) | st.sampled_from(
    [b'{"instances": [{"x": 1}]}', b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]}']
)


def ask(package: ModelPackage, method: str, path: str, **request: Any) -> httpx.Response:
    from kserve.model_server import app

    from fti.serve.front import Front
    from fti.serve.model import PackagedModel

    async def once() -> httpx.Response:
        transport = httpx.ASGITransport(Front(app, PackagedModel("m", "r1", package, None)))
        async with httpx.AsyncClient(transport=transport, base_url="http://model") as client:
            return await client.request(method, path, **request)

    return asyncio.run(once())


@pytest.fixture(scope="module")
def regression(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return tiny.write_other(tmp_path_factory.mktemp("front") / "package", "regression")


@given(st.sampled_from(["POST", "POST", "PUT", "DELETE", "GET"]), paths, headers, bodies)
@hypothesis_settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_comes_there_is_no_server_error(
    regression: ModelPackage, method: str, path: str, headers: dict[str, str], body: bytes
) -> None:
    response = ask(regression, method, path, headers=headers, content=body)
    assert response.status_code < 500
    assert response.headers["x-fti-revision"] == "r1"
    assert response.status_code == 200 or response.json()


def test_regression_in_v1_and_v2(regression: ModelPackage) -> None:
    answer = ask(regression, "POST", "/v1/models/m:predict", json={"instances": [{"x": 1.5}, {"x": -2}]}).json()
    assert answer == {"predictions": [{"prediction": 3.0}, {"prediction": -4.0}]}
    inputs = [{"name": "x", "shape": [2, 1], "datatype": "FP64", "data": [[1.5], [-2]]}]
    answer = ask(regression, "POST", "/v2/models/m/infer", json={"inputs": inputs}).json()
    assert answer["outputs"] == [{"name": "prediction", "datatype": "FP32", "shape": [2], "data": [3.0, -4.0]}]


def test_a_row_without_a_finite_answer_is_refused(regression: ModelPackage) -> None:
    response = ask(regression, "POST", "/v1/models/m:predict", json={"instances": [{"x": 1}, {"x": 3e38}]})
    assert (response.status_code, response.json()["error"]) == (422, "row 1: its values give no finite answer")


def test_a_package_that_does_not_reproduce_its_examples_is_not_served(tmp_path: Path) -> None:
    package = tiny.write_other(tmp_path / "right", "regression")
    wrong = write_package(
        tmp_path / "wrong",
        signature=package.signature,
        onnx=package.onnx.read_bytes(),
        native={},
        examples={"inputs": [{"x": 1.0}], "outputs": [2.1]},
        provenance={},
        card="",
    )
    with pytest.raises(PackageError, match="does not reproduce its own examples"):
        ask(wrong, "GET", "/v2/models/m/ready")


def test_a_package_without_examples_is_not_served(tmp_path: Path) -> None:
    package = tiny.write_other(tmp_path / "right", "regression")
    fields: dict[str, Any] = {"signature": package.signature, "onnx": package.onnx.read_bytes(), "card": ""}
    bare = write_package(tmp_path / "bare", native={}, examples={}, provenance={}, **fields)
    with pytest.raises(PackageError, match="has no examples"):
        ask(bare, "GET", "/v2/models/m/ready")


def test_the_arguments(tmp_path: Path) -> None:
    from fti.common.settings import Settings
    from fti.serve.predictor import _parser, load_model

    package = tiny.write_binary(tmp_path / "package")
    arguments = ["--package", str(package.path), "--name", "late"]
    settings = Settings.from_env({"FTI_HOME": str(tmp_path / "home")})
    assert load_model(_parser().parse_args(arguments), settings).revision == package.digest[:12]
    with pytest.raises(PackageError, match=f"holds model {package.digest[:12]}. Allowed: model 0123"):
        load_model(_parser().parse_args([*arguments, "--revision", "0123"]), settings)
