"""What the predictor counts."""

import itertools
import re
from asyncio import CancelledError
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from kserve.model_server import app
from prometheus_client import REGISTRY, CollectorRegistry, Histogram
from prometheus_client.parser import text_string_to_metric_families

from fti.common.settings import Settings
from fti.rollout.counters import Counts
from fti.rollout.predictor_metrics import NAMES, counted
from fti.serve.features import Completed, FeatureLookup
from fti.serve.front import Front
from fti.serve.model import Answer, PackagedModel
from fti.serve.observe.collectors import Buckets
from fti.serve.observe.metrics import score_bounds
from fti.serve.observe.observer import Observer
from fti.serve.protocol import Request
from tests.serve import tiny
from tests.serve.alone import ask, predictor
from tests.serve.keyed import KEYS, SQLITE, at_airport, open_keyed, row
from tests.serve.test_protocol import v2

V1, V2 = "/v1/models/late:predict", "/v2/models/late/infer"


def value(name: str, **labels: str) -> float:
    if name.startswith(("fti_request", "fti_score")):
        labels = {"asked": "no", **labels}
    return REGISTRY.get_sample_value(name, labels) or 0.0


@pytest.fixture
def model(tmp_path: Path) -> PackagedModel:
    # A revision of its own, so that other tests' counts are not seen.
    return PackagedModel("late", f"metrics-{tmp_path.name}", tiny.write_binary(tmp_path / "package"), None)


def test_requests_are_counted_by_protocol_and_code(model: PackagedModel) -> None:
    front = Front(app, model)
    labels = {"model_name": "late", "revision": model.revision}
    rows = {"instances": [tiny.ROW] * 3}
    bad: list[tuple[str, Any]] = [(V1, b"{"), (V1, {"instances": []}), (V2, b"[]")]
    good: list[tuple[str, Any]] = [(V1, rows), (V2, v2([tiny.ROW])), ("/v1/models/late:features", rows)]
    statuses = [answer.status_code for answer in ask(front, bad + good)]
    assert statuses == [400] * 3 + [200] * 3
    counts = {
        (protocol, code): value("fti_requests_total", **labels, protocol=protocol, code=code)
        for protocol in ("v1", "v2", "features")
        for code in ("200", "400")
    }
    assert counts == {
        ("v1", "200"): 1,
        ("v1", "400"): 2,
        ("v2", "200"): 1,
        ("v2", "400"): 1,
        ("features", "200"): 1,
        ("features", "400"): 0,
    }
    assert value("fti_request_seconds_count", **labels, protocol="v1") == 3
    assert value("fti_request_rows_sum", **labels) == 4, "3 rows and 1 were predicted"
    assert value("fti_score_count", **labels) == 4
    p = tiny.expected(tiny.ROW, 0.0)
    assert value("fti_score_sum", **labels) == pytest.approx(4 * p, rel=1e-5)
    assert value("fti_score_bucket", **labels, le="0.85") == 0 and value("fti_score_bucket", **labels, le="0.9") == 4


def test_what_the_split_did_not_choose_is_counted_apart(keyed: tuple[Front, Observer, dict[str, str]]) -> None:
    """Requests that ask for a variant count in no rollout; of lookups alone, the request does, and no lookup."""
    front, observer, labels = keyed
    one, three = {"instances": [row("JFK")]}, {"instances": [row("LGA")] * 3}

    def counts() -> Counts:
        samples = {
            (name, tuple(found.items())): int(sample.value)
            for family in REGISTRY.collect()
            for sample in family.samples
            if (name := sample.name) in NAMES and (found := sample.labels).get("revision") == labels["revision"]
        }
        return counted(samples)

    assert ask(front, [(V1, one)])[0].status_code == 200
    before = counts()
    assert before["looked_up/origin_delays"] == 1 and before["scores/inf"] == before["rows/inf"] == 1
    features = ("/v1/models/late:features", three)
    for variant in ("canary", "stable"):
        answers = ask(front, [(V1, three), (V2, v2([tiny.ROW])), features, (V1, b"{")], {"x-variant": variant})
        assert [answer.status_code for answer in answers] == [200, 200, 200, 400]
    with observer.grpc({"x-variant": "canary"}, "", "ModelInfer") as observed:
        observed.code = 503
    assert counts() == before, "no rollout counts them"
    assert value("fti_requests_total", **labels, protocol="v1", code="200", asked="yes") == 2, "but they are counted"
    assert ask(front, [features])[0].status_code == 200
    grown = {name: count for name, count in counts().since(before).items() if count}
    assert grown.pop("requests") == 1 and all(name.startswith("seconds/") for name in grown), grown
    view = {**labels, "view": "origin_delays", "status": "missing"}
    assert value("fti_looked_up_total", **view, asked="yes") == 3 * (2 + 2 + 1)
    assert value("fti_score_count", **labels, asked="yes") == 2 * (3 + 1)
    assert ask(front, [(V1, three)])[0].status_code == 200
    assert counts()["stale/origin_delays"] == 3


