"""Whether a cluster does what a service asks: not merely Ready, which stays true from the model before."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from fti.common.errors import ServingError
from fti.common.inference_service import knative
from fti.common.inference_service.failures import Failure
from fti.common.inference_service.service import REVISION, Service
from fti.common.kubernetes_api import KubernetesApi

log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE, _GROWTH = 0.05, 2.0, 1.5
_GRACE = 5  # a fifth of the patience is for what may mend itself, such as a node that has yet to be started

Manifest = dict[str, Any]


def wait(
    name: str, pending: Callable[[], list[str]], problems: Callable[[], list[Failure]], seconds: float, path: str = ""
) -> None:
    """Waits until nothing is missing any more.

    Args:
        name: The service.
        pending: Looks, and says what is missing; raises where the service is another's by now.
        problems: Why what is missing does not come up; asked after each look that found something missing.
        seconds: How long.
        path: Of the object that tells more; empty means the InferenceService of that name.

    Raises:
        ServingError: It does not come into force: a pod says why it never will, or the time is over.
    """
    began, pause, since = time.monotonic(), _FIRST_PAUSE, dict[str, float]()
    told: list[str] = []
    while missing := pending():
        if missing != told:
            log.info("%s: waiting: %s", name, "; ".join(missing))
            told = missing
        now = time.monotonic()
        _check_failures(name, problems(), since, now, seconds / _GRACE)
        if now - began > seconds:
            described = "/".join(path.split("/")[-2:]) or f"inferenceservices/{name}"
            raise ServingError(
                f"{name}: after {seconds:.0f} s not in force: {'; '.join(missing)}",
                remedy=f"kubectl describe {described}; FTI_SERVING_SECONDS waits longer",
            )
        time.sleep(pause)
        pause = min(pause * _GROWTH, _LONGEST_PAUSE)


def _check_failures(name: str, found: list[Failure], since: dict[str, float], now: float, grace: float) -> None:
    """Raises what is final, and what may mend itself but has not for long."""
    for gone in since.keys() - {failure.reason for failure in found}:
        del since[gone]
    for failure in found:
        first = since.setdefault(failure.reason, now)
        if failure.final or now - first > grace:
            raise ServingError(f"{name}: {failure.text}", remedy=failure.remedy)


def standard_pending(service: Service, manifest: Manifest, api: KubernetesApi) -> list[str]:
    """What is missing in Standard mode: Deployments of these models, their readiness, weights of the routes."""
    spec = manifest["spec"]
    canaries = spec.get("canary") or []
    shares = {workload_of(service.name, spec["predictor"]): service.revisions()["stable"]}
    for canary in canaries:
        shares[workload_of(service.name, canary["predictor"])] = service.revisions()["canary"]
    pending = []
    for workload, (revision, _) in shares.items():
        deployment = api.get(f"apis/apps/v1/namespaces/{api.namespace}/deployments/{workload}")
        pending += _of_model(workload, deployment, revision.name)
    pending += conditions_pending(
        manifest, ["PredictorReady", *(["CanaryPredictorReady"] if canaries else []), "Ready"]
    )
    statuses = {status["name"]: status for status in (manifest.get("status") or {}).get("canaryStatuses") or []}
    for canary in canaries:
        status = statuses.get(canary["predictor"]["name"], {})
        if not status.get("ready") or status.get("trafficPercent") != canary["trafficPercent"]:
            pending.append(f"KServe reports no ready canary at {canary['trafficPercent']} %")
    if len(statuses) > len(canaries):
        pending.append("KServe still reports a canary")
    return pending + _routes(service.name, {name: percent for name, (_, percent) in shares.items()}, api)


def workload_of(service: str, predictor: Mapping[str, Any]) -> str:
    """The name that KServe gives to a predictor's Deployment and Service (`PredictorServiceName`)."""
    return "-".join(part for part in (service, predictor.get("name"), "predictor") if part)


def _of_model(name: str, deployment: Manifest | None, revision: str) -> list[str]:
    if deployment is None:
        return [f"Deployment {name} is not there"]
    template = deployment["spec"]["template"]["metadata"].get("labels") or {}
    if template.get(REVISION) != revision:
        return [f"Deployment {name} has not got model {revision}"]
    return rolled_out(name, deployment, f"with model {revision}")


