"""The record of a rollout: where it stands, and why each step was decided as it was. It survives the process."""

import hashlib
import json
import logging
import math
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fti.common.errors import BusyError, ServingError, StorageError
from fti.common.inference_service import CANARY, STABLE
from fti.common.settings import Settings
from fti.rollout.archive import Archive, archive_of
from fti.rollout.counters import Counts

log = logging.getLogger(__name__)

RUNNING, HELD = "running", "held"
PROMOTED, ROLLED_BACK, SUPERSEDED = "promoted", "rolled_back", "superseded"
_REMEDY = "Move it away; the rollout then begins anew"
ENDS = {HELD, PROMOTED, ROLLED_BACK, SUPERSEDED}
OPEN = {RUNNING, HELD}


@dataclass
class Kept:
    """How a record was kept last: under which version, and when, by this process's clock."""

    version: str = ""
    at: float = -math.inf


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
        intent: The decision that is being carried out: written before the traffic is moved, so that a kill in between
            leaves no doubt whose move it was.
        kept: How it was kept last; no part of what is written.
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
    intent: dict[str, Any] = field(default_factory=dict)
    kept: Kept = field(default_factory=Kept, compare=False, repr=False)

    @property
    def name(self) -> str:
        """Names its files; sorts by time."""
        return f"{self.started[:23].replace(':', '').replace('.', '')}{_ending(self.canary)}"

    def begin(self, who: str) -> None:
        """Writes down who begins, or goes on, with what: models, data, steps and limits."""
        first = {"decision": "began", "steps": self.steps, "limits": self.limits, "lineage": digest_of(self.lineage)}
        again = {"decision": "went on", "percent": self.steps[self.step]}
        self.decide({**(again if self.decisions else first), "reason": "", "version": version("kfp-fti")}, who)

    def decide(self, decision: dict[str, Any], who: str) -> None:
        """Adds a decision: who and when, about which models made of which data, chained to the one before."""
        self.decisions.append(self._linked(decision, who))
        self.intent = {}

    def end(self, decision: dict[str, Any], who: str) -> None:
        """Adds a decision that ends the rollout."""
        self.phase = decision["decision"]
        self.decide(decision, who)

    def intend(self, decision: dict[str, Any], who: str) -> None:
        """Prepares a decision that ends the rollout, see `intent`."""
        self.intent = self._linked(decision, who)

    def carry_out(self) -> None:
        """Adds the decision that was prepared: the traffic has been moved."""
        self.phase = self.intent["decision"]
        self.decisions.append(self.intent)
        self.intent = {}

    def _linked(self, decision: dict[str, Any], who: str) -> dict[str, Any]:
        before = self.decisions[-1]["digest"] if self.decisions else ""
        models = {
            variant: {"package": digest, "data": data_of(self.lineage[variant])}
            for variant, digest in ((CANARY, self.canary), (STABLE, self.stable))
        }
        linked = {"time": now(), "who": who, **decision, "models": models, "previous": before}
        return {**linked, "digest": digest_of(linked)}

    def text(self) -> str:
        """The record as JSON."""
        content = asdict(self)
        del content["kept"]
        return json.dumps(content, indent=1) + "\n"

    def save(self, settings: Settings) -> None:
        """Writes the record, whole or not at all.

        Raises:
            BusyError: Another has taken this rollout over; nothing was written, and nothing must be done.
            StorageError: It cannot be written.
        """
        self.kept.at = -math.inf  # what fails is tried again at the next look
        archive = archive_of(self.service, settings)
        try:
            written = archive.write(self.name, self.text(), self.kept.version)
        except BusyError:
            text, found = archive.read(self.name)
            if not self._wrote(text):
                raise
            written = archive.write(self.name, self.text(), found)
        self.kept = Kept(written, time.monotonic())

    def _wrote(self, text: str) -> bool:
        """Whether a kept record is this one, of a write whose answer was lost: who takes one over decides something."""
        try:
            last = json.loads(text)["decisions"][-1]["digest"]
        except (ValueError, TypeError, LookupError):
            return False
        return last in {decision["digest"] for decision in self.decisions}

    def keep(self, settings: Settings) -> None:
        """Writes the record between decisions, where the last write is a while ago.

        A store that does not answer now will later; until then only what was counted meanwhile could be lost.

        Raises:
            BusyError: Another has taken this rollout over.
        """
        if time.monotonic() - self.kept.at < archive_of(self.service, settings).pause:
            return
        try:
            self.save(settings)
        except StorageError as error:
            log.warning("the record of %s was not written: %s", self.service, error)


def open_record(service: str, canary: str, stable: str, settings: Settings) -> Record | None:
    """The rollout of these two models that has not come to its end, or None.

    Raises:
        ServingError: A record is damaged.
    """
    record = last_record(service, canary, settings, stable)
    return record if record and record.phase in OPEN else None


def last_record(service: str, canary: str, settings: Settings, stable: str = "") -> Record | None:
    """The newest rollout of a canary over a stable model, empty for any, or None.

    Raises:
        ServingError: A record is damaged.
    """
    archive = archive_of(service, settings)
    of_canary = [name for name in archive.names() if name.endswith(_ending(canary))]
    for name in reversed(of_canary):
        record = _kept_record(archive, name)
        if record.canary == canary and stable in {"", record.stable}:
            return record
    return None


def _ending(canary: str) -> str:
    """How the names of a canary's records end."""
    return f"-{canary[:12]}"


def newest_record(service: str, settings: Settings) -> Record | None:
    """The newest rollout of a service, or None.

    Raises:
        ServingError: A record is damaged.
    """
    archive = archive_of(service, settings)
    names = archive.names()
    return _kept_record(archive, names[-1]) if names else None


def read(path: Path) -> Record:
    """Reads a record, and checks that nothing in it was changed that a decision stands on.

    Raises:
        ServingError: The file is damaged, or was changed.
    """
    try:
        return _parsed(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ServingError(f"{path} is not the record of a rollout: {error}", remedy=_REMEDY) from error


def _kept_record(archive: Archive, name: str) -> Record:
    text, kept = archive.read(name)
    record = _parsed(text, archive.where(name))
    record.kept = Kept(kept, time.monotonic())
    return record


def _parsed(text: str, where: str) -> Record:
    try:
        raw = json.loads(text)
        raw["counts"] = {variant: Counts(counts) for variant, counts in raw["counts"].items()}
        record = Record(**{**raw, "reference": Counts(raw["reference"]), "share": tuple(raw["share"])})
        _check_chain(record)
    except _ChangedError as error:
        raise ServingError(f"{where}: {error}", remedy=_REMEDY) from None
    except (ValueError, TypeError, KeyError) as error:
        raise ServingError(f"{where} is not the record of a rollout: {error}", remedy=_REMEDY) from error
    return record


class _ChangedError(Exception):
    pass


def _check_chain(record: Record) -> None:
    before = ""
    for decision in [*record.decisions, *([record.intent] if record.intent else [])]:
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


def digest_of(content: dict[str, Any]) -> str:
    """SHA-256 of a JSON object."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def now() -> str:
    """This instant, ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
