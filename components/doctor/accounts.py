"""Whether the accounts of steps and predictors have the rights that they need, and no more."""

from collections.abc import Iterator
from typing import Any

from fti.common.kubernetes_api import AbsentError, ForbiddenError, KubernetesApi
from fti.doctor.finding import MISSING, OK, WARNING, Finding
from fti.doctor.rights import RIGHTS, RUN_RIGHTS, TOO_MUCH

_OF = "apis/authorization.k8s.io/v1"
_BASE = "manifests/base"


def step_rights(api: KubernetesApi, account: str) -> Iterator[Finding]:
    """What the account that runs steps may not do.

    Where nobody but an administrator may ask that, it is asked for whoever runs this, and said so.

    Args:
        api: The API server and the namespace.
        account: The service account.
    """
    remedy = f"Apply {_BASE}/rights.yaml, and run steps as an account that it binds"
    own = _me(api) == _user(api, account)
    try:
        missing = _named(right for right in RIGHTS | RUN_RIGHTS if not _may(api, right, "" if own else account))
    except ForbiddenError:
        missing = _named(right for right in RIGHTS if not _may(api, right))
        if missing:
            yield Finding("rights", MISSING, f"you may not {missing}", remedy)
        else:
            text = f"you have all that push, promote, rollback and rollout need; you may not ask whether {account} has"
            yield Finding("rights", WARNING, text, "Let an administrator of the namespace run it, or run it in a step")
        return
    if missing:
        yield Finding("rights", MISSING, f"{account} may not {missing}", remedy)
    else:
        yield Finding("rights", OK, f"{account} has all that steps, push, promote, rollback and rollout need")


def predictor_rights(api: KubernetesApi, account: str) -> Iterator[Finding]:
    """Whether the predictors' account has rights that it does not need; nothing where that may not be asked."""
    try:
        held = _named(right for right in TOO_MUCH if _may(api, right, account))
    except ForbiddenError:
        return
    if held:
        remedy = "Take it out of the RoleBindings that name it, or all accounts"
        yield Finding("rights", WARNING, f"{account} may {held}, and needs no right at all", remedy)
    else:
        yield Finding("rights", OK, f"{account} has none, and needs none")


def _named(rights: Iterator[tuple[str, str]]) -> str:
    return ", ".join(f"{verb} {resource}" for verb, resource in sorted(rights))


def _may(api: KubernetesApi, right: tuple[str, str], account: str = "") -> bool:
    """Whether a service account, or whoever runs this, has a right in the namespace."""
    verb, of = right
    resource, _, name = of.partition("/")
    plural, _, group = resource.partition(".")
    asked = {"namespace": api.namespace, "verb": verb, "group": group, "resource": plural, "name": name}
    if not account:
        return _answer(api, "SelfSubjectAccessReview", f"{_OF}/selfsubjectaccessreviews", {"resourceAttributes": asked})
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{api.namespace}", "system:authenticated"]
    spec = {"resourceAttributes": asked, "user": _user(api, account), "groups": groups}
    return _answer(api, "LocalSubjectAccessReview", f"{_OF}/namespaces/{api.namespace}/localsubjectaccessreviews", spec)


def _user(api: KubernetesApi, account: str) -> str:
    return f"system:serviceaccount:{api.namespace}:{account}"


def _me(api: KubernetesApi) -> str:
    """As whom this asks; empty where the API server is too old to say."""
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    try:
        return str(
            api.call("POST", "apis/authentication.k8s.io/v1/selfsubjectreviews", body)["status"]["userInfo"]["username"]
        )
    except AbsentError:
        return ""


def _answer(api: KubernetesApi, kind: str, path: str, spec: dict[str, Any]) -> bool:
    metadata = {"namespace": api.namespace} if kind.startswith("Local") else {}
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "metadata": metadata, "spec": spec}
    return bool(api.call("POST", path, body)["status"]["allowed"])
