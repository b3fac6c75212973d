"""The Kubernetes API over plain HTTP: status codes, bodies and warnings as the server sends them."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

_PATIENCE = 20.0  # seconds
Object = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What the API server said.

    Attributes:
        code: The HTTP status.
        body: The JSON, or the text where it is none.
        warnings: The texts of its `Warning` headers.
    """

    code: int
    body: Any
    warnings: tuple[str, ...] = ()


class RefusedError(AssertionError):
    """An answer that is no success, where a test needs one."""


class Client:
    """Somebody who asks an API server.

    Args:
        configuration: A Configuration of the official client.
    """

    def __init__(self, configuration: Any) -> None:
        from kubernetes.client import ApiClient

        self._client = ApiClient(configuration)
        self._pool = self._client.rest_client.pool_manager

    @classmethod
    def of_kubeconfig(cls, path: Path | str) -> "Client":
        """Whoever a kubeconfig says; an empty path means the usual one."""
        from kubernetes import client, config

        settings = client.Configuration()
        config.load_kube_config(config_file=str(path) or None, client_configuration=settings)
        return cls(settings)

    def account(self, namespace: str, name: str) -> "Client":
        """A service account, with a token that the API server issues for an hour."""
        from kubernetes.client import Configuration

        token = self.token(namespace, name)
        own, settings = self._client.configuration, Configuration()
        settings.host, settings.verify_ssl, settings.ssl_ca_cert = own.host, own.verify_ssl, own.ssl_ca_cert
        settings.api_key, settings.api_key_prefix = {"authorization": token}, {"authorization": "Bearer"}
        return Client(settings)

    def token(self, namespace: str, name: str) -> str:
        """A token of a service account."""
        path = f"api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
        return str(self.do("POST", path, body)["status"]["token"])

    def ask(
        self, method: str, path: str, body: object = None, query: dict[str, str] | None = None, kind: str = ""
    ) -> Answer:
        """One request, and whatever is answered.

        Args:
            method: GET, POST, PUT, DELETE, or PATCH for a merge patch.
            path: Without a leading slash.
            body: What is sent as JSON.
            query: What stands behind the question mark.
            kind: The content type, where it is neither JSON nor a merge patch.
        """
        kind = kind or ("application/merge-patch+json" if method == "PATCH" else "application/json")
        headers = {"Accept": "application/json", "Content-Type": kind}
        self._client.update_params_for_auth(headers, [], ["BearerToken"])
        url = f"{self._client.configuration.host}/{path}"
        if query:
            url += "?" + urlencode(query)
        data = None if body is None else json.dumps(body).encode()
        deadline = time.monotonic() + _PATIENCE
        while True:
            answer = self._pool.request(method, url, body=data, headers=headers, timeout=30, retries=False)
            if answer.status != 429 or time.monotonic() > deadline:  # such as of a kind that was defined just now
                break
            time.sleep(0.1)
        warnings = tuple(answer.headers.getlist("Warning"))
        text = answer.data.decode()
        try:
            return Answer(answer.status, json.loads(text), warnings)
        except ValueError:
            return Answer(answer.status, text, warnings)

    def do(self, method: str, path: str, body: object = None, query: dict[str, str] | None = None) -> Object:
        """One request that has to succeed.

        Raises:
            RefusedError: It did not.
        """
        answer = self.ask(method, path, body, query)
        if answer.code >= 300:
            raise RefusedError(f"{method} {path}: {answer.code}: {answer.body}")
        found: Object = answer.body
        return found

    def get(self, path: str) -> Object | None:
        """An object, or None where it is not there."""
        answer = self.ask("GET", path)
        if answer.code == 404:
            return None
        if answer.code >= 300:
            raise RefusedError(f"GET {path}: {answer.code}: {answer.body}")
        found: Object = answer.body
        return found


def may(client: Client, namespace: str, verb: str, resource: str, name: str = "") -> bool:
    """Whether somebody has a right, as the server's own authorizer says."""
    plural, _, group = resource.partition(".")
    plural, _, sub = plural.partition("/")
    asked = {"namespace": namespace, "verb": verb, "group": group, "resource": plural, "subresource": sub, "name": name}
    kind = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview"}
    path = "apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    answer = client.do("POST", path, {**kind, "spec": {"resourceAttributes": asked}})
    return bool(answer["status"]["allowed"])


def managed(admin: Client, namespace: str) -> bool:
    """Whether a kube-controller-manager works here: it publishes its authority's certificate in every namespace."""
    deadline = time.monotonic() + 3
    while admin.get(f"api/v1/namespaces/{namespace}/configmaps/kube-root-ca.crt") is None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def kserve_runs(admin: Client) -> bool:
    """Whether KServe's own controller works here, so that nothing is to be played."""
    found = admin.get("apis/apps/v1/namespaces/kserve/deployments/kserve-controller-manager")
    return bool(found and (found.get("status") or {}).get("availableReplicas", 0))
