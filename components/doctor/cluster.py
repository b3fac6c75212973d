"""Checks a cluster: what KServe can do there, and whether the namespace holds what this library needs."""

import os
from base64 import b64decode
from collections.abc import Iterator
from typing import Any

from fti.common.errors import ConfigError
from fti.common.inference_service import MODEL_FORMAT
from fti.common.inference_service.modes import CONFIG, GRAPH, ROUTE, Abilities, choose, read_abilities
from fti.common.inference_service.single import SERVICE_ACCOUNT
from fti.common.kubernetes_api import ForbiddenError, KubernetesApi
from fti.common.settings import CLUSTER, KNATIVE, STANDARD, Settings
from fti.doctor.accounts import kserve_rights, predictor_rights, step_rights
from fti.doctor.finding import MISSING, OK, UNKNOWN, WARNING, Finding, checked
from fti.doctor.stores import reachable

STEPS_ACCOUNT = "fti-pipelines"
_BASE = "manifests/base"
_PLACEHOLDER = "change-me"
_SECRETS = {
    "fti-object-store": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    "fti-feature-store": ("FTI_REDIS", "FTI_POSTGRES_USER", "FTI_POSTGRES_PASSWORD"),
}
_SETTINGS = ("FTI_HOME", "FTI_PROFILE", "FTI_OFFLINE_URI", "FTI_MODELS_URI", "FTI_SERVING", "FTI_POSTGRES")
_GPU = "nvidia.com/gpu"
_SPLIT_BY = {
    STANDARD: "KServe's routes (standard)",
    KNATIVE: "Knative (knative)",
    ROUTE: "a route of ours before two services",
    GRAPH: "an InferenceGraph before two services",
}


def check_cluster(settings: Settings, api: KubernetesApi, account: str = STEPS_ACCOUNT) -> list[Finding]:
    """Looks at a cluster, and changes nothing.

    Args:
        settings: The mode of KServe that is meant.
        api: The API server and the namespace.
        account: The service account that runs steps.

    Returns:
        What was found, in the order in which one mends it.

    Raises:
        ConfigError: The credentials are refused.
        ServingError: The API server does not answer.
    """
    version = api.call("GET", "version").get("gitVersion", "?")
    doctor = _Doctor(settings, api, account)
    return [
        Finding("API server", OK, f"Kubernetes {version}"),
        *checked(
            [
                ("namespace", doctor.namespace),
                ("KServe", doctor.kserve),
                ("KServe's settings", doctor.kserve_settings),
                ("rights", doctor.rights),
                ("service accounts", doctor.service_accounts),
                ("settings", doctor.settings_map),
                ("secrets", doctor.secrets),
                ("runtimes", doctor.runtimes),
                ("images", doctor.images),
                ("GPUs", doctor.gpus),
                ("stores", doctor.stores),
            ]
        ),
    ]


