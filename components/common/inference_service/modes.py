"""How a cluster can split a service's traffic, as the cluster itself says: read, never guessed.

A service that exists says its own mode (KServe asks its annotation before its own settings). For a new one KServe's
ConfigMap, the API's discovery and its published schemas are read; the last two are open to every account.
After KServe 0.21: `GetDeploymentMode`, `deploy` and `ingress` of the ConfigMap, `applyCanaryWeights`.
"""

import json
import logging
import re
from dataclasses import dataclass
from typing import Any

from fti.common.errors import ConfigError, ServingError
from fti.common.inference_service.service import API_VERSION
from fti.common.kubernetes_api import ForbiddenError, KubernetesApi

log = logging.getLogger(__name__)

STANDARD, KNATIVE = "standard", "knative"  # one InferenceService, split by KServe
ROUTE, GRAPH = "httproute", "inferencegraph"  # two InferenceServices behind a route or a graph of ours
CONFIG = "inferenceservice-config"
RIGHTS = "manifests/cluster/rights.yaml"
_SPLITS_SINCE = (0, 21)  # Standard mode: weights for spec.canary; 0.20 has the same schema and no weights
_KNATIVE_NAMES = {"Knative", "Serverless"}
_STANDARD_NAMES = {"Standard", "RawDeployment"}
_OWN_IMAGES = ("agent", "router", "storageInitializer", "logger", "batcher")  # tagged with KServe's version
_LONGEST_LABEL = 63  # of DNS
_TEMPLATE = "{{ .Name }}-{{ .Namespace }}.{{ .IngressDomain }}"


@dataclass(frozen=True)
class Abilities:
    """What matters of a cluster.

    Attributes:
        default_mode: KServe's own for services that say none: `Knative`, `Standard` or `ModelMesh`.
        knative: Whether Knative Services are known.
        canary_field: Whether InferenceServices have `spec.canary`.
        version: KServe's (major, minor) by the tags of its images, or None where they do not tell.
        gateway_api: Whether KServe makes HTTPRoutes.
        httproutes: Whether HTTPRoutes are known.
        gateway: The Gateway that KServe names, as `namespace/name`, where it exists; else empty.
        graphs: Whether InferenceGraphs are known.
        domain: Of the services' hosts.
        domain_template: How their hosts are made of it.
    """

    default_mode: str
    knative: bool
    canary_field: bool
    version: tuple[int, int] | None
    gateway_api: bool
    httproutes: bool
    gateway: str
    graphs: bool
    domain: str = "example.com"
    domain_template: str = _TEMPLATE


def choose(abilities: Abilities) -> str:
    """The mode for a new service: KServe's default one if it can split traffic, else another that can.

    Raises:
        ConfigError: No mode can, or it cannot be told whether KServe's Standard mode does.
    """
    if abilities.default_mode not in _KNATIVE_NAMES | _STANDARD_NAMES:
        raise ConfigError(
            f"KServe's default deployment mode is {abilities.default_mode}, which serves no model package",
            remedy="Set FTI_SERVING=standard or knative, whichever works here beside it",
        )
    order = [STANDARD, KNATIVE] if abilities.default_mode in _STANDARD_NAMES else [KNATIVE, STANDARD]
    for mode in order:
        if mode == KNATIVE and abilities.knative:
            return KNATIVE
        if mode == STANDARD and _standard_splits(abilities):
            return STANDARD
    if abilities.httproutes and abilities.gateway:
        return ROUTE
    if abilities.graphs:
        return GRAPH
    raise ConfigError(
        "this cluster can split a service's traffic in no way that this library knows",
        allowed="Knative; KServe 0.21 with enableGatewayApi; the Gateway API with a Gateway; InferenceGraphs",
        remedy="`fti doctor` says what is missing",
    )


def _standard_splits(abilities: Abilities) -> bool:
    if not (abilities.canary_field and abilities.gateway_api and abilities.httproutes and abilities.gateway):
        return False
    if abilities.version is None:
        raise ConfigError(
            "the images in KServe's ConfigMap do not tell its version, and 0.20 accepts spec.canary without heeding it",
            remedy="Set FTI_SERVING=standard if it is 0.21 or later",
        )
    return abilities.version >= _SPLITS_SINCE


