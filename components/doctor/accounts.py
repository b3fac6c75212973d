"""Whether the accounts of steps and predictors have the rights that they need, and no more."""

from collections.abc import Iterable, Iterator
from typing import Any

from fti.common.inference_service.modes import RIGHTS as MODE_RIGHTS
from fti.common.kubernetes_api import AbsentError, ForbiddenError, KubernetesApi
from fti.doctor.finding import MISSING, OK, WARNING, Finding
from fti.doctor.rights import GATEWAY_RIGHT, RIGHTS, RUN_RIGHTS, SETTINGS_RIGHT, TOO_MUCH

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


def kserve_rights(api: KubernetesApi, account: str, kserve: str, gateway: str) -> Iterator[Finding]:
    """Whether the account that runs steps may read how traffic can be split, as whoever runs this may.

    Args:
        api: The API server and the account's namespace.
        account: The service account.
        kserve: KServe's namespace.
        gateway: The namespace of the Gateway that KServe names; empty where that does not exist.
    """
    if _me(api) == _user(api, account):
        return
    asked = {SETTINGS_RIGHT: kserve, **({GATEWAY_RIGHT: gateway} if gateway else {})}
    try:
        lacking = [right for right, where in asked.items() if not _may(api, right, account, where)]
    except ForbiddenError:
        text = f"you may not ask whether {account} may read how KServe splits traffic; push needs it for a new service"
        yield Finding("rights", WARNING, text, "Let the cluster's administrator run it, or run it in a step")
        return
    if lacking:
        text = f"{account} may not {_named(lacking)}, in {' and '.join(sorted({asked[right] for right in lacking}))}"
        yield Finding("rights", MISSING, text, f"Apply {MODE_RIGHTS}, with {account} of {api.namespace} in it")
    else:
        yield Finding("rights", OK, f"{account} may read how KServe splits traffic")


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


def _named(rights: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{verb} {resource}" for verb, resource in sorted(rights))


def _may(api: KubernetesApi, right: tuple[str, str], account: str = "", where: str = "") -> bool:
    """Whether a service account of the namespace, or whoever runs this, has a right there, or in another one."""
    where = where or api.namespace
    verb, of = right
    resource, _, name = of.partition("/")
    plural, _, group = resource.partition(".")
    asked = {"namespace": where, "verb": verb, "group": group, "resource": plural, "name": name}
    if not account:
        return _answer(api, "SelfSubjectAccessReview", f"{_OF}/selfsubjectaccessreviews", {"resourceAttributes": asked})
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{api.namespace}", "system:authenticated"]
    spec = {"resourceAttributes": asked, "user": _user(api, account), "groups": groups}
    return _answer(api, "LocalSubjectAccessReview", f"{_OF}/namespaces/{where}/localsubjectaccessreviews", spec)


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
    metadata = {"namespace": spec["resourceAttributes"]["namespace"]} if kind.startswith("Local") else {}
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "metadata": metadata, "spec": spec}
    return bool(api.call("POST", path, body)["status"]["allowed"])