class _Doctor:
    def __init__(self, settings: Settings, api: KubernetesApi, account: str) -> None:
        self._settings, self._api, self._ns, self._account = settings, api, api.namespace, account

    def namespace(self) -> Iterator[Finding]:
        found = self._api.get(f"api/v1/namespaces/{self._ns}")
        if found is None:
            yield Finding("namespace", MISSING, f"{self._ns} does not exist", f"Apply {_BASE}/namespace.yaml")
            return
        level = (found["metadata"].get("labels") or {}).get("pod-security.kubernetes.io/enforce", "")
        if level == "restricted":
            yield Finding("namespace", OK, f"{self._ns}, Pod Security restricted")
        else:
            text = f"{self._ns} enforces {level or 'no'} Pod Security; all pods of this library meet restricted"
            yield Finding("namespace", WARNING, text, f"Label it as {_BASE}/namespace.yaml does")

    def kserve(self) -> Iterator[Finding]:
        crd = self._crd("inferenceservices.serving.kserve.io")
        if crd is None:
            yield Finding("KServe", MISSING, "it is not installed", "Install KServe 0.21 or later")
            return
        versions = {each["name"]: each for each in crd["spec"]["versions"]}
        if "v1beta1" not in versions:
            text = f"InferenceServices are {', '.join(versions)}, not v1beta1"
            yield Finding("KServe", MISSING, text, "Install KServe 0.21 or later")
            return
        schema = versions["v1beta1"]["schema"]["openAPIV3Schema"]["properties"].get("spec", {})
        canary = "canary" in schema.get("properties", {})
        if self._settings.serving == STANDARD and not canary:
            remedy = "Upgrade KServe to 0.21 or later, or set FTI_SERVING=knative"
            yield Finding("KServe", MISSING, "it splits no traffic in Standard mode: no spec.canary", remedy)
        else:
            yield Finding("KServe", OK, f"InferenceServices v1beta1{', with spec.canary' if canary else ''}")
        wanted = "httproutes.gateway.networking.k8s.io"
        if self._settings.serving == STANDARD and self._crd(wanted) is None:
            yield Finding("Gateway API", MISSING, f"{wanted} is unknown", "Install the Gateway API and a gateway")

    def kserve_settings(self) -> Iterator[Finding]:
        """How traffic can be split: what the mode that is meant needs, or which one push will take."""
        where, serving = self._settings.kserve_namespace, self._settings.serving
        try:
            found = read_abilities(self._api, where)
        except ConfigError as error:
            yield Finding("KServe's settings", MISSING, error.got, error.remedy)
            return
        except ForbiddenError as error:
            if serving != CLUSTER:
                raise
            yield Finding("traffic", MISSING, error.got.partition(":")[0], error.remedy)  # a first push would fail
            return
        yield Finding("deployment mode", OK, f"{found.default_mode} by default; services of push say their own")
        if serving == STANDARD:
            yield _gateway(found, f"ConfigMap {where}/{CONFIG}")
        elif serving == CLUSTER:
            yield _traffic(found)
            yield from kserve_rights(self._api, self._account, where, found.gateway.partition("/")[0])

    def rights(self) -> Iterator[Finding]:
        yield from step_rights(self._api, self._account)
        yield from predictor_rights(self._api, SERVICE_ACCOUNT)

    def service_accounts(self) -> Iterator[Finding]:
        for name in (SERVICE_ACCOUNT, self._account):
            found = self._api.get(f"api/v1/namespaces/{self._ns}/serviceaccounts/{name}")
            status = OK if found else MISSING
            text, remedy = (name, "") if found else (f"{name} does not exist", f"Apply {_BASE}/service-accounts.yaml")
            yield Finding("service account", status, text, remedy)

    def settings_map(self) -> Iterator[Finding]:
        found = self._api.get(f"api/v1/namespaces/{self._ns}/configmaps/fti-settings")
        data = (found or {}).get("data") or {}
        absent = [key for key in _SETTINGS if not data.get(key)]
        if absent:
            text = (
                "ConfigMap fti-settings does not exist" if found is None else f"fti-settings lacks {', '.join(absent)}"
            )
            yield Finding("settings", MISSING, text, f"Apply an overlay; {_BASE}/settings.env lists the names")
        elif data["FTI_SERVING"] not in {CLUSTER, STANDARD, KNATIVE}:
            text = f"fti-settings sets FTI_SERVING to {data['FTI_SERVING']}"
            yield Finding("settings", MISSING, text, f"Set cluster, standard or knative in {_BASE}/settings.env")
        elif not data["FTI_MODELS_URI"].startswith(("s3://", "gs://")):
            text = f"fti-settings sets FTI_MODELS_URI to {data['FTI_MODELS_URI']}, which no other pod can read"
            yield Finding("settings", MISSING, text, "Set an s3:// or gs:// URI in the overlay")
        elif data["FTI_SERVING"] != self._settings.serving:
            text = f"steps push in {data['FTI_SERVING']} mode, this checks {self._settings.serving} mode"
            yield Finding("settings", WARNING, text, f"Run it with FTI_SERVING={data['FTI_SERVING']}")
        else:
            yield Finding("settings", OK, "fti-settings")

    def secrets(self) -> Iterator[Finding]:
        for name, keys in _SECRETS.items():
            found = self._api.get(f"api/v1/namespaces/{self._ns}/secrets/{name}")
            data = (found or {}).get("data") or {}
            absent = [key for key in keys if not data.get(key)]
            remedy = f"Fill {_BASE}/{name.removeprefix('fti-')}.env, or use manifests/components/external-secrets"
            if absent:
                text = f"{name} does not exist" if found is None else f"{name} lacks {', '.join(absent)}"
                yield Finding("secret", MISSING, text, remedy)
            elif any(_PLACEHOLDER in b64decode(data[key]).decode("utf-8", "replace") for key in keys):
                yield Finding("secret", WARNING, f"{name} still holds the placeholders of the manifests", remedy)
            else:
                yield Finding("secret", OK, name)

    def runtimes(self) -> Iterator[Finding]:
        automatic = [
            runtime["metadata"]["name"]
            for runtime in self._runtimes()
            for form in runtime["spec"].get("supportedModelFormats") or []
            if form["name"] == MODEL_FORMAT and form.get("autoSelect") and not runtime["spec"].get("disabled")
        ]
        if automatic:
            yield Finding("runtime", OK, f"{', '.join(automatic)} for model format {MODEL_FORMAT}")
        else:
            text = f"no ServingRuntime takes model format {MODEL_FORMAT} by itself"
            yield Finding("runtime", MISSING, text, f"Apply {_BASE}/serving-runtimes.yaml")

    def images(self) -> Iterator[Finding]:
        failing = {}
        for pod in self._api.items(f"api/v1/namespaces/{self._ns}/pods"):
            status = pod.get("status") or {}
            for each in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
                reason = ((each.get("state") or {}).get("waiting") or {}).get("reason", "")
                if reason in {"ImagePullBackOff", "ErrImagePull", "InvalidImageName"}:
                    failing[each.get("image", "?")] = pod["metadata"]["name"]
        for image, pod in failing.items():
            remedy = "Push the image (make images), and correct `images:` of the overlay or its imagePullSecrets"
            yield Finding("image", MISSING, f"{image} cannot be pulled (pod {pod})", remedy)
        if not failing:
            yield Finding("images", OK, "no pod of the namespace waits for one")

    def gpus(self) -> Iterator[Finding]:
        nodes = self._api.items("api/v1/nodes")
        having = [node for node in nodes if int(node.get("status", {}).get("allocatable", {}).get(_GPU, 0)) > 0]
        if having:
            yield Finding("GPUs", OK, f"{len(having)} nodes have {_GPU}")
        else:
            text = f"no node has {_GPU}: fti-predictor-gpu and training on a GPU would wait for ever"
            yield Finding("GPUs", WARNING, text, "Add such nodes and their device plugin, if you need them")

    def stores(self) -> Iterator[Finding]:
        if "KUBERNETES_SERVICE_HOST" in os.environ:
            yield from reachable(os.environ)
            return
        for name in ("fti-redis", "fti-postgres", "fti-object-store"):
            found = self._api.get(f"apis/apps/v1/namespaces/{self._ns}/statefulsets/{name}")
            if found is None:
                yield Finding("store", UNKNOWN, f"{name} is not in this namespace: run this in a pod to reach yours")
            elif found.get("status", {}).get("readyReplicas", 0) < 1:
                yield Finding("store", MISSING, f"{name} is not ready", f"kubectl describe statefulset {name}")
            else:
                yield Finding("store", OK, f"{name} is ready")

    def _crd(self, name: str) -> dict[str, Any] | None:
        return self._api.get(f"apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}")

    def _runtimes(self) -> list[dict[str, Any]]:
        of = "apis/serving.kserve.io/v1alpha1"
        return self._api.items(f"{of}/namespaces/{self._ns}/servingruntimes")


def _gateway(found: Abilities, settings: str) -> Finding:
    """Whether KServe's Standard mode splits traffic."""
    if not found.gateway_api:
        text = "KServe makes no HTTPRoutes: a canary would get no traffic"
        return Finding("gateway", MISSING, text, f'Set "enableGatewayApi": true in `ingress` of {settings}')
    if not found.gateway:
        text = f"the Gateway that {settings} names does not exist"
        return Finding("gateway", MISSING, text, "kubectl apply -k manifests/cluster")
    return Finding("gateway", OK, f"HTTPRoutes on Gateway {found.gateway}")


def _traffic(found: Abilities) -> Finding:
    """What push makes of a cluster that is asked."""
    try:
        mode = choose(found)
    except ConfigError as error:
        return Finding("traffic", MISSING, error.got, error.remedy)
    return Finding("traffic", OK, f"new services are split by {_SPLIT_BY[mode]}, as the cluster says")
