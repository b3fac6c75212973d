"""Features looked up in a real Feast online store, for requests that carry entity keys."""

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from fti.common.errors import FeatureStoreError
from fti.common.inference_service import read_service
from fti.common.model_package import ModelPackage
from fti.common.settings import Settings
from fti.push.logic import push
from fti.serve.local.runner import running
from fti.serve.local.status import read
from tests.serve import tiny
from tests.serve.keyed import KEYS, REQUEST, SQLITE, at_airport, open_keyed

pytestmark = pytest.mark.slow


@pytest.fixture
def feature_repo(settings: Settings, tmp_path: Path) -> Path:
    """A repository with one view, and one row of it in the online store."""
    repo, store = open_keyed(settings, tmp_path / "features", SQLITE)
    at_airport(store, "JFK", 30.0)
    return repo


def push_keyed(settings: Settings, folder: Path, repo: Path, **changes: Any) -> ModelPackage:
    fields = {"entity_keys": KEYS, "feature_service": "late_v1", **changes}
    package = tiny.write_binary(folder / "keyed", **fields)
    blessing = tiny.blessing(folder / "blessing.json", package)
    push(package.path, blessing, service="late", settings=settings, feature_repo=str(repo))
    return package


def test_entity_keys_are_joined(settings: Settings, tmp_path: Path, feature_repo: Path) -> None:
    push_keyed(settings, tmp_path, feature_repo)
    service = read_service("late", settings)
    assert service and service.stable.feature_repo == str(feature_repo)
    rows = [
        {**REQUEST, "origin": "JFK", "gate": 7},
        {**REQUEST, "origin": "nowhere", "gate": 7},  # an unknown entity has no features: missing, not refused
        {**REQUEST, "origin": "JFK", "gate": 7, "distance": None},
    ]
    with running(settings) as endpoints:
        response = httpx.post(endpoints["late"], json={"instances": rows}, timeout=30)
        assert response.status_code == 200, response.text
        probabilities = [prediction["probability"] for prediction in response.json()["predictions"]]
        delays = [30.0, None, 30.0]
        for row, delay, probability in zip(rows, delays, probabilities, strict=True):
            full = {**row, "origin_delays__mean_delay": delay}
            assert probability == pytest.approx(tiny.expected(full, 0.0), abs=1e-5)
        assert response.headers["x-fti-features"] == "origin_delays=missing"
        by_grpc = ask_by_grpc(settings, rows[:2])
        assert by_grpc[0] == pytest.approx(probabilities[:2], abs=1e-6) and by_grpc[1] == "origin_delays=missing"
        assert ask_by_grpc(settings, rows[:1])[1] is None
        given = httpx.post(endpoints["late"], json={"instances": [tiny.ROW]}, timeout=30)
        assert given.status_code == 200, "all features may be given too"
        mixed = httpx.post(endpoints["late"], json={"instances": [{**tiny.ROW, "origin": "JFK"}]}, timeout=30)
        assert mixed.status_code == 400
        null = httpx.post(endpoints["late"], json={"instances": [{**rows[0], "gate": None}]}, timeout=30)
        assert null.status_code == 400 and "gate: row 0 is null" in null.json()["error"]
        wrong = httpx.post(endpoints["late"], json={"instances": [{**rows[0], "gate": "seven"}]}, timeout=30)
        assert wrong.status_code == 400 and "gate" in wrong.json()["error"]


def ask_by_grpc(settings: Settings, rows: list[dict[str, Any]]) -> tuple[list[float], Any]:
    """The probabilities, and what was not fresh."""
    import grpc
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
    from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc

    kinds = {str: ("BYTES", "bytes_contents"), bool: ("BOOL", "bool_contents"), int: ("INT64", "int64_contents")}
    message = pb.ModelInferRequest(model_name="late")
    for name in rows[0]:
        values = [row[name].encode() if isinstance(row[name], str) else row[name] for row in rows]
        datatype, field = kinds.get(type(rows[0][name]), ("FP64", "fp64_contents"))
        tensor = message.inputs.add(name=name, datatype=datatype, shape=[len(rows)])
        getattr(tensor.contents, field).extend(values)
    port = read(settings)["services"]["late"]["actual"]["revisions"]["stable"]["grpc_port"]
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        response, call = grpc_predict_v2_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer.with_call(message)
    scores = np.frombuffer(response.raw_output_contents[1], "<f4").reshape(-1, 2)
    return scores[:, 1].tolist(), dict(call.trailing_metadata()).get("x-fti-features")


def test_a_store_without_the_models_features_fails_at_the_start(
    settings: Settings, tmp_path: Path, feature_repo: Path
) -> None:
    from fti.common.tables import Feature
    from fti.serve.features import FeatureLookup

    stored = Feature("origin_delays__variance", "float32", "origin_delays:variance")
    package = tiny.write_binary(
        tmp_path / "other", inputs=(*tiny.INPUTS[:-1], stored), entity_keys=KEYS, feature_service="late_v1"
    )
    signature = package.signature
    with pytest.raises(FeatureStoreError, match="lacks origin_delays__variance"):
        FeatureLookup(str(feature_repo), signature, settings)
