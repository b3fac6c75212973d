"""What serves a package: our predictor, on a GPU too, or Triton; and what KServe's other runtimes cannot."""

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from fti.common.errors import ConfigError, ServingError
from fti.common.inference_service import Revision, Service, parse, read_service, render, stable_package_uri
from fti.common.inference_service.runtimes import RUNTIMES, package_uri, served_uri
from fti.common.model_package import ModelPackage
from fti.common.settings import Settings
from fti.push.endpoint import try_examples
from fti.push.logic import push
from fti.push.triton import check_servable, config, publish_repository
from tests.manifests.schemas import validator
from tests.push.conftest import Cluster
from tests.push.test_push_to_cluster import models, short
from tests.serve import tiny

__all__ = ["models"]

MANIFESTS = Path(__file__).parents[2] / "manifests"


def pushing(package: ModelPackage, settings: Settings, runtime: str = "", percent: int = 100, **more: Any) -> Any:
    blessing = tiny.blessing(package.path.with_suffix(".json"), package)
    return push(
        package.path, blessing, service="late", settings=settings, canary_percent=percent, runtime=runtime, **more
    )


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("other", RUNTIMES)
def test_a_runtime_reads_back_as_it_was_written(runtime: str, other: str) -> None:
    one, two = Revision("a" * 64, "s3://m/late/a", "", runtime), Revision("b" * 64, "s3://m/late/b", "", other)
    base = render(Service("late", one))
    assert parse(base, "here").stable == one
    for after in (Service("late", one, two, 20), Service("late", two)):
        manifest = render(after, base)
        assert parse(manifest, "here") == after
        check = validator("serving.kserve.io_inferenceservices", "v1beta1")
        if check:
            check.validate(manifest)
    assert package_uri(served_uri(one), runtime) == one.storage_uri


def test_a_runtime_of_the_platforms_own_is_kept() -> None:
    one, two = Revision("a" * 64, "s3://m/a"), Revision("b" * 64, "s3://m/b")
    base = render(Service("late", one))
    base["spec"]["predictor"]["model"]["runtime"] = "our-predictor"
    after = render(Service("late", one, two, 20), base)
    predictors = [after["spec"]["predictor"], after["spec"]["canary"][0]["predictor"]]
    assert [predictor["model"]["runtime"] for predictor in predictors] == ["our-predictor"] * 2
    assert parse(after, "here").stable.runtime == "fti"


def test_a_canary_says_its_runtime_where_it_would_inherit_the_stable_ones() -> None:
    gpu, cpu = Revision("a" * 64, "s3://m/a", "", "fti-gpu"), Revision("b" * 64, "s3://m/b")
    canary = render(Service("late", gpu, cpu, 20))["spec"]["canary"][0]["predictor"]
    assert canary["model"]["runtime"] == "fti-predictor"


