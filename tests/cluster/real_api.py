"""A real API server, with the face of the stand-in: what a test of push plays with, played on real objects.

The library speaks to a proxy here, which goes on to the real server with the token of the steps' service account: so
every right, every schema, every conflict is real. KServe's controller and the kubelet are played, as an administrator.
Objects that the played controller leaves incomplete are completed, for the real server takes no others.
"""

import copy
import re
import time
from collections.abc import Iterator, MutableMapping
from typing import Any

from tests.cluster.client import Client, Object, RefusedError, managed, may
from tests.push.api_server import _GROUP_VERSION, _PATH, KINDS, ApiServer

ACCOUNT = "fti-pipelines"
PLAYED = {"fti/test": "played"}  # a label of what is made here, so that nothing else is deleted
SERVICES = ("late", "binary")  # what the tests push
RUNTIME = "fti-predictor"
ROLE = "fti-deployer"
QUOTA = "fti-none"
_SECONDS = 15  # less than the library's patience with an answer
_DEPLOYMENTS, _PODS, _ROUTES = "deployments.apps", "pods", "httproutes.gateway.networking.k8s.io"
_ISVCS, _GRAPHS, _MAPS = "inferenceservices.serving.kserve.io", "inferencegraphs.serving.kserve.io", "configmaps"
_GATEWAYS = "gateways.gateway.networking.k8s.io"
_VERSIONS = {_ISVCS: "v1beta1", _GRAPHS: "v1alpha1"}  # else v1
_OF_TESTS = re.compile(rf"(fti-trial-)?({'|'.join(SERVICES)})(-.*)?")
_GATEWAY = {"gatewayClassName": "played", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}
_NOW = "2026-01-01T00:00:00Z"

Key = tuple[str, str, str]


