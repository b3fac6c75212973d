"""Takes a canary through steps of traffic, on evidence alone, and ends in a promotion or a rollback."""

import json
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, astuple, replace
from threading import Event
from time import monotonic

from fti.common.errors import BusyError, ConfigError, ServingError, StorageError
from fti.common.inference_service import CANARY, STABLE, Service, read_service, write_service
from fti.common.settings import Settings
from fti.common.storage import read_text
from fti.push.traffic import locked, promote, rollback
from fti.rollout.metrics import Counts, Metrics, Reading
from fti.rollout.plan import Plan, check_plan
from fti.rollout.record import HELD, RUNNING, Record, interrupted_record, now, open_record
from fti.rollout.rules import Judgement, Limits, judge

log = logging.getLogger(__name__)

PROMOTED, ROLLED_BACK, SUPERSEDED = "promoted", "rolled_back", "superseded"
_ANOTHER = "another model or share was pushed, or the canary taken away"
_POINTS = 400  # of the history, for the report


Tell = Callable[[Record, Judgement | None], None]


class Rollout:
    """The rollout of one service's canary.

    Args:
        service: The InferenceService.
        plan: Steps and limits.
        settings: Where manifests and records lie.
        metrics: Where the figures come from.
        tell: Called after each look.

    Raises:
        ConfigError: The plan cannot be followed.
    """

    def __init__(self, service: str, plan: Plan, settings: Settings, metrics: Metrics, tell: Tell) -> None:
        check_plan(plan)
        self._service, self._plan, self._settings = service, plan, settings
        self._metrics, self._tell = metrics, tell

    def run(self, stop: Event) -> Record:
        """Rolls out. Interrupted at any time, it goes on where it was when it is run again.

        Args:
            stop: Leaves everything as it is when it is set.

        Returns:
            The record; its phase says how it ended.

        Raises:
            ConfigError: There is no canary, or its rollout began with another plan.
            BusyError: Another rollout of this service goes on.
            ServingError: The record of an earlier one is damaged.
        """
        with _alone(self._service, self._settings):
            record = _begin(self._service, self._plan, self._settings)
            record.save(self._settings)
            while record.phase == RUNNING and not stop.is_set():
                self._step(record, stop)
                record.save(self._settings)
            return record

    def _step(self, record: Record, stop: Event) -> None:
        """One step, until it is decided or everything stops."""
        plan, percent = self._plan, record.steps[record.step]
        seen = began = monotonic()
        while not stop.is_set():
            judgement = None
            try:
                if not _keep_share(record, percent, self._settings, plan.look_seconds):
                    return _end(record, SUPERSEDED, _ANOTHER, None)
                judgement = self._look(record, percent)
            except (BusyError, ServingError, StorageError) as error:  # such as a push that goes on: no look now
                log.info("%s", error)
            if judgement:
                seen = monotonic()
            self._tell(record, judgement)
            if judgement and judgement.outcome != "inconclusive":
                return self._decide(record, judgement)
            if monotonic() - seen > plan.missing_seconds:
                return self._take_back(record, f"no figures for {plan.missing_seconds:.0f} s", None)
            if monotonic() - began > plan.step_seconds:
                return _end(record, HELD, f"no evidence within {plan.step_seconds:.0f} s", judgement)
            record.save(self._settings)
            stop.wait(plan.look_seconds)
        return None

    def _look(self, record: Record, percent: int) -> Judgement | None:
        """What the figures say now; None where there are none of these models at this share."""
        reading = self._metrics.read(self._service)
        if reading is None or not _is_of(reading, record, percent):
            return None
        _count(record, reading)
        judgement = judge(_compared(record), percent, Limits(**record.limits), record.evidence)
        _remember(record, percent, judgement)
        return judgement

    def _decide(self, record: Record, judgement: Judgement) -> None:
        if judgement.outcome != "success":
            self._take_back(record, judgement.reason, judgement)
        elif record.step + 1 == len(record.steps):
            moved = promote(record.service, self._settings, only=record.canary)
            _end(record, PROMOTED if moved else SUPERSEDED, judgement.reason if moved else _ANOTHER, judgement)
        else:
            record.decide(_described(record, "continue", judgement.reason, judgement))
            record.evidence = {finding.name: finding.log_evidence for finding in judgement.findings}
            record.reference = record.counts[STABLE] if record.counts[STABLE].requests else record.reference
            record.step, record.step_started, record.counts = record.step + 1, "", {}

    def _take_back(self, record: Record, reason: str, judgement: Judgement | None) -> None:
        moved = rollback(record.service, self._settings, only=record.canary)
        _end(record, ROLLED_BACK if moved else SUPERSEDED, reason if moved else _ANOTHER, judgement)


