"""Rollouts of real canaries behind a real gateway: the sound one is promoted, every other taken back by itself."""

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from fti.common.inference_service import Service, read_service
from fti.common.model_package import ModelPackage
from fti.common.settings import Settings
from fti.rollout.counters import Counts
from fti.rollout.gateway import GatewayMetrics
from fti.rollout.logic import Rollout
from fti.rollout.plan import Plan
from fti.rollout.record import PROMOTED, ROLLED_BACK, Record
from fti.rollout.report import write_report
from fti.rollout.rules import Judgement, Limits
from fti.serve.local.runner import running
from fti.serve.local.status import read_state
from tests.rollout import canaries
from tests.rollout.conftest import V1, under_load
from tests.serve import tiny
from tests.serve.conftest import publish
from tests.serve.grpc_load import infer_many, request
from tests.serve.load import post_many

pytestmark = pytest.mark.slow

PLAN = Plan(
    steps=(50, 100),
    step_seconds=60,
    missing_seconds=20,
    look_seconds=0.1,
    limits=Limits(failure_margin=0.05, refusal_margin=0.05, slow_margin=0.2, min_requests=150, latency_budget_ms=1000),
)
BAD_ROW = {**tiny.ROW, "distance": canaries.BAD_DISTANCE}
BODY = json.dumps({"instances": [BAD_ROW]}).encode()


def roll_out(
    settings: Settings,
    canary: ModelPackage,
    at: Callable[[Record, Judgement | None], None] = lambda *_: None,
    plan: Plan = PLAN,
    protocols: tuple[str, ...] = ("http",),
) -> tuple[Record, Any]:
    """Pushes a canary unseen, and rolls it out under load. Returns the record and the clients' answers."""
    publish(settings, canary, "late", percent=0)
    with running(settings) as endpoints:
        gateway = endpoints["late"].removesuffix(V1)
        with ExitStack() as stack:
            calls = [None if protocol == "http" else request(BAD_ROW) for protocol in protocols]
            counts = [stack.enter_context(under_load(gateway, BODY, call)) for call in calls]
            record = Rollout("late", plan, settings, GatewayMetrics(settings, PLAN.limits.latency_budget_ms), at).run(
                threading.Event()
            )
    assert all(counts), "each protocol was asked"
    return record, sum(counts, start=Counter[Any]())


def test_a_sound_canary_is_promoted(settings: Settings, one_service: ModelPackage, tmp_path: Path) -> None:
    canary = tiny.write_binary(tmp_path / "canary", bias=0.5)
    kept_warm: list[bool] = []

    def look(record: Record, judgement: Judgement | None) -> None:
        if record.step == 1 and judgement:  # at 100 %
            stable = (read_state(settings) or {})["services"]["late"]["revisions"]["stable"]
            kept_warm.append(stable["ready"] and stable["revision"] == one_service.digest[:12])

    record, answers = roll_out(settings, canary, look)
    assert record.phase == PROMOTED, record.decisions
    assert kept_warm and all(kept_warm)
    assert [decision["decision"] for decision in record.decisions] == ["began", "continue", "promoted"]
    service = read_service("late", settings)
    assert service and service.stable.digest == canary.digest and service.canary is None
    assert answers.keys() == {(200, one_service.digest[:12]), (200, canary.digest[:12])}
    page = write_report(record, settings).read_text()
    assert "promoted" in page and canary.digest in page and page.count("<svg") == 7  # no feature view is read


def test_a_shadow_is_asked_everything_and_answers_nobody(
    settings: Settings, one_service: ModelPackage, tmp_path: Path
) -> None:
    canary = canaries.write(tmp_path / "canary", "failing")
    seen: list[Record] = []
    record, answers = roll_out(settings, canary, lambda record, _: seen.append(record), replace(PLAN, steps=(0, 50)))
    taken_back(record, answers, settings, one_service, "failures")
    assert record.step == 0 and answers.keys() == {(200, one_service.digest[:12])}
    sound = tiny.write_binary(tmp_path / "sound", bias=0.5)
    record, answers = roll_out(settings, sound, plan=replace(PLAN, steps=(0, 50)))
    assert record.phase == PROMOTED
    asked = record.decisions[1]["counts"]
    assert asked["canary"]["requests"] == pytest.approx(asked["stable"]["requests"], rel=0.2)