class RealApi(ApiServer):
    """The real server under the stand-in's name for its namespace, `flights`.

    Args:
        admin: Who may do everything in the namespace.
        namespace: The real one; the manifests are applied there.
    """

    def __init__(self, admin: Client, namespace: str) -> None:
        super().__init__()
        self.admin, self.namespace = admin, namespace
        self.account = admin.account(namespace, ACCOUNT)
        self.objects: MutableMapping[Key, Object] = Objects(self)  # type: ignore[assignment]
        self.rules = self.do("GET", f"apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles/{ROLE}")["rules"]
        self._taken: set[tuple[str, str]] = set()
        self._bind()
        self.managed = managed(admin, namespace)

    def do(self, method: str, path: str, body: object = None) -> Object:
        return self.admin.do(method, path, body)

    def _bind(self) -> None:
        """As manifests/cluster/rights.yaml says: once more for each further namespace."""
        of = "apis/rbac.authorization.k8s.io/v1/namespaces/kserve/rolebindings"
        binding = {"metadata": {"name": f"fti-kserve-reader-{self.namespace}"}}
        binding["roleRef"] = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "fti-kserve-reader"}
        who = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": self.namespace}
        self.admin.ask("POST", of, {**binding, "subjects": [who]})

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        """What the real server says, after what the test plays first."""
        with self.lock:
            match = _PATH.fullmatch(path)
            resource, name = "", ""
            group = _GROUP_VERSION.fullmatch(path)
            if group and all(each in self.absent for each in KINDS if each.partition(".")[2] == group["group"]):
                path = path.replace("/v1", "/v0", 1)
            if path.startswith("/openapi") and not self.canary_field:
                return super().answer(method, path, query, body)
            if match:
                resource = f"{match['plural']}.{match['group']}" if match["group"] else match["plural"]
                name = match["name"] or ""
                verb = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}.get(method) or (
                    "get" if name else "list"
                )
                self.requests.append((verb, resource))
                self.before(verb, resource, name)
                self._take_rights()
            if resource in self.absent:
                path = path.replace("/v1", "/v0", 1)
            asking = self.account if "/namespaces/flights/" in path else self.admin
            path = path.replace("/namespaces/flights", f"/namespaces/{self.namespace}").lstrip("/")
            if isinstance(body, dict) and body.get("metadata", {}).get("namespace") == "flights":
                body = {**body, "metadata": {**body["metadata"], "namespace": self.namespace}}
            if method in {"POST", "PATCH"} and resource in {_ISVCS, _GRAPHS, _ROUTES}:
                tried = asking.ask(method, path, body, {**query, "dryRun": "All"})
                if tried.code >= 300:
                    return tried.code, tried.body
                self.admit(resource, tried.body)
            answer = asking.ask(method, path, body, query)
            if method == "DELETE" and not self.managed:  # there is no garbage collector that would let it go
                self.admin.ask("PATCH", path, {"metadata": {"finalizers": None}})
            return answer.code, answer.body

    def put(self, resource: str, namespace: str, body: Object) -> Object:
        """Writes an object as an administrator, its status too."""
        key = (resource, namespace, body["metadata"]["name"])
        path, new = self.path(key), self._completed(resource, namespace, body)
        status, old = new.pop("status", None), self.admin.get(path)
        if old is None:
            found = self.do("POST", path.rsplit("/", 1)[0], new)
        elif "spec" not in new and "data" not in new:
            found = old
        elif {k: old.get(k) for k in ("spec", "data")} != {k: new.get(k) for k in ("spec", "data")}:
            found = self._replace(path, path, {**new, "metadata": {**old["metadata"], **new["metadata"]}})
        else:
            found = old
        if status is not None and status != found.get("status"):
            found = self._set_status(resource, path, found, status)
        return found

    def path(self, key: Key) -> str:
        """Where an object lies, or all of a resource for an empty name."""
        resource, namespace, name = key
        plural, _, group = resource.partition(".")
        within = f"namespaces/{self.real(namespace)}/" if namespace else ""
        root = f"apis/{group}/{_VERSIONS.get(resource, 'v1')}" if group else "api/v1"
        return f"{root}/{within}{plural}" + (f"/{name}" if name else "")

    def real(self, namespace: str) -> str:
        """What the namespace is called there."""
        return self.namespace if namespace == "flights" else namespace

    def clear(self) -> None:
        """Takes away what tests left, and gives the rights back."""
        for key in [key for key in self.objects if _OF_TESTS.fullmatch(key[2])]:
            self.admin.ask("DELETE", self.path(key))
        self.admin.ask("DELETE", self.path(("resourcequotas", "flights", QUOTA)))
        selector = {"labelSelector": ",".join(f"{key}={value}" for key, value in PLAYED.items())}
        for resource in ("replicasets.apps", _PODS):
            self.admin.ask("DELETE", self.path((resource, "flights", "")), None, selector)
        self.forbidden = set()
        self._take_rights()

    def _completed(self, resource: str, namespace: str, body: Object) -> Object:
        group = resource.partition(".")[2]
        new = copy.deepcopy(body)
        version = _VERSIONS.get(resource, "v1")
        new["apiVersion"], new["kind"] = f"{group}/{version}" if group else version, KINDS[resource]
        new["metadata"]["namespace"] = self.real(namespace)
        if resource in {_DEPLOYMENTS, _ROUTES, _PODS}:
            new["metadata"]["labels"] = {**(new["metadata"].get("labels") or {}), **PLAYED}
        if resource == _DEPLOYMENTS:
            name, template = new["metadata"]["name"], new["spec"]["template"]
            template["metadata"]["labels"] = {**template["metadata"]["labels"], "app": name, **PLAYED}
            (given,) = template.get("spec", {}).get("containers") or [{}]
            template["spec"] = self.pod_spec(name)
            template["spec"]["containers"][0] |= {key: given[key] for key in ("name", "args") if key in given}
            new["spec"]["selector"] = {"matchLabels": {"app": name}}
        elif resource == _PODS:
            new["spec"] = new.get("spec") or self.pod_spec(new["metadata"]["name"])
        elif resource == _ROUTES:
            for ref in (ref for rule in new["spec"]["rules"] for ref in rule["backendRefs"]):
                ref.setdefault("port", 80)
        elif resource == _GATEWAYS:
            new.setdefault("spec", _GATEWAY)
        return new

    def pod_spec(self, name: str) -> Object:
        """What KServe makes of the ServingRuntime: its container, and an init container that fetches the package."""
        runtime = self.do(
            "GET", f"apis/serving.kserve.io/v1alpha1/namespaces/{self.namespace}/servingruntimes/{RUNTIME}"
        )
        spec = copy.deepcopy(runtime["spec"])
        (container,) = spec["containers"]
        container["args"] = [arg.replace("{{.Name}}", name) for arg in container["args"]]
        container["readinessProbe"]["httpGet"]["path"] = f"/v2/models/{name}/ready"
        mount = {"name": "kserve-provision-location", "mountPath": "/mnt/models"}
        container["volumeMounts"] = [*container["volumeMounts"], {**mount, "readOnly": True}]
        fetch = {"name": "storage-initializer", "image": "kserve/storage-initializer:v0.21.0", "volumeMounts": [mount]}
        fetch |= {"securityContext": container["securityContext"], "resources": container["resources"]}
        return {
            "serviceAccountName": "fti-predictor",
            "schedulerName": "nobody",  # no node takes them: their kubelet is played
            "initContainers": [fetch],
            "containers": [container],
            "volumes": [*spec["volumes"], {"name": mount["name"], "emptyDir": {}}],
        }

    def _set_status(self, resource: str, path: str, found: Object, status: Object) -> Object:
        if resource == _DEPLOYMENTS and self.managed:
            return (self._starve if "conditions" in status else self._run_pods)(path, found, status)
        if resource == _DEPLOYMENTS:
            status = {**status, "readyReplicas": status["availableReplicas"]}
        for parent in status.get("parents") or []:
            parent.setdefault("parentRef", {"name": "kserve-ingress-gateway", "namespace": "kserve"})
            parent.setdefault("controllerName", "fti.test/played")
            for condition in parent["conditions"]:
                of = {"reason": condition["type"], "message": "", "lastTransitionTime": _NOW}
                condition.update({**of, **condition})
        return self._replace(path, f"{path}/status", {**found, "status": status})

    def _replace(self, path: str, at: str, new: Object) -> Object:
        """Writes over whatever another controller wrote meanwhile."""
        deadline = time.monotonic() + _SECONDS
        while True:
            version = self.do("GET", path)["metadata"]["resourceVersion"]
            answer = self.admin.ask("PUT", at, {**new, "metadata": {**new["metadata"], "resourceVersion": version}})
            if answer.code < 300:
                found: Object = answer.body
                return found
            if answer.code != 409 or time.monotonic() > deadline:
                raise RefusedError(f"PUT {at}: {answer.code}: {answer.body}")

    def _run_pods(self, path: str, found: Object, status: Object) -> Object:
        """Plays the kubelet, where a real controller makes pods of Deployments: the pods of this model become ready."""
        if len({status[key] for key in ("replicas", "updatedReplicas", "availableReplicas")}) > 1:
            return found  # of a model that never becomes ready
        labels = found["spec"]["template"]["metadata"]["labels"]
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        running = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        deadline = time.monotonic() + _SECONDS
        while True:
            pods = self.admin.ask("GET", self.path((_PODS, "flights", "")), None, {"labelSelector": selector})
            for pod in pods.body["items"]:
                if (pod.get("status") or {}).get("phase") != "Running" and not pod["metadata"].get("deletionTimestamp"):
                    self.put(_PODS, "flights", {**pod, "status": running})
            now = self.do("GET", path)
            seen = now.get("status") or {}
            wanted = {key: status[key] for key in ("replicas", "updatedReplicas", "availableReplicas")}
            current = seen.get("observedGeneration", 0) >= status["observedGeneration"]
            if current and {key: seen.get(key, 0) for key in wanted} == wanted:
                return now
            if time.monotonic() > deadline:
                raise RefusedError(f"{path}: {now.get('status')}, not {status}")
            time.sleep(0.02)

    def _starve(self, path: str, found: Object, _: Object) -> Object:
        """Has a real controller fail to make the pods of this model: a quota refuses them."""
        quota = self.path(("resourcequotas", "flights", QUOTA))
        if self.admin.get(quota) is None:
            of = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": QUOTA}}
            self.do("POST", quota.rsplit("/", 1)[0], {**of, "spec": {"hard": {"pods": "0"}}})
        deadline = time.monotonic() + _SECONDS
        while not (self.do("GET", quota).get("status") or {}).get("hard"):
            if time.monotonic() > deadline:
                raise RefusedError(f"{quota} is not counted")
            time.sleep(0.02)
        labels = found["spec"]["template"]["metadata"]["labels"]
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        self.admin.ask("DELETE", self.path((_PODS, "flights", "")), None, {"labelSelector": selector})
        return self.do("GET", path)

    def _take_rights(self) -> None:
        """Makes the Role grant all but what is forbidden, and waits until the server goes by it."""
        if self.forbidden == self._taken:
            return
        rules = [rule for each in self.rules for rule in _without(each, self.forbidden)]
        self.do(
            "PATCH", f"apis/rbac.authorization.k8s.io/v1/namespaces/{self.namespace}/roles/{ROLE}", {"rules": rules}
        )
        changed, self._taken = self.forbidden ^ self._taken, set(self.forbidden)
        for verb, resource in changed:
            deadline = time.monotonic() + _SECONDS
            while may(self.account, self.namespace, verb, resource) is ((verb, resource) in self.forbidden):
                if time.monotonic() > deadline:
                    raise RefusedError(f"the Role does not take effect: {verb} {resource}")
                time.sleep(0.02)


