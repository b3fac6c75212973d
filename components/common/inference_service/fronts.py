"""What splits a service's traffic between two InferenceServices: an HTTPRoute with weights, or an InferenceGraph.

Both bear the service's own name, and say in annotations which of the two, blue and green, is the stable one and which
the canary: one write moves the traffic and says who has it.
"""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from fti.common.inference_service.failures import Failure, of_pods
from fti.common.inference_service.in_force import accepted, conditions_pending, rolled_out
from fti.common.inference_service.modes import Abilities, host_of
from fti.common.inference_service.objects import Manifest
from fti.common.inference_service.service import CANARY_COLOUR, MODE, SERVICE, STABLE_COLOUR, STOP, unreadable
from fti.common.inference_service.standard import STANDARD
from fti.common.kubernetes_api import KubernetesApi

BLUE, GREEN = "blue", "green"
VARIANT = "x-variant"  # the header that asks for a variant, as before `fti serve`


@dataclass(frozen=True)
class Split:
    """Who has what of the traffic.

    Attributes:
        stable: `blue` or `green`.
        canary: The other one, if it is on trial; else empty.
        percent: Its share.
    """

    stable: str
    canary: str = ""
    percent: int = 0

    @property
    def weights(self) -> dict[str, int]:
        """Colour to share in percent, of those that have any."""
        shares = {self.stable: 100 - self.percent, **({self.canary: self.percent} if self.canary else {})}
        return {colour: share for colour, share in shares.items() if share}


def other(colour: str) -> str:
    """The opposite colour."""
    return GREEN if colour == BLUE else BLUE


def workload(name: str, colour: str) -> str:
    """The Deployment and the Service that KServe makes of one of the two."""
    return f"{name}-{colour}-predictor"


class Front(Protocol):
    """What splits.

    Attributes:
        kind: Of the object.
        drain: Seconds from when the API says that traffic has moved until the last request has followed.
    """

    kind: str
    drain: float

    def path(self, name: str = "") -> str:
        """Its path at the API server; without a name, that of all."""

    def render(self, name: str, split: Split, base: Manifest | None) -> Manifest:
        """It, as it shall be; what others added to `base` is kept."""

    def weights(self, name: str, manifest: Manifest) -> dict[str, int]:
        """Colour to share in percent, as it is written."""

    def pending(self, name: str, manifest: Manifest) -> list[str]:
        """What is missing until its last change is in force."""

    def problems(self, name: str) -> list[Failure]:
        """Why that does not come."""


def split_of(front: Front, name: str, manifest: Manifest, where: str) -> Split:
    """Reads who has what of the traffic.

    Raises:
        ServingError: It is not as push writes it.
    """
    annotations = manifest["metadata"].get("annotations") or {}
    stable, canary = annotations.get(STABLE_COLOUR, ""), annotations.get(CANARY_COLOUR, "")
    try:
        weights = front.weights(name, manifest)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise unreadable(where, f"lacks a field or has one of a wrong type: {error}") from error
    split = Split(stable, canary, weights.get(canary, 0))
    if stable not in {BLUE, GREEN} or canary not in {"", other(stable)} or weights != split.weights:
        raise unreadable(where, f"gives {weights}, with {stable or 'nothing'} as stable", "weights as push writes them")
    return split


def _metadata(name: str, split: Split, base: Manifest | None) -> dict[str, Any]:
    metadata = copy.deepcopy((base or {}).get("metadata") or {"name": name})
    annotations = {**(metadata.get("annotations") or {}), STABLE_COLOUR: split.stable, CANARY_COLOUR: split.canary}
    metadata["annotations"] = {key: text for key, text in annotations.items() if text and key != STOP}
    metadata["labels"] = {**(metadata.get("labels") or {}), SERVICE: name}
    return metadata