def _begin(service: str, plan: Plan, settings: Settings) -> Record:
    """The record of a new rollout, or of the one that was interrupted."""
    current = read_service(service, settings)
    if current is not None and current.canary is None:
        record = interrupted_record(service, settings)
        if record and current.stable.digest in {record.canary, record.stable}:  # only its last word is missing
            ended = PROMOTED if current.stable.digest == record.canary else ROLLED_BACK
            _end(record, ended, "the traffic had been moved when the rollout was interrupted", None)
            return record
    if current is None or current.canary is None:
        raise ConfigError(
            f"{service} has no canary", remedy="Push a model with a canary_percent below 100 first, 0 to begin unseen"
        )
    canary, stable = current.canary.digest, current.stable.digest
    record = open_record(service, canary, stable, settings)
    if record and not _at_its_step(current, record):
        _end(record, SUPERSEDED, "the traffic was changed while no rollout ran", None)
        record.save(settings)
        record = None
    if record is None:
        lineage = json.loads(read_text(f"{current.canary.storage_uri}/provenance.json", settings))
        record = Record(service, canary, stable, lineage, list(plan.steps), asdict(plan.limits), started=now())
    if record.steps != list(plan.steps) or record.limits != asdict(plan.limits):
        raise ConfigError(
            f"a rollout of this canary with other steps or limits is under way: {record.steps}, {record.limits}",
            remedy="Go on with those, or end it: fti rollback, then push again",
        )
    record.phase, record.epoch = RUNNING, ""  # what happened meanwhile is not counted
    return record


def _at_its_step(service: Service, record: Record) -> bool:
    """Whether the canary has the share of the record's step, or the one before, where it was killed in between."""
    if not record.step_started and record.step == 0:
        return True
    near = record.steps[max(0, record.step - 1) : record.step + 1]
    return service.canary_percent in near and service.shadow == (service.canary_percent == 0)


def _keep_share(record: Record, percent: int, settings: Settings, patience: float) -> bool:
    """Gives the canary its share; says whether the service is still as this rollout has left it."""
    with locked(record.service, settings, patience):
        service = read_service(record.service, settings)
        if service is None or not _is_ours(service, record):
            return False
        wanted = replace(service, canary_percent=percent, shadow=percent == 0)
        if wanted == service:
            return True
        if record.step_started:  # it had its share before: somebody else has moved it
            return False
        write_service(wanted, settings)
    return True


def _is_ours(service: Service, record: Record) -> bool:
    canary = service.canary.digest if service.canary else ""
    return (service.stable.digest, canary) == (record.stable, record.canary)


def _is_of(reading: Reading, record: Record, percent: int) -> bool:
    """Whether the figures are of these two models, split as they shall be."""
    of = {variant: reading.revisions.get(variant, "") for variant in (STABLE, CANARY)}
    models = {STABLE: record.stable, CANARY: record.canary}
    same = all(of[variant] and models[variant].startswith(of[variant]) for variant in of)
    return same and (reading.percent, reading.shadow) == (percent, percent == 0)


def _count(record: Record, reading: Reading) -> None:
    """Adds what has happened since the last look; a step's first look only marks where it begins."""
    if not record.step_started:
        record.step_started = now()
        record.counts = {STABLE: Counts(), CANARY: Counts()}
    elif reading.epoch == record.epoch:
        more = {variant: counts.since(record.last[variant]) for variant, counts in reading.counts.items()}
        if all(min(astuple(counts)) >= 0 for counts in more.values()):  # else counting began anew
            record.counts = {variant: record.counts[variant].plus(counts) for variant, counts in more.items()}
    record.epoch, record.last = reading.epoch, dict(reading.counts)


def _compared(record: Record) -> dict[str, Counts]:
    """The counts to judge: where all traffic is the canary's, stable is what it was beside it before."""
    if record.steps[record.step] < 100:
        return record.counts
    return {**record.counts, STABLE: record.reference}


def _end(record: Record, phase: str, reason: str, judgement: Judgement | None) -> None:
    record.phase = phase
    record.decide(_described(record, phase, reason, judgement))


def _described(record: Record, decision: str, reason: str, judgement: Judgement | None) -> dict[str, object]:
    return {
        "decision": decision,
        "percent": record.steps[record.step],
        "reason": reason,
        "counts": {variant: asdict(counts) for variant, counts in record.counts.items()},
        "findings": [_finite(asdict(finding)) for finding in judgement.findings] if judgement else [],
    }


def _remember(record: Record, percent: int, judgement: Judgement) -> None:
    record.history.append(
        {
            "time": now(),
            "percent": percent,
            "requests": {variant: counts.requests for variant, counts in record.counts.items()},
            "findings": {
                finding.name: _finite({name: getattr(finding, name) for name in ("canary", "stable", "log_evidence")})
                for finding in judgement.findings
            },
        }
    )
    if len(record.history) > _POINTS:
        del record.history[1::2]  # every other one: the shape stays


def _finite(value: object) -> object:
    """A value for JSON, with None for what is not a number."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def _alone(service: str, settings: Settings) -> Iterator[None]:
    from filelock import FileLock, Timeout

    path = settings.home / "rollouts" / f".{service}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path, timeout=0):
            yield
    except Timeout:
        raise BusyError(f"a rollout of {service} goes on already", remedy="Wait for its end, or stop it") from None
