"""The record of a rollout: where it stands, and why each step was decided as it was. It survives the process."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fti.common.errors import ServingError
from fti.common.files import atomic_file
from fti.common.inference_service import CANARY, STABLE
from fti.common.settings import Settings
from fti.rollout.counters import Counts

RUNNING, HELD = "running", "held"
PROMOTED, ROLLED_BACK, SUPERSEDED = "promoted", "rolled_back", "superseded"
ENDS = {HELD, PROMOTED, ROLLED_BACK, SUPERSEDED}


@dataclass
class Record:
    """A rollout of one canary over one stable model.

    Attributes:
        service: The InferenceService.
        canary: Digest of the canary's package.
        stable: Digest of the stable model's.
        lineage: Variant -> what its package says of its origin.
        steps: Shares of the traffic, percent.
        limits: What is asked of the canary.
        started: When, ISO 8601, UTC.
        share: The canary's percent, and whether it is a shadow, as this rollout found or left it last.
        phase: running, held, promoted, rolled_back or superseded.
        step: Which of the steps it is at, from 0.
        step_started: When that step's counting began; empty before.
        counts: Variant -> what was counted in this step.
        reference: What was last counted of the stable model beside the canary.
        evidence: Finding -> log evidence of harm from the steps before.
        decisions: Every decision, each with the digest of the one before: none can be changed unnoticed. The first
            holds what the rollout began with.
        history: What was seen, for the report: a few hundred points at most.
    """

    service: str
    canary: str
    stable: str
    lineage: dict[str, Any]
    steps: list[int]
    limits: dict[str, Any]
    started: str
    share: tuple[int, bool]
    phase: str = RUNNING
    step: int = 0
    step_started: str = ""
    counts: dict[str, Counts] = field(default_factory=dict)
    reference: Counts = field(default_factory=Counts)
    evidence: dict[str, float] = field(default_factory=dict)
    decisions: list[dict[str, Any]] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Names its files; sorts by time."""
        return f"{self.started[:23].replace(':', '').replace('.', '')}-{self.canary[:12]}"

    def begin(self, who: str) -> None:
        """Writes down who begins, or goes on, with what: models, data, steps and limits."""
        first = {"decision": "began", "steps": self.steps, "limits": self.limits, "lineage": digest_of(self.lineage)}
        again = {"decision": "went on", "percent": self.steps[self.step]}
        self.decide({**(again if self.decisions else first), "reason": "", "version": version("kfp-fti")}, who)

    def decide(self, decision: dict[str, Any], who: str) -> None:
        """Adds a decision: who and when, about which models made of which data, chained to the one before."""
        before = self.decisions[-1]["digest"] if self.decisions else ""
        models = {
            variant: {"package": digest, "data": data_of(self.lineage[variant])}
            for variant, digest in ((CANARY, self.canary), (STABLE, self.stable))
        }
        linked = {"time": now(), "who": who, **decision, "models": models, "previous": before}
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
    record = last_record(service, canary, settings, stable)
    return record if record and record.phase in {RUNNING, HELD} else None


def last_record(service: str, canary: str, settings: Settings, stable: str = "") -> Record | None:
    """The newest rollout of a canary over a stable model, empty for any, or None.

    Raises:
        ServingError: A record is damaged.
    """
    for path in sorted(folder_of(service, settings).glob("*.json"), reverse=True):
        record = read(path)
        if record.canary == canary and stable in {"", record.stable}:
            return record
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
    """Reads a record, and checks that nothing in it was changed that a decision stands on.

    Raises:
        ServingError: The file is damaged, or was changed.
    """
    remedy = "Move it away; the rollout then begins anew"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        raw["counts"] = {variant: Counts(counts) for variant, counts in raw["counts"].items()}
        record = Record(**{**raw, "reference": Counts(raw["reference"]), "share": tuple(raw["share"])})
        _check_chain(record)
    except _ChangedError as error:
        raise ServingError(f"{path}: {error}", remedy=remedy) from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ServingError(f"{path} is not the record of a rollout: {error}", remedy=remedy) from error
    return record


class _ChangedError(Exception):
    pass


def _check_chain(record: Record) -> None:
    before = ""
    for decision in record.decisions:
        content = {key: value for key, value in decision.items() if key != "digest"}
        if content["previous"] != before or decision["digest"] != digest_of(content):
            raise _ChangedError("a decision was changed after it was made")
        before = decision["digest"]
    if record.decisions:
        first, last = record.decisions[0], record.decisions[-1]
        began = (record.steps, record.limits, digest_of(record.lineage))
        models = tuple(last["models"][variant]["package"] for variant in (CANARY, STABLE))
        said = last["decision"] if last["decision"] in ENDS else RUNNING
        if (first["steps"], first["limits"], first["lineage"]) != began or models != (record.canary, record.stable):
            raise _ChangedError("what the rollout began with was changed")
        if said != record.phase:
            raise _ChangedError(f"the last decision is {said}, the phase {record.phase}")


def data_of(lineage: dict[str, Any]) -> dict[str, str]:
    """Part -> the SHA-256 of the table that a package was made of, as far as its provenance says."""
    return {name: str(part.get("sha256", "")) for name, part in lineage.get("data", {}).items()}


def folder_of(service: str, settings: Settings) -> Path:
    """Where the records of a service lie."""
    return settings.home / "rollouts" / service


def digest_of(content: dict[str, Any]) -> str:
    """SHA-256 of a JSON object."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def now() -> str:
    """This instant, ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
