"""The status of a service in KServe's own form, as `kubectl get inferenceservice -o yaml` shows it.

It lies beside the manifests, in `services/status/<name>.yaml`: a manifest belongs to who pushes and edits it.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import yaml

from fti.common.files import atomic_file
from fti.common.inference_service import API_VERSION, CANARY, KIND, STABLE, Service
from fti.common.settings import Settings

Status = dict[str, Any]

_HONOURED = "ManifestHonoured"  # a condition of ours; there only while it does not hold


def status_of(
    service: Service,
    live: dict[str, Any],
    failures: dict[str, str],
    url: str,
    before: Status,
    *,
    notes: Sequence[str] = (),
) -> Status:
    """The status of one service.

    Args:
        service: What is desired.
        live: By variant: `revision`, `percent` and `ready` of what has traffic.
        failures: By variant: why it cannot start.
        url: Where it is asked for predictions.
        before: Its last status, whose transition times are kept.
        notes: What of its manifest is not honoured on this machine.
    """
    ready = bool(live) and live[STABLE]["ready"]
    as_desired = {variant: (of["revision"], of["percent"]) for variant, of in live.items()} == {
        variant: (revision.name, percent) for variant, (revision, percent) in service.revisions().items()
    }
    waiting = "Failed" if failures else "InProgress"
    found = {
        "PredictorReady": (ready and STABLE not in failures, failures.get(STABLE, "")),
        "IngressReady": (as_desired, "" if as_desired else f"traffic is not split as desired: {waiting}"),
        "Ready": (ready, "" if ready else "the stable predictor does not answer"),
    }
    if service.canary is not None:
        answers = CANARY in live and live[CANARY]["ready"]
        found["CanaryPredictorReady"] = (answers, failures.get(CANARY, ""))
    if notes:
        found[_HONOURED] = (False, "; ".join(notes))
    traffic = [
        {"revisionName": of["revision"], "percent": of["percent"], "tag": variant, "latestRevision": variant == CANARY}
        for variant, of in live.items()
    ]
    status = {
        "url": url,
        "deploymentMode": "Standard",
        "components": {"predictor": {"url": url, "traffic": traffic}},
        "conditions": _conditions(found, before),
        "modelStatus": _model_status(failures, live=ready, as_desired=as_desired),
    }
    if service.canary is not None:
        percent = live[CANARY]["percent"] if CANARY in live else 0
        status["canaryStatuses"] = [
            {"name": CANARY, "ready": found["CanaryPredictorReady"][0], "trafficPercent": percent}
        ]
    return status


def write_status(name: str, status: Status, settings: Settings) -> None:
    """Writes the status of a service."""
    whole = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "status": status}
    with atomic_file(settings.services / "status" / f"{name}.yaml") as scratch:
        scratch.write_text(yaml.safe_dump(whole, sort_keys=False), encoding="utf-8")


def remove_status(name: str, settings: Settings) -> None:
    """Removes the status of a service that is no longer served."""
    (settings.services / "status" / f"{name}.yaml").unlink(missing_ok=True)


def _conditions(found: dict[str, tuple[bool, str]], before: Status) -> list[dict[str, str]]:
    earlier = {condition["type"]: condition for condition in before.get("conditions", [])}
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    conditions = []
    for kind, (holds, message) in sorted(found.items()):
        condition = {"type": kind, "status": "True" if holds else "False"}
        same = earlier.get(kind, {}).get("status") == condition["status"]
        condition["lastTransitionTime"] = earlier[kind]["lastTransitionTime"] if same else now
        if kind == _HONOURED:
            condition["severity"] = "Warning"  # without one a condition is an error
        conditions.append(condition | ({"message": message} if message and not holds else {}))
    return conditions


def _model_status(failures: dict[str, str], *, live: bool, as_desired: bool) -> dict[str, Any]:
    active = "Loaded" if live else ""
    if failures:
        return {
            "transitionStatus": "BlockedByFailedLoad",
            "states": {"activeModelState": active, "targetModelState": "FailedToLoad"},
            "lastFailureInfo": {"reason": "ModelLoadFailed", "message": next(iter(failures.values()))},
        }
    return {
        "transitionStatus": "UpToDate" if as_desired else "InProgress",
        "states": {"activeModelState": active, "targetModelState": "Loaded" if as_desired else "Loading"},
    }
