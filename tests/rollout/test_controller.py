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
from fti.push.traffic import rollback
from fti.rollout.archive import folder_of
from fti.rollout.counters import Counts
from fti.rollout.findings import Seen
from fti.rollout.logic import Rollout
from fti.rollout.metrics import Reading
from fti.rollout.outcomes import Goal
from fti.rollout.plan import Plan
from fti.rollout.record import HELD, PROMOTED, ROLLED_BACK, SUPERSEDED, Record, read
from fti.rollout.rules import Judgement, Limits, judge
from tests.serve import tiny
from tests.serve.conftest import publish

PLAN = Plan(steps=(20, 50, 100), step_seconds=5, missing_seconds=0.2, look_seconds=0.0, limits=Limits())


def scored(rows: int) -> dict[str, int]:
    """Histograms of a model whose scores are spread evenly over two buckets, one row in each request."""
    return {"scores/0.5": rows // 2, "scores/inf": rows, "rows/1.0": rows, "rows/inf": rows}


class Traffic:
    """What a gateway counts: at each look the canary has had its share of 1,000 requests more."""

    def __init__(self, settings: Settings, harm: float = 0.0, gone: Callable[[int], bool] = lambda look: False) -> None:
        self.settings, self.harm, self.gone = settings, harm, gone
        self.looks = 0

    def read(self, service: str) -> Reading | None:
        self.looks += 1
        found = read_service(service, self.settings)
        if found is None or found.canary is None or self.gone(self.looks):
            return None
        mine = 10 * found.canary_percent
        failures = {STABLE: (1000 - mine) // 100, CANARY: int(mine * (0.01 + self.harm))}
        added = {
            variant: Counts(requests=count, sent=count, failures=failures[variant], **scored(count))
            for variant, count in ((STABLE, 1000 - mine), (CANARY, mine))
        }
        revisions = {STABLE: found.stable.name, CANARY: found.canary.name}
        return Reading(revisions, found.canary_percent, found.shadow, added)


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
    assert record.decisions[-1]["reason"].startswith("failures: 21.00% against 1.00% of stable; evidence ")
    publish(settings, canary, "late", percent=0)
    record = run(settings, Traffic(settings))
    assert record.phase == PROMOTED and stable(settings) == canary.digest
    assert [each["decision"] for each in record.decisions] == ["began", "continue", "continue", "promoted"]
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
    nobody.read = lambda service: replace(Traffic.read(nobody, service), added={STABLE: Counts(), CANARY: Counts()})  # type: ignore
    held = run(settings, nobody, plan)
    assert (held.phase, held.step) == (HELD, 0)
    service = read_service("late", settings)
    assert service and service.canary_percent == 20
    assert run(settings, Traffic(settings)).phase == PROMOTED


def test_interrupted_it_goes_on_where_it_was(settings: Settings, canary: ModelPackage) -> None:
    stop, traffic = threading.Event(), Traffic(settings)

    def interrupt(record: Record, judgement: object) -> None:
        if record.step == 1 and record.step_started:
            stop.set()

    first = Rollout("late", PLAN, settings, traffic, interrupt).run(stop)
    assert (first.phase, first.step) == ("running", 1)
    second = run(settings, traffic)
    assert second.phase == PROMOTED and second.started == first.started
    assert second.decisions[: len(first.decisions)] == first.decisions


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
    assert [each["percent"] for each in record.decisions[1:]] == [20, 50, 100]


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


def test_the_record_says_who_decided_what_on_which_models_and_data(settings: Settings, canary: ModelPackage) -> None:
    record = Rollout("late", PLAN, settings, Traffic(settings), lambda *_: None, who="ann").run(threading.Event())
    service = read_service("late", settings)
    assert service
    models = {variant: {"package": getattr(record, variant), "data": {}} for variant in (STABLE, CANARY)}
    before = ""
    for decision in record.decisions:
        assert (decision["who"], decision["models"], decision["previous"]) == ("ann", models, before)
        assert decision["time"] <= record.decisions[-1]["time"]
        before = decision["digest"]
    began, step = record.decisions[:2]
    assert (began["steps"], began["limits"]["alpha"], began["version"]) == ([20, 50, 100], 0.05, "0.1.0")
    assert (step["decision"], step["state"], step["percent"]) == ("continue", "success", 20)
    assert step["counts"]["canary"]["requests"] >= 200 and step["since"] < step["time"]
    finding = next(each for each in step["findings"] if each["name"] == "failures")
    assert finding["excess"] <= finding["margin"] and finding["log_evidence"] < finding["limit"]


def test_the_record_names_the_data_that_both_models_were_made_of() -> None:
    lineage = {CANARY: {"data": {"train": {"rows": 9, "sha256": "aa"}}}, STABLE: {"data": {"train": {"sha256": "bb"}}}}
    record = Record("late", "c", "s", lineage, [50], {}, "2026-01-01T00:00:00.000+00:00", (0, False))
    record.begin("ann")
    assert {v: of["data"] for v, of in record.decisions[0]["models"].items()} == {
        CANARY: {"train": "aa"},
        STABLE: {"train": "bb"},
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw["decisions"][1].update(reason="all is well"), "a decision was changed after it was made"),
        (lambda raw: raw["decisions"].pop(0), "a decision was changed after it was made"),
        (lambda raw: raw["decisions"].pop(), "the last decision is running, the phase rolled_back"),
        (lambda raw: raw.update(phase="promoted"), "the last decision is rolled_back, the phase promoted"),
        (lambda raw: raw["limits"].update(failure_margin=0.9), "what the rollout began with was changed"),
        (lambda raw: raw.update(canary="0" * 64), "what the rollout began with was changed"),
        (lambda raw: raw["lineage"].update(canary={"data": {}}), "what the rollout began with was changed"),
        (lambda raw: raw.pop("counts"), "is not the record of a rollout"),
    ],
)
def test_a_record_that_was_changed_is_noticed(
    settings: Settings, canary: ModelPackage, change: Callable[[Any], object], message: str
) -> None:
    run(settings, Traffic(settings, harm=0.2))
    (path,) = folder_of("late", settings).glob("*.json")
    assert read(path).phase == ROLLED_BACK
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))
    with pytest.raises(ServingError, match=message):
        read(path)


