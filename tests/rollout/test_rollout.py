"""Rollouts of real canaries behind a real gateway: the sound one is promoted, every other taken back by itself."""

import json
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fti.common.inference_service import Service, read_service
from fti.common.model_package import ModelPackage
from fti.common.settings import Settings
from fti.rollout.logic import PROMOTED, ROLLED_BACK, Plan, Rollout
from fti.rollout.metrics import GatewayMetrics
from fti.rollout.record import Record
from fti.rollout.report import write_report
from fti.rollout.rules import Judgement, Limits
from fti.serve.runner import running
from fti.serve.status import read_state
from tests.rollout import canaries
from tests.rollout.conftest import V1, under_load
from tests.serve import tiny
from tests.serve.conftest import publish

pytestmark = pytest.mark.slow

PLAN = Plan(
    steps=(50, 100),
    step_seconds=60,
    missing_seconds=20,
    look_seconds=0.1,
    limits=Limits(failure_margin=0.05, refusal_margin=0.05, slow_margin=0.2, min_requests=150),
)
BODY = json.dumps({"instances": [{**tiny.ROW, "distance": canaries.BAD_DISTANCE}]}).encode()


def roll_out(
    settings: Settings,
    canary: ModelPackage,
    at: Callable[[Record, Judgement | None], None] = lambda *_: None,
    plan: Plan = PLAN,
) -> tuple[Record, Any]:
    """Pushes a canary unseen, and rolls it out under load. Returns the record and the clients' answers."""
    publish(settings, canary, "late", percent=0)
    with running(settings) as endpoints:
        gateway = endpoints["late"].removesuffix(V1)
        with under_load(gateway, BODY) as answers:
            record = Rollout("late", plan, settings, GatewayMetrics(settings, 1000), at).run(threading.Event())
    return record, answers


def test_a_sound_canary_is_promoted(settings: Settings, one_service: ModelPackage, tmp_path: Path) -> None:
    canary = tiny.write_binary(tmp_path / "canary", bias=0.5)
    record, answers = roll_out(settings, canary)
    assert record.phase == PROMOTED, record.decisions
    assert [decision["decision"] for decision in record.decisions] == ["continue", "promoted"]
    service = read_service("late", settings)
    assert service and service.stable.digest == canary.digest and service.canary is None
    assert answers.keys() == {(200, one_service.digest[:12]), (200, canary.digest[:12])}
    page = write_report(record, settings).read_text()
    assert "promoted" in page and canary.digest in page and page.count("<svg") == 5


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
    asked = record.decisions[0]["counts"]
    assert asked["canary"]["requests"] == pytest.approx(asked["stable"]["requests"], rel=0.2)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_canary_that_dies_is_taken_back(
    settings: Settings, one_service: ModelPackage, tmp_path: Path, number: signal.Signals
) -> None:
    canary = tiny.write_binary(tmp_path / "canary", bias=0.5)

    def strike(record: Record, judgement: Judgement | None) -> None:
        """Whenever it has come up again."""
        if judgement and record.counts["canary"].requests:
            pid = (read_state(settings) or {})["services"]["late"]["revisions"]["canary"]["pid"]
            if pid:
                os.kill(pid, number)

    record, answers = roll_out(settings, canary, strike)
    taken_back(record, answers, settings, one_service, "failures")


@pytest.mark.parametrize(("kind", "guardrail"), [("failing", "failures"), ("slow", "failures"), ("hungry", "failures")])
def test_a_broken_canary_is_taken_back(
    settings: Settings, one_service: ModelPackage, tmp_path: Path, kind: str, guardrail: str
) -> None:
    record, answers = roll_out(settings, canaries.write(tmp_path / "canary", kind))
    taken_back(record, answers, settings, one_service, guardrail)


def taken_back(record: Record, answers: Any, settings: Settings, stable: ModelPackage, guardrail: str) -> None:
    assert record.phase == ROLLED_BACK, record.decisions
    assert record.decisions[-1]["reason"].startswith(f"{guardrail}: ")
    assert {status for status, _ in answers} == {200}
    service = read_service("late", settings)
    assert service == Service("late", service.stable) and service.stable.digest == stable.digest  # type: ignore[union-attr]