@pytest.fixture
def keyed(settings: Settings, tmp_path: Path) -> tuple[Front, Observer, dict[str, str]]:
    """A front that looks one view up, what observes it, and the labels of its metrics."""
    repo, store = open_keyed(settings, tmp_path / "repo", SQLITE)
    at_airport(store, "JFK", 30.0)
    package = tiny.write_binary(tmp_path / "package", entity_keys=KEYS, feature_service="late_v1")
    lookup = FeatureLookup(str(repo), package.signature, settings, "refuse")
    revision = f"asked-{tmp_path.name}"
    model = PackagedModel("late", revision, package, lookup)
    observer = Observer(model)
    return Front(app, model, observer=observer), observer, {"model_name": "late", "revision": revision}


def test_what_nobody_expected_counts_as_500_and_predicts_nothing(model: PackagedModel) -> None:
    labels = {"model_name": "late", "revision": model.revision}
    columns = {"distance": np.zeros(1, np.float32)}
    answer = Answer(np.array([[0.5, 0.5]], np.float32), np.array([True]), Completed(columns))
    with pytest.raises(RuntimeError), Observer(model).http("v1", {}, "POST", V1) as observed:
        observed.predicted(Request(columns, 1), answer)
        raise RuntimeError
    with pytest.raises(CancelledError), Observer(model).http("v1", {}, "POST", V1):
        raise CancelledError
    assert value("fti_requests_total", **labels, protocol="v1", code="500") == 1
    assert value("fti_requests_total", **labels, protocol="v1", code="499") == 1
    assert value("fti_request_rows_count", **labels) == value("fti_score_count", **labels) == 0


def test_unknown_paths_make_no_series(model: PackagedModel) -> None:
    front, labels = Front(app, model), {"model_name": "late", "revision": model.revision}

    def series() -> set[str]:
        samples = [sample for family in REGISTRY.collect() for sample in family.samples]
        return {f"{sample.name}{sorted(sample.labels.items())}" for sample in samples}

    ask(front, [("/nowhere", {})])
    before = series()
    ask(front, [(f"/v1/models/guess-{n}:predict", {}) for n in range(50)])
    assert series() == before
    assert value("fti_requests_total", **labels, protocol="other", code="404") == 51


_names = itertools.count()
# Some libraries, once imported, have the processor take the smallest numbers for 0.
numbers = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)


@hypothesis_settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(numbers, max_size=30), max_size=5), st.lists(numbers, min_size=1, max_size=20, unique=True))
def test_buckets_are_those_of_prometheus(batches: list[list[float]], bounds: list[float]) -> None:
    bounds = sorted(bounds)
    # Once Feast was imported first, prometheus_client keeps values by name, for several processes.
    name = f"h{next(_names)}"
    ours, theirs = Buckets(bounds), Histogram(name, "h", registry=CollectorRegistry(), buckets=bounds)
    for batch in batches:
        ours.observe(np.array(batch, dtype=np.float32))
        for each in batch:
            theirs.observe(each)
    (family,) = theirs.collect()
    expected = [sample.value for sample in family.samples if sample.name == f"{name}_bucket"]
    assert [count for _, count in ours.cumulated()] == expected
    # Prometheus has no sum where a bound is negative.
    for total in (sample.value for sample in family.samples if sample.name == f"{name}_sum"):
        assert ours.total == pytest.approx(total, rel=1e-9, abs=1e-3)


