"""A stand-in of the Kubernetes API server: real HTTP, and as strict as the real one where this library could err.

Optimistic concurrency by resourceVersion, generations, merge patches (RFC 7386), strict field validation against the
CRDs' own schemas where they are here, RBAC answers, faults on request. What a controller does is another file's.
"""

import copy
import json
import re
import threading
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from tests.manifests.schemas import validator

TOKEN = "a-token-never-to-be-shown"
_PATH = re.compile(
    r"/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+)/(?P<version>[^/]+))"
    r"(?:/namespaces/(?P<namespace>[^/]+))?/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+))?"
)
KINDS = {
    "namespaces": "Namespace",
    "nodes": "Node",
    "configmaps": "ConfigMap",
    "secrets": "Secret",
    "serviceaccounts": "ServiceAccount",
    "services": "Service",
    "persistentvolumeclaims": "PersistentVolumeClaim",
    "pods": "Pod",
    "deployments.apps": "Deployment",
    "statefulsets.apps": "StatefulSet",
    "httproutes.gateway.networking.k8s.io": "HTTPRoute",
    "gateways.gateway.networking.k8s.io": "Gateway",
    "inferenceservices.serving.kserve.io": "InferenceService",
    "inferencegraphs.serving.kserve.io": "InferenceGraph",
    "services.serving.knative.dev": "Service",
    "servingruntimes.serving.kserve.io": "ServingRuntime",
    "customresourcedefinitions.apiextensions.k8s.io": "CustomResourceDefinition",
    "selfsubjectaccessreviews.authorization.k8s.io": "SelfSubjectAccessReview",
    "localsubjectaccessreviews.authorization.k8s.io": "LocalSubjectAccessReview",
    "selfsubjectreviews.authentication.k8s.io": "SelfSubjectReview",
    "roles.rbac.authorization.k8s.io": "Role",
    "rolebindings.rbac.authorization.k8s.io": "RoleBinding",
}


_SCHEMAS = {
    "inferenceservices.serving.kserve.io": ("serving.kserve.io_inferenceservices", "v1beta1"),
    "inferencegraphs.serving.kserve.io": ("serving.kserve.io_inferencegraphs", "v1alpha1"),
    "httproutes.gateway.networking.k8s.io": ("gateway.networking.k8s.io_httproutes", "v1"),
}
_JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array", type(None): "null"}
_GROUP_VERSION = re.compile(r"/apis/(?P<group>[^/]+)/(?P<version>[^/]+)")


class ApiError(Exception):
    """An answer that is no success."""

    def __init__(self, code: int, reason: str, message: str, **details: str) -> None:
        super().__init__(message)
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code}
        self.code = code
        self.body: Any = {**status, "reason": reason, "message": message, "details": details}