class Route:
    """An HTTPRoute: for the host that KServe would give the service, over the Services of both.

    Args:
        api: The API server and the namespace.
        abilities: What the cluster's Gateway and hosts are; needed to make one, not to change one.
    """

    kind = "HTTPRoute"
    drain = 20.0  # an accepted route is translated: its gateway's proxies are told of it after that

    def __init__(self, api: KubernetesApi, abilities: Abilities | None = None) -> None:
        self._api, self._abilities = api, abilities

    def path(self, name: str = "") -> str:
        """See `Front`."""
        return f"apis/gateway.networking.k8s.io/v1/namespaces/{self._api.namespace}/httproutes/{name}".rstrip("/")

    def render(self, name: str, split: Split, base: Manifest | None) -> Manifest:
        """See `Front`."""
        spec = copy.deepcopy(base["spec"]) if base else self._new(name)
        default = {"backendRefs": [_backend(name, colour, share) for colour, share in split.weights.items()]}
        spec["rules"] = [default]
        if split.canary:  # a header goes before a share
            asked = {"stable": split.stable, "canary": split.canary}
            spec["rules"] = [_rule_for(variant, name, colour) for variant, colour in asked.items()] + [default]
        api = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": self.kind}
        return {**api, "metadata": _metadata(name, split, base), "spec": spec}

    def weights(self, name: str, manifest: Manifest) -> dict[str, int]:
        """See `Front`."""
        colours = {workload(name, colour): colour for colour in (BLUE, GREEN)}
        refs = manifest["spec"]["rules"][-1]["backendRefs"]
        return {colours[ref["name"]]: ref.get("weight", 1) for ref in refs if ref.get("weight", 1)}

    def pending(self, name: str, manifest: Manifest) -> list[str]:
        """See `Front`."""
        return accepted(name, manifest)

    def problems(self, name: str) -> list[Failure]:
        """See `Front`: a gateway is not ours to look into."""
        return []

    def _new(self, name: str) -> dict[str, Any]:
        if self._abilities is None:
            raise unreadable(f"HTTPRoute {name}", "is gone")
        namespace, _, gateway = self._abilities.gateway.partition("/")
        parent = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": namespace, "name": gateway}
        return {"parentRefs": [parent], "hostnames": [host_of(name, self._api.namespace, self._abilities)]}


def _backend(name: str, colour: str, share: int) -> dict[str, Any]:
    return {"group": "", "kind": "Service", "name": workload(name, colour), "port": 80, "weight": share}


def _rule_for(variant: str, name: str, colour: str) -> dict[str, Any]:
    header = {"type": "Exact", "name": VARIANT, "value": variant}
    return {"matches": [{"headers": [header]}], "backendRefs": [_backend(name, colour, 100)]}


class Graph:
    """An InferenceGraph whose router draws one of both for each request. It knows POST to one address: prediction.

    Args:
        api: The API server and the namespace.
    """

    kind = "InferenceGraph"
    drain = 35.0  # routers with the weights before work for as long as Kubernetes lets a pod end: 30 s

    def __init__(self, api: KubernetesApi) -> None:
        self._api = api

    def path(self, name: str = "") -> str:
        """See `Front`."""
        return f"apis/serving.kserve.io/v1alpha1/namespaces/{self._api.namespace}/inferencegraphs/{name}".rstrip("/")

    def render(self, name: str, split: Split, base: Manifest | None) -> Manifest:
        """See `Front`."""
        spec = copy.deepcopy(base["spec"]) if base else {}
        steps = [
            {"name": colour, "serviceUrl": self._url(name, colour), "weight": share}
            for colour, share in split.weights.items()
        ]
        spec["nodes"] = {"root": {"routerType": "Splitter", "steps": steps}}
        metadata = _metadata(name, split, base)
        metadata["annotations"][MODE] = STANDARD
        return {"apiVersion": "serving.kserve.io/v1alpha1", "kind": self.kind, "metadata": metadata, "spec": spec}

    def weights(self, name: str, manifest: Manifest) -> dict[str, int]:
        """See `Front`."""
        return _steps(manifest["spec"], {self._url(name, colour): colour for colour in (BLUE, GREEN)})

    def pending(self, name: str, manifest: Manifest) -> list[str]:
        """See `Front`."""
        path = f"apis/apps/v1/namespaces/{self._api.namespace}/deployments/{name}"
        deployment = self._api.get(path)
        if deployment is None:
            return [f"the graph's router, Deployment {name}, is not there"]
        if self._heeds(name, deployment) != self.weights(name, manifest):
            return [f"the graph's router, Deployment {name}, has not got the last weights"]
        return rolled_out(name, deployment, "with the last weights") + conditions_pending(manifest, ["Ready"])

    def problems(self, name: str) -> list[Failure]:
        """See `Front`: what the router's pods say."""
        return of_pods(f"serving.kserve.io/inferencegraph={name}", self._api)

    def _heeds(self, name: str, deployment: Manifest) -> Mapping[str, int]:
        """The weights that a router's Deployment was given on its command line (`createInferenceGraphPodSpec`)."""
        for container in deployment["spec"]["template"]["spec"].get("containers") or []:
            args = container.get("args") or []
            if "--graph-json" in args[:-1]:
                graph = json.loads(args[args.index("--graph-json") + 1])
                return _steps(graph, {self._url(name, colour): colour for colour in (BLUE, GREEN)})
        return {}

    def _url(self, name: str, colour: str) -> str:
        host = f"{workload(name, colour)}.{self._api.namespace}.svc.cluster.local"
        return f"http://{host}/v1/models/{name}:predict"


def _steps(spec: Mapping[str, Any], colours: Mapping[str, str]) -> dict[str, int]:
    return {colours[step["serviceUrl"]]: step["weight"] for step in spec["nodes"]["root"]["steps"]}