def read_abilities(api: KubernetesApi, namespace: str) -> Abilities:
    """Reads what a cluster can do; changes nothing.

    Args:
        api: The API server.
        namespace: Where KServe runs.

    Raises:
        ConfigError: KServe's settings are not there, or no JSON.
        ServingError: A right is missing; names the manifest that grants it.
    """
    name = f"ConfigMap {namespace}/{CONFIG}"
    found = _readable(api, f"api/v1/namespaces/{namespace}/configmaps/{CONFIG}", name)
    if found is None:
        raise ConfigError(
            f"there is no {name}", remedy="Set FTI_KSERVE_NAMESPACE to where KServe runs, or install KServe"
        )
    try:
        text = found.get("data") or {}
        data: dict[str, Any] = {key: json.loads(text.get(key) or "{}") for key in ("deploy", "ingress", *_OWN_IMAGES)}
        deploy, ingress = data["deploy"], data["ingress"]
        gateway = str(ingress.get("kserveIngressGateway") or "kserve/kserve-ingress-gateway")
        images = [str(data[part].get("image", "")) for part in _OWN_IMAGES]
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"{name} holds what is no JSON: {error}", remedy="Mend it: KServe cannot read it") from None
    httproutes = "httproutes" in _resources(api, "gateway.networking.k8s.io/v1")
    return Abilities(
        default_mode=str(deploy.get("defaultDeploymentMode") or "Knative"),
        knative="services" in _resources(api, "serving.knative.dev/v1"),
        canary_field=_has_canary(api),
        version=_version(images),
        gateway_api=ingress.get("enableGatewayApi") is True,
        httproutes=httproutes,
        gateway=gateway if httproutes and _gateway_there(api, gateway) else "",
        graphs="inferencegraphs" in _resources(api, "serving.kserve.io/v1alpha1"),
        domain=str(ingress.get("ingressDomain") or "example.com"),
        domain_template=str(ingress.get("domainTemplate") or _TEMPLATE),
    )


def host_of(name: str, namespace: str, abilities: Abilities) -> str:
    """The host of a service, as KServe's template makes it.

    Raises:
        ConfigError: The template asks for more than a name, a namespace and a domain; or no host may be called so.
    """
    values = {"Name": name, "Namespace": namespace, "IngressDomain": abilities.domain}
    host = re.sub(r"\{\{\s*\.(\w+)\s*\}\}", lambda match: values.get(match[1], match[0]), abilities.domain_template)
    if "{" in host:
        raise ConfigError(
            f"KServe's domainTemplate is {abilities.domain_template!r}",
            allowed="{{ .Name }}, {{ .Namespace }} and {{ .IngressDomain }} in it",
        )
    longest = max(host.split("."), key=len)
    if len(longest) > _LONGEST_LABEL:
        raise ConfigError(
            f"the host of {name} would be {host}, with {len(longest)} characters between two dots",
            allowed=f"at most {_LONGEST_LABEL}",
            remedy="Choose a shorter name, or another domainTemplate of KServe",
        )
    return host


def _has_canary(api: KubernetesApi) -> bool:
    document = api.get(f"openapi/v3/apis/{API_VERSION}")
    for schema in ((document or {}).get("components") or {}).get("schemas", {}).values():
        kinds = {kind.get("kind") for kind in schema.get("x-kubernetes-group-version-kind") or []}
        if "InferenceService" in kinds:
            return "canary" in schema.get("properties", {}).get("spec", {}).get("properties", {})
    raise ServingError("the cluster does not know InferenceServices", remedy="Install KServe 0.21 or later")


def _resources(api: KubernetesApi, group_version: str) -> set[str]:
    found: dict[str, Any] = api.get(f"apis/{group_version}") or {}
    return {resource["name"] for resource in found.get("resources") or []}


def _gateway_there(api: KubernetesApi, gateway: str) -> bool:
    namespace, _, name = gateway.partition("/")
    path = f"apis/gateway.networking.k8s.io/v1/namespaces/{namespace}/gateways/{name}"
    return _readable(api, path, f"Gateway {gateway}") is not None


def _readable(api: KubernetesApi, path: str, what: str) -> dict[str, Any] | None:
    try:
        return api.get(path)
    except ForbiddenError as error:
        raise ForbiddenError(
            f"{what} says how traffic can be split here, and may not be read: {error.got}",
            remedy=f"Have {RIGHTS} applied, or set FTI_SERVING to standard or knative, whichever it is",
        ) from None


def _version(images: list[str]) -> tuple[int, int] | None:
    found = (re.search(r":v?(\d+)\.(\d+)\b[^/]*$", image) for image in images)
    return next(((int(match[1]), int(match[2])) for match in found if match), None)