@dataclass
class ApiServer:
    """The objects, and how the server misbehaves.

    Attributes:
        objects: (resource, namespace, name) to object.
        forbidden: (verb, resource) that nobody may.
        absent: Resources that the cluster does not know.
        canary_field: Whether the published schema of InferenceServices has spec.canary.
        lingers: Looks for which what is deleted in the foreground is still there.
        faults: Answers to give next instead, by status code; 0 cuts the connection.
        before: Called before each request with (verb, resource, name); may change objects.
        user: Who asks.
        admit: Called with an object to be written; may raise ApiError.
    """

    objects: dict[tuple[str, str, str], dict[str, Any]] = field(default_factory=dict)
    forbidden: set[tuple[str, str]] = field(default_factory=set)
    absent: set[str] = field(default_factory=set)
    canary_field: bool = True
    lingers: int = 0
    faults: list[int] = field(default_factory=list)
    before: Callable[[str, str, str], None] = lambda *_: None
    admit: Callable[[str, dict[str, Any]], None] = lambda *_: None
    requests: list[tuple[str, str]] = field(default_factory=list)
    user: str = "admin"
    url: str = ""
    lock: Any = field(default_factory=threading.RLock)
    _version: int = 0
    _looks: dict[tuple[str, str, str], int] = field(default_factory=dict)

    def put(self, resource: str, namespace: str, body: dict[str, Any]) -> dict[str, Any]:
        """Writes an object as a controller with all rights does; its generation moves with its spec."""
        with self.lock:
            key = (resource, namespace, body["metadata"]["name"])
            old = self.objects.get(key)
            new = copy.deepcopy(body)
            if old and "status" in old:
                new.setdefault("status", copy.deepcopy(old["status"]))
            self._version += 1
            metadata = new["metadata"]
            metadata["resourceVersion"] = str(self._version)
            if namespace:
                metadata["namespace"] = namespace
            metadata["uid"] = old["metadata"]["uid"] if old else str(uuid.uuid4())
            generation = old["metadata"]["generation"] if old else 0
            moved = old is None or old.get("spec") != new.get("spec")
            metadata["generation"] = generation + 1 if moved else generation
            self.objects[key] = new
            return new

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        with self.lock:
            if path == "/version":
                return 200, {"major": "1", "minor": "36", "gitVersion": "v1.36.0"}
            if path == "/openapi/v3/apis/serving.kserve.io/v1beta1":
                return 200, self._openapi()
            if group_version := _GROUP_VERSION.fullmatch(path):
                return self._discovery(group_version["group"], group_version["version"])
            match = _PATH.fullmatch(path)
            group = (match["group"] or "") if match else ""
            resource = f"{match['plural']}.{group}" if match and group else (match["plural"] if match else "")
            unknown = resource not in KINDS or resource in self.absent
            if (
                not match
                or unknown
                or match["version"] not in {None, _SCHEMAS.get(resource, ("", match["version"]))[1]}
            ):
                return 404, "404 page not found\n"
            namespace, name = match["namespace"] or "", match["name"] or ""
            verb = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}.get(method) or ("get" if name else "list")
            self.requests.append((verb, resource))
            self.before(verb, resource, name)
            if (verb, resource) in self.forbidden:
                who = "system:serviceaccount:flights:nobody"
                where = f'in API group "{group}" in the namespace "{namespace}"'
                what = f'User "{who}" cannot {verb} resource "{match["plural"]}" {where}'
                of = f'{resource} "{name}"' if name else resource
                raise ApiError(403, "Forbidden", f"{of} is forbidden: {what}")
            if resource.startswith("selfsubjectreviews"):
                return 201, {**body, "status": {"userInfo": {"username": self.user}}}
            if resource.endswith("subjectaccessreviews.authorization.k8s.io"):
                return 201, self._review(body)
            return self._object(verb, resource, namespace, name, query, body)

    def _object(
        self, verb: str, resource: str, namespace: str, name: str, query: dict[str, str], body: Any
    ) -> tuple[int, Any]:
        if verb == "list":
            wanted = dict(part.split("=") for part in query.get("labelSelector", "").split(",") if part)
            items = [
                item
                for (of, where, _), item in sorted(self.objects.items())
                if of == resource
                and namespace in {"", where}
                and wanted.items() <= (item["metadata"].get("labels") or {}).items()
            ]
            return 200, {"kind": f"{KINDS[resource]}List", "apiVersion": "v1", "metadata": {}, "items": items}
        if verb == "create":
            if namespace and ("namespaces", "", namespace) not in self.objects:
                raise ApiError(
                    404, "NotFound", f'namespaces "{namespace}" not found', name=namespace, kind="namespaces"
                )
            name = body["metadata"]["name"]
            body = {key: value for key, value in body.items() if key != "status"}
            self._validate(resource, body, query)
            if (resource, namespace, name) in self.objects:
                raise ApiError(409, "AlreadyExists", f'{resource} "{name}" already exists', name=name)
            return 201, self.put(resource, namespace, body)
        found = self.objects.get((resource, namespace, name))
        if found is None:
            plural = resource.partition(".")[0]
            raise ApiError(404, "NotFound", f'{resource} "{name}" not found', name=name, kind=plural)
        if verb == "get":
            if "deletionTimestamp" in found["metadata"]:
                self._collect((resource, namespace, name))
            return 200, found
        if verb == "delete":
            self._delete((resource, namespace, name), found, body or {})
            return 200, {"kind": "Status", "status": "Success"}
        return 200, self._patched(resource, namespace, found, query, body)

    def _delete(self, key: tuple[str, str, str], found: dict[str, Any], options: dict[str, Any]) -> None:
        for field_, wanted in (options.get("preconditions") or {}).items():
            if found["metadata"][field_] != wanted:
                why = f"the {field_} in the precondition ({wanted}) does not match that in record"
                raise ApiError(409, "Conflict", f'Operation cannot be fulfilled on {key[0]} "{key[2]}": {why}')
        if options.get("propagationPolicy") != "Foreground":
            del self.objects[key]
        elif "deletionTimestamp" not in found["metadata"]:
            metadata = {**found["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}
            self.put(key[0], key[1], {**found, "metadata": metadata})

    def _collect(self, key: tuple[str, str, str]) -> None:
        """What the garbage collector does with what waits for what it owns to go."""
        self._looks[key] = self._looks.get(key, 0) + 1
        if self._looks[key] > self.lingers:
            del self._looks[key], self.objects[key]

    def _patched(
        self, resource: str, namespace: str, found: dict[str, Any], query: dict[str, str], patch: Any
    ) -> dict[str, Any]:
        expected = (patch.get("metadata") or {}).get("resourceVersion")
        if expected not in {None, found["metadata"]["resourceVersion"]}:
            name = found["metadata"]["name"]
            why = "the object has been modified; please apply your changes to the latest version and try again"
            raise ApiError(409, "Conflict", f'Operation cannot be fulfilled on {resource} "{name}": {why}', name=name)
        patch = {key: value for key, value in patch.items() if key != "status"}
        after = merged(found, patch)
        self._validate(resource, after, query)
        if {**after, "metadata": {}} == {**found, "metadata": {}} and after["metadata"] == found["metadata"]:
            return found
        return self.put(resource, namespace, after)

    def _validate(self, resource: str, body: dict[str, Any], query: dict[str, str]) -> None:
        if resource not in _SCHEMAS:
            return
        check = validator(*_SCHEMAS[resource])
        for error in list(check.iter_errors(body)) if check else ():
            where = ".".join(str(part) for part in error.absolute_path)
            if error.validator == "additionalProperties":
                unknown = re.findall(r"'([^']+)'", error.message)[0]
                if query.get("fieldValidation") == "Strict":
                    raise unknown_field(body, f"{where}.{unknown}")
                error.instance.pop(unknown)  # dropped, with a warning
                continue
            group, name = body["apiVersion"].partition("/")[0], body["metadata"]["name"]
            why = error.message[:200]
            if error.validator == "type":
                got = _JSON_TYPES.get(type(error.instance), "object")
                why = f'Invalid value: "{got}": {where} in body must be of type {error.validator_value}: "{got}"'
            raise ApiError(422, "Invalid", f'{body["kind"]}.{group} "{name}" is invalid: {where}: {why}')
        self.admit(resource, body)

    def _discovery(self, group: str, version: str) -> tuple[int, Any]:
        """The resources of a group, which every account may list."""
        known = [each for each in KINDS.keys() - self.absent if each.partition(".")[2] == group]
        if not known:
            return 404, "404 page not found\n"
        resources = [{"name": each.partition(".")[0], "kind": KINDS[each], "namespaced": True} for each in known]
        return 200, {"kind": "APIResourceList", "groupVersion": f"{group}/{version}", "resources": resources}

    def _openapi(self) -> dict[str, Any]:
        """The published schema, as far as anybody here looks at it."""
        of = {"group": "serving.kserve.io", "version": "v1beta1", "kind": "InferenceService"}
        spec = {"properties": {"predictor": {}, **({"canary": {}} if self.canary_field else {})}}
        schema = {"properties": {"spec": spec, "status": {}}, "x-kubernetes-group-version-kind": [of]}
        other = {"properties": {}, "x-kubernetes-group-version-kind": [{**of, "kind": "InferenceServiceList"}]}
        return {"openapi": "3.0.0", "components": {"schemas": {"a.List": other, "a.Service": schema, "b": {}}}}

    def _review(self, body: dict[str, Any]) -> dict[str, Any]:
        asked = body["spec"]["resourceAttributes"]
        resource = f"{asked['resource']}.{asked['group']}" if asked.get("group") else asked["resource"]
        allowed = (asked["verb"], resource) not in self.forbidden
        if body["kind"] == "LocalSubjectAccessReview":
            allowed = allowed and self._bound(body["spec"]["user"], asked)
        return {**body, "status": {"allowed": allowed}}

    def _bound(self, user: str, asked: dict[str, Any]) -> bool:
        """Whether a Role of the namespace that is bound to a service account allows something (RBAC)."""
        namespace = asked["namespace"]
        for (of, where, _), binding in self.objects.items():
            if of != "rolebindings.rbac.authorization.k8s.io" or where != namespace:
                continue
            names = {f"system:serviceaccount:{s.get('namespace', where)}:{s['name']}" for s in binding["subjects"]}
            role = self.objects["roles.rbac.authorization.k8s.io", where, binding["roleRef"]["name"]]
            if user in names and any(_allows(rule, asked) for rule in role["rules"]):
                return True
        return False


def unknown_field(body: dict[str, Any], where: str) -> ApiError:
    """What strict validation says: of an object that is created, or, with all of it, of one that is patched."""
    error, kind = f'strict decoding error: unknown field "{where}"', body["kind"]
    if "uid" in body["metadata"]:
        return ApiError(
            422, "Invalid", f' "" is invalid: patch: Invalid value: {json.dumps(json.dumps(body))}: {error}'
        )
    version = body["apiVersion"].rpartition("/")[2]
    return ApiError(400, "BadRequest", f'{kind} in version "{version}" cannot be handled as a {kind}: {error}')


def _allows(rule: dict[str, Any], asked: dict[str, Any]) -> bool:
    wanted = (("apiGroups", "group"), ("resources", "resource"), ("verbs", "verb"))
    names = rule.get("resourceNames")
    return all(asked[of] in rule[field] for field, of in wanted) and (not names or asked["name"] in names)


def merged(target: Any, patch: Any) -> Any:
    """RFC 7386, as its pseudo code says."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


@contextmanager
def serving(api: ApiServer) -> Iterator[ApiServer]:
    """Runs the server on a port of the system's choice."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # headers and body in one packet
        disable_nagle_algorithm = True

        def handle_any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or "null")
            url = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            code, answer = self.answered(unquote(url.path), query, body)
            if code == 0:
                self.close_connection = True
                return
            data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Type", "text/plain" if isinstance(answer, str) else "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def answered(self, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
            if api.faults:
                code = api.faults.pop(0)
                return code, f"fault {code}"
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                error = ApiError(401, "Unauthorized", "Unauthorized")
                return error.code, error.body
            if self.command == "PATCH" and self.headers["Content-Type"] != "application/merge-patch+json":
                return 415, "unsupported"
            try:
                return api.answer(self.command, path, query, body)
            except ApiError as error:
                return error.code, error.body
            except Exception:  # a mistake of the stand-in itself: never taken for a server that restarts
                return 501, traceback.format_exc()

        do_GET = do_POST = do_PATCH = do_DELETE = handle_any

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    api.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def write_kubeconfig(path: Path, api: ApiServer, token: str = TOKEN) -> Path:
    """A kubeconfig of this server, its namespace `flights`."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "here", "cluster": {"server": api.url}}],
        "users": [{"name": "me", "user": {"token": token}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me", "namespace": "flights"}}],
        "current-context": "here",
    }
    path.write_text(yaml.safe_dump(config))
    return path
