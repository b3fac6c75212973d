"""What a rollout does when figures stop, others interfere, or it is interrupted: with counters that a test writes."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from fti.common.errors import BusyError, ConfigError, ServingError
from fti.common.inference_service import CANARY, STABLE, read_service
from fti.common.model_package import ModelPackage
from fti.common.settings import Settings
from fti.push.traffic import promote, rollback
from fti.rollout.logic import PROMOTED, ROLLED_BACK, SUPERSEDED, Rollout
from fti.rollout.metrics import Counts, Reading
from fti.rollout.plan import Plan
from fti.rollout.record import HELD, Record, folder_of, read
from fti.rollout.rules import Limits, judge
from tests.serve import tiny
from tests.serve.conftest import publish

PLAN = Plan(steps=(20, 50, 100), step_seconds=5, missing_seconds=0.2, look_seconds=0.0, limits=Limits())


class Traffic:
    """Counters of a gateway: at each look the canary has had its share of 1,000 requests more."""

    def __init__(self, settings: Settings, harm: float = 0.0, gone: Callable[[int], bool] = lambda look: False) -> None:
        self.settings, self.harm, self.gone = settings, harm, gone
        self.looks, self.epoch = 0, "1"
        self.counts = {STABLE: Counts(), CANARY: Counts()}

    def read(self, service: str) -> Reading | None:
        self.looks += 1
        found = read_service(service, self.settings)
        if found is None or found.canary is None or self.gone(self.looks):
            return None
        canary = 10 * found.canary_percent
        more = {
            STABLE: Counts(1000 - canary, (1000 - canary) // 100),
            CANARY: Counts(canary, int(canary * (0.01 + self.harm))),
        }
        self.counts = {variant: self.counts[variant].plus(more[variant]) for variant in more}
        revisions = {STABLE: found.stable.name, CANARY: found.canary.name}
        return Reading(self.epoch, revisions, found.canary_percent, found.shadow, self.counts)


@pytest.fixture
def canary(settings: Settings, one_service: ModelPackage, tmp_path: Path) -> ModelPackage:
    package = tiny.write_binary(tmp_path / "canary", bias=0.5)
    publish(settings, package, "late", percent=0)
    return package


def run(settings: Settings, traffic: Traffic, plan: Plan = PLAN, tell: Any = lambda *_: None) -> Record:
    return Rollout("late", plan, settings, traffic, tell).run(threading.Event())


def stable(settings: Settings) -> str:
    service = read_service("late", settings)
    assert service and service.canary is None
    return service.stable.digest


def test_to_the_end_and_back(settings: Settings, canary: ModelPackage, one_service: ModelPackage) -> None:
    record = run(settings, Traffic(settings, harm=0.2))
    assert record.phase == ROLLED_BACK and stable(settings) == one_service.digest
    assert (
        record.decisions[-1]["reason"].startswith("failures: 2")
        and "of the stable model's" in record.decisions[-1]["reason"]
    )
    publish(settings, canary, "late", percent=0)
    record = run(settings, Traffic(settings))
    assert record.phase == PROMOTED and stable(settings) == canary.digest
    assert [each["decision"] for each in record.decisions] == ["continue", "continue", "promoted"]
    assert len(list(folder_of("late", settings).glob("*.json"))) == 2


def test_without_figures_it_is_taken_back_and_never_passed(settings: Settings, canary: ModelPackage) -> None:
    record = run(settings, Traffic(settings, gone=lambda look: look > 3))
    assert (record.phase, record.decisions[-1]["reason"]) == (ROLLED_BACK, "no figures for 0 s")


def test_figures_of_other_models_or_another_split_are_none(settings: Settings, canary: ModelPackage) -> None:
    class Other(Traffic):
        def read(self, service: str) -> Reading | None:
            reading = super().read(service)
            return reading and replace(reading, percent=7)

    assert run(settings, Other(settings)).phase == ROLLED_BACK


def test_without_evidence_it_is_held_and_goes_on_later(settings: Settings, canary: ModelPackage) -> None:
    plan = replace(PLAN, step_seconds=0.3)
    nobody = Traffic(settings)
    nobody.read = lambda service: replace(Traffic.read(nobody, service), counts={STABLE: Counts(), CANARY: Counts()})  # type: ignore
    held = run(settings, nobody, plan)
    assert (held.phase, held.step) == (HELD, 0)
    service = read_service("late", settings)
    assert service and service.canary_percent == 20
    assert run(settings, Traffic(settings), plan).phase == PROMOTED


def test_interrupted_it_goes_on_where_it_was(settings: Settings, canary: ModelPackage) -> None:
    stop, traffic = threading.Event(), Traffic(settings)

    def interrupt(record: Record, judgement: object) -> None:
        if record.step == 1 and record.counts:
            stop.set()

    first = Rollout("late", PLAN, settings, traffic, interrupt).run(stop)
    assert (first.phase, first.step) == ("running", 1)
    second = run(settings, traffic)
    assert second.phase == PROMOTED and second.started == first.started
    assert second.decisions[: len(first.decisions)] == first.decisions


def test_killed_after_the_traffic_was_moved_only_the_last_word_is_added(
    settings: Settings, canary: ModelPackage, one_service: ModelPackage
) -> None:
    for end, phase in ((rollback, ROLLED_BACK), (promote, PROMOTED)):
        publish(settings, canary, "late", percent=0)
        stop = threading.Event()
        Rollout("late", PLAN, settings, Traffic(settings), lambda record, judgement: stop.set()).run(stop)  # noqa: B023
        end("late", settings)
        record = run(settings, Traffic(settings))
        assert record.phase == phase and "interrupted" in record.decisions[-1]["reason"]


def test_a_restart_of_the_gateway_is_not_counted_twice(settings: Settings, canary: ModelPackage) -> None:
    traffic = Traffic(settings)
    seen: list[int] = []

    def restart(record: Record, judgement: object) -> None:
        seen.append(record.counts[CANARY].requests if record.counts else 0)
        if traffic.looks == 3:
            traffic.epoch, traffic.counts = "2", {STABLE: Counts(), CANARY: Counts()}

    run(settings, traffic, tell=restart, plan=replace(PLAN, limits=Limits(min_requests=1000)))
    assert seen[:5] == [0, 200, 400, 400, 600]


def test_a_share_moved_by_hand_ends_it_and_stays(settings: Settings, canary: ModelPackage) -> None:
    def move(record: Record, judgement: object) -> None:
        if record.counts:
            publish(settings, canary, "late", percent=90)

    assert run(settings, Traffic(settings), tell=move).phase == SUPERSEDED
    service = read_service("late", settings)
    assert service and service.canary_percent == 90


def test_a_trial_that_was_ended_by_hand_begins_anew(settings: Settings, canary: ModelPackage) -> None:
    stop = threading.Event()
    killed = Rollout("late", PLAN, settings, Traffic(settings), lambda record, _: record.step and stop.set()).run(stop)
    assert killed.step == 1
    rollback("late", settings)
    publish(settings, canary, "late", percent=0)
    record = run(settings, Traffic(settings), replace(PLAN, limits=Limits(alpha=0.1)))
    assert record.started != killed.started and record.phase == PROMOTED
    assert [each["percent"] for each in record.decisions] == [20, 50, 100]


def test_a_push_that_takes_long_is_waited_for(settings: Settings, canary: ModelPackage) -> None:
    from fti.push.traffic import locked

    held = threading.Event()

    def hold() -> None:
        with locked("late", settings):
            held.set()
            threading.Event().wait(0.1)

    thread = threading.Thread(target=hold)

    def begin(record: Record, judgement: object) -> None:
        if not held.is_set():
            thread.start()
            held.wait()

    assert run(settings, Traffic(settings), tell=begin, plan=replace(PLAN, look_seconds=0.01)).phase == PROMOTED
    thread.join()


def test_counters_that_went_back_are_not_counted(settings: Settings, canary: ModelPackage) -> None:
    traffic = Traffic(settings)

    def reset(record: Record, judgement: object) -> None:
        if traffic.looks == 3:
            traffic.counts = {STABLE: Counts(), CANARY: Counts()}

    assert run(settings, traffic, tell=reset).phase == PROMOTED


def test_a_push_in_between_ends_it_and_stays(settings: Settings, canary: ModelPackage, tmp_path: Path) -> None:
    third = tiny.write_binary(tmp_path / "third", bias=0.75)
    pushed: list[bool] = []

    def push(record: Record, judgement: object) -> None:
        if not pushed:
            pushed.append(True)
            publish(settings, third, "late", percent=30)

    record = run(settings, Traffic(settings), tell=push)
    assert record.phase == SUPERSEDED
    service = read_service("late", settings)
    assert service and service.canary and (service.canary.digest, service.canary_percent) == (third.digest, 30)


def test_a_decision_that_was_changed_is_noticed(settings: Settings, canary: ModelPackage) -> None:
    run(settings, Traffic(settings, harm=0.2))
    (path,) = folder_of("late", settings).glob("*.json")
    assert read(path).phase == ROLLED_BACK
    raw = json.loads(path.read_text())
    raw["decisions"][0]["reason"] = "all is well"
    path.write_text(json.dumps(raw))
    with pytest.raises(ServingError, match="a decision was changed after it was made"):
        read(path)


def test_refusals(settings: Settings, canary: ModelPackage) -> None:
    for steps in ((), (50, 20), (-1, 50), (50, 101), (50, 50)):
        with pytest.raises(ConfigError, match="the steps are"):
            run(settings, Traffic(settings), replace(PLAN, steps=steps))
    for limits, message in (
        (Limits(alpha=0), "alpha is 0"),
        (Limits(latency_budget_ms=float("nan")), "latency_budget_ms is nan"),
        (Limits(latency_budget_ms=30_000), "latency_budget_ms is 30000"),
    ):
        with pytest.raises(ConfigError, match=message):
            run(settings, Traffic(settings), replace(PLAN, limits=limits))
    with pytest.raises(ConfigError, match="the only step is 100 %"):
        run(settings, Traffic(settings), replace(PLAN, steps=(100,)))

    def again(record: Record, judgement: object) -> None:
        with pytest.raises(BusyError, match="goes on already"):
            run(settings, Traffic(settings))

    run(settings, Traffic(settings, harm=0.5), tell=again)
    with pytest.raises(ConfigError, match="late has no canary"):
        run(settings, Traffic(settings))


def test_another_plan_does_not_take_over_a_rollout(settings: Settings, canary: ModelPackage) -> None:
    stop = threading.Event()
    Rollout("late", PLAN, settings, Traffic(settings), lambda record, judgement: stop.set()).run(stop)
    with pytest.raises(ConfigError, match="with other steps or limits is under way"):
        run(settings, Traffic(settings), replace(PLAN, limits=Limits(alpha=0.5)))


@hypothesis_settings(max_examples=200)
@given(st.integers(1, 100), st.integers(0, 3000), st.integers(0, 3000), st.data())
def test_the_rules_hold(percent: int, of_canary: int, of_stable: int, data: st.DataObject) -> None:
    """A canary that is worse than its margin never passes, and one without a failure never fails."""
    failed = data.draw(st.integers(0, of_canary))
    counts = {CANARY: Counts(of_canary, failed), STABLE: Counts(of_stable, of_stable // 100)}
    judgement = judge(counts, percent, Limits(), {})
    if judgement.outcome == "success":
        assert of_canary >= 200 and failed / of_canary <= 0.01 + 0.02
    if failed == 0:
        assert judgement.outcome != "failure"


def test_a_split_that_is_not_as_asked_is_not_trusted(settings: Settings, canary: ModelPackage) -> None:
    counts = {CANARY: Counts(700), STABLE: Counts(1300)}
    judgement = judge(counts, 25, Limits(), {})
    assert judgement.outcome == "mismatch" and "got 35.0 % of the requests, not 25 %" in judgement.reason
