"""A stand-in of what splits between two InferenceServices: a gateway for HTTPRoutes, KServe's controller of graphs.

Requests that would meet nobody are written down: traffic must never point to what is not up.
"""

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.push.api_server import ApiError

if TYPE_CHECKING:
    from tests.push.kserve import KServe

ROUTES = "httproutes.gateway.networking.k8s.io"
GRAPHS = "inferencegraphs.serving.kserve.io"
OURS = "fti/service"
_SAID = {"reason": "Played", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}
Object = dict[str, Any]


@dataclass
class Fronts:
    """The gateway and the controller of graphs of one namespace.

    Attributes:
        kserve: Who makes the Deployments.
        refused: What the gateway says of a route, where it does not take it.
        watching: Whether anything must be up at all.
        lost: What traffic has pointed to without its being up.
    """

    kserve: "KServe"
    refused: str = ""
    watching: bool = True
    lost: list[str] = field(default_factory=list)
    _routed: dict[str, dict[str, int]] = field(default_factory=dict)  # service to workload to percent, in force
    _looks: dict[tuple[str, str, int], int] = field(default_factory=dict)

    def on_request(self, verb: str, resource: str, name: str) -> None:
        if verb == "get" and resource in {ROUTES, GRAPHS}:
            found = self._objects.get((resource, self.kserve.namespace, name))
            if found is None:
                self._gone(resource, name)
            elif OURS in (found["metadata"].get("labels") or {}):
                key = (resource, name, found["metadata"]["generation"])
                self._looks[key] = self._looks.get(key, 0) + 1
                (self._route if resource == ROUTES else self._graph)(name, found, self._looks[key])
        for shares in self._routed.values() if self.watching else ():
            self.lost += [each for each, share in shares.items() if share and not self._is_up(each)]

    def check(self, resource: str, body: Object) -> None:
        """What the webhook of graphs refuses."""
        if resource != GRAPHS:
            return
        if sum(step["weight"] for step in body["spec"]["nodes"]["root"]["steps"]) != 100:
            message = "the sum of traffic weights for all routing targets should be 100"
            raise ApiError(403, "Forbidden", f'admission webhook "inferencegraph" denied the request: {message}')

    def _gone(self, resource: str, name: str) -> None:
        router = ("deployments.apps", self.kserve.namespace, name)
        if resource == GRAPHS and router in self._objects:
            del self._objects[router]
            self._routed.pop(name, None)
        elif resource == ROUTES and not any(key[0] == GRAPHS for key in self._objects):
            self._routed.pop(name, None)

    @property
    def _objects(self) -> dict[tuple[str, str, str], Object]:
        return self.kserve.api.objects

    def _route(self, name: str, route: Object, look: int) -> None:
        if look < 2 + self.kserve.late_routes:
            return
        generation = route["metadata"]["generation"]
        condition = {"type": "Accepted", "status": "True", "observedGeneration": generation, **_SAID}
        if self.refused:
            condition |= {"status": "False", "reason": "NotAllowedByListeners", "message": self.refused}
        asked = {ref["name"] for rule in route["spec"]["rules"] for ref in rule["backendRefs"]}
        absent = [
            each for each in sorted(asked) if ("deployments.apps", self.kserve.namespace, each) not in self._objects
        ]
        resolved = {**condition, "type": "ResolvedRefs", "status": "True", "reason": "Played", "message": ""}
        if absent:
            resolved |= {"status": "False", "reason": "BackendNotFound", "message": f"no Service {absent}"}
        parent = {"parentRef": route["spec"]["parentRefs"][0], "controllerName": "a/gateway"}
        status = {"parents": [{**parent, "conditions": [condition, resolved]}]}
        self.kserve.api.put(ROUTES, self.kserve.namespace, {**route, "status": status})
        if not self.refused:
            refs = route["spec"]["rules"][-1]["backendRefs"]
            self._in_force(name, {ref["name"]: ref["weight"] for ref in refs})

    def _graph(self, name: str, graph: Object, look: int) -> None:
        if look < 2:
            return
        labels = {"serving.kserve.io/inferencegraph": name}
        container = {"name": name, "args": ["--graph-json", json.dumps(graph["spec"])]}
        spec = {"replicas": 1, "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}}}
        body = {"metadata": {"name": name, "labels": labels}, "spec": spec}
        new = self.kserve.api.put("deployments.apps", self.kserve.namespace, body)
        if look >= 3 + self.kserve.late_routes:
            counts = dict.fromkeys(("replicas", "updatedReplicas", "availableReplicas"), 1)
            status = {**counts, "observedGeneration": new["metadata"]["generation"]}
            self.kserve.api.put("deployments.apps", self.kserve.namespace, {**new, "status": status})
            ready = {"conditions": [{"type": "Ready", "status": "True", **_SAID}]}
            self.kserve.api.put(GRAPHS, self.kserve.namespace, {**graph, "status": ready})
            steps = graph["spec"]["nodes"]["root"]["steps"]
            self._in_force(name, {step["serviceUrl"].split("/")[2].split(".")[0]: step["weight"] for step in steps})

    def _in_force(self, name: str, shares: dict[str, int]) -> None:
        self._routed[name] = shares
        self.kserve.log({self.kserve.serves.get(workload, workload): share for workload, share in shares.items()})

    def _is_up(self, workload: str) -> bool:
        deployment = self._objects.get(("deployments.apps", self.kserve.namespace, workload), {})
        return bool((deployment.get("status") or {}).get("availableReplicas"))
