"""The inference log: what was answered is what is read, and nothing waits for it."""

import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as few
from hypothesis import strategies as st
from kserve.model_server import app

from fti.common.errors import ConfigError
from fti.common.inference_log import read_log, schema_of, score_of
from fti.common.inputs import Inputs, Layout
from fti.common.model_package import Signature
from fti.common.online.vectors import STATUSES, Names, Vectors
from fti.common.settings import Settings
from fti.common.storage import upload
from fti.common.tables import Feature
from fti.serve.features import Completed
from fti.serve.front import Front
from fti.serve.local.runner import running
from fti.serve.model import Answer, PackagedModel
from fti.serve.observe.inference_log import InferenceLog, Limits, open_log, sampled
from fti.serve.observe.inference_rows import Entry, Rows, size_of
from fti.serve.observe.metrics import Metrics
from fti.serve.observe.observer import Observer
from fti.serve.protocol import Request
from tests.object_store import ACCESS_KEY, BUCKET, SECRET_KEY, free_ports, object_store
from tests.serve import tiny
from tests.serve.alone import ask, predictor, until
from tests.serve.conftest import publish
from tests.serve.keyed import KEYS, SQLITE, at_airport, open_keyed, row
from tests.serve.test_protocol import binary, v2

V1, V2 = "/v1/models/late:predict", "/v2/models/late/infer"
INPUTS = (
    Feature("f", "float32"),
    Feature("n", "int64"),
    Feature("b", "bool"),
    Feature("s", "string", "view:s"),
)
TASKS: dict[str, Signature] = {
    "binary": Signature("m", "binary", INPUTS, ("no", "yes"), 0.5, "y"),
    "multiclass": Signature("m", "multiclass", INPUTS, (1, 2, 3), None, "y"),
    "regression": Signature("m", "regression", INPUTS, label="y"),
}
LIMITS = Limits()
KINDS = {"text": "string", "whole": "int64"}

# Text as requests hold it: JSON and protobuf have no lone surrogates.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
floats = st.floats(width=32, allow_infinity=False) | st.just(float("nan"))
moments = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)).map(lambda at: at.replace(tzinfo=UTC))


@st.composite
def entries(draw: Any, signature: Signature, known: bool = True) -> Entry:
    """An answered request with one to three rows, by keys or with all features."""
    rows = draw(st.integers(1, 3))

    def column(values: Any, dtype: Any) -> np.ndarray:
        return np.array(draw(st.lists(values, min_size=rows, max_size=rows)), dtype=dtype)

    features = {
        "f": column(floats, np.float32),
        "n": column(st.integers(-(2**24), 2**24) | st.just(float("nan")), np.float32),
        "b": column(st.sampled_from([0.0, 1.0, float("nan")]), np.float32),
        "s": column(st.none() | texts, object),
    }
    keyed = draw(st.booleans())
    keys = {"text": column(texts, object), "whole": column(st.integers(-(2**63), 2**63 - 1), object)}
    codes = np.stack([column(st.integers(0, len(STATUSES) - 1), np.int8) for _ in ("a", "b")])
    nothing = np.empty((0, rows), np.float32)
    vectors = Vectors(Names((), ("a", "b"), ()), nothing, {}, codes, np.zeros(codes.shape, np.int64)) if keyed else None
    width = {"binary": 2, "multiclass": 3}.get(signature.task, 0)
    chances = st.floats(0, 1, width=32)
    scores = np.array(draw(st.lists(chances, min_size=rows * max(width, 1), max_size=rows * max(width, 1))), np.float32)
    scores = scores.reshape(rows, width) if width else scores
    labels = np.array([signature.classes[n % 2] for n in range(rows)]) if width else scores
    columns: Any = features
    if draw(st.booleans()):  # as the model takes them
        numeric = np.column_stack([features[name] for name in ("f", "n", "b")])
        columns = Inputs(Layout(signature), numeric, features["s"].reshape(-1, 1))
    request = Request({**keys, "f": features["f"]} if keyed else columns, rows)
    answer = Answer(scores, labels, Completed(columns, vectors))
    request_id, unit = draw(texts.filter(bool)), draw(texts)
    at, protocol, asked = draw(moments).timestamp(), draw(st.sampled_from(["v1", "v2", "grpc"])), draw(st.booleans())
    return Entry(request_id, at, unit, protocol, asked, request, answer, score_of(signature, scores))