def test_refusals(settings: Settings, canary: ModelPackage) -> None:
    for steps in ((), (50, 20), (-1, 50), (50, 101), (50, 50)):
        with pytest.raises(ConfigError, match="the steps are"):
            run(settings, Traffic(settings), replace(PLAN, steps=steps))
    for limits, message in (
        (Limits(alpha=0), "alpha is 0"),
        (Limits(shift_margin=1.5), "shift_margin is 1.5"),
        (Limits(requests_of_unit=-1), "requests_of_unit is -1"),
        (Limits(1, 9, 1, 1, 1, 1, 1), "alpha is 1"),
        (Limits(0.05, 9, 1, 1, 1, 1, 1), "every margin is 1 and there is no goal"),
        (Limits(goal=Goal("", "log_loss")), "a goal needs outcomes"),
        (Limits(goal=Goal("o", "auc")), "the goal's metric is 'auc'"),  # type: ignore[arg-type]
        (Limits(goal=Goal("o", margin=0)), "goal_margin is 0"),
        (Limits(goal=Goal("o")), "FTI_INFERENCE_LOG is not set"),
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
    for path in folder_of("late", settings).glob("*.json"):
        path.unlink()
    with pytest.raises(ConfigError, match="late has no canary"):
        run(settings, Traffic(settings))


def test_another_plan_does_not_take_over_a_rollout(settings: Settings, canary: ModelPackage) -> None:
    stop = threading.Event()
    Rollout("late", PLAN, settings, Traffic(settings), lambda record, judgement: stop.set()).run(stop)
    with pytest.raises(ConfigError, match="with other steps or limits is under way"):
        run(settings, Traffic(settings), replace(PLAN, limits=Limits(alpha=0.5)))


def test_a_share_moved_before_a_steps_first_look_stays(settings: Settings, canary: ModelPackage) -> None:
    """Somebody moves it in the instant between two steps: it is not overwritten."""

    def move(record: Record, judgement: Judgement | None) -> None:
        if judgement and judgement.outcome == "success":
            publish(settings, canary, "late", percent=33)

    record = run(settings, Traffic(settings), tell=move)
    assert record.phase == SUPERSEDED and record.step == 1
    service = read_service("late", settings)
    assert service and service.canary_percent == 33


def test_killed_between_the_decision_and_the_next_share_it_goes_on(settings: Settings, canary: ModelPackage) -> None:
    """At every instant at which a process can be killed, the record on disk and the service fit together."""
    saved: list[tuple[bytes, bytes]] = []
    path = settings.services / "late.yaml"

    class Watched(Traffic):
        def read(self, service: str) -> Reading | None:
            records = list(folder_of("late", self.settings).glob("*.json"))
            saved.append((records[0].read_bytes(), path.read_bytes()))
            return super().read(service)

    record = run(settings, Watched(settings))
    assert record.phase == PROMOTED
    (file,) = folder_of("late", settings).glob("*.json")
    for content, manifest in saved:
        file.write_bytes(content)
        path.write_bytes(manifest)
        again = run(settings, Traffic(settings))
        assert (again.phase, again.started) == (PROMOTED, record.started)


def test_a_shadow_whose_copies_are_lost_is_not_judged(settings: Settings, canary: ModelPackage) -> None:
    class Lossy(Traffic):
        lost = 0.0

        def read(self, service: str) -> Reading | None:
            reading = super().read(service)
            if reading and reading.shadow:
                sent = int(1000 * (1 - self.lost))
                copies = Counts(requests=sent, sent=sent, **scored(sent))
                return replace(reading, added={**reading.added, CANARY: copies})
            return reading

    traffic = Lossy(settings)
    traffic.lost = 0.3
    record = run(settings, traffic, replace(PLAN, steps=(0, 50)))
    assert record.phase == ROLLED_BACK and "copies of requests never arrived" in record.decisions[-1]["reason"]


@pytest.mark.parametrize(
    ("sent", "arrived", "sure"), [(1000, 960, False), (100_000, 96_000, True), (10_000, 10_100, True)]
)
def test_a_few_missing_copies_are_waited_for(sent: int, arrived: int, sure: bool) -> None:
    canary = {"requests": arrived, "sent": arrived, "failures": arrived // 100}
    judgement = judge(of(0, canary, {"requests": sent, "sent": sent}), FEW, {})
    assert judgement.outcome == ("success" if sure else "inconclusive"), judgement.reason
    assert sure or "of its copies are missing; allowed 5%" in judgement.reason


@hypothesis_settings(max_examples=200)
@given(st.integers(1, 100), st.integers(0, 3000), st.integers(0, 3000), st.data())
def test_the_rules_hold(percent: int, of_canary: int, of_stable: int, data: st.DataObject) -> None:
    """A canary that is worse than its margin never passes, and one without a failure never fails."""
    failed = data.draw(st.integers(0, of_canary))
    judgement = judge(of(percent, {"requests": of_canary, "failures": failed}, {"requests": of_stable}), FEW, {})
    if judgement.outcome == "success":
        assert of_canary >= 200 and failed / of_canary <= 0.01 + 0.02
    if failed == 0:
        assert judgement.outcome != "failure"


FEW = Limits(staleness_margin=1, shift_margin=1)


def of(percent: int, canary: dict[str, int], stable: dict[str, int], **more: Any) -> Seen:
    stable = {"failures": stable["requests"] // 100, **stable}
    return Seen({CANARY: Counts(canary), STABLE: Counts(stable)}, percent, **more)


def test_a_split_that_is_not_as_asked_is_not_trusted() -> None:
    judgement = judge(of(25, {"requests": 700}, {"requests": 1300}), FEW, {})
    assert judgement.outcome == "mismatch" and "got 35.0 % of the requests, not 25 %" in judgement.reason
    # Where users make up to 50 requests each, such a share is nothing unusual; nor where counts are blurred.
    assert judge(of(25, {"requests": 700}, {"requests": 1300}, requests_of_unit=50), FEW, {}).outcome != "mismatch"
    assert judge(of(25, {"requests": 700}, {"requests": 1300}, blur=200), FEW, {}).outcome != "mismatch"


class Sticky(Traffic):
    """Every request names its unit."""

    def read(self, service: str) -> Reading | None:
        reading = super().read(service)
        if reading is None:
            return None
        return replace(reading, added={**reading.added, STABLE: reading.added[STABLE].plus({"named": 1000})})


def test_sticky_users_of_whom_nothing_is_known_pass_no_step(settings: Settings, canary: ModelPackage) -> None:
    held = run(settings, Sticky(settings), replace(PLAN, step_seconds=0.3))
    assert (held.phase, held.step) == (HELD, 0)
    assert "requests name their unit" in held.decisions[-1]["reason"]
    assert "--requests-of-unit" in held.decisions[-1]["reason"] and "FTI_INFERENCE_LOG" in held.decisions[-1]["reason"]
    rollback("late", settings)
    publish(settings, canary, "late", percent=0)
    told = replace(PLAN, limits=replace(PLAN.limits, requests_of_unit=1))
    assert run(settings, Sticky(settings), told).phase == PROMOTED


def test_one_that_is_plainly_broken_is_taken_back_whoever_asks(settings: Settings, canary: ModelPackage) -> None:
    record = run(settings, Sticky(settings, harm=0.5))
    assert record.phase == ROLLED_BACK and record.decisions[-1]["reason"].startswith("failures: ")
    assert "if no unit has more than 100 requests" in record.decisions[-1]["reason"]
    assert record.history[-1]["requests"]["canary"] > 11, "more than of users who ask once"


def test_a_few_requests_that_name_units_are_at_most_one_units() -> None:
    """Such as somebody's trial by hand: a bound that is true, and holds nothing up."""
    good = {"requests": 50_000, **scored(50_000)}
    counts = of(50, good, good).counts
    assert judge(Seen(counts, 50, requests_of_unit=30, named=30), Limits(), {}).outcome == "success"
    assert judge(Seen(counts, 50, requests_of_unit=100, named=101), Limits(), {}).outcome == "inconclusive"


def test_a_step_that_named_units_hold_says_so() -> None:
    good = {"requests": 2000, **scored(2000)}
    counts = of(50, good, good).counts
    assert judge(Seen(counts, 50), Limits(), {}).outcome == "success"
    held = judge(Seen(counts, 50, requests_of_unit=100, named=100), Limits(), {})
    assert held.outcome == "inconclusive" and held.reason.startswith("failures: up to ")
    assert "; 100 requests name their unit (x-fti-unit)" in held.reason and "--requests-of-unit" in held.reason
    said = judge(Seen(counts, 50, requests_of_unit=100), Limits(), {})
    assert said.outcome == "inconclusive" and "x-fti-unit" not in said.reason


@pytest.mark.parametrize(("percent", "so_few"), [(5, 4), (25, 6), (50, 11)])
def test_a_canary_that_always_fails_meets_few_requests(percent: int, so_few: int) -> None:
    """The stable model fails none; so few requests go to the canary before it is taken back."""
    others = so_few * (100 - percent) // percent
    canary = {"requests": so_few, "failures": so_few}
    assert judge(of(percent, canary, {"requests": others, "failures": 0}), Limits(), {}).outcome == "failure"


def test_what_is_bad_for_both_at_the_same_time_is_nobodys_harm() -> None:
    bad = {"requests": 5000, "failures": 1000, **scored(5000)}
    assert judge(of(50, bad, bad), Limits(failure_margin=0.1), {}).outcome == "success"


def test_a_predictor_that_says_nothing_never_passes() -> None:
    limits = Limits(min_requests=1)
    judgement = judge(of(50, {"requests": 50_000}, {"requests": 50_000, **scored(50_000)}), limits, {})
    assert judgement.outcome == "inconclusive" and "has scored nothing" in judgement.reason
