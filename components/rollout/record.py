"""The record of a rollout: where it stands, and why each step was decided as it was. It survives the process."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fti.common.errors import ServingError
from fti.common.files import atomic_file
from fti.common.settings import Settings
from fti.rollout.metrics import Counts

RUNNING, HELD = "running", "held"


@dataclass
class Record:
    """A rollout of one canary over one stable model.

    Attributes:
        service: The InferenceService.
        canary: Digest of the canary's package.
        stable: Digest of the stable model's.
        lineage: What the canary's package says of its origin.
        steps: Shares of the traffic, percent.
        limits: What is asked of the canary.
        started: When, ISO 8601, UTC.
        phase: running, held, promoted, rolled_back or superseded.
        step: Which of the steps it is at, from 0.
        step_started: When that step's counting began; empty before.
        epoch: The process whose counters `last` were read from.
        last: Variant -> those counters.
        counts: Variant -> what was counted in this step.
        reference: What was last counted of the stable model beside the canary.
        evidence: Guardrail -> log evidence of harm from the steps before.
        decisions: Every decision, each with the digest of the one before: none can be changed unnoticed.
        history: What was seen, for the report: a few hundred points at most.
    """

    service: str
    canary: str
    stable: str
    lineage: dict[str, Any]
    steps: list[int]
    limits: dict[str, Any]
    started: str
    phase: str = RUNNING
    step: int = 0
    step_started: str = ""
    epoch: str = ""
    last: dict[str, Counts] = field(default_factory=dict)
    counts: dict[str, Counts] = field(default_factory=dict)
    reference: Counts = field(default_factory=Counts)
    evidence: dict[str, float] = field(default_factory=dict)
    decisions: list[dict[str, Any]] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Names its files; sorts by time."""
        return f"{self.started[:23].replace(':', '').replace('.', '')}-{self.canary[:12]}"

    def decide(self, decision: dict[str, Any]) -> None:
        """Adds a decision, chained to the one before."""
        before = self.decisions[-1]["digest"] if self.decisions else ""
        linked = {"time": now(), **decision, "canary": self.canary, "stable": self.stable, "previous": before}
        self.decisions.append({**linked, "digest": digest_of(linked)})

    def save(self, settings: Settings) -> Path:
        """Writes the record, whole or not at all."""
        path = folder_of(self.service, settings) / f"{self.name}.json"
        with atomic_file(path) as scratch:
            scratch.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        return path


def open_record(service: str, canary: str, stable: str, settings: Settings) -> Record | None:
    """The rollout of these two models that has not come to its end, or None.

    Raises:
        ServingError: A record is damaged.
    """
    for path in sorted(folder_of(service, settings).glob("*.json"), reverse=True):
        record = read(path)
        if (record.canary, record.stable) == (canary, stable):
            return record if record.phase in {RUNNING, HELD} else None
    return None


def interrupted_record(service: str, settings: Settings) -> Record | None:
    """The newest rollout of a service, if it was interrupted, or None.

    Raises:
        ServingError: A record is damaged.
    """
    paths = sorted(folder_of(service, settings).glob("*.json"))
    record = read(paths[-1]) if paths else None
    return record if record and record.phase == RUNNING else None


def read(path: Path) -> Record:
    """Reads a record, and checks that no decision was changed.

    Raises:
        ServingError: The file is damaged, or a decision was changed.
    """
    remedy = "Move it away; the rollout then begins anew"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        for name in ("last", "counts"):
            raw[name] = {variant: Counts(**counts) for variant, counts in raw[name].items()}
        record = Record(**{**raw, "reference": Counts(**raw["reference"])})
        before = ""
        for decision in record.decisions:
            content = {key: value for key, value in decision.items() if key != "digest"}
            if content["previous"] != before or decision["digest"] != digest_of(content):
                raise ServingError(f"{path}: a decision was changed after it was made", remedy=remedy)
            before = decision["digest"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ServingError(f"{path} is not the record of a rollout: {error}", remedy=remedy) from error
    return record


def folder_of(service: str, settings: Settings) -> Path:
    """Where the records of a service lie."""
    return settings.home / "rollouts" / service


def digest_of(content: dict[str, Any]) -> str:
    """SHA-256 of a decision."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def now() -> str:
    """This instant, ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