def plain(values: np.ndarray) -> list[Any]:
    return [None if value is None or value != value else value for value in values.tolist()]


def expected(entry: Entry, signature: Signature) -> list[dict[str, Any]]:
    """The rows of a request, by hand."""
    found = []
    for place in range(entry.request.rows):
        features = {name: plain(column)[place] for name, column in entry.answer.completed.columns.items()}
        vectors = entry.answer.completed.vectors
        stale = {view: str(status[place]) for view, status in vectors.status.items()} if vectors else {}
        wanted = {
            "request_id": entry.request_id,
            "row": place,
            "time": datetime.fromtimestamp(0, UTC) + timedelta(microseconds=round(entry.time * 1e6)),
            "model": "m",
            "revision": "r1",
            "unit": entry.unit or None,
            "protocol": entry.protocol,
            "asked": entry.asked,
            **{f"key__{key}": entry.request.columns[key][place] if vectors else None for key in KINDS},
            **{f"feature__{name}": value for name, value in features.items()},
            "feature__b": None if features["b"] is None else bool(features["b"]),
            "prediction": entry.answer.labels[place].item(),
            "score": entry.score[place].item(),
            "scores": entry.answer.scores[place].tolist(),
            "views": ",".join(f"{view}={is_}" for view, is_ in stale.items() if is_ != "fresh") if vectors else None,
        }
        if signature.task != "multiclass":
            del wanted["scores"]
        found.append(wanted)
    return found


def opened(settings: Settings, uri: str, signature: Signature, limits: Limits = LIMITS) -> tuple[InferenceLog, Metrics]:
    metrics = Metrics("m", f"{os.path.basename(uri)}-{time.monotonic_ns()}", signature, [0.5])
    rows = Rows("m", "r1", signature, schema_of(signature, KINDS))  # type: ignore[arg-type]
    return InferenceLog(f"{uri}/m/r1", rows, metrics, settings, limits), metrics


