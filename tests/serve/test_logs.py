"""Logs: one JSON object a line, with ids and without values."""

import asyncio
import json
import logging
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import settings as few
from hypothesis import strategies as st
from kserve.model_server import app

from fti.common.inference_service import Revision
from fti.common.settings import Settings
from fti.serve.admission import Limits
from fti.serve.features import FeatureLookup
from fti.serve.front import Call, Front
from fti.serve.local.ports import Ports
from fti.serve.local.predictors import Predictors
from fti.serve.model import PackagedModel
from fti.serve.observe.logs import JsonFormatter, Limit, readable
from fti.serve.observe.observer import Observer
from tests.serve import tiny
from tests.serve.alone import ask, predictor, until
from tests.serve.keyed import KEYS, SQLITE, open_keyed, row
from tests.serve.test_protocol import v2

V1, V2 = "/v1/models/late:predict", "/v2/models/late/infer"
VALUE = "4111-value-of-a-customer"


def formatted(message: str, *args: object, **changes: Any) -> str:
    record = logging.LogRecord("a.logger", logging.WARNING, __file__, 1, message, args, changes.pop("exc_info", None))
    record.__dict__.update(changes)
    return JsonFormatter({"model": "late"}).format(record)


@given(st.text(), st.dictionaries(st.sampled_from(["unit", "request_id"]), st.text()))
@few(deadline=None)
def test_any_record_is_one_line_of_json(message: str, fields: dict[str, str]) -> None:
    line = formatted("%s", message, fields=fields)
    assert len(line.splitlines()) == 1 or "\n" not in line
    read = json.loads(line)
    assert read["level"] == "WARNING" and read["model"] == "late" and fields.items() <= read.items()
    assert readable(line) == read["message"]


def test_neither_secrets_nor_what_an_exception_says() -> None:
    try:
        float(VALUE)
    except ValueError:
        line = formatted("cannot reach %s", "redis://user:s3cr3t@host/0", exc_info=sys.exc_info())
    assert "s3cr3t" not in line and VALUE not in line
    assert json.loads(line)["exception"] == "ValueError" and "test_logs.py" in json.loads(line)["traceback"]


@pytest.mark.parametrize("line", ["2026-01-01 INFO ready", "{", '{"message": 1}', "[1]", '{"level": "INFO"}', ""])
def test_what_is_none_of_ours_is_read_as_it_is(line: str) -> None:
    assert readable(line) == line


@pytest.fixture
def model(tmp_path: Path) -> PackagedModel:
    return PackagedModel("late", f"logs-{tmp_path.name}", tiny.write_binary(tmp_path / "package"), None)


