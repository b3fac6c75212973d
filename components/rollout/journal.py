"""What is written down of a rollout: who decided, what was seen, and why."""

import getpass
import math
import platform
from dataclasses import asdict
from typing import Any

from fti.rollout.counters import REQUESTS
from fti.rollout.record import Record, now
from fti.rollout.rules import Judgement

BY_HAND = "by hand"  # the state of what a person decided
_POINTS = 200  # of the history, for the report


def user() -> str:
    """Who runs this process, and where."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user has no name
        name = "unknown"
    return f"{name}@{platform.node()}"


def as_json(value: object) -> Any:
    """A value as it comes back from JSON, with None for what is not a finite number."""
    if isinstance(value, dict):
        return {key: as_json(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def described(
    record: Record, decision: str, reason: str, judgement: Judgement | None, *, by_hand: bool = False
) -> dict[str, object]:
    """A decision on a record's step, with all that it stands on."""
    return {
        "decision": decision,
        "state": BY_HAND if by_hand else judgement.outcome if judgement else "none",
        "percent": record.steps[record.step],
        "since": record.step_started,
        "reason": reason,
        "counts": {variant: dict(counts) for variant, counts in record.counts.items()},
        "findings": [as_json(asdict(finding)) for finding in judgement.findings] if judgement else [],
    }


def remember(record: Record, judgement: Judgement) -> None:
    """Adds a look to the history."""
    findings = {finding.name: _rounded(as_json(asdict(finding))) for finding in judgement.findings}
    requests = {variant: counts[REQUESTS] for variant, counts in record.counts.items()}
    percent = record.steps[record.step]
    record.history.append({"time": now(), "percent": percent, "requests": requests, "findings": findings})
    if len(record.history) > _POINTS:
        del record.history[1::2]  # every other one: the shape stays


def _rounded(value: Any) -> Any:
    """Four digits are more than a plot shows."""
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
