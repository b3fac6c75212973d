"""Objects of the manifests, applied to a real API server as `kubectl apply --server-side` applies them."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from tests.cluster.client import Answer, Client, Object
from tests.manifests.rendered import ROOT, overlay, rendered

_KSERVE = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kserve"}}
_APPLY = "application/apply-patch+yaml"  # JSON is YAML


@dataclass(frozen=True)
class RealCluster:
    """A cluster, and its namespace in which the manifests are applied.

    Attributes:
        kubeconfig: Of an administrator.
        namespace: The namespace, made and kept by these tests.
        admin: Who may do everything.
    """

    kubeconfig: Path
    namespace: str
    admin: Client


@cache
def _known(client: Client, version: str) -> dict[str, tuple[str, bool]]:
    """Kind to plural and whether it lies in namespaces; none where the cluster does not know the version."""
    root = f"apis/{version}" if "/" in version else f"api/{version}"
    found = client.get(root)
    if not isinstance(found, dict):
        return {}
    resources = [each for each in found["resources"] if "/" not in each["name"]]
    return {each["kind"]: (each["name"], each["namespaced"]) for each in resources}


def is_known(client: Client, each: Object) -> bool:
    """Whether the cluster knows the kind of an object."""
    return each["kind"] in _known(client, each["apiVersion"])


def applied(client: Client, each: Object, namespace: str, *, dry: bool = True) -> Answer:
    """What the API server says to an object; unknown fields are errors.

    Args:
        client: Who applies it.
        each: An object of a kind that the cluster knows.
        namespace: Where it goes, instead of where the manifests say.
        dry: Whether nothing is kept.
    """
    plural, namespaced = _known(client, each["apiVersion"])[each["kind"]]
    name = namespace if each["kind"] == "Namespace" else each["metadata"]["name"]
    metadata = {**each["metadata"], "name": name}
    root = f"apis/{each['apiVersion']}" if "/" in each["apiVersion"] else f"api/{each['apiVersion']}"
    if "subjects" in each:
        own = each["metadata"].get("namespace")
        moved = [{**who, "namespace": namespace} if who.get("namespace") == own else who for who in each["subjects"]]
        each = {**each, "subjects": moved}
    if namespaced:
        metadata["namespace"] = namespace
        root += f"/namespaces/{namespace}"
    query = {"fieldManager": "fti-test", "force": "true", "fieldValidation": "Strict"}
    query |= {"dryRun": "All"} if dry else {}
    return client.ask("PATCH", f"{root}/{plural}/{name}", {**each, "metadata": metadata}, query, _APPLY)


def prepared(cluster: RealCluster) -> RealCluster:
    """Applies the manifests; kinds that the cluster does not know are left out."""
    wanted = [each for each in overlay("minio") if is_known(cluster.admin, each)]
    for each in sorted(wanted, key=lambda each: each["kind"] != "Namespace"):
        answer = applied(cluster.admin, each, cluster.namespace, dry=False)
        assert answer.code < 300, answer.body
    cluster.admin.ask("POST", "api/v1/namespaces", _KSERVE)
    for each in rendered(ROOT / "cluster"):
        if is_known(cluster.admin, each):
            answer = applied(cluster.admin, each, each["metadata"].get("namespace", ""), dry=False)
            assert answer.code < 300, answer.body
    return cluster


def kubeconfig_of(path: Path, cluster: RealCluster, token: str) -> Path:
    """The cluster's kubeconfig, with a token in place of its credentials."""
    config = yaml.safe_load(cluster.kubeconfig.read_text())
    context = next(each for each in config["contexts"] if each["name"] == config["current-context"])["context"]
    context["namespace"] = cluster.namespace
    config["users"] = [{"name": context["user"], "user": {"token": token}}]
    path.write_text(yaml.safe_dump(config))
    return path