@pytest.mark.parametrize(
    ("runtime", "message"),
    [
        ("sklearn", "loads a pickle.*Use fti"),
        ("xgboost", "booster.*Use fti"),
        ("huggingface", "transformer.*Use fti"),
        ("tensorflow", "the runtime is 'tensorflow'.*fti, fti-gpu, triton"),
    ],
)
def test_runtimes_that_load_what_no_package_has(settings: Settings, tmp_path: Path, runtime: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pushing(tiny.write_binary(tmp_path / "one"), replace(settings, serving="standard"), runtime, percent=0)


def test_fti_serve_runs_our_predictor_alone(settings: Settings, tmp_path: Path) -> None:
    package = tiny.write_binary(tmp_path / "one")
    for runtime in ("fti-gpu", "triton"):
        with pytest.raises(ConfigError, match="fti serve.*FTI_DEVICE"):
            pushing(package, settings, runtime)
    assert pushing(package, settings, "fti")["variant"] == "stable"


def test_the_runtimes_of_the_manifests_are_those_that_push_names() -> None:
    paths = [MANIFESTS / "base" / "serving-runtimes.yaml", MANIFESTS / "components" / "triton" / "serving-runtime.yaml"]
    there = {}
    for manifest in (each for path in paths for each in yaml.safe_load_all(path.read_text())):
        check = validator("serving.kserve.io_servingruntimes", "v1alpha1")
        if check:
            check.validate(manifest)
        there[manifest["metadata"]["name"]] = manifest["spec"]
    for name, runtime in RUNTIMES.items():
        spec = there[runtime.serving_runtime]
        (form,) = spec["supportedModelFormats"]
        assert (form["name"], form["autoSelect"]) == (runtime.model_format, runtime.automatic)
        assert "v2" in spec["protocolVersions"]
        (container,) = spec["containers"]
        gpu = container["resources"]["limits"].get("nvidia.com/gpu")
        assert (gpu == "1") == (name != "fti") == bool(spec.get("tolerations"))
        assert container["securityContext"]["runAsNonRoot"] and container["securityContext"]["capabilities"]


def test_tritons_model_repository(settings: Settings, tmp_path: Path) -> None:
    package = tiny.write_binary(tmp_path / "one")
    publish_repository(package, "late", str(tmp_path / "repository"), settings)
    files = {path.relative_to(tmp_path / "repository").as_posix() for path in (tmp_path / "repository").rglob("*.*")}
    assert files == {"late/config.pbtxt", "late/1/model.onnx"}
    assert (tmp_path / "repository/late/1/model.onnx").read_bytes() == package.onnx.read_bytes()
    assert config(package.signature, "late") == (
        'name: "late"\nbackend: "onnxruntime"\nmax_batch_size: 1024\n'
        "input [\n"
        '  { name: "numeric", data_type: TYPE_FP32, dims: [ 4 ] },\n'
        '  { name: "categorical", data_type: TYPE_STRING, dims: [ 1 ] }\n'
        "]\n"
        'output [\n  { name: "probability", data_type: TYPE_FP32, dims: [ 2 ] }\n]\n'
        "dynamic_batching { }\n"
    )


def read_repository(folder: Path) -> tuple[Any, dict[str, list[int]], str]:
    """As Triton reads it: a session of the graph, the dims of each tensor, the name of the output."""
    import onnxruntime

    (model,) = folder.iterdir()
    text = (model / "config.pbtxt").read_text()
    assert f'name: "{model.name}"' in text and 'backend: "onnxruntime"' in text
    dims = {name: [int(width)] for name, width in re.findall(r'name: "(\w+)".*?dims: \[ (\d+) \]', text)}
    return onnxruntime.InferenceSession(model / "1" / "model.onnx"), dims, re.findall(r'\{ name: "(\w+)"', text)[-1]


def inferred(folder: Path, body: bytes, head_length: int) -> dict[str, Any]:
    """What a server of the V2 protocol makes of a request with binary tensors."""
    session, dims, output = read_repository(folder)
    head, at = json.loads(body[:head_length]), head_length
    feed = {}
    for tensor in head["inputs"]:
        size, shape = tensor["parameters"]["binary_data_size"], tensor["shape"]
        blob, at = body[at : at + size], at + size
        assert shape[1:] == dims[tensor["name"]]
        if tensor["datatype"] == "FP32":
            feed[tensor["name"]] = np.frombuffer(blob, "<f4").reshape(shape)
        else:
            texts, place = [], 0
            while place < size:
                length = int.from_bytes(blob[place : place + 4], "little")
                texts.append(blob[place + 4 : place + 4 + length].decode())
                place += 4 + length
            feed[tensor["name"]] = np.array(texts, object).reshape(shape)
    assert at == len(body) and [each["name"] for each in head["outputs"]] == [output]
    scores = session.run([output], feed)[0]
    assert list(scores.shape[1:]) == dims[output]
    data = {"name": output, "datatype": "FP32", "shape": list(scores.shape), "data": scores.ravel().tolist()}
    return {"model_name": folder.name, "outputs": [data]}


@pytest.fixture
def v2(tmp_path: Path) -> Iterator[str]:
    """A server of the V2 protocol over the model repository under `tmp_path / "served"`; not Triton itself."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            (model,) = (tmp_path / "served").iterdir()
            found = self.path == f"/v2/models/{model.name}/infer"
            head = int(self.headers["Inference-Header-Content-Length"])
            answer = json.dumps(inferred(tmp_path / "served", body, head) if found else {"error": "unknown"}).encode()
            self.send_response(200 if found else 400)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_examples_are_sent_to_triton_as_tensors(settings: Settings, tmp_path: Path, v2: str, task: str) -> None:
    row = {**tiny.ROW, "distance": None, "carrier": "Übersee"}
    if task == "binary":
        package = tiny.write_binary(tmp_path / "package")
        p = tiny.expected(row, 0.0)
        package.examples["inputs"].append(row)  # what is missing, and what is not ASCII
        package.examples["outputs"].append([1 - p, p])
    else:
        package = tiny.write_other(tmp_path / "package", task)
    publish_repository(package, "late", str(tmp_path / "served"), settings)
    try_examples(package, "late", v2, "triton")
    with pytest.raises(ServingError, match="does not answer its package's examples at .*/v2/models/other/infer: 400"):
        try_examples(package, "other", v2, "triton", patience=0)
    package.examples["outputs"][0] = (np.asarray(package.examples["outputs"][0]) + 0.1).tolist()
    with pytest.raises(ServingError, match="answers .* to example 0 of its package"):
        try_examples(package, "late", v2, "triton")


@pytest.mark.slow
def test_a_package_in_triton_on_a_cluster(single: Cluster, models: list[ModelPackage]) -> None:
    one, two, _ = models
    endpoint = pushing(one, single.settings, "triton")
    uri = f"{single.settings.models_uri}/late/{short(one)}"
    assert endpoint["storageUri"] == uri == stable_package_uri("late", single.settings)  # evaluate's baseline
    model = next(item for key, item in single.api.objects.items() if key[0].startswith("inferenceservices"))
    model = model["spec"]["predictor"]["model"]
    assert (model["runtime"], model["modelFormat"]["name"], "args" in model) == ("fti-triton", "onnx", False)
    assert model["storageUri"] == f"{single.settings.models_uri}/late/triton/{short(one)}"
    assert (Path(model["storageUri"]) / "late" / "1" / "model.onnx").is_file()
    pushing(two, single.settings, percent=20)  # as the service has it
    service = read_service("late", single.settings)
    assert service and service.canary and service.canary.runtime == "triton"
    with pytest.raises(ConfigError, match="one takes the other refuses"):
        pushing(two, single.settings, "fti", percent=20)


@pytest.mark.slow
def test_what_triton_cannot_serve(single: Cluster, models: list[ModelPackage], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="looks no features up"):
        pushing(models[0], single.settings, "triton", feature_repo="package://fti.feature_repo/")
    with pytest.raises(ConfigError, match="torch program"):
        check_servable(replace(models[0], path=tmp_path), "")
