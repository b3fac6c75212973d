"""A stand-in of KServe's controller: what it makes of an InferenceService, one step at each look at it.

After KServe 0.21: the names, the order of events, who gets what share meanwhile, and what the webhook refuses.
"""

import copy
import json
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from tests.push.api_server import ApiError, ApiServer
from tests.push.fronts import Fronts

ISVC = "inferenceservices.serving.kserve.io"
ROUTES = "httproutes.gateway.networking.k8s.io"
GRAPHS = "inferencegraphs.serving.kserve.io"
STOP = "serving.kserve.io/stop"
Isvc = dict[str, Any]


@dataclass
class KServe:
    """The controller of one namespace.

    Attributes:
        api: The API server.
        namespace: The namespace.
        broken: Revisions (12 digits) whose pods never become ready, and what their pods say; or, where none comes to
            be, what their Deployment says (`conditions_of_deployment`) or KServe (`failure`).
        late_routes: Looks for which weights and percents stay as they were.
        gateway_api: Whether it makes HTTPRoutes.
        history: Revision to share in percent, each time that it changed.
    """

    api: ApiServer
    namespace: str = "flights"
    broken: dict[str, dict[str, Any]] = field(default_factory=dict)
    late_routes: int = 0
    gateway_api: bool = True
    history: list[dict[str, int]] = field(default_factory=list)
    starts: list[str] = field(default_factory=list)
    stops: bool = True  # whether it knows the annotation that stops a service
    serves: dict[str, str] = field(default_factory=dict)  # Deployment to the model of its pods that are ready
    _looks: dict[str, int] = field(default_factory=dict)
    _seen: dict[str, int] = field(default_factory=dict)
    _revisions: dict[str, dict[str, Isvc]] = field(default_factory=dict)  # of Knative, by service

    def install(self) -> None:
        self.api.before, self.api.admit = self.on_request, self.check

    def on_request(self, verb: str, resource: str, name: str) -> None:
        if verb == "get" and resource == ISVC:
            found = self.api.objects.get((ISVC, self.namespace, name))
            if found is None or "deletionTimestamp" in found["metadata"]:
                self._forget(name)
                return
            self.reconcile(copy.deepcopy(found))
        self.fronts.on_request(verb, resource, name)

    def __post_init__(self) -> None:
        self.fronts = Fronts(self)

    def check(self, resource: str, isvc: Isvc) -> None:
        """What the validating webhook refuses."""
        if resource != ISVC:
            self.fronts.check(resource, isvc)
            return
        spec, mode = isvc["spec"], isvc["metadata"]["annotations"]["serving.kserve.io/deploymentMode"]
        old = self.api.objects.get((ISVC, self.namespace, isvc["metadata"]["name"]))
        if old and old["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] != mode:
            raise _denied("update rejected: deploymentMode cannot be changed")
        names = {spec["predictor"].get("name", "")}
        for canary in spec.get("canary") or []:
            predictor = canary["predictor"]
            if mode != "Standard":
                raise _denied("canary is only supported in Standard deployment mode")
            if not predictor.get("name") or predictor["name"] in names:
                raise _denied(f"canary predictor.name {predictor.get('name')!r} conflicts or is missing")
            for banned in ("maxReplicas", "scaleTarget", "scaleMetric", "autoScaling"):
                if predictor.get(banned):
                    raise _denied(f"canary must not set {banned} (canary uses fixed replicas)")
            if predictor.get("minReplicas", 0) > spec["predictor"].get("minReplicas", 1):
                raise _denied("canary minReplicas must not exceed stable predictor minReplicas")

    def reconcile(self, isvc: Isvc) -> None:
        """One step, towards what the manifest asks for."""
        name = isvc["metadata"]["name"]
        if self._seen.get(name) != isvc["metadata"]["generation"]:
            self._seen[name], self._looks[name] = isvc["metadata"]["generation"], 0
        self._looks[name] += 1
        before = copy.deepcopy(isvc)
        if self.stops and isvc["metadata"]["annotations"].get(STOP) == "true":
            self._stopped(isvc, self._looks[name])
        elif isvc["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Standard":
            self._standard(isvc, self._looks[name])
        else:
            self._knative(isvc, self._looks[name])
        if isvc != before:
            self.api.put(ISVC, self.namespace, isvc)

    def _stopped(self, isvc: Isvc, look: int) -> None:
        """Nothing runs any more; the status forgets all, revisions too."""
        name = isvc["metadata"]["name"]
        if look < 3:
            return
        self._forget(name)
        isvc["status"] = {"deploymentMode": isvc.get("status", {}).get("deploymentMode", "")}
        _set_conditions(isvc["status"], {"PredictorReady": False, "Stopped": True, "Ready": False})

    def _standard(self, isvc: Isvc, look: int) -> None:
        name, spec = isvc["metadata"]["name"], isvc["spec"]
        status = isvc.setdefault("status", {})
        wanted = {_workload(name, spec["predictor"]): (spec["predictor"], spec["predictor"].get("minReplicas", 1), 100)}
        for canary in spec.get("canary") or []:
            stable = spec["predictor"].get("minReplicas", 1)
            replicas = canary["predictor"].get("minReplicas", ceil(stable * canary["trafficPercent"] / 100))
            wanted[_workload(name, canary["predictor"])] = (canary["predictor"], replicas, canary["trafficPercent"])
        if look < 2:  # the controller has not looked yet: status is of what was before
            return
        ready = {workload: self._deploy(name, workload, *wanted[workload][:2], look) for workload in wanted}
        revisions = {predictor["labels"]["fti/revision"] for predictor, _, _ in wanted.values()}
        for failure in filter(None, (self.broken[each].get("failure") for each in revisions & self.broken.keys())):
            status["modelStatus"] = {"transitionStatus": "InvalidSpec", "lastFailureInfo": failure}
        for key in [key for key in self.api.objects if key[0] == "deployments.apps" and key[2] not in wanted]:
            if self.api.objects[key]["metadata"]["labels"].get("serving.kserve.io/inferenceservice") == name:
                del self.api.objects[key]
        canaries = [
            {"name": each["predictor"]["name"], "trafficPercent": each["trafficPercent"],
             "ready": ready[_workload(name, each["predictor"])]}
            for each in spec.get("canary") or []
        ]  # fmt: skip
        status["canaryStatuses"] = canaries
        conditions = _conditions_of(status)
        for condition in ("CanaryPredictorReady", "Stopped"):
            conditions.pop(condition, None)
        if canaries:
            conditions["CanaryPredictorReady"] = all(each["ready"] for each in canaries)
        stable = _workload(name, spec["predictor"])
        serves = ready[stable] or conditions.get("PredictorReady", False)  # a rolling update keeps the pods before
        route = self.api.objects.get((ROUTES, self.namespace, name))
        routed = self.gateway_api and "networking.kserve.io/visibility" not in (isvc["metadata"].get("labels") or {})
        ingress = serves and bool(not routed or (route and route.get("status")))
        conditions |= {"PredictorReady": serves, "IngressReady": ingress, "Ready": ingress}
        _set_conditions(status, conditions)
        if serves and routed and look >= 4 + self.late_routes:
            shares = {_workload(name, c["predictor"]): c["trafficPercent"] for c in spec.get("canary") or []}
            shares = {workload: share for workload, share in shares.items() if ready[workload]}
            self._route(name, {stable: 100 - sum(shares.values()), **shares}, look)

    def _deploy(self, isvc: str, workload: str, predictor: Isvc, replicas: int, look: int) -> bool:
        """Makes or changes a Deployment; says whether it has pods available."""
        revision = predictor["labels"]["fti/revision"]
        key = ("deployments.apps", self.namespace, workload)
        old = self.api.objects.get(key)
        labels = {"serving.kserve.io/inferenceservice": isvc, "fti/revision": revision}
        if old is None or not labels.items() <= old["spec"]["template"]["metadata"]["labels"].items():
            self.starts.append(f"{workload} {revision}")
        body: Isvc = {"metadata": {"name": workload, "labels": labels}}
        body["spec"] = {"replicas": replicas, "template": {"metadata": {"labels": labels}}}
        pods = (old or {}).get("status", {}).get("availableReplicas", 0)
        new = self.api.put(*key[:2], body)
        failed = self.broken.get(revision, {}).get("conditions_of_deployment", [])
        if revision in self.broken:
            if not failed:
                self._pod(f"{workload}-x", labels, self.broken[revision])
            counts = {"replicas": pods + 1, "updatedReplicas": 1, "availableReplicas": pods}
        elif look >= 3:
            counts = dict.fromkeys(("replicas", "updatedReplicas", "availableReplicas"), replicas)
            self.serves[workload] = revision
        else:
            return bool(pods > 0)
        status = {**counts, "observedGeneration": new["metadata"]["generation"]}
        if failed:
            status["conditions"] = failed
        self.api.put(*key[:2], {**new, "status": status})
        return bool(counts["availableReplicas"] > 0)

    def _pod(self, name: str, labels: dict[str, str], status: Isvc) -> None:
        self.api.put("pods", self.namespace, {"metadata": {"name": name, "labels": labels}, "status": status})

    def _route(self, name: str, shares: dict[str, int], look: int) -> None:
        refs = [{"name": workload, "kind": "Service", "weight": share} for workload, share in shares.items()]
        if len(refs) == 1:
            del refs[0]["weight"]
        for route in (name, f"{name}-predictor"):
            new = self.api.put(
                ROUTES, self.namespace, {"metadata": {"name": route}, "spec": {"rules": [{"backendRefs": refs}]}}
            )
            if look >= 5 + self.late_routes:
                generation = new["metadata"]["generation"]
                accepted = {"type": "Accepted", "status": "True", "observedGeneration": generation}
                self.api.put(ROUTES, self.namespace, {**new, "status": {"parents": [{"conditions": [accepted]}]}})
        revisions = {}
        for workload, share in shares.items():
            revisions[self.serves[workload]] = share
        self.log(revisions)

    def _knative(self, isvc: Isvc, look: int) -> None:
        name, predictor = isvc["metadata"]["name"], isvc["spec"]["predictor"]
        status = isvc.setdefault("status", {})
        of = status.setdefault("components", {}).setdefault("predictor", {})
        revisions = self._revisions.setdefault(name, {})
        if look < 2:
            return
        template = json.dumps([{k: v for k, v in predictor.items() if k != "canaryTrafficPercent"},
                               isvc["metadata"]["annotations"]], sort_keys=True)  # fmt: skip
        created = of.get("latestCreatedRevision", "")
        if revisions.get(created, {}).get("template") != template:
            created = f"{name}-predictor-{len(revisions) + 1:05d}"
            revisions[created] = {"template": template, "revision": predictor["labels"]["fti/revision"]}
            self.starts.append(f"{created} {predictor['labels']['fti/revision']}")
            of["latestCreatedRevision"] = created
        elif look >= 3 and predictor["labels"]["fti/revision"] not in self.broken:
            of["latestReadyRevision"] = created
        if predictor["labels"]["fti/revision"] in self.broken:
            labels = {"serving.kserve.io/inferenceservice": name, "fti/revision": predictor["labels"]["fti/revision"]}
            self._pod(f"{created}-x", labels, self.broken[predictor["labels"]["fti/revision"]])
        ready = of.get("latestReadyRevision")
        same = ready == created
        _set_conditions(
            status,
            {"LatestDeploymentReady": same, "PredictorReady": bool(ready), "RoutesReady": True, "Ready": bool(ready)},
        )
        if not ready or look < 2 + self.late_routes:
            return
        percent, rolled = predictor.get("canaryTrafficPercent"), of.get("latestRolledoutRevision", "")
        traffic = [{"latestRevision": True, "revisionName": ready, "percent": 100}]
        if percent is not None and rolled:
            traffic[0]["percent"] = percent
            if percent < 100:
                traffic.append(
                    {"latestRevision": False, "revisionName": rolled, "percent": 100 - percent, "tag": "prev"}
                )
        of["traffic"] = traffic
        self._rolled_out(of, ready, created)
        self.log(_by_model(traffic, revisions))

    @staticmethod
    def _rolled_out(of: Isvc, ready: str, created: str) -> None:
        """PropagateStatus of KServe: which revision counts as rolled out."""
        first = of["traffic"][0]["percent"]
        if of.get("latestRolledoutRevision") != ready:
            if first == 100:
                of["previousRolledoutRevision"] = of.get("latestRolledoutRevision", "")
                of["latestRolledoutRevision"] = ready
        elif ready == created and first < 100:
            total = sum(each["percent"] for each in of["traffic"] if each["revisionName"] == ready)
            if total == 100 and of.get("previousRolledoutRevision"):
                of["latestRolledoutRevision"] = of["previousRolledoutRevision"]

    def log(self, shares: dict[str, int]) -> None:
        shares = {revision: share for revision, share in shares.items() if share}
        if not self.history or self.history[-1] != shares:
            self.history.append(shares)

    def _forget(self, name: str) -> None:
        """What the garbage collector does with what a service that is gone has owned."""
        self._revisions.pop(name, None)
        for key in [key for key in self.api.objects if key[0] == "deployments.apps"]:
            labels = self.api.objects[key]["metadata"].get("labels") or {}
            if labels.get("serving.kserve.io/inferenceservice") == name:
                del self.api.objects[key]


def _by_model(traffic: list[Isvc], revisions: dict[str, Isvc]) -> dict[str, int]:
    shares: dict[str, int] = {}
    for target in traffic:
        model = revisions[target["revisionName"]]["revision"]
        shares[model] = shares.get(model, 0) + target["percent"]
    return shares


def _workload(service: str, predictor: Isvc) -> str:
    return f"{service}-{predictor['name']}-predictor" if predictor.get("name") else f"{service}-predictor"


def _conditions_of(status: Isvc) -> dict[str, bool]:
    return {each["type"]: each["status"] == "True" for each in status.get("conditions") or []}


def _set_conditions(status: Isvc, conditions: dict[str, bool]) -> None:
    status["conditions"] = [{"type": name, "status": str(value)} for name, value in sorted(conditions.items())]


def _denied(message: str) -> ApiError:
    webhook = 'admission webhook "inferenceservice.kserve-webhook-server.validator" denied the request: '
    return ApiError(403, "Forbidden", webhook + message)
