"""What callers see of features that are stale, missing or refused: status, header, metric, and the features."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from fti.common.errors import FeatureStoreError, OnlineStoreError
from fti.common.inputs import Inputs
from fti.common.model_package import Signature
from fti.common.scoring import graph_inputs
from fti.common.settings import Settings
from fti.common.tables import Feature
from fti.serve.features import FeatureLookup, OnStoreFailure
from tests.common.online import SQLITE as SHOP
from tests.common.online import apply_shop, put, redis_store
from tests.serve import tiny
from tests.serve.keyed import KEYS, SQLITE, at_airport, open_keyed, row
from tests.servers import redis_server

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
Ask = Callable[..., httpx.Response]


@pytest.fixture
def served(settings: Settings, tmp_path: Path) -> Callable[..., Ask]:
    """Serves a model in this process, asked by keys: JFK known now, EWR two hours ago, LGA never; TTL one hour."""

    def serve(on_missing: str, on_store_failure: OnStoreFailure = "refuse", online: str = SQLITE) -> Ask:
        from kserve.model_server import app

        from fti.serve.front import Front
        from fti.serve.model import PackagedModel

        repo, store = open_keyed(settings, tmp_path / "repo", online, on_missing, ttl=3600)
        for origin, age in {"JFK": 0, "EWR": 2}.items():
            at_airport(store, origin, 30.0, NOW - timedelta(hours=age))
        package = tiny.write_binary(tmp_path / "package", entity_keys=KEYS, feature_service="late_v1")
        lookup = FeatureLookup(str(repo), package.signature, replace(settings, now=NOW), on_store_failure)
        front = Front(app, PackagedModel("late", "r1", package, lookup))

        def ask(path: str, *rows: dict[str, Any]) -> httpx.Response:
            async def once() -> httpx.Response:
                async with httpx.AsyncClient(transport=httpx.ASGITransport(front), base_url="http://model") as client:
                    return await client.post(f"/v1/models/late:{path}", json={"instances": list(rows)})

            return asyncio.run(once())

        return ask

    return serve


def probability(response: httpx.Response) -> list[float]:
    assert response.status_code == 200, response.text
    return [prediction["probability"] for prediction in response.json()["predictions"]]


def expected(delay: float | None) -> Any:
    return pytest.approx(tiny.expected({**tiny.ROW, "origin_delays__mean_delay": delay}, 0.0), abs=1e-6)


@pytest.mark.parametrize(("on_missing", "instead"), [("null", None), ("default", 5.0)])
def test_what_is_not_fresh_is_replaced_and_said(
    served: Callable[..., Ask], on_missing: str, instead: float | None
) -> None:
    ask = served(on_missing)
    fresh = ask("predict", row("JFK"))
    assert probability(fresh) == [expected(30.0)] and "x-fti-features" not in fresh.headers
    mixed = ask("predict", row("JFK"), row("EWR"), row("LGA"))
    assert probability(mixed) == [expected(30.0), expected(instead), expected(instead)]
    assert mixed.headers["x-fti-features"] == "origin_delays=stale,origin_delays=missing"
    full = ask("predict", tiny.ROW)
    assert probability(full) == [expected(12.0)] and "x-fti-features" not in full.headers


def test_refused_rows_are_the_callers_to_leave_out(served: Callable[..., Ask]) -> None:
    ask = served("refuse")
    assert probability(ask("predict", row("JFK"))) == [expected(30.0)]
    refused = ask("predict", row("JFK"), row("EWR"))
    assert refused.status_code == 422
    assert refused.json() == {"error": "row 1: feature view origin_delays is stale, and refuses to go without a value"}
    assert refused.headers["x-fti-features"] == "origin_delays=stale"
    assert ask("features", row("LGA")).status_code == 422


def test_the_features_themselves(served: Callable[..., Ask]) -> None:
    ask = served("null")
    answer = ask("features", row("JFK", month=None), row("EWR"), row("LGA", carrier=None, weekend=True))
    assert answer.json()["features"] == [
        {**tiny.ROW, "month": None, "origin_delays__mean_delay": 30.0},
        {**tiny.ROW, "origin_delays__mean_delay": None},
        {**tiny.ROW, "carrier": None, "weekend": True, "origin_delays__mean_delay": None},
    ]
    assert answer.json()["views"] == [
        {"origin_delays": {"status": "fresh", "event_timestamp": "2024-05-01T12:00:00.000000Z"}},
        {"origin_delays": {"status": "stale", "event_timestamp": "2024-05-01T10:00:00.000000Z"}},
        {"origin_delays": {"status": "missing", "event_timestamp": None}},
    ]
    assert 'month":7,' in ask("features", row("JFK")).text, "whole numbers have no point"
    again = ask("predict", *answer.json()["features"])
    assert probability(again) == probability(
        ask("predict", row("JFK", month=None), row("EWR"), row("LGA", carrier=None, weekend=True))
    )
    assert ask("features", tiny.ROW).json() == {"features": [tiny.ROW], "views": [{}]}
    assert ask("features", {**row("JFK"), "speed": 1}).status_code == 400


def test_lookups_are_counted(served: Callable[..., Ask]) -> None:
    from prometheus_client import REGISTRY

    def counted(status: str) -> float:
        labels = {"model_name": "late", "revision": "r1", "view": "origin_delays", "status": status, "asked": "no"}
        return REGISTRY.get_sample_value("fti_looked_up_total", labels) or 0.0

    ask = served("refuse")
    before = {status: counted(status) for status in ("fresh", "stale", "missing")}
    ask("predict", row("JFK"), row("JFK"), row("EWR"), row("LGA"))
    ask("predict", tiny.ROW)
    grown = {status: counted(status) - count for status, count in before.items()}
    assert grown == {"fresh": 2, "stale": 1, "missing": 1}


def test_a_store_that_cannot_be_asked(served: Callable[..., Ask], settings: Settings) -> None:
    ask = served("null")
    (settings.home / "online.db").unlink()
    down = ask("predict", row("JFK"))
    assert (down.status_code, down.headers["retry-after"]) == (503, "1")
    assert "online.db" not in down.text
    assert probability(ask("predict", tiny.ROW)) == [expected(12.0)]


def test_a_store_that_cannot_be_asked_may_count_as_missing(served: Callable[..., Ask], settings: Settings) -> None:
    ask = served("default", "missing")
    (settings.home / "online.db").unlink()
    down = ask("predict", row("JFK"), row("EWR"))
    assert probability(down) == [expected(5.0)] * 2
    assert down.headers["x-fti-features"] == "origin_delays=unavailable"


def test_where_nothing_may_be_missing_a_store_that_is_down_refuses(
    served: Callable[..., Ask], settings: Settings
) -> None:
    ask = served("refuse", "missing")
    (settings.home / "online.db").unlink()
    assert ask("predict", row("JFK")).json()["error"].startswith("row 0: feature view origin_delays is unavailable")


def test_starting_while_the_store_is_down(settings: Settings, tmp_path: Path) -> None:
    repo, _ = open_keyed(settings, tmp_path / "repo", SQLITE)
    signature = tiny.write_binary(tmp_path / "package", entity_keys=KEYS, feature_service="late_v1").signature
    (settings.home / "online.db").unlink()
    with pytest.raises(OnlineStoreError, match="does not answer"):
        FeatureLookup(str(repo), signature, settings)
    FeatureLookup(str(repo), signature, settings, "missing")


def test_a_service_with_other_keys_than_the_models(settings: Settings, tmp_path: Path) -> None:
    repo, _ = open_keyed(settings, tmp_path / "repo", SQLITE)
    signature = tiny.write_binary(tmp_path / "package", entity_keys=("origin",), feature_service="late_v1").signature
    with pytest.raises(FeatureStoreError, match=r"late_v1 is asked by origin, gate\..*: origin"):
        FeatureLookup(str(repo), signature, settings)


@pytest.mark.slow
def test_redis_answers_few_rows_and_many_alike(served: Callable[..., Ask]) -> None:
    """Few are read on the event loop, many in a thread."""
    with redis_server() as redis:
        ask = served("default", online=redis_store(redis.port))
        for rows in (1, 3, 64, 65, 200):
            asked = [row(("JFK", "EWR", "LGA")[n % 3]) for n in range(rows)]
            fresh, other = expected(30.0), expected(5.0)
            assert probability(ask("predict", *asked)) == [other if n % 3 else fresh for n in range(rows)]
        assert ask("predict", row("JFK", gate=2**70)).status_code == 400


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 65])
def test_a_redis_that_goes_away(served: Callable[..., Ask], rows: int, caplog: pytest.LogCaptureFixture) -> None:
    with redis_server() as redis:
        ask = served("default", "missing", redis_store(redis.port))
        asked = [row("JFK")] * rows
        assert probability(ask("predict", *asked)) == [expected(30.0)] * rows
        redis.stop()
        for _ in range(3):
            down = ask("predict", *asked)
            assert probability(down) == [expected(5.0)] * rows
            assert down.headers["x-fti-features"] == "origin_delays=unavailable"
    said = [record for record in caplog.records if "Redis does not answer" in record.message]
    assert 1 <= len(said) <= 3, "once a pause"


def test_what_is_looked_up_is_arranged_as_columns_are(tmp_path: Path) -> None:
    """Numbers and text, of the request and of the store, there and not: as the model and as `:features` get them."""
    import numpy as np

    store = apply_shop(tmp_path, SHOP)
    for customer, values in {1: {"f": 1.5, "l": 2, "s": "x", "u": NOW, "a": [1, 2]}, 2: {"l": 3}}.items():
        put(store, "every", {"customer_id": customer}, values)
    text, number = ("mine__s", "mine__u", "mine__a", "place__y"), ("pair__n", "mine__l", "mine__f")
    inputs = [Feature(name, "string", name.replace("__", ":")) for name in text]
    inputs += [Feature(name, "float32", name.replace("__", ":")) for name in number]
    inputs[1:1] = [Feature("own", "float32"), Feature("said", "string")]
    keys = {"customer_id": [1, 2, 3], "friend_id": [1, 1, 1], "shop": ["a", "a", "b"], "day": [0, 0, 0]}
    signature = Signature(
        name="m", task="regression", inputs=tuple(inputs), label="y", entity_keys=tuple(keys), feature_service="all_v1"
    )
    settings = Settings.from_env({"FTI_HOME": str(tmp_path / "home"), "FTI_NOW": NOW.isoformat()})
    lookup = FeatureLookup(str(tmp_path / "repo"), signature, settings)
    own = {"own": np.array([0.5, np.nan, 1], np.float32), "said": np.array(["a", None, "c"], object)}
    columns = {name: np.array(values, object) for name, values in keys.items()} | own
    completed = asyncio.run(lookup.complete(columns, 3))
    assert completed.vectors is not None
    every = own | {name: completed.vectors.columns[name] for name in text + number}
    assert every["mine__l"].tolist()[:2] == [2, 3] and every["mine__s"].tolist() == ["x", None, None]
    assert isinstance(completed.columns, Inputs)
    for name, matrix in graph_inputs(signature, every).items():
        np.testing.assert_array_equal(completed.columns.feed[name], matrix)
    for name in (*own, *number, "mine__s", "place__y"):
        np.testing.assert_array_equal(completed.columns[name], every[name])