@pytest.mark.parametrize(
    ("number", "protocols"),
    [(signal.SIGKILL, ("http",)), (signal.SIGKILL, ("grpc",)), (signal.SIGSTOP, ("http", "grpc"))],
)
def test_a_canary_that_dies_is_taken_back(
    settings: Settings, one_service: ModelPackage, tmp_path: Path, number: signal.Signals, protocols: tuple[str, ...]
) -> None:
    canary = tiny.write_binary(tmp_path / "canary", bias=0.5)

    def strike(record: Record, judgement: Judgement | None) -> None:
        """Whenever it has come up again."""
        if judgement and record.counts["canary"]["requests"]:
            pid = (read_state(settings) or {})["services"]["late"]["revisions"]["canary"]["pid"]
            if pid:
                with suppress(ProcessLookupError):  # the gateway's word of it is older than its end
                    os.kill(pid, number)

    record, answers = roll_out(settings, canary, strike, protocols=protocols)
    taken_back(record, answers, settings, one_service, "failures")


@pytest.mark.parametrize(
    ("kind", "protocols"),
    [
        *[(kind, (protocol,)) for kind in ("failing", "hungry") for protocol in ("http", "grpc")],
        ("slow", ("http", "grpc")),  # together, for a predictor that is stuck takes 12 s to end
    ],
)
def test_a_broken_canary_is_taken_back(
    settings: Settings, one_service: ModelPackage, tmp_path: Path, kind: str, protocols: tuple[str, ...]
) -> None:
    record, answers = roll_out(settings, canaries.write(tmp_path / "canary", kind), protocols=protocols)
    taken_back(record, answers, settings, one_service, "failures")


def taken_back(record: Record, answers: Any, settings: Settings, stable: ModelPackage, guardrail: str) -> None:
    assert record.phase == ROLLED_BACK, record.decisions
    assert record.decisions[-1]["reason"].startswith(f"{guardrail}: ")
    assert {status for status, _ in answers} <= {200, "OK"}, answers
    service = read_service("late", settings)
    assert service == Service("late", service.stable) and service.stable.digest == stable.digest  # type: ignore[union-attr]


def test_every_request_counts_once_whoever_answers(
    settings: Settings, one_service: ModelPackage, tmp_path: Path
) -> None:
    """A tenth of the requests breaks both models; some ask for the canary by header; then the stable one is killed."""
    twin = canaries.write(tmp_path / "twin", "failing")
    publish(settings, twin, "late")
    canary = tiny.write_binary(tmp_path / "canary", bias=0.25, onnx=canaries.graph("failing"), threshold=0.6)
    publish(settings, canary, "late", percent=50)
    good, bad = (json.dumps({"instances": [{**tiny.ROW, "distance": distance}]}).encode() for distance in (1.0, 4000.0))
    metrics = GatewayMetrics(settings, 1000)

    def counted(send: Callable[[], Any]) -> dict[str, Counts]:
        metrics.read("late")
        send()
        after = metrics.read("late")
        assert after
        return dict(after.added)

    with running(settings) as endpoints:
        gateway = endpoints["late"].removesuffix(V1)
        found = counted(lambda: [post_many(gateway, V1, body, count) for body, count in ((good, 900), (bad, 100))])
        assert sum(counts["requests"] for counts in found.values()) == 1000
        assert sum(counts["failures"] for counts in found.values()) == 100
        found = counted(lambda: infer_many(gateway.removeprefix("http://"), 100))
        assert sum(counts["requests"] for counts in found.values()) == 100
        assert {counts["failures"] for counts in found.values()} == {0}
        address, wrong = gateway.removeprefix("http://"), request(outputs=[{"name": "no such output"}])
        found = counted(lambda: [infer_many(address, 20, message=call) for call in (request(BAD_ROW), wrong)])
        for what, count in {"requests": 40, "failures": 20, "refusals": 20}.items():
            assert sum(counts[what] for counts in found.values()) == count
        with httpx.Client() as client:
            asked = {"x-variant": "canary", "content-type": "application/json"}
            found = counted(lambda: [client.post(gateway + V1, content=good, headers=asked) for _ in range(20)])
        assert {counts["requests"] for counts in found.values()} == {0}
        assert {counts["named"] for counts in found.values()} == {0}
        unit = (("x-fti-service", "late"), ("x-fti-unit", "ann"))
        found = counted(lambda: infer_many(gateway.removeprefix("http://"), 30, lambda _: unit))
        assert (found["stable"]["named"], sum(counts["requests"] for counts in found.values())) == (30, 30)
        pid = (read_state(settings) or {})["services"]["late"]["revisions"]["stable"]["pid"]
        os.kill(pid, signal.SIGKILL)
        found = counted(lambda: post_many(gateway, V1, good, 300))
        assert sum(counts["requests"] for counts in found.values()) == 300
        assert found["canary"]["failures"] == 0 and found["canary"]["requests"] == pytest.approx(150, abs=45)
