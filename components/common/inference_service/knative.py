"""InferenceServices in KServe's Knative mode: the manifest holds the newest model only, the cluster the one before.

`canaryTrafficPercent: N` gives the newest revision N percent and the rest to the last one that was rolled out to all
(`status.components.predictor.latestRolledoutRevision`). Which model that is, the manifest cannot say, and an annotation
there would reach the pods and so make a new revision: a ConfigMap beside it does.
Semantics from KServe 0.21: `reconcilers/knative/ksvc_reconciler.go`, `PropagateStatus` of the v1beta1 status.
"""

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from fti.common.errors import ConfigError
from fti.common.inference_service.predictor import parse_predictor, render_predictor
from fti.common.inference_service.service import API_VERSION, KIND, MODE, Revision, Service, is_stopped, unreadable
from fti.common.inference_service.standard import check_kind

KNATIVE = "Knative"
_LEGACY = "Serverless"  # the name of the mode before KServe 0.16
TAG_ROUTING = "serving.kserve.io/enable-tag-routing"  # `latest-` and `prev-` before the host reach one revision
PERCENT = "canaryTrafficPercent"
# What the ConfigMap of a trial says.
STABLE_MODEL = "stable"  # JSON of the revision that serves what the newest one does not
STABLE_REVISION = "stable-revision"  # the name that Knative gave to it
ROLLED_BACK = "rolled-back"  # the digest of the newest revision, where its trial has ended


def render(service: Service, base: dict[str, Any] | None = None) -> dict[str, Any]:
    """Renders a service as a manifest for KServe's Knative mode.

    A canary that was taken back stays the newest revision, with no traffic: to write the stable model anew would
    send all traffic to the canary until that has started.

    Args:
        service: What shall serve.
        base: An earlier manifest, whose other fields are kept.
    """
    manifest = copy.deepcopy(base) if base else {}
    spec = manifest.get("spec") or {}
    metadata = {**(manifest.get("metadata") or {}), "name": service.name}
    metadata["annotations"] = {**(metadata.get("annotations") or {}), MODE: KNATIVE, TAG_ROUTING: "true"}
    earlier = spec.get("predictor") or {}
    if service.canary is not None:
        spec["predictor"] = {**render_predictor(service.canary, earlier), PERCENT: service.canary_percent}
    elif PERCENT in earlier and newest(manifest) != service.stable.digest:
        spec["predictor"] = {**earlier, PERCENT: 0}
    else:
        spec["predictor"] = render_predictor(service.stable, earlier)
        spec["predictor"].pop(PERCENT, None)
    return {**manifest, "apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}


def without_trial(service: Service, base: dict[str, Any]) -> dict[str, Any]:
    """The manifest as it may be stopped: of the stable model alone.

    Nothing of a stopped service runs. What is started then is the newest model, with all of the traffic.

    Raises:
        ConfigError: A canary is on trial.
    """
    if PERCENT not in base["spec"]["predictor"]:
        return base
    if service.canary is not None:
        raise ConfigError(
            f"{service.name}: started again in Knative mode, its canary would get all of the traffic",
            remedy=f"Run `fti promote {service.name}` or `fti rollback {service.name}` first",
        )
    after = copy.deepcopy(base)
    after["spec"]["predictor"] = render_predictor(service.stable, base["spec"]["predictor"])
    del after["spec"]["predictor"][PERCENT]
    return after


def trial(service: Service, base: dict[str, Any], before: Mapping[str, str]) -> dict[str, str]:
    """What the ConfigMap of a trial must say anew before the manifest of the service is written.

    Whoever is refused then, or killed, has changed nothing that holds for what serves: which model is stable is only
    written where nobody reads it, while the manifest has no percent. Empty where nothing is to be written.

    Args:
        service: What shall serve.
        base: The manifest as it stands, with its status.
        before: What the ConfigMap says.
    """
    if service.canary is None:
        return {}
    if PERCENT not in base["spec"]["predictor"]:  # the newest is the stable one, for now
        revision = predictor_status(base).get("latestRolledoutRevision", "")
        return {STABLE_MODEL: json.dumps(asdict(service.stable)), STABLE_REVISION: revision, ROLLED_BACK: ""}
    return {ROLLED_BACK: ""} if service.canary.digest == before.get(ROLLED_BACK) else {}


def steps(service: Service, current: Service | None, base: dict[str, Any] | None) -> list[Service]:
    """The services to realise one after another, each when the one before is in force.

    A model that has no traffic first starts without: before it is ready, Knative would give its share to whatever
    revision was the newest ready one, such as a canary that was taken back. That holds for the newest revision too:
    a push that was cut off may have made it.

    Raises:
        ConfigError: The stable model shall change in itself while another is on trial, which Knative mode cannot do.
    """
    if current is None or base is None or not predictor_status(base).get("latestRolledoutRevision"):
        return [service]
    last = newest(base)
    if service.stable.digest == current.stable.digest != last:
        if service.stable != current.stable:
            raise ConfigError(
                f"{service.name}: its stable model cannot get another address or feature repository beside a canary",
                remedy="Promote the canary, or push another model with 100 percent",
            )
        if service.canary is None:
            return [service]
    wanted = service.canary or service.stable
    if wanted.digest == last and base["spec"]["predictor"].get(PERCENT) != 0:
        return [service]
    return [replace(current, canary=wanted, canary_percent=0, shadow=False), service]


def parse(manifest: dict[str, Any], where: str, trial: Mapping[str, str]) -> Service:
    """Reads a manifest in KServe's Knative mode.

    Args:
        manifest: The manifest.
        where: How errors call it.
        trial: What the ConfigMap of the trial says; empty where there is none.

    Raises:
        ServingError: It lacks a field, has one of another type, or asks for another mode.
    """
    try:
        check_kind(manifest, where)
        metadata, predictor = manifest["metadata"], manifest["spec"]["predictor"]
        mode = (metadata.get("annotations") or {}).get(MODE)
        if mode not in {KNATIVE, _LEGACY}:
            raise unreadable(where, f"has the deployment mode {mode}", f"the annotation {MODE}: {KNATIVE}")
        if manifest["spec"].get("canary"):
            raise unreadable(where, "has spec.canary, which Knative mode refuses", PERCENT)
        last, percent = parse_predictor(predictor), predictor.get(PERCENT)
        service = Service(name=metadata["name"], stable=last, stopped=is_stopped(manifest))
        if percent is None:
            return service
        if STABLE_MODEL not in trial:
            raise unreadable(where, f"has a {PERCENT} that no push wrote", "one beside its ConfigMap")
        service = replace(service, stable=Revision(**json.loads(trial[STABLE_MODEL])))
        if trial.get(ROLLED_BACK) == last.digest:
            return service
        return replace(service, canary=last, canary_percent=percent)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise unreadable(where, f"lacks a field or has one of a wrong type: {error}") from error


def taken_back(service: Service, manifest: dict[str, Any]) -> bool:
    """Whether a manifest holds, without traffic, a model that is no part of the service any more."""
    return service.canary is None and PERCENT in manifest["spec"]["predictor"]


def newest(manifest: dict[str, Any]) -> str:
    """The digest of the model that the manifest holds."""
    return parse_predictor(manifest["spec"]["predictor"]).digest


def predictor_status(manifest: dict[str, Any]) -> dict[str, Any]:
    """What the cluster says of the predictor; empty where it says nothing."""
    status: dict[str, Any] = ((manifest.get("status") or {}).get("components") or {}).get("predictor") or {}
    return status
