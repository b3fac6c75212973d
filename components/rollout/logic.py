"""Takes a canary through steps of traffic, on evidence alone, and ends in a promotion or a rollback."""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, replace
from threading import Event
from time import monotonic
from typing import Any

from fti.common.errors import BusyError, ConfigError, ServingError, StorageError
from fti.common.inference_service import (
    CANARY,
    STABLE,
    Revision,
    Service,
    read_service,
    wait_in_force,
    write_service,
)
from fti.common.settings import Settings
from fti.common.storage import read_text
from fti.push.traffic import locked, promote, rollback
from fti.rollout.archive import archive_of, check_shared
from fti.rollout.counters import NAMED, Counts
from fti.rollout.endings import ended_record, settle
from fti.rollout.findings import Seen
from fti.rollout.journal import as_json, described, remember, user
from fti.rollout.metrics import Metrics, Reading
from fti.rollout.outcomes import OutcomeSource
from fti.rollout.plan import Plan, check_plan
from fti.rollout.record import (
    HELD,
    PROMOTED,
    ROLLED_BACK,
    RUNNING,
    SUPERSEDED,
    Record,
    now,
    open_record,
)
from fti.rollout.rules import MOST_OF_UNIT, Judgement, judge

log = logging.getLogger(__name__)

Tell = Callable[[Record, Judgement | None], None]


