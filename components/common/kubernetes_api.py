"""The Kubernetes API: plain dictionaries in and out, and errors as sentences that name what mends them.

Credentials are the official client's business: a pod's service account, else the kubeconfig.
"""

import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fti.common.errors import BusyError, ConfigError, FtiError, ServingError

if TYPE_CHECKING:
    from kubernetes.client import ApiClient, ApiException

_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_PATIENCE = 30.0  # seconds in which an API server may restart
_PAUSE = 0.2
_READ_SECONDS = 30
_CONFLICT = 409
_PASSING = {0, 429, 500, 502, 503, 504}
_RIGHTS = "manifests/base/rights.yaml"
_STRICT = "strict decoding error"


class ConflictError(BusyError):
    """The object was changed since it was read, or exists already."""


class AbsentError(ServingError):
    """The object, its kind or its namespace is not there."""


class ForbiddenError(ServingError):
    """A right is missing."""


class KubernetesApi:
    """One API server, as far as this library asks it.

    Args:
        client: An ApiClient of the official client.
        namespace: Where the objects lie.
        patience: Seconds for which an API server that does not answer is asked again.
    """

    def __init__(self, client: "ApiClient", namespace: str, patience: float = _PATIENCE) -> None:
        self._client, self.namespace, self._patience = client, namespace, patience

    @classmethod
    def connect(cls, namespace: str = "", environ: Mapping[str, str] = os.environ) -> "KubernetesApi":
        """Connects as the pod's service account, or as the kubeconfig says.

        Args:
            namespace: Where the objects lie; empty means the pod's own, or the one of the kubeconfig's context.
            environ: Says whether this is a pod.

        Raises:
            ConfigError: There are no credentials.
        """
        import yaml
        from kubernetes import client, config

        settings = client.Configuration()
        try:
            if "KUBERNETES_SERVICE_HOST" in environ:
                config.load_incluster_config(client_configuration=settings)
            else:
                file = environ.get("KUBECONFIG")  # the client itself looks there once, when it is imported
                config.load_kube_config(config_file=file, client_configuration=settings)
        except (config.ConfigException, yaml.YAMLError, OSError, TypeError, KeyError, AttributeError) as error:
            raise _no_way(error) from None  # its text may hold a piece of the file
        settings.retries = False
        return cls(client.ApiClient(settings), namespace or own_namespace(environ))

    def get(self, path: str) -> dict[str, Any] | None:
        """Reads an object, or None where it is not there.

        Args:
            path: Such as `apis/apps/v1/namespaces/flights/deployments/late`.
        """
        try:
            return self.call("GET", path)
        except AbsentError:
            return None

    def items(self, path: str, labels: str = "") -> list[dict[str, Any]]:
        """Lists objects, optionally only those with these labels; none where their kind is not there."""
        try:
            found: list[dict[str, Any]] = self.call("GET", path, query={"labelSelector": labels})["items"]
        except AbsentError:
            return []
        return found

    def call(
        self, method: str, path: str, body: object = None, query: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """One request; asks again while the API server does not answer.

        Args:
            method: GET, POST, DELETE, or PATCH for a merge patch.
            path: Without a leading slash.
            body: The object or the patch.
            query: What stands behind the question mark; empty values are left out.

        Raises:
            ConfigError: The credentials are refused.
            AbsentError: There is no such object, kind or namespace.
            ConflictError: It was changed since it was read, or exists already.
            ServingError: A right is missing, the object is refused, or the API server does not answer.
        """
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        deadline = time.monotonic() + self._patience
        while True:
            try:
                return self._once(method, path, body, query or {})
            except ApiException as error:
                if error.status not in _PASSING or time.monotonic() > deadline:
                    raise _explained(error, method, path) from None  # the response's headers are nobody's business
            except HTTPError as error:
                if time.monotonic() > deadline:
                    raise ServingError(
                        f"the Kubernetes API server does not answer ({type(error).__name__})",
                        remedy="Run it again when it does",
                    ) from None
            time.sleep(_PAUSE)

    def _once(self, method: str, path: str, body: object, query: Mapping[str, str]) -> dict[str, Any]:
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        answer: dict[str, Any] = self._client.call_api(
            "/" + quote(path),
            method,
            query_params=[(key, value) for key, value in query.items() if value],
            header_params={"Accept": "application/json", "Content-Type": kind},
            body=body,
            auth_settings=["BearerToken"],
            response_type="object",
            _return_http_data_only=True,
            _request_timeout=_READ_SECONDS,
        )
        return answer


def own_namespace(environ: Mapping[str, str] = os.environ) -> str:
    """The namespace of this pod, or that of the kubeconfig's context.

    Raises:
        ConfigError: There is neither.
    """
    import yaml
    from kubernetes import config

    try:
        if "KUBERNETES_SERVICE_HOST" in environ:
            return (_SERVICE_ACCOUNT / "namespace").read_text(encoding="utf-8").strip()
        context = config.list_kube_config_contexts(config_file=environ.get("KUBECONFIG"))[1]
        return str(context["context"].get("namespace", "default"))
    except (config.ConfigException, yaml.YAMLError, OSError, TypeError, KeyError, AttributeError) as error:
        raise _no_way(error) from None


def _no_way(error: Exception) -> ConfigError:
    return ConfigError(
        f"no way to a Kubernetes cluster was found ({type(error).__name__})",
        remedy="Run in a pod with a service account, or set KUBECONFIG to a file that kubectl can use",
    )


def _explained(error: "ApiException", method: str, path: str) -> FtiError:  # noqa: PLR0911 - one for each answer
    """An answer of the API server as an error of this library."""
    status = _status_of(error)
    message = str(status.get("message") or error.body or error.reason or "").strip()
    message = message[max(0, message.rfind(_STRICT)) :][:1000]  # before it stands a patched object, whole
    if error.status == 401:
        return ConfigError(
            "the Kubernetes API server does not accept the credentials",
            remedy="Log in again, or give the pod a service account of manifests/base/service-accounts.yaml",
        )
    if "admission webhook" in message:  # before 403: webhooks deny with it too
        return ServingError(f"the cluster refuses it: {message}", remedy="Correct the manifest of the service")
    if error.status == 403:
        namespace = re.search(r"/namespaces/([^/]+)/", path)
        where = f" in namespace {namespace[1]}, if there is one," if namespace else ","  # of none it says the same
        return ForbiddenError(
            f"the right to {_verb(method, path)} {_resource(path)} is missing: {message}",
            remedy=f"Apply {_RIGHTS}{where} and run as a service account that it names",
        )
    if error.status == 404:
        return _absent(status, path)
    if error.status == _CONFLICT:
        return ConflictError(f"{path}: {message}", remedy="Run it again")
    if "unknown field" in message and "spec.canary" in message:
        return ServingError(
            f"this KServe knows no spec.canary: {message}",
            remedy="KServe 0.21 or later splits traffic in Standard mode; Knative mode does in every version",
        )
    return ServingError(f"the Kubernetes API server answered {error.status} to {_verb(method, path)} {path}: {message}")


def _absent(status: Mapping[str, Any], path: str) -> AbsentError:
    kind = (status.get("details") or {}).get("kind", "")
    if not status:  # an unknown path: not even an error object
        return AbsentError(
            f"the cluster does not know {_resource(path)}",
            remedy="Install what defines it: KServe 0.21 or later for InferenceServices; `fti doctor` tells more",
        )
    if kind == "namespaces":
        return AbsentError(
            f"namespace {status['details'].get('name', '')!r} does not exist", remedy="Apply manifests/overlays/…"
        )
    return AbsentError(f"{path} does not exist")


def _status_of(error: "ApiException") -> dict[str, Any]:
    try:
        status = json.loads(error.body or "")
    except ValueError:
        return {}
    return status if isinstance(status, dict) and status.get("kind") == "Status" else {}


def _verb(method: str, path: str) -> str:
    if method == "GET":
        return "get" if len(_parts(path)) > 1 else "list"
    return {"POST": "create", "PATCH": "patch", "DELETE": "delete"}[method]


def _resource(path: str) -> str:
    """`apis/apps/v1/namespaces/flights/deployments/late` as `deployments.apps`."""
    group = "" if path.startswith("api/") else "." + path.split("/")[1]
    return _parts(path)[0] + group


def _parts(path: str) -> list[str]:
    """A path without its group, version and namespace: the resource and, of one object, its name."""
    parts = path.split("/")
    rest = parts[2:] if parts[0] == "api" else parts[3:] or parts[1:2]  # a group as a whole
    return rest[2:] if rest[0] == "namespaces" and len(rest) > 2 else rest


def merge_patch(before: object, after: object) -> Any:
    """The JSON merge patch (RFC 7386) that makes one value the other; lists are replaced whole."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return after
    patch: dict[str, Any] = dict.fromkeys(before.keys() - after.keys())
    for key, value in after.items():
        if key not in before:
            patch[key] = value
        elif before[key] != value:
            patch[key] = merge_patch(before[key], value)
    return patch