def test_buckets_of_a_regression_spread_over_its_examples(tmp_path: Path) -> None:
    package = tiny.write_other(tmp_path / "package", "regression")
    bounds = score_bounds(package)
    assert len(bounds) == 20 and bounds == sorted(bounds)
    assert bounds[0] < 2.0 < bounds[-1], "the one example's output"
    assert score_bounds(tiny.write_binary(tmp_path / "binary")) == pytest.approx(np.arange(1, 21) / 20)


@pytest.mark.slow
def test_metrics_of_a_predictor_over_http_and_grpc(tmp_path: Path) -> None:
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
    from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc

    package = tiny.write_binary(tmp_path / "package")
    with predictor(tmp_path, package) as served:
        with grpc.insecure_channel(f"127.0.0.1:{served.grpc_port}") as channel:
            stub = grpc_predict_v2_pb2_grpc.GRPCInferenceServiceStub(channel)
            for name in ("late", "nobody"):
                with pytest.raises(grpc.RpcError) as refused:
                    stub.ModelInfer(pb.ModelInferRequest(model_name=name, id="seven"))
                assert dict(refused.value.trailing_metadata())["x-request-id"] == "seven"
        httpx.post(served.url + V1, json={"instances": [tiny.ROW]}).raise_for_status()
        text = httpx.get(f"{served.url}/metrics").text
        assert served.metric("fti_requests_total", protocol="grpc", code="400") == 1
        assert served.metric("fti_requests_total", protocol="grpc", code="404") == 1
        assert served.metric("fti_requests_total", protocol="v1", code="200", revision=package.digest[:12]) == 1
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["request_predict_seconds"].type == "histogram", "KServe's own"
    labels = {"model_name": "late", "revision": package.digest[:12]}
    for name in ("fti_request_seconds", "fti_request_rows", "fti_batch_rows", "fti_queue_requests", "fti_score"):
        assert families[name].samples[0].labels.items() >= labels.items(), name
    assert {sample.labels["outcome"] for sample in families["fti_inference_log_rows"].samples} >= {"written", "dropped"}


def test_the_documented_metrics_are_those_there_are() -> None:
    text = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()
    documented = set(re.findall(r"^\| `(fti_[a-z_]+)` \|", text, re.MULTILINE))
    families = [family for family in REGISTRY.collect() if family.name.startswith("fti_")]
    assert documented == {f"{each.name}_total" if each.type == "counter" else each.name for each in families}


def test_a_regression_that_was_trained_again_has_the_same_buckets(tmp_path: Path) -> None:
    def bounds(*outputs: float) -> list[float]:
        package = tiny.write_other(tmp_path / "package", "regression")
        return score_bounds(replace(package, examples={"outputs": list(outputs)}))

    assert bounds(3.1, 17.9, 8.0) == bounds(2.4, 16.5, 7.7)
    for outputs in ((3.1, 17.9), (-5.0, -4.9), (0.0,), (1e6, 3e6)):
        assert bounds(*outputs)[0] <= min(outputs) + (bounds(*outputs)[-1] - bounds(*outputs)[0]) / 2
        assert bounds(*outputs)[-1] > max(outputs)


def test_what_is_held_back_is_counted_before_anyone_looks(model: PackagedModel) -> None:
    labels = {"model_name": "late", "revision": model.revision}
    for _ in range(300):
        model.metrics.answered("v1", 200, 0.001, np.array([[0.9, 0.1], [0.3, 0.7]], np.float32))
    assert value("fti_score_count", **labels) == 600
    assert value("fti_score_sum", **labels) == pytest.approx(300 * 0.8, rel=1e-5)
    model.metrics.answered("v1", 200, 0.001, np.array([[0.9, 0.1]], np.float32))
    assert value("fti_score_count", **labels) == 601
    assert value("fti_score_bucket", **labels, le="0.5") == 301
