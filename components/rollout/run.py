"""A rollout as a step of a pipeline: of what push has pushed, with its record and report as artifacts."""

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fti.common.errors import ServingError
from fti.common.files import atomic_file
from fti.common.inference_service import CANARY, STABLE, Service, read_service
from fti.common.settings import Settings
from fti.rollout.endings import settled_record
from fti.rollout.journal import as_json, user
from fti.rollout.logic import Rollout
from fti.rollout.metrics import Metrics
from fti.rollout.plan import Plan, check_plan
from fti.rollout.record import PROMOTED, RUNNING, SUPERSEDED, Record, now
from fti.rollout.report import render
from fti.rollout.rules import Judgement
from fti.rollout.sources import metrics_from
from fti.serve.local.runner import stopped_by_signals

log = logging.getLogger(__name__)


def roll_out(
    endpoint: str | Path, plan: Plan, settings: Settings, *, metrics: Metrics | None = None, who: str = ""
) -> Record:
    """Rolls out what push has pushed. A model that is stable already needs no rollout.

    Args:
        endpoint: The JSON file that push wrote.
        plan: Steps and limits.
        settings: Where services, records and figures are.
        metrics: Where figures come from; None: as the settings say.
        who: Who decides, for the record; empty: the user of this process.

    Returns:
        The record.

    Raises:
        ConfigError: The plan cannot be followed, or nothing names where figures are.
        BusyError: Another rollout of this service goes on.
        ServingError: The file is not push's, or the service is gone.
    """
    check_plan(plan)
    pushed = _pushed(endpoint)
    service = read_service(pushed["service"], settings)
    if service is None:
        raise ServingError(f"the service {pushed['service']} is gone", remedy="Push the model again")
    digest = pushed["digest"]
    if service.canary is None or service.canary.digest != digest:
        ended = settled_record(service.name, digest, settings, who or user())  # of a run before this one
        return ended or _nothing_to_do(service, digest, plan, who or user())
    metrics = metrics or metrics_from(settings, plan.limits.latency_budget_ms)
    with stopped_by_signals() as stop:
        record = Rollout(service.name, plan, settings, metrics, _tell, who=who).run(stop)
    if record.phase == RUNNING:
        raise ServingError(f"the rollout of {service.name} was interrupted", remedy="Run it again: it goes on")
    return record


def write_artifacts(record: Record, record_path: str | Path, report_path: str | Path) -> dict[str, Any]:
    """Writes the record and the report.

    Returns:
        What the artifact's metadata say: with the digest of the last decision outside of the record itself, a record
        that was written anew from its beginning is noticed too.
    """
    with atomic_file(record_path) as scratch:
        scratch.write_text(record.text(), encoding="utf-8")
    render(record).write(report_path)
    last = record.decisions[-1]
    return {"phase": record.phase, "reason": last["reason"], "decision_digest": last["digest"], CANARY: record.canary}


def _pushed(endpoint: str | Path) -> dict[str, str]:
    try:
        pushed: dict[str, str] = json.loads(Path(endpoint).read_text(encoding="utf-8"))
        return {name: pushed[name] for name in ("service", "digest")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ServingError(f"{endpoint} does not say what was pushed: {error}", allowed="the output of push") from error


def _nothing_to_do(service: Service, digest: str, plan: Plan, who: str) -> Record:
    """The record of a model that is no canary."""
    stable = service.stable.digest
    record = Record(
        service=service.name,
        canary=digest,
        stable=stable,
        lineage={CANARY: {}, STABLE: {}},
        steps=list(plan.steps),
        limits=as_json(asdict(plan.limits)),
        started=now(),
        share=(service.canary_percent, service.shadow),
        phase=PROMOTED if digest == stable else SUPERSEDED,
    )
    why = (
        "it is the stable model: there is nothing to roll out" if digest == stable else "it is not the canary any more"
    )
    record.begin(who)
    record.decide({"decision": record.phase, "reason": why, "counts": {}, "findings": []}, who)
    return record


def _tell(record: Record, judgement: Judgement | None) -> None:
    percent = record.steps[min(record.step, len(record.steps) - 1)]
    text = judgement.reason if judgement else "waiting for figures of this share"
    if judgement and judgement.outcome != "inconclusive":
        log.info("%s: %d %%: %s", record.service, percent, text)
    else:
        log.debug("%s: %d %%: %s", record.service, percent, text)
