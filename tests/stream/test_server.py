"""`fti stream` as its callers meet it: real requests to the real command."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.stream.shop import MIDNIGHT, Shop, make_shop, order
from tests.stream.test_shop import FIRST, hour, online, require_same

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
LINES = {"content-type": "application/x-ndjson"}


def command(shop: Shop, *options: str) -> list[str]:
    tables = ["--tables", json.dumps(shop.tables), "--feature-repo", str(shop.repo)]
    return [str(Path(sys.executable).parent / "fti"), "stream", *tables, "--port", "0", *options]


def environ(shop: Shop) -> dict[str, str]:
    return {**os.environ, "FTI_HOME": str(shop.settings.home)}


@contextmanager
def served(shop: Shop, *options: str) -> Iterator[tuple[httpx.Client, subprocess.Popen[str]]]:
    """The command, from its first answer on."""
    process = subprocess.Popen(
        command(shop, *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environ(shop)
    )
    try:
        assert process.stdout is not None
        url = re.search(r"http://[\d.]+:\d+", process.stdout.readline())
        assert url, process.communicate()
        with httpx.Client(base_url=url[0], timeout=60) as client:
            yield client, process
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("FTI_OFFLINE_URI", raising=False)
        yield make_shop(tmp_path_factory.mktemp("shop"), FIRST)


@pytest.fixture(scope="module")
def client(shop: Shop) -> Iterator[httpx.Client]:
    with served(shop, "--start", MIDNIGHT.isoformat(), "--tick", "0.1", "--flush", "0.5") as (client, _):
        yield client


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def push(client: httpx.Client, *events: Any, table: str = "orders") -> httpx.Response:
    return client.post(f"/v1/tables/{table}:push", json={"events": events})


def test_a_push_says_what_became_of_it_and_the_features_are_online(shop: Shop, client: httpx.Client) -> None:
    answer = push(client, order(2, 2, -1), order(3, -1, -1))
    assert answer.status_code == 200
    said = answer.json()
    assert (said["accepted"], said["rejected"]) == (1, [{"event": 1, "reasons": ["customer is below 0"]}])
    assert said["rows"] == {"spending": 1, "recent": 1, "turnover": 1}
    assert datetime.fromisoformat(said["watermark"]).tzinfo and said["watermark"].endswith("Z")
    assert online(shop)["spending__total"][2] == 10.0


def test_json_lines(client: httpx.Client) -> None:
    body = "\n".join(json.dumps(order(number, 1, -2)) for number in (4, 5)) + "\n\n"
    answer = client.post("/v1/tables/orders:push", content=body, headers=LINES)
    assert (answer.status_code, answer.json()["accepted"]) == (200, 2)


def test_time_passes_by_itself(shop: Shop, client: httpx.Client) -> None:
    now = datetime.fromisoformat(client.get("/v1/healthz").json()["watermark"])
    soon = (now - MIDNIGHT).total_seconds() / 3600 + 1 / 3600  # in a second
    before = online(shop)["spending__orders"][0]
    assert push(client, order(6, 0, soon)).json()["accepted"] == 1
    until(lambda: online(shop)["spending__orders"][0] == before + 1)
    until(lambda: client.get("/v1/healthz").json()["waiting_rows"] == 0)


@pytest.mark.parametrize(
    ("path", "content", "headers", "status", "says"),
    [
        ("/v1/tables/nothing:push", b'{"events": [{}]}', {}, 404, "there is no table 'nothing'. Allowed: orders, cust"),
        ("/v1/tables/orders", b"{}", {}, 404, ""),
        ("/v1/tables/orders:push", b"", {}, 400, "the body is not JSON"),
        ("/v1/tables/orders:push", b'{"events": [NaN]}', {}, 400, "the body is not JSON"),
        ("/v1/tables/orders:push", b"\xff\xfe", {}, 400, "the body is not JSON"),
        ("/v1/tables/orders:push", b"[]", {}, 400, "the body has another shape. Allowed: {"),
        ("/v1/tables/orders:push", b'{"events": {}}', {}, 400, "the body has another shape"),
        ("/v1/tables/orders:push", b'{"events": [], "at": 1}', {}, 400, "the body has another shape"),
        ("/v1/tables/orders:push", b'{"events": []}', {}, 400, "the body holds no event"),
        ("/v1/tables/orders:push", b'{"events": [null]}', {}, 400, "events[0] is null"),
        ("/v1/tables/orders:push", b'{"events": [{"price": 1}]}', {}, 400, "events[0].price is an unknown field"),
        ("/v1/tables/orders:push", b'{"events": [{"number": "1"}]}', {}, 400, "events[0].number is the text '1'"),
        ("/v1/tables/orders:push", b'{"number": 1}\n{', LINES, 400, "line 2 is not JSON"),
        ("/v1/tables/orders:push", b"\n\n", LINES, 400, "the body holds no event"),
        ("/v1/tables/orders:push", b"{}", {"content-type": "text/csv"}, 415, "content-type: text/csv. Allowed"),
        ("/v1/tables/orders:push", b" " * (17 * 1024 * 1024), {}, 413, "the body is too large. Allowed: 16777216"),
    ],
)
def test_a_bad_request_is_explained(
    client: httpx.Client, path: str, content: bytes, headers: dict[str, str], status: int, says: str
) -> None:
    answer = client.post(path, content=content, headers=headers)
    assert answer.status_code == status
    assert says in answer.text.replace('\\"', '"')


def test_metrics_count(client: httpx.Client) -> None:
    push(client, order(7, 1, -3), order(8, -5, -3))
    text = client.get("/metrics").text
    for name in (
        'fti_stream_events_total{outcome="accepted",table="orders"}',
        'fti_stream_events_total{outcome="rejected",table="orders"}',
        'fti_stream_feature_rows_total{view="spending"}',
        'fti_stream_push_seconds_count{table="orders"}',
    ):
        assert float(re.search(re.escape(name) + " (.*)", text)[1]) > 0  # type: ignore[index]
    assert "\nfti_stream_failing 0.0" in text
    assert float(re.search("\nfti_stream_watermark_seconds (.*)", text)[1]) > MIDNIGHT.timestamp()  # type: ignore[index]


def test_many_at_once_and_a_stop_that_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FTI_OFFLINE_URI", raising=False)
    shop = make_shop(tmp_path, FIRST)
    orders = [order(number, number % 3, -number) for number in range(2, 26)]
    with served(shop, "--start", MIDNIGHT.isoformat(), "--flush", "1000") as (client, process):
        with ThreadPoolExecutor(8) as callers:
            answers = list(callers.map(lambda event: push(client, event), orders))
        assert [answer.json()["accepted"] for answer in answers] == [1] * len(orders)
        second = subprocess.run(command(shop), capture_output=True, text=True, cwd=ROOT, env=environ(shop))
        assert second.returncode == 1 and "another stream is at work" in second.stderr
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    require_same(shop, [*FIRST, *orders], hour(0))


def test_a_port_that_is_taken(shop: Shop, client: httpx.Client) -> None:
    taken = command(shop, "--port", str(client.base_url.port))
    done = subprocess.run(taken, capture_output=True, text=True, cwd=ROOT, env=environ(shop))
    assert done.returncode == 1 and "cannot be used: Address already in use" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--tables", "flights"], "--tables is not JSON"),
        (["--tables", "{}"], "--tables is '{}'. Allowed: a JSON list"),
        (["--tables", '[{"table": "a"}]'], "Allowed: a list of {table, source, contract}"),
        (["--start", "noon"], "--start is 'noon'"),
    ],
)
def test_a_wrong_option_is_explained(shop: Shop, options: list[str], says: str) -> None:
    done = subprocess.run(command(shop, *options), capture_output=True, text=True, cwd=ROOT, env=environ(shop))
    assert done.returncode == 1 and says in done.stderr and "Traceback" not in done.stderr
