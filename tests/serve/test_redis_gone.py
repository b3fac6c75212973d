"""Redis killed, restarted and hung under load: clear errors, bounded waits, and recovery by itself."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc

from fti.common.errors import OnlineStoreError
from fti.common.online.reader import open_reader
from fti.common.settings import Settings
from fti.push.logic import push
from fti.serve.local.runner import running
from fti.serve.local.status import read
from tests.common.online import NOW, apply_shop, put, redis_store
from tests.serve import tiny
from tests.serve.alone import predictor
from tests.serve.grpc_load import request
from tests.serve.keyed import KEYS, REQUEST, at_airport, open_keyed, row
from tests.serve.load import post_many
from tests.servers import RedisServer, redis_server

pytestmark = pytest.mark.slow

PATIENCE = 3  # seconds; a machine that is busy with other tests is not taken for a Redis that hangs
BODY = json.dumps({"instances": [row("JFK")]}).encode()


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


def until(condition: Callable[[], Any], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "took too long"
        time.sleep(0.02)


def test_a_predictor_outlives_its_redis(settings: Settings, tmp_path: Path, redis: RedisServer) -> None:
    repo, store = open_keyed(settings, tmp_path / "repo", redis_store(redis.port, f",socket_timeout={PATIENCE}"))
    at_airport(store, "JFK", 30.0)
    package = tiny.write_binary(tmp_path / "package", entity_keys=KEYS, feature_service="late_v1")
    blessing = tiny.blessing(tmp_path / "blessing.json", package)
    push(package.path, blessing, service="late", settings=settings, feature_repo=str(repo))
    with running(settings) as endpoints:
        url = endpoints["late"]
        gateway, path = url[: url.index("/v1")], url[url.index("/v1") :]
        killed_and_back(gateway, path, redis, store)
        hung_and_back(url, redis)
        asked = httpx.post(url.replace(":predict", ":features"), json={"instances": [row("JFK")]}).json()
        assert asked["views"][0]["origin_delays"]["status"] == "fresh", "the gateway lets it through"
        port = read(settings)["services"]["late"]["actual"]["revisions"]["stable"]["port"]
        metrics = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        labels = f'asked="yes",model_name="late",revision="{package.digest[:12]}",status="fresh",view="origin_delays"'
        assert f"fti_looked_up_total{{{labels}}}" in metrics


def killed_and_back(gateway: str, path: str, redis: RedisServer, store: Any) -> None:
    """Under load: 200, then 503 while Redis is away, then 200 again; nothing else."""

    def back() -> None:
        redis.start()
        at_airport(store, "JFK", 30.0)

    load = post_many(gateway, path, BODY, 1200, at={300: redis.stop, 600: back})
    assert {status for status, _ in load.answers} == {200, 503}
    ups = [count for (status, _), count in load.answers.items() if status == 200]
    assert sum(ups) >= 299 and load.quantile(1) < 5
    until(lambda: httpx.post(gateway + path, content=BODY).status_code == 200)
    answer = httpx.post(gateway + path, content=BODY)
    assert "x-fti-features" not in answer.headers, "what was written anew is read"


def hung_and_back(url: str, redis: RedisServer) -> None:
    """A Redis that takes requests and never answers holds up only requests that need it, and not for long."""
    full = {"instances": [tiny.ROW]}
    waits: list[tuple[int, float, str]] = []
    with httpx.Client(timeout=30) as client:

        def keyed() -> None:
            started = time.monotonic()
            response = client.post(url, content=BODY)
            waits.append((response.status_code, time.monotonic() - started, response.headers.get("retry-after", "")))

        threads = [threading.Thread(target=keyed) for _ in range(12)]
        os.kill(redis.pid, signal.SIGSTOP)
        try:
            for thread in threads:
                thread.start()
            assert client.post(url, json=full).status_code == 200
            assert not waits, "a request with all features does not wait for Redis"
            for thread in threads:
                thread.join()
        finally:
            os.kill(redis.pid, signal.SIGCONT)
    assert {(status, retry) for status, _, retry in waits} == {(503, "1")}
    assert PATIENCE - 1 < max(seconds for _, seconds, _ in waits) < PATIENCE + 4
    until(lambda: httpx.post(url, content=BODY).status_code == 200)


def test_a_reader_reconnects_by_itself(tmp_path: Path, redis: RedisServer) -> None:
    store = apply_shop(tmp_path, redis_store(redis.port, ",socket_timeout=0.3"))
    put(store, "every", {"customer_id": 1}, {"f": 1.5, "l": 1})
    reader = open_reader(store, "numbers_v1", lambda: datetime.now(UTC))

    def value() -> Any:
        return reader.read({"customer_id": [1]}).columns["every__f"].tolist()

    assert value() == [1.5]
    redis.stop()
    for _ in range(3):
        with pytest.raises(OnlineStoreError, match="Redis does not answer: .*Connection refused"):
            value()
    redis.start()
    put(store, "every", {"customer_id": 1}, {"f": 2.5, "l": 1}, NOW)
    assert value() == [2.5], "at once, when it is back"
    with redis.client() as client:
        client.client_kill_filter(_type="normal", skipme=True)
    assert value() == [2.5], "a connection that was closed meanwhile is no error"
    os.kill(redis.pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises(OnlineStoreError, match="Timeout"):
            value()
        assert time.monotonic() - started < 1, "as long as the connection string says"
    finally:
        os.kill(redis.pid, signal.SIGCONT)
    assert value() == [2.5], "and what the hung request was answered late is not taken for this one's"


def test_passwords_stay_secret(tmp_path: Path, redis: RedisServer) -> None:
    store = apply_shop(tmp_path, redis_store(redis.port, ",password=s3cret"))
    with pytest.raises(OnlineStoreError) as refusal:
        open_reader(store, "numbers_v1", lambda: datetime.now(UTC)).read({"customer_id": [1]})
    assert "s3cret" not in str(refusal.value)


def test_http_and_grpc_share_one_connection(settings: Settings, tmp_path: Path, redis: RedisServer) -> None:
    """Both are answered by one event loop, which reads Redis itself; each request gets its own features."""
    repo, store = open_keyed(settings, tmp_path / "repo", redis_store(redis.port, ",client_name=predictor"))
    for n in range(20):
        at_airport(store, f"A{n}", float(n))
    package = tiny.write_binary(tmp_path / "package", entity_keys=KEYS, feature_service="late_v1")
    found: list[float] = []
    with predictor(tmp_path, package, f"--feature_repo={repo}", environ={"FTI_HOME": str(settings.home)}) as alone:
        load = threading.Thread(target=lambda: found.extend(by_grpc(alone.grpc, n) for n in range(20)))
        load.start()
        for n in range(20):
            answer = alone.post("/v1/models/late:predict", json={"instances": [row(f"A{n}")]})
            assert answer.json()["predictions"][0]["probability"] == pytest.approx(delayed(n), abs=1e-6)
        load.join()
        assert found == pytest.approx([delayed(n) for n in range(20)], abs=1e-6)
        with redis.client() as client:
            reading = [each for each in client.client_list() if (each["name"], each["cmd"]) == ("predictor", "hmget")]
        assert len(reading) == 2, "that of the event loop, and one of the read when it started"


def delayed(minutes: int) -> float:
    return tiny.expected({**tiny.ROW, "origin_delays__mean_delay": float(minutes)}, 0.0)


def by_grpc(address: str, airport: int) -> float:
    message = request()
    kept = [tensor for tensor in message.inputs if tensor.name in REQUEST]
    del message.inputs[:]
    message.inputs.extend(kept)
    message.inputs.add(name="origin", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"A%d" % airport)
    message.inputs.add(name="gate", datatype="INT64", shape=[1]).contents.int64_contents.append(7)
    with grpc.insecure_channel(address) as channel:
        answer = grpc_predict_v2_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(message, timeout=60)
    return float(np.frombuffer(answer.raw_output_contents[1], "<f4")[1])