def fields_of(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [record.fields for record in caplog.records if hasattr(record, "fields")]


def test_refusals_are_logged_and_answers_only_when_asked(
    model: PackagedModel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    asked = [(V1, {"instances": [tiny.ROW]}), (V1, {"instances": [{**tiny.ROW, "distance": VALUE}]})]
    headers = {"x-request-id": "abc-1", "x-fti-unit": "user-7"}
    answers = ask(Front(app, model), asked, headers)
    assert [answer.status_code for answer in answers] == [200, 400]
    (only,) = fields_of(caplog)
    wanted = {"request_id": "abc-1", "unit": "user-7", "protocol": "v1", "code": 400, "rows": 0}
    assert wanted.items() <= only.items() and only["ms"] > 0
    assert "v1 answered 400: distance" in caplog.text
    caplog.clear()
    ask(Front(app, model, observer=Observer(model, access_log=True)), asked[:1] * 100)
    assert [fields["rows"] for fields in fields_of(caplog)] == [1] * 100, "answers are not limited"


def test_values_are_never_logged(model: PackagedModel, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    rows = [{**tiny.ROW, name: VALUE} for name in ("distance", "month", "weekend")] + [{**tiny.ROW, "carrier": [VALUE]}]
    bad: list[tuple[str, Any]] = [(V1, {"instances": [row]}) for row in rows]
    bad += [(V2, v2([row])) for row in rows[:3]] + [(V1, f'{{"instances": ["{VALUE}"'.encode()), (V1, {VALUE: 1})]
    bad += [(V1, {"instances": VALUE}), (V1, {"instances": [{**tiny.ROW, VALUE: 1}]})]
    assert {answer.status_code for answer in ask(Front(app, model), bad)} == {400}
    logged = [record.getMessage() + str(getattr(record, "fields", "")) for record in caplog.records]
    assert len(fields_of(caplog)) == len(bad) and not [line for line in logged if VALUE in line]


def test_why_the_feature_store_fails_is_in_the_log_alone(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    repo, _ = open_keyed(settings, tmp_path / "repo", SQLITE)
    package = tiny.write_binary(tmp_path / "package", entity_keys=KEYS, feature_service="late_v1")
    lookup = FeatureLookup(str(repo), package.signature, settings)
    (settings.home / "online.db").unlink()
    front = Front(app, PackagedModel("late", f"logs-{tmp_path.name}", package, lookup))
    (answer,) = ask(front, [(V1, {"instances": [row("JFK")]})])
    (only,) = fields_of(caplog)
    assert answer.status_code == only["code"] == 503 and "online.db" in only["cause"]
    assert "online.db" not in answer.text


def test_a_flood_of_bad_requests_fills_no_disk(
    model: PackagedModel, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    front = Front(app, model)
    ask(front, [(V1, b"{")] * 200)
    assert len(fields_of(caplog)) == 60
    from fti.serve.observe import logs

    later = logs.time.monotonic() + 61
    monkeypatch.setattr(logs.time, "monotonic", lambda: later)
    ask(front, [(V1, b"{")])
    assert fields_of(caplog)[-1]["left_out"] == 140, "the next minute tells how many were left out"


def test_a_body_that_does_not_come_is_no_error_of_the_server(
    model: PackagedModel, caplog: pytest.LogCaptureFixture
) -> None:
    model.admission.limits = Limits(deadline_ms=30)

    async def never() -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    reply = asyncio.run(Front(app, model).answer(Call("POST", V1, {}, never)))
    assert reply.status == 408 and (b"connection", b"close") in reply.headers
    assert [(record.levelname, record.getMessage()) for record in caplog.records if hasattr(record, "fields")] == [
        ("WARNING", "v1 answered 408: the body did not come before the deadline")
    ]


def test_a_limit_lets_through_again_after_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    from fti.serve.observe import logs

    now = 1000.0
    monkeypatch.setattr(logs.time, "monotonic", lambda: now)
    limit = Limit(2)
    assert [limit.allows() for _ in range(3)] == [True, True, False] and limit.left_out == 1
    now += 60
    assert limit.allows()


@pytest.mark.parametrize("given", ["", "x" * 129, "café", "a\tb"])
def test_an_id_is_made_where_none_can_be_used(model: PackagedModel, given: str) -> None:
    headers = {"x-request-id": given} if given else {}
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    made = [Observer(model).http("v1", dict(raw), "POST", V1).request_id for _ in range(2)]
    assert len(set(made)) == 2 and all(len(each) == 32 for each in made)


@few(max_examples=50, deadline=None)
@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=128))
def test_a_good_id_comes_back(given: str) -> None:
    from fti.serve.observe.observer import Observed

    assert Observed(None, "v1", given, "").request_id == given  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_log_of_a_predictor(tmp_path: Path) -> None:
    package = tiny.write_binary(tmp_path / "package")
    with predictor(tmp_path, package, "--access_log=all") as served:
        answer = httpx.post(served.url + V1, json={"instances": [tiny.ROW]}, headers={"x-request-id": "mine"})
        assert answer.headers["x-request-id"] == "mine"
        made = httpx.post(served.url + V1, content=b"{").headers["x-request-id"]
        assert len(made) == 32
        assert served.end() == 0
        lines = served.lines()
    by_id = {line["request_id"]: line for line in lines if "request_id" in line}
    assert by_id["mine"]["code"] == 200 and by_id[made]["code"] == 400
    assert all({"time", "level", "message", "logger", "model", "revision"} <= line.keys() for line in lines)
    assert all(line["revision"] == package.digest[:12] for line in lines[1:])
    assert {"kserve", "uvicorn.error"} <= {line["logger"] for line in lines}, "theirs in our form"


@pytest.mark.slow
def test_why_a_predictor_cannot_start_is_a_sentence(settings: Settings, tmp_path: Path) -> None:
    package = tiny.write_binary(tmp_path / "package")
    (package.path / "model.onnx").write_bytes(b"tampered with")
    with Ports() as ports:
        predictors = Predictors(settings, ports)
        target = ("late", Revision(package.digest, str(package.path), ""))
        try:
            one = predictors.of(target)
            until(lambda: predictors.step([target]) or bool(one.failure), 60)
            assert one.failure.startswith("PackageError: model.onnx of the model package")
            assert one.failure.endswith(".") and "{" not in one.failure
        finally:
            predictors.stop()