def rolled_out(name: str, deployment: Manifest, what: str = "as asked") -> list[str]:
    """What a Deployment lacks until all of its pods are those that it asks for, and ready.

    Args:
        name: The Deployment's.
        deployment: It, with its status.
        what: How its new pods are called.
    """
    status, wanted = deployment.get("status") or {}, deployment["spec"].get("replicas", 1)
    if status.get("observedGeneration", 0) < deployment["metadata"].get("generation", 0):
        return [f"Deployment {name} has just been changed"]
    updated, available = status.get("updatedReplicas", 0), status.get("availableReplicas", 0)
    if updated < wanted or available < wanted or status.get("replicas", 0) > updated:
        return [f"Deployment {name} has {available} of {wanted} pods ready, {updated} of them {what}"]
    return []


def _routes(service: str, shares: Mapping[str, int], api: KubernetesApi) -> list[str]:
    """What KServe's two HTTPRoutes lack: one is for the service's host, one for its predictor's."""
    pending, found = [], 0
    for name in (service, f"{service}-predictor"):
        route = api.get(f"apis/gateway.networking.k8s.io/v1/namespaces/{api.namespace}/httproutes/{name}")
        if route is None:
            continue
        found += 1
        for rule in route["spec"].get("rules") or []:
            weights = {ref["name"]: ref.get("weight", 1) for ref in rule.get("backendRefs") or []}
            total = sum(weights.values()) or 1
            actual = {name: 100 * weight / total for name, weight in weights.items() if weight}
            if actual != {name: percent for name, percent in shares.items() if percent}:
                pending.append(f"HTTPRoute {name} gives {_shares(actual)}, not {_shares(shares)}")
                break
        pending += accepted(name, route)
    if len(shares) > 1 and not found:
        pending.append("there is no HTTPRoute: KServe splits traffic only where its ingress has enableGatewayApi: true")
    return pending


def accepted(name: str, route: Manifest) -> list[str]:
    """Whether the gateway has taken over the route as it is now."""
    generation = route["metadata"].get("generation", 0)
    parents = (route.get("status") or {}).get("parents") or []
    if not parents:
        return [f"no gateway has taken HTTPRoute {name} over"]
    for parent in parents:
        for condition in parent.get("conditions") or []:
            if condition["status"] != "True":
                return [f"HTTPRoute {name}: {condition.get('reason')}: {condition.get('message', '')}".rstrip(": ")]
            if condition.get("observedGeneration", generation) < generation:
                return [f"the gateway has not taken over the last change of HTTPRoute {name}"]
    return []


def knative_pending(service: Service, manifest: Manifest, base: Manifest | None, trial: Mapping[str, str]) -> list[str]:
    """What is missing in Knative mode: the newest revision, its readiness, the percents of the route."""
    status = knative.predictor_status(manifest)
    created, ready = status.get("latestCreatedRevision"), status.get("latestReadyRevision")
    changed = base is not None and base is not manifest and knative.newest(base) != knative.newest(manifest)
    if not created or (changed and created == knative.predictor_status(base or {}).get("latestCreatedRevision")):
        return ["Knative has not made a revision of the model"]
    if created != ready:
        return [f"revision {created} is not ready"]
    pending = conditions_pending(manifest, ["PredictorReady", "LatestDeploymentReady", "RoutesReady", "Ready"])
    actual: dict[str, int] = {}
    for target in status.get("traffic") or []:
        name = target.get("revisionName", "")
        actual[name] = actual.get(name, 0) + target.get("percent", 0)
    percent = manifest["spec"]["predictor"].get(knative.PERCENT, 100)
    asked = {created: percent}
    if percent < 100:
        stable = trial.get(knative.STABLE_REVISION, "")
        asked[stable] = 100 - percent
    if {name: share for name, share in actual.items() if share} != {k: v for k, v in asked.items() if v}:
        pending.append(f"the route gives {_shares(actual)}, not {_shares(asked)}")
    return pending


def _shares(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{name or 'nobody'} {share:.0f} %" for name, share in shares.items()) or "nobody anything"


def conditions_pending(manifest: Manifest, names: list[str]) -> list[str]:
    """Those of an object's conditions that are not true, and why."""
    found = {each["type"]: each for each in (manifest.get("status") or {}).get("conditions") or []}
    pending = []
    for name in names:
        condition = found.get(name, {})
        if condition.get("status") != "True":
            why = ": ".join(str(part) for part in (condition.get("reason"), condition.get("message")) if part)
            pending.append(f"{name} is {condition.get('status', 'not reported')}" + (f" ({why})" if why else ""))
    return pending