class Rollout:
    """The rollout of one service's canary.

    Args:
        service: The InferenceService.
        plan: Steps and limits.
        settings: Where manifests, records and the inference log lie.
        metrics: Where the figures come from.
        tell: Called after each look.
        who: Who decides, for the record; empty: the user of this process.

    Raises:
        ConfigError: The plan cannot be followed.
    """

    def __init__(
        self, service: str, plan: Plan, settings: Settings, metrics: Metrics, tell: Tell, *, who: str = ""
    ) -> None:
        check_plan(plan)
        self._service, self._plan, self._settings = service, plan, settings
        self._metrics, self._tell, self._who = metrics, tell, who or user()
        self._outcomes = OutcomeSource(plan.limits.goal, settings)

    def run(self, stop: Event) -> Record:
        """Rolls out. Run again after an interruption it goes on where it was; after its end it says how that was.

        Args:
            stop: Leaves everything as it is when it is set.

        Returns:
            The record; its phase says how it ended.

        Raises:
            ConfigError: There is no canary, its rollout began with another plan, or outcomes cannot be used.
            BusyError: Another rollout of this service goes on.
            ServingError: The record of an earlier one is damaged.
        """
        with archive_of(self._service, self._settings).alone(self._who):
            record = self._begin()
            record.save(self._settings)
            while record.phase == RUNNING and not stop.is_set():
                self._step(record, stop)
                record.save(self._settings)
            return record

    def _begin(self) -> Record:
        """The record of a new rollout, of the one that was interrupted, or of the one that has led to what is now."""
        current = read_service(self._service, self._settings)
        if current and not current.canary and (ended := ended_record(current, self._settings, self._who)):
            return ended
        if current is None or current.canary is None:
            raise ConfigError(
                f"{self._service} has no canary",
                remedy="Push a model with a canary_percent below 100 first, 0 to begin unseen",
            )
        check_shared(current.canary.storage_uri, self._settings)
        record = self._open(current, current.canary)
        steps, limits = list(self._plan.steps), as_json(asdict(self._plan.limits))
        if record is None:
            lineage = {CANARY: self._lineage(current.canary), STABLE: self._lineage(current.stable)}
            share = (current.canary_percent, current.shadow)
            models = (current.canary.digest, current.stable.digest)
            record = Record(self._service, *models, lineage, steps, limits, started=now(), share=share)
        if (record.steps, record.limits) != (steps, limits):
            raise ConfigError(
                f"a rollout of this canary with other steps or limits is under way: {record.steps}, {record.limits}",
                remedy="Go on with those, or end it: fti rollback, then push again",
            )
        record.phase = RUNNING  # what happened meanwhile is not counted: metrics begin anew
        record.begin(self._who)
        return record

    def _open(self, current: Service, canary: Revision) -> Record | None:
        """The rollout of these models that has not ended, if nobody has moved the traffic since."""
        record = open_record(self._service, canary.digest, current.stable.digest, self._settings)
        if record is None or _share(current) in {record.share, _wanted(record)}:
            return record
        self._end(record, SUPERSEDED, "the traffic was changed while no rollout ran")
        record.save(self._settings)
        return None

    def _lineage(self, revision: Revision) -> dict[str, Any]:
        lineage: dict[str, Any] = json.loads(read_text(f"{revision.storage_uri}/provenance.json", self._settings))
        return lineage

    def _step(self, record: Record, stop: Event) -> None:
        """One step, until it is decided or everything stops."""
        plan, in_force = self._plan, False
        seen = began = monotonic()
        while not stop.is_set():
            judgement = None
            try:
                if not self._keep_share(record, wait=not in_force):
                    return settle(record, read_service(record.service, self._settings), self._who)
                if not in_force:  # a cluster may take minutes to split its traffic
                    in_force, seen, began = True, monotonic(), monotonic()
                judgement = self._look(record)
                self._tell(record, judgement)
                if judgement:
                    seen = monotonic()
                if judgement and judgement.outcome != "inconclusive":
                    return self._decide(record, judgement)
            except (BusyError, ServingError, StorageError) as error:  # such as a push that goes on: at the next look
                log.info("%s", error)
                self._tell(record, None)
            if monotonic() - seen > plan.missing_seconds:
                try:
                    return self._move(record, ROLLED_BACK, f"no figures for {plan.missing_seconds:.0f} s")
                except (BusyError, ServingError, StorageError) as error:  # what took the figures may stand in the way
                    log.warning("%s: not yet taken back: %s", record.service, error)
            if monotonic() - began > plan.step_seconds:
                why = f": {judgement.reason}" if judgement else ""
                return self._end(record, HELD, f"no evidence within {plan.step_seconds:.0f} s{why}", judgement)
            record.keep(self._settings)
            stop.wait(plan.look_seconds)
        return None

    def _keep_share(self, record: Record, *, wait: bool) -> bool:
        """Gives the canary its share; says whether the service is still as this rollout has left it.

        Args:
            record: Which share, and what it was.
            wait: Whether to wait until it is in force, where it was asked for already.
        """
        percent, shadow = wanted = _wanted(record)
        with locked(record.service, self._settings, self._plan.look_seconds):
            service = read_service(record.service, self._settings)
            if service is None or service.canary is None:
                return False
            if (service.stable.digest, service.canary.digest) != (record.stable, record.canary):
                return False
            if _share(service) != wanted:
                if _share(service) != record.share:  # somebody else has moved it
                    return False
                record.save(self._settings)  # refused where another goes on with this rollout: then nothing is done
                write_service(replace(service, canary_percent=percent, shadow=shadow), self._settings)
            elif wait:
                wait_in_force(service, self._settings)
        record.share, record.intent = wanted, {}  # an end that could not be carried out may be another at this look
        return True

    def _look(self, record: Record) -> Judgement | None:
        """What the figures say now; None where there are none of these models at this share."""
        reading = self._metrics.read(self._service)
        if reading is None or not _is_of(reading, record):
            return None
        _count(record, reading)
        percent, limits = record.steps[record.step], self._plan.limits
        outcomes = self._outcomes.read(self._service, reading.revisions, record.step_started, shadow=percent == 0)
        said = limits.requests_of_unit or outcomes.units or not percent  # a shadow splits nothing
        named = 0 if said else record.counts[STABLE][NAMED]
        seen = Seen(
            counts=_compared(record),
            percent=percent,
            requests_of_unit=max(limits.requests_of_unit, outcomes.requests_of_unit, min(named, MOST_OF_UNIT)),
            named=named,
            outcomes=outcomes,
            last=percent == max(step for step in record.steps if step < 100),
            blur=reading.blur,
        )
        judgement = judge(seen, limits, record.evidence)
        remember(record, judgement)
        return judgement

    def _decide(self, record: Record, judgement: Judgement) -> None:
        if judgement.outcome != "success":
            self._move(record, ROLLED_BACK, judgement.reason, judgement)
        elif record.step + 1 == len(record.steps):
            self._move(record, PROMOTED, judgement.reason, judgement)
        else:
            record.decide(described(record, "continue", judgement.reason, judgement), self._who)
            record.evidence |= {finding.name: finding.log_evidence for finding in judgement.findings}
            record.reference = record.counts[STABLE] if record.counts[STABLE] else record.reference
            record.step, record.step_started, record.counts = record.step + 1, "", {}

    def _move(self, record: Record, phase: str, reason: str, judgement: Judgement | None = None) -> None:
        """Ends it by moving the traffic, for good."""
        change = promote if phase == PROMOTED else rollback
        record.intend(described(record, phase, reason, judgement), self._who)
        record.save(self._settings)
        try:
            moved = change(record.service, self._settings, only=record.canary)
        except BusyError:
            record.intent = {}  # refused: nothing was moved, whoever is busy there may do so
            raise
        if moved:
            record.carry_out()
        else:
            record.intent = {}  # somebody was faster
            settle(record, read_service(record.service, self._settings), self._who)

    def _end(self, record: Record, phase: str, reason: str, judgement: Judgement | None = None) -> None:
        record.end(described(record, phase, reason, judgement), self._who)


def _wanted(record: Record) -> tuple[int, bool]:
    """The percent of the record's step, and whether the canary is a shadow then."""
    percent = record.steps[record.step]
    return percent, percent == 0


def _share(service: Service) -> tuple[int, bool]:
    return service.canary_percent, service.shadow


def _is_of(reading: Reading, record: Record) -> bool:
    """Whether the figures are of these two models, split as they shall be."""
    models = {STABLE: record.stable, CANARY: record.canary}
    of = {variant: reading.revisions.get(variant, "") for variant in models}
    same = all(of[variant] and model.startswith(of[variant]) for variant, model in models.items())
    return same and (reading.percent, reading.shadow) == _wanted(record)


def _count(record: Record, reading: Reading) -> None:
    """Adds what has happened since the last look; a step's first look only marks where it begins."""
    if not record.step_started:
        record.step_started = now()
        record.counts = {STABLE: Counts(), CANARY: Counts()}
    else:
        record.counts = {variant: counts.plus(reading.added[variant]) for variant, counts in record.counts.items()}


def _compared(record: Record) -> dict[str, Counts]:
    """The counts to judge: where all traffic is the canary's, stable is what it was beside it before."""
    if record.steps[record.step] < 100:
        return record.counts
    return {**record.counts, STABLE: record.reference}
