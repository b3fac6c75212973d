"""InferenceServices in KServe's Standard mode: both models in one manifest, so that it alone says what serves.

Semantics from KServe 0.21: `pkg/apis/serving/v1beta1/inference_service_validation.go` (what a canary may set) and
`pkg/controller/v1beta1/inferenceservice/components/predictor.go` (its replicas, how it inherits, how it is promoted).
"""

import copy
from dataclasses import replace
from typing import Any

from fti.common.inference_service.predictor import parse_predictor, render_predictor, saying_all
from fti.common.inference_service.service import (
    API_VERSION,
    CANARY,
    DIGEST,
    KIND,
    MODE,
    SHADOW,
    UNIT,
    Service,
    is_stopped,
    unreadable,
)

STANDARD = "Standard"
_LEGACY = "RawDeployment"  # the name of the mode before KServe 0.16
_CANARY_NAMES = (CANARY, "canary2")
# KServe's webhook refuses them in a canary, whose number of replicas follows from its share.
_NOT_A_CANARYS = ("name", "minReplicas", "maxReplicas", "scaleTarget", "scaleMetric", "scaleMetricType", "autoScaling")


def render(service: Service, base: dict[str, Any] | None = None) -> dict[str, Any]:
    """Renders a service as a manifest for KServe's Standard mode.

    A canary that becomes stable keeps its predictor's name: KServe goes on with its pods, and starts none.

    Args:
        service: What shall serve.
        base: An earlier manifest, whose other fields (resources, service account, ...) are kept, and from whose
            stable predictor a canary takes them too.
    """
    manifest = copy.deepcopy(base) if base else {}
    metadata = manifest.get("metadata") or {}
    metadata = {**metadata, "name": service.name}
    metadata["annotations"] = {**(metadata.get("annotations") or {}), MODE: STANDARD}
    if service.unit:
        metadata["annotations"][UNIT] = service.unit
    spec = manifest.get("spec") or {}
    earlier = spec.get("predictor") or {}
    on_trial = [canary.get("predictor") or {} for canary in spec.pop("canary", None) or []]
    spec["predictor"] = render_predictor(service.stable, earlier)
    for canary in on_trial:
        if canary.get("name") and (canary.get("annotations") or {}).get(DIGEST) == service.stable.digest:
            spec["predictor"]["name"] = canary["name"]
    if service.canary is not None:
        spec["canary"] = [_canary(service, earlier, spec["predictor"].get("name", ""))]
    return {**manifest, "apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}


def _canary(service: Service, earlier: dict[str, Any], stable_name: str) -> dict[str, Any]:
    assert service.canary is not None  # noqa: S101
    base = {key: value for key, value in earlier.items() if key not in _NOT_A_CANARYS}
    predictor = render_predictor(service.canary, base)
    predictor["name"] = next(name for name in _CANARY_NAMES if name != stable_name)
    predictor = saying_all(predictor, service.canary, service.stable)
    if service.canary_percent == 0 and earlier.get("minReplicas") != 0:
        predictor["minReplicas"] = 1  # KServe gives a canary its share of the stable one's replicas: else none
    if service.shadow:
        predictor["annotations"][SHADOW] = "true"
    return {"trafficPercent": service.canary_percent, "predictor": predictor}


def steps(service: Service, current: Service | None) -> list[Service]:
    """The services to realise one after another, each when the one before is in force.

    A new canary starts without traffic, so that it can be tried; so does one that has none yet, for a push that was
    cut off may have made it. A canary gets all of the traffic, and so as many replicas as the stable model, before it
    becomes that.
    """
    if current is None:
        return [service]
    wanted = service.canary or service.stable
    if current.canary and current.canary.digest == wanted.digest and not current.canary_percent:
        return [replace(current, canary=wanted), *_moves(service, current)]
    return _moves(service, current)


def _moves(service: Service, current: Service) -> list[Service]:
    before, canary = current.canary, service.canary
    if before and canary is None and service.stable.digest == before.digest:
        return [replace(current, canary_percent=100, shadow=False), service]
    if canary and canary.digest != (before.digest if before else "") and service.canary_percent:
        return [replace(service, canary_percent=0), service]
    return [service]


def parse(manifest: dict[str, Any], where: str) -> Service:
    """Reads a manifest in KServe's Standard mode.

    Args:
        manifest: The manifest.
        where: How errors call it.

    Raises:
        ServingError: It lacks a field, has one of another type, or asks for a mode that is not Standard.
    """
    try:
        service = _parsed(manifest, where)
    except (KeyError, TypeError, AttributeError) as error:
        raise unreadable(where, f"lacks a field or has one of a wrong type: {error}") from error
    if type(service.canary_percent) is not int or not 0 <= service.canary_percent <= 100:
        raise unreadable(where, f"gives the canary {service.canary_percent!r} percent", "a whole number from 0 to 100")
    if service.shadow and service.canary_percent:
        raise unreadable(where, f"gives a shadow {service.canary_percent} percent of the traffic", "0")
    return service


def _parsed(manifest: dict[str, Any], where: str) -> Service:
    check_kind(manifest, where)
    metadata, spec = manifest["metadata"], manifest["spec"]
    mode = (metadata.get("annotations") or {}).get(MODE)
    if mode not in {STANDARD, _LEGACY}:
        raise unreadable(where, f"has the deployment mode {mode}", f"the annotation {MODE}: {STANDARD}")
    canaries = spec.get("canary") or []
    if "canaryTrafficPercent" in spec["predictor"]:  # KServe itself ignores it without a word
        raise unreadable(where, "has a canaryTrafficPercent, which Standard mode ignores", "spec.canary")
    if len(canaries) > 1:
        raise unreadable(where, f"has {len(canaries)} canaries", "one canary at a time")
    unit = (metadata.get("annotations") or {}).get(UNIT, "")
    if not isinstance(unit, str):
        raise unreadable(where, f"has the {UNIT} {unit!r}", "the name of a column of the requests, as text")
    stable = parse_predictor(spec["predictor"])
    service = Service(name=metadata["name"], stable=stable, unit=unit, stopped=is_stopped(manifest))
    if not canaries:
        return service
    predictor = canaries[0]["predictor"]
    shadow = predictor["annotations"].get(SHADOW) == "true"
    percent = canaries[0]["trafficPercent"]
    return replace(service, canary=parse_predictor(predictor), canary_percent=percent, shadow=shadow)


def check_kind(manifest: dict[str, Any], where: str) -> None:
    """Refuses what is no InferenceService.

    Raises:
        ServingError: It is of another kind.
        KeyError: It names none.
    """
    if manifest["kind"] != KIND or manifest["apiVersion"] != API_VERSION:
        raise unreadable(where, f"is a {manifest['apiVersion']} {manifest['kind']}", f"{API_VERSION} {KIND}")
