"""One of the two InferenceServices that are one service together."""

import copy
from collections.abc import Mapping
from typing import Any

from fti.common.inference_service import standard
from fti.common.inference_service.objects import Manifest
from fti.common.inference_service.runtimes import RUNTIMES
from fti.common.inference_service.service import SERVICE, Revision, Service, with_stop
from fti.common.inference_service.single import SERVICE_ACCOUNT

_INTERNAL = {"networking.kserve.io/visibility": "cluster-local"}  # KServe makes no route of its own beside the front
_NAME = "--name="
_PORT = 8080


def render_half(name: str, colour: str, revision: Revision, pattern: Manifest | None, namespace: str) -> Manifest:
    """Renders one of both for KServe's Standard mode: it answers as the service, and has no address of its own.

    Args:
        name: The service's.
        colour: `blue` or `green`.
        revision: What it shall serve.
        pattern: It as it stands, or the other one: what the platform set there (resources, replicas, …) holds here too.
        namespace: Where it shall lie.
    """
    kept = with_stop(pattern, False)["metadata"] if pattern else {}  # what is brought up shall run
    metadata = {key: copy.deepcopy(kept.get(key) or {}) for key in ("annotations", "labels")}
    base = {"metadata": metadata, "spec": copy.deepcopy(pattern["spec"])} if pattern else {"metadata": metadata}
    manifest = standard.render(Service(f"{name}-{colour}", revision), base)
    manifest["metadata"]["namespace"] = namespace
    manifest["metadata"]["labels"] |= {**_INTERNAL, SERVICE: name}
    predictor = manifest["spec"]["predictor"]
    predictor.setdefault("serviceAccountName", SERVICE_ACCOUNT)
    if RUNTIMES[revision.runtime].tensors:  # its model repository has the service's name
        predictor["model"].pop("readinessProbe", None)
    else:
        predictor["model"] |= _answering_as(name, predictor["model"])
    return manifest


def _answering_as(name: str, model: Mapping[str, Any]) -> dict[str, Any]:
    """What makes our predictor answer as the service: its ServingRuntime gives it the InferenceService's name."""
    args = [arg for arg in model.get("args") or [] if not arg.startswith(_NAME)]
    probe = {"path": f"/v2/models/{name}/ready", "port": _PORT}
    return {"args": [*args, _NAME + name], "readinessProbe": {"httpGet": probe}}
