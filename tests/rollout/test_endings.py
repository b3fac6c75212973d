"""Rollouts that did not write their own last word: killed in the last instant, or ended by a person."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fti.common.errors import BusyError, ConfigError
from fti.common.inference_service import read_service
from fti.common.model_package import ModelPackage
from fti.common.settings import Settings
from fti.push.traffic import promote, rollback
from fti.rollout import logic
from fti.rollout.archive import archive_of, folder_of
from fti.rollout.counters import Counts
from fti.rollout.endings import note_by_hand
from fti.rollout.journal import user
from fti.rollout.logic import Rollout
from fti.rollout.record import HELD, PROMOTED, ROLLED_BACK, RUNNING, SUPERSEDED, Record, newest_record, read
from fti.rollout.run import roll_out
from tests.rollout.test_component import endpoint
from tests.rollout.test_controller import PLAN, Traffic, canary, run, stable
from tests.serve import tiny
from tests.serve.conftest import publish

__all__ = ["canary"]

ENDS = [(promote, 0.0, PROMOTED), (rollback, 0.3, ROLLED_BACK)]
SAID = {PROMOTED: "promoted by hand", ROLLED_BACK: "taken back by hand"}
FOUND = {PROMOTED: "somebody promoted it by hand", ROLLED_BACK: "somebody took it back by hand"}


class KilledError(BaseException):
    """What no `except Exception` sees."""


def interrupted(settings: Settings) -> Record:
    stop = threading.Event()
    return Rollout("late", PLAN, settings, Traffic(settings), lambda *_: stop.set()).run(stop)


def held(settings: Settings) -> Record:
    nobody = Traffic(settings)
    nobody.read = lambda service: replace(Traffic.read(nobody, service), added={"stable": Counts(), "canary": Counts()})  # type: ignore
    return run(settings, nobody, replace(PLAN, step_seconds=0.2))


def by_hand(settings: Settings, end: Callable[..., bool] = promote) -> str:
    """As `fti promote` and `fti rollback` do it."""
    before = read_service("late", settings)
    end("late", settings)
    return note_by_hand("late", before, settings, who="eve")


def kept(settings: Settings) -> Record:
    record = newest_record("late", settings)
    assert record
    return record


def last(record: Record) -> tuple[str, str, str, str]:
    decision = record.decisions[-1]
    return record.phase, decision["state"], decision["reason"], decision["who"]


@pytest.mark.parametrize(("end", "harm", "phase"), ENDS)
@pytest.mark.parametrize("by", ["the command", "the component", "the hand"])
def test_killed_after_the_traffic_was_moved_the_decision_is_what_it_was(
    settings: Settings,
    canary: ModelPackage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    end: Callable[..., bool],
    harm: float,
    phase: str,
    by: str,
) -> None:
    def killed(*args: Any, **more: Any) -> bool:
        end(*args, **more)
        raise KilledError

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(logic, end.__name__, killed)
        Rollout("late", PLAN, settings, Traffic(settings, harm), lambda *_: None, who="ann").run(threading.Event())
    assert (kept(settings).phase, kept(settings).intent["decision"]) == (RUNNING, phase)
    if by == "the command":
        run(settings, Traffic(settings))
    elif by == "the component":
        roll_out(endpoint(tmp_path, canary), PLAN, settings)
    else:
        by_hand(settings, end)
    assert last(kept(settings))[::3] == (phase, "ann") and kept(settings).decisions[-1]["findings"]
    assert kept(settings).decisions[-1]["state"] == ("success" if phase == PROMOTED else "failure")


@pytest.mark.parametrize("signed", [True, False])
def test_killed_before_the_traffic_was_moved_nothing_is_decided(
    settings: Settings, canary: ModelPackage, monkeypatch: pytest.MonkeyPatch, signed: bool
) -> None:
    def killed(*args: Any, **more: Any) -> bool:
        raise KilledError

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(logic, "rollback", killed)
        run(settings, Traffic(settings, 0.3))
    if signed:
        by_hand(settings, rollback)
        assert last(kept(settings)) == (ROLLED_BACK, "by hand", SAID[ROLLED_BACK], "eve")
    else:
        record = run(settings, Traffic(settings, 0.3))
        assert [each["decision"] for each in record.decisions] == [
            "began",
            "went on",
            ROLLED_BACK,
        ] and not record.intent


@pytest.mark.parametrize(("end", "harm", "phase"), ENDS)
@pytest.mark.parametrize("begin", [interrupted, held])
def test_a_person_who_ends_it_signs_it(
    settings: Settings,
    canary: ModelPackage,
    begin: Callable[[Settings], Record],
    end: Callable[..., bool],
    harm: float,
    phase: str,
) -> None:
    begun = begin(settings)
    assert begun.phase == (HELD if begin is held else RUNNING)
    said = by_hand(settings, end)
    record = kept(settings)
    assert last(record) == (phase, "by hand", SAID[phase], "eve") and record.decisions[:-1] == begun.decisions
    page = Path(said.removeprefix("Its rollout says so: "))
    assert (
        page == folder_of("late", settings) / f"{record.name}.html"
        and f"by hand: {SAID[phase]} (eve, " in page.read_text()
    )
    assert by_hand(settings, end) == "" and kept(settings).decisions == record.decisions, "said once"
    assert last(run(settings, Traffic(settings)))[2:] == (SAID[phase], "eve")


@pytest.mark.parametrize(("end", "harm", "phase"), ENDS)
@pytest.mark.parametrize("begin", [interrupted, held])
def test_what_nobody_signed_is_not_the_rollouts_own_decision(
    settings: Settings,
    canary: ModelPackage,
    tmp_path: Path,
    begin: Callable[[Settings], Record],
    end: Callable[..., bool],
    harm: float,
    phase: str,
) -> None:
    begin(settings)
    end("late", settings)
    assert last(run(settings, Traffic(settings))) == (phase, "by hand", FOUND[phase], user())
    assert roll_out(endpoint(tmp_path, canary), PLAN, settings).phase == phase


def test_ended_by_hand_while_it_runs(settings: Settings, canary: ModelPackage) -> None:
    said = []

    def tell(record: Record, judgement: object) -> None:
        if record.counts and not said:
            said.append(by_hand(settings))

    assert last(run(settings, Traffic(settings), tell=tell))[:3] == (PROMOTED, "by hand", FOUND[PROMOTED])
    assert said == ["Its rollout goes on: that ends it, and it says so by itself, but not who did it."]


@pytest.mark.parametrize("busy", [False, True])
def test_a_hand_that_is_faster_is_not_taken_for_the_rollouts(
    settings: Settings, canary: ModelPackage, monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    def slower(*args: Any, **more: Any) -> bool:
        by_hand(settings)
        if busy:
            raise BusyError("another push to late goes on")
        return promote(*args, **more)

    monkeypatch.setattr(logic, "promote", slower)
    assert last(run(settings, Traffic(settings)))[:3] == (PROMOTED, "by hand", FOUND[PROMOTED])


def test_what_the_hand_moved_was_not_in_a_rollout(
    settings: Settings, canary: ModelPackage, one_service: ModelPackage, tmp_path: Path
) -> None:
    assert by_hand(settings, rollback) == "" and not list(folder_of("late", settings).glob("*"))
    publish(settings, canary, "late", percent=0)
    begun = held(settings)
    publish(settings, tiny.write_binary(tmp_path / "third", bias=0.75), "late", percent=30)
    assert by_hand(settings, rollback) == "" and kept(settings).decisions == begun.decisions
    assert stable(settings) == one_service.digest


def test_a_record_that_cannot_be_written_keeps_no_promotion_up(settings: Settings, canary: ModelPackage) -> None:
    held(settings)
    (path,) = folder_of("late", settings).glob("*.json")
    path.write_text("{")
    assert "its record does not say so: " in by_hand(settings) and stable(settings) == canary.digest
    cluster = replace(settings, serving="standard", models_uri=str(settings.home))
    service = read_service("late", settings)
    assert service
    there = replace(service, canary=replace(service.stable, storage_uri="s3://models/late/1"))
    assert "its record does not say so: the canary lies at s3://models" in note_by_hand("late", there, cluster)


@pytest.mark.parametrize(("end", "harm", "phase"), ENDS)
def test_run_again_after_its_end_it_says_how_that_was(
    settings: Settings,
    canary: ModelPackage,
    one_service: ModelPackage,
    tmp_path: Path,
    end: Callable[..., bool],
    harm: float,
    phase: str,
) -> None:
    first = run(settings, Traffic(settings, harm))
    again = run(settings, Traffic(settings))
    assert again.phase == phase and again.decisions == first.decisions
    publish(settings, tiny.write_binary(tmp_path / "third", bias=0.75), "late")
    with pytest.raises(ConfigError, match="late has no canary"):  # its end is not what is there now
        run(settings, Traffic(settings))


def test_one_that_goes_on_elsewhere_is_not_ended(settings: Settings, canary: ModelPackage, tmp_path: Path) -> None:
    interrupted(settings)
    rollback("late", settings)
    with archive_of("late", settings).alone("run 1"), pytest.raises(BusyError, match="goes on already"):
        roll_out(endpoint(tmp_path, canary), PLAN, settings)
    publish(settings, tiny.write_binary(tmp_path / "third", bias=0.75), "late", percent=30)
    assert roll_out(endpoint(tmp_path, canary), PLAN, settings).phase == SUPERSEDED


def test_an_intent_that_was_changed_is_noticed(settings: Settings, canary: ModelPackage) -> None:
    record = interrupted(settings)
    record.intend({"decision": PROMOTED, "reason": "all is well"}, "ann")
    record.save(settings)
    (path,) = folder_of("late", settings).glob("*.json")
    assert read(path).intent["who"] == "ann"
    path.write_text(path.read_text().replace("all is well", "all was well"))
    with pytest.raises(Exception, match="a decision was changed after it was made"):
        read(path)