def comparable(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(repr({**row, "time": row["time"].astimezone(UTC)}) for row in rows)


@pytest.mark.parametrize("task", TASKS)
@given(data=st.data())
@few(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_answered_is_what_is_read(
    data: st.DataObject, task: str, settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    signature = TASKS[task]
    answered = data.draw(st.lists(entries(signature), min_size=1, max_size=6))
    uri = str(tmp_path_factory.mktemp("log"))
    log, _ = opened(settings, uri, signature)
    for entry in answered:
        log.add(entry)
    log.close()
    wanted = [row for entry in answered for row in expected(entry, signature)]
    read = read_log(uri, "m", settings).collect()
    assert comparable(read.to_dicts()) == comparable(wanted)
    days = sorted({row["time"].date() for row in wanted})
    assert sorted(folder.name for folder in Path(uri, "m", "r1").iterdir()) == [f"date={day}" for day in days]
    middle = wanted[0]["time"]
    since = read_log(uri, "m", settings, since=middle, columns=["request_id", "row"]).collect()
    until_ = read_log(uri, "m", settings, until=middle).collect()
    assert sorted(since.rows()) == sorted((r["request_id"], r["row"]) for r in wanted if r["time"] >= middle)
    assert len(since) + len(until_) == len(wanted)


def binary_entries(count: int, rows: int = 1, text: str = "x") -> list[Entry]:
    columns = {
        "f": np.arange(rows, dtype=np.float32),
        "n": np.zeros(rows, np.float32),
        "b": np.ones(rows, np.float32),
        "s": np.array([text] * rows, dtype=object),
    }
    scores = np.full((rows, 2), 0.5, np.float32)
    answer = Answer(scores, np.array(["yes"] * rows), Completed(columns))
    request = Request(columns, rows)
    return [Entry(f"id-{n}", time.time(), "", "v1", False, request, answer, scores[:, 1]) for n in range(count)]


def outcome(metrics: Metrics, name: str) -> float:
    return float(metrics._logged[name]._value.get())


def test_files_are_cut_by_age_and_read_lazily(settings: Settings, tmp_path: Path) -> None:
    log, metrics = opened(settings, str(tmp_path), TASKS["binary"], Limits(seconds=0.2))
    for entry in binary_entries(3):
        log.add(entry)
    until(lambda: log.waiting == 0)
    log.add(binary_entries(1)[0])
    until(lambda: log.waiting == 0)
    files = sorted(tmp_path.rglob("*.parquet"))
    assert len(files) == 2 and outcome(metrics, "written") == 4
    pattern = r"\d{8}T\d{12}Z-[A-Za-z0-9.-]+-\d+-\d+\.parquet"
    assert all(re.fullmatch(pattern, file.name) for file in files)
    files[0].write_bytes(b"no Parquet")
    read_log(str(tmp_path), "m", settings, revisions=["other"]).collect()
    read_log(str(tmp_path), "m", settings, until=datetime(2001, 1, 1, tzinfo=UTC)).collect()
    with pytest.raises(pl.exceptions.PolarsError):
        read_log(str(tmp_path), "m", settings).collect()
    log.close()


def test_rows_that_do_not_fit_are_dropped_and_counted(settings: Settings, tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the folder shall be")
    log, metrics = opened(settings, str(blocked), TASKS["binary"], Limits(rows=10, seconds=0.01))
    for entry in binary_entries(8, rows=3):
        log.add(entry)
    assert log.waiting == 9 and outcome(metrics, "dropped") == 15
    blocked.unlink()  # now it can be written
    until(lambda: log.waiting == 0)
    log.close()
    assert outcome(metrics, "written") == 9 and len(read_log(str(blocked), "m", settings).collect()) == 9


def test_rows_that_take_too_much_memory_are_dropped_and_counted(settings: Settings, tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the folder shall be")
    log, metrics = opened(settings, str(blocked), TASKS["binary"], Limits(memory=1_000_000, seconds=0.01))
    for entry in binary_entries(20, rows=2, text="é" * 50_000):  # 100 kB a request, twice that where they are wide
        log.add(entry)
    kept = log.waiting
    assert 8 <= kept <= 18 and outcome(metrics, "dropped") == 40 - kept
    log.add(binary_entries(1)[0])
    assert log.waiting == kept + 1, "there is room for small ones"
    blocked.unlink()
    until(lambda: log.waiting == 0)
    log.add(binary_entries(1, text="z" * 900_000)[0])
    assert log.waiting == 1, "what is written takes no memory any more"
    log.close()
    assert outcome(metrics, "written") == kept + 2 and outcome(metrics, "dropped") == 40 - kept


@pytest.mark.parametrize("task", TASKS)
@given(data=st.data())
@few(max_examples=15, deadline=None)
def test_no_less_memory_is_counted_than_rows_take(data: st.DataObject, task: str) -> None:
    signature = TASKS[task]
    rows = Rows("m", "r1", signature, schema_of(signature, KINDS))  # type: ignore[arg-type]
    entry = data.draw(entries(signature))
    assert rows.batch([entry]).nbytes <= size_of(entry)
    longer = entry.answer.completed.columns["s"].copy()
    longer[0] = "y" * 12_345
    columns = {**entry.answer.completed.columns, "s": longer}
    completed = replace(entry.answer.completed, columns=columns)
    assert size_of(entry._replace(answer=replace(entry.answer, completed=completed))) > 12_345


def test_what_was_looked_up_is_counted_while_it_waits() -> None:
    (entry,) = binary_entries(1, rows=64)
    names, codes = Names(("a",) * 200, ("v",), ("a", "text")), np.zeros((1, 64), np.int8)
    numbers, texts = np.zeros((200, 64), np.float32), np.array(["é" * 500] * 64, object)
    vectors = Vectors(names, numbers, {"text": texts}, codes, np.zeros((1, 64), np.int64))
    completed = replace(entry.answer.completed, vectors=vectors)
    keyed = entry._replace(answer=replace(entry.answer, completed=completed))
    held = numbers.nbytes + codes.nbytes + vectors.times.nbytes + texts.nbytes + 64 * sys.getsizeof(texts[0])
    assert size_of(keyed) - size_of(entry) == held


def test_what_cannot_be_written_is_told_once(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fti.serve.observe import inference_log

    tries = []

    def counted(*given: Any) -> None:
        tries.append(given[1])
        upload(*given)

    monkeypatch.setattr(inference_log, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(inference_log, "upload", counted)
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the folder shall be")
    log, metrics = opened(settings, str(blocked), TASKS["binary"], Limits(seconds=0.01))
    log.add(binary_entries(1)[0])
    until(lambda: len(tries) > 3)
    assert len(set(tries)) == 1, "always under the same name"
    started = time.monotonic()
    log.close()
    assert time.monotonic() - started < 5 and outcome(metrics, "dropped") == 1
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]
    assert "1 rows of the inference log were not written" in caplog.text


def test_an_entry_of_another_form_ends_nothing(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log, metrics = opened(settings, str(tmp_path), TASKS["binary"])
    good, bad = binary_entries(2)
    log.add(bad._replace(answer=replace(bad.answer, completed=Completed({}))))
    until(lambda: outcome(metrics, "dropped") == 1)
    log.add(good)
    log.close()
    assert outcome(metrics, "written") == 1 and "do not fit" in caplog.text


@given(st.lists(texts, min_size=1, max_size=50), st.floats(0, 1), st.floats(0, 1))
def test_samples_nest(ids: list[str], one: float, other: float) -> None:
    small, large = sorted([one, other])
    assert {each for each in ids if sampled(each, small)} <= {each for each in ids if sampled(each, large)}
    assert all(sampled(each, 1) and not sampled(each, 0) for each in ids)


def test_a_sample_has_its_share(settings: Settings, tmp_path: Path) -> None:
    log, metrics = opened(settings, str(tmp_path), TASKS["binary"], Limits(sample=0.25))
    for entry in binary_entries(2000, rows=2):
        log.add(entry)
    log.close()
    written, left = outcome(metrics, "written"), outcome(metrics, "sampled_out")
    assert written + left == 4000 and 850 < written < 1150
    read = read_log(str(tmp_path), "m", settings).collect()
    assert len(read) == written and set(read["row"]) == {0, 1}, "requests are logged whole"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"columns": ["speed"]}, "no column speed"),
        ({"since": datetime(2020, 1, 1)}, "no time zone"),
        ({"model": "../m"}, "no model"),
        ({"revisions": ["*"]}, "no model"),
    ],
)
def test_what_cannot_be_asked(settings: Settings, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_log(str(tmp_path), **{"model": "m", "settings": settings, **changes})


def test_a_log_without_rows(settings: Settings, tmp_path: Path) -> None:
    empty = read_log(str(tmp_path / "none"), "m", settings, columns=["request_id", "time"]).collect()
    assert empty.is_empty() and empty.schema["time"] == pl.Datetime("us", "UTC")


def test_revisions_of_different_features_are_read_together(settings: Settings, tmp_path: Path) -> None:
    for name in ("f", "g"):
        folder = tmp_path / "m" / name / "date=2024-01-01"
        folder.mkdir(parents=True)
        frame = pl.DataFrame({"request_id": [name], f"feature__{name}": [1.0]})
        frame.write_parquet(folder / "20240101T000000000000Z-host-1-1.parquet")
    both = read_log(str(tmp_path), "m", settings).collect()
    assert set(both.columns) == {"request_id", "feature__f", "feature__g"} and both["feature__f"].null_count() == 1


@pytest.mark.parametrize("share", ["2", "-0.1", "nan", "half"])
def test_a_sample_is_a_share(share: str) -> None:
    with pytest.raises(ConfigError, match="FTI_INFERENCE_LOG_SAMPLE"):
        Settings.from_env({"FTI_HOME": "/tmp/home", "FTI_INFERENCE_LOG_SAMPLE": share})


def test_refused_requests_are_not_logged(settings: Settings, tmp_path: Path) -> None:
    model = PackagedModel("late", f"log-{tmp_path.name}", tiny.write_binary(tmp_path / "package"), None)
    log = open_log(model, replace(settings, inference_log_uri=str(tmp_path / "log")), LIMITS)
    front = Front(app, model, observer=Observer(model, inference_log=log))
    ask(front, [(V1, b"{"), (V1, {"instances": [tiny.ROW]}), ("/v1/models/late:features", {"instances": [tiny.ROW]})])
    assert log is not None
    log.close()
    assert read_log(str(tmp_path / "log"), "late", settings).collect()["protocol"].to_list() == ["v1"]


def test_requests_that_chose_their_variant_are_told_apart(settings: Settings, tmp_path: Path) -> None:
    model = PackagedModel("late", f"log-{tmp_path.name}", tiny.write_binary(tmp_path / "package"), None)
    log = open_log(model, replace(settings, inference_log_uri=str(tmp_path / "log")), LIMITS)
    observer = Observer(model, inference_log=log)
    front, one = Front(app, model, observer=observer), {"instances": [tiny.ROW]}
    ask(front, [(V1, one)])
    ask(front, [(V1, one), (V2, v2([tiny.ROW] * 2))], {"x-variant": "canary"})
    kinds = {name: object if isinstance(value, str) else np.float32 for name, value in tiny.ROW.items()}
    columns = {name: np.array([tiny.ROW[name]], kind) for name, kind in kinds.items()}
    answer = Answer(np.array([[0.5, 0.5]], np.float32), np.array([True]), Completed(columns))
    for metadata in ({}, {"x-variant": "canary"}):
        with observer.grpc(metadata, "", "ModelInfer") as observed:
            observed.predicted(Request(columns, 1), answer)
            observed.code = 200
    assert log is not None
    log.close()
    read = read_log(str(tmp_path / "log"), "late", settings, columns=["protocol", "asked"]).collect()
    assert sorted(read.rows()) == [("grpc", False), ("grpc", True), ("v1", False), ("v1", True)] + [("v2", True)] * 2


def test_a_log_that_an_earlier_version_began_is_read(settings: Settings, tmp_path: Path) -> None:
    """By the same writer: a container whose host has a name of its own, and whose process is always the first."""
    folder = tmp_path / "m" / "r" / "date=2024-01-01"
    folder.mkdir(parents=True)
    for hour, rows in ((1, {"request_id": ["old"]}), (2, {"request_id": ["new"], "asked": [True]})):
        pl.DataFrame(rows).write_parquet(folder / f"20240101T0{hour}0000000000Z-host-1-1.parquet")
    read = read_log(str(tmp_path), "m", settings).collect()
    assert sorted(read.rows()) == [("new", True), ("old", None)]


def test_the_web_cannot_be_written_to(settings: Settings, tmp_path: Path) -> None:
    model = PackagedModel("late", "r1", tiny.write_binary(tmp_path / "package"), None)
    with pytest.raises(ConfigError, match="FTI_INFERENCE_LOG"):
        open_log(model, replace(settings, inference_log_uri="http://somewhere/log"), LIMITS)
    for limits in (Limits(rows=0), Limits(memory=0), Limits(seconds=0)):
        with pytest.raises(ConfigError, match="limits"):
            open_log(model, settings, limits)


def infer(served: Any, request_id: str, *rows: dict[str, Any]) -> Any:
    """Predictions over gRPC."""
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
    from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc

    request = pb.ModelInferRequest(model_name="late", id=request_id)
    for tensor in v2(list(rows))["inputs"]:
        kind = {"FP32": "fp32", "FP64": "fp64", "INT64": "int64", "BOOL": "bool", "BYTES": "bytes"}[tensor["datatype"]]
        values = [each.encode() if isinstance(each, str) else each for each in tensor["data"]]
        contents = pb.InferTensorContents(**{f"{kind}_contents": values})
        request.inputs.add(name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"], contents=contents)
    with grpc.insecure_channel(f"127.0.0.1:{served.grpc_port}") as channel:
        return grpc_predict_v2_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)


@pytest.mark.slow
def test_every_protocol_is_logged_and_sigterm_writes_the_rest(settings: Settings, tmp_path: Path) -> None:
    repo, store = open_keyed(settings, tmp_path / "repo", SQLITE)
    at_airport(store, "JFK", 30.0)
    package = tiny.write_binary(tmp_path / "package", entity_keys=KEYS, feature_service="late_v1")
    uri = str(tmp_path / "log")
    environ = {"FTI_HOME": str(settings.home), "FTI_INFERENCE_LOG": uri}
    with predictor(tmp_path, package, f"--feature_repo={repo}", environ=environ) as served:
        by_keys = {"instances": [row("JFK"), row("EWR", carrier=None, month=None)]}
        headers = {"x-request-id": "keys", "x-fti-unit": "user-7"}
        answer = httpx.post(served.url + V1, json=by_keys, headers=headers).raise_for_status()
        whole = {**tiny.ROW, "weekend": None}
        body, length = binary([tiny.ROW] * 2)
        typed = {"content-type": "application/octet-stream", "inference-header-content-length": str(length)}
        httpx.post(served.url + V2, json=v2([whole]), headers={"x-request-id": "json"}).raise_for_status()
        httpx.post(served.url + V2, content=body, headers={**typed, "x-request-id": "binary"}).raise_for_status()
        infer(served, "grpc", tiny.ROW)
        assert not list(tmp_path.rglob("log/**/*.parquet"))
        assert served.end() == 0
    read = read_log(uri, "late", settings).sort("request_id", "row").collect()
    assert read["request_id"].to_list() == ["binary", "binary", "grpc", "json", "keys", "keys"]
    assert read["protocol"].to_list() == ["v2", "v2", "grpc", "v2", "v1", "v1"]
    assert set(read["revision"]) == {package.digest[:12]} and set(read["model"]) == {"late"}
    keyed = read.filter(request_id="keys")
    assert keyed["key__origin"].to_list() == ["JFK", "EWR"] and keyed["key__gate"].to_list() == [7, 7]
    assert keyed["feature__origin_delays__mean_delay"].to_list() == [30.0, None], "what was looked up"
    assert keyed["feature__carrier"].to_list() == ["UA", None] and keyed["feature__month"].to_list() == [7, None]
    assert keyed["views"].to_list() == ["", "origin_delays=missing"] and keyed["unit"].to_list() == ["user-7"] * 2
    predictions = answer.json()["predictions"]
    assert keyed["prediction"].to_list() == [each["prediction"] for each in predictions]
    assert keyed["score"].to_list() == [np.float32(each["probability"]) for each in predictions]
    others = read.filter(pl.col("request_id") != "keys")
    assert others["key__origin"].null_count() == 4 and others["feature__weekend"].to_list()[-1] is None
    assert others["score"].to_list()[0] == pytest.approx(tiny.expected(tiny.ROW, 0.0), rel=1e-6)


@pytest.mark.slow
def test_a_crash_loses_what_was_not_yet_written(settings: Settings, tmp_path: Path) -> None:
    package = tiny.write_binary(tmp_path / "package")
    uri = str(tmp_path / "log")
    with predictor(tmp_path, package, "--inference_log_seconds=0.1", environ={"FTI_INFERENCE_LOG": uri}) as served:
        for _ in range(20):
            httpx.post(served.url + V1, json={"instances": [tiny.ROW]}).raise_for_status()
        until(lambda: served.metric("fti_inference_log_rows_total", outcome="written") == 20)
        served.process.send_signal(signal.SIGKILL)
        served.process.wait(10)
    assert len(read_log(uri, "late", settings).collect()) == 20
    assert not [path for path in Path(uri).rglob("*") if path.is_file() and path.suffix != ".parquet"]


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with object_store(tmp_path_factory.mktemp("weed")) as endpoint:
        yield endpoint


@pytest.mark.slow
def test_the_log_of_a_service_in_an_object_store(s3: str, settings: Settings, tmp_path: Path) -> None:
    publish(settings, tiny.write_binary(tmp_path / "package"), "late")
    settings = replace(
        settings,
        s3_endpoint=s3,
        s3_access_key=ACCESS_KEY,
        s3_secret_key=SECRET_KEY,
        inference_log_uri=f"s3://{BUCKET}/log",
    )
    with running(settings) as endpoints:
        body = {"instances": [tiny.ROW] * 2}
        answers = [httpx.post(endpoints["late"], json=body) for _ in range(8)]
        answers.append(httpx.post(endpoints["late"], json=body, headers={"x-request-id": "mine"}))
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert ids[-1] == "mine" and len(set(ids)) == 9
    frame = read_log(settings.inference_log_uri, "late", settings, columns=["request_id", "row"])
    assert sorted(frame.collect().rows()) == sorted((each, place) for each in ids for place in (0, 1))
    assert read_log(settings.inference_log_uri, "nobody", settings).collect().is_empty()


@pytest.mark.slow
def test_an_object_store_that_is_down_costs_no_request(tmp_path: Path) -> None:
    package = tiny.write_binary(tmp_path / "package")
    (port,) = free_ports(1)
    environ = {"FTI_INFERENCE_LOG": f"s3://{BUCKET}/log", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    limits = ("--inference_log_rows=500", "--inference_log_seconds=0.1")
    with predictor(tmp_path, package, *limits, environ=environ) as served, httpx.Client(base_url=served.url) as client:
        for _ in range(600):
            client.post(V1, json={"instances": [tiny.ROW]}).raise_for_status()
        assert served.metric("fti_inference_log_rows_total", outcome="dropped") == 100
        until(lambda: any("cannot be written" in line["message"] for line in served.lines()))
        started = time.monotonic()
        assert served.end() == 0 and time.monotonic() - started < 11
        told = [line["message"] for line in served.lines() if "inference log" in line["message"]]
    assert len(told) == 2 and told[0].startswith("the inference log cannot be written: s3://") and "500 rows" in told[1]


def test_the_examples_of_the_documentation(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = str(tmp_path / "log")
    rows = Rows("late-arrival", "r1", TASKS["binary"], schema_of(TASKS["binary"], KINDS))  # type: ignore[arg-type]
    log = InferenceLog(
        f"{uri}/late-arrival/r1", rows, Metrics("late-arrival", "docs", TASKS["binary"], [0.5]), settings, LIMITS
    )
    for entry in binary_entries(10, rows=2):
        log.add(entry)
    log.close()
    monkeypatch.setenv("FTI_INFERENCE_LOG", uri)
    text = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()
    names: dict[str, Any] = {}
    for example in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(example, names)
    assert names["by_revision"].rows() == [("r1", 20, 0.5)]
    hours = names["by_hour"].fetchall()
    assert {hour[0] for hour in hours} == {"r1"} and sum(hour[2] for hour in hours) == 20
    table = text.partition("| column | type |")[2].partition("\n\n")[0]
    cells = " ".join(line.split("|")[1] for line in table.splitlines()[2:])
    documented = set(re.findall(r"`([a-z_]+)`", cells))
    assert documented == {name for name in schema_of(TASKS["multiclass"], {}).names if "__" not in name}