class Objects(MutableMapping[Key, Object]):
    """The real objects, as the stand-in keeps them."""

    def __init__(self, api: RealApi) -> None:
        self._api = api

    def __getitem__(self, key: Key) -> Object:
        found = self._api.admin.get(self._api.path(key))
        if found is None:
            raise KeyError(key)
        return found

    def __setitem__(self, key: Key, value: Object) -> None:
        self._api.put(key[0], key[1], value)

    def __delitem__(self, key: Key) -> None:
        self._api.do("DELETE", self._api.path(key))

    def __iter__(self) -> Iterator[Key]:
        for resource in (_ISVCS, _GRAPHS, _DEPLOYMENTS, _ROUTES, _MAPS):
            items = self._api.do("GET", self._api.path((resource, "flights", "")))["items"]
            yield from ((resource, "flights", each["metadata"]["name"]) for each in items)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _without(rule: Object, forbidden: set[tuple[str, str]]) -> Iterator[Object]:
    for group in rule["apiGroups"]:
        for plural in rule["resources"]:
            resource = f"{plural}.{group}" if group else plural
            verbs = [verb for verb in rule["verbs"] if (verb, resource) not in forbidden]
            if verbs:
                yield {**rule, "apiGroups": [group], "resources": [plural], "verbs": verbs}
