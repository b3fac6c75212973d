"""How a cluster splits traffic is read from the cluster, and what cannot be read is named."""

from dataclasses import replace
from typing import Any

import pytest

from fti.common.errors import ConfigError, FtiError, ServingError
from fti.common.inference_service import read_service
from fti.common.inference_service.modes import GRAPH, KNATIVE, ROUTE, STANDARD, Abilities, choose, host_of
from fti.common.model_package import ModelPackage
from fti.common.settings import Settings
from tests.push.conftest import Cluster, say
from tests.push.kserve import ISVC
from tests.push.test_push_to_cluster import models, pushing, short

__all__ = ["models"]

ALL = Abilities("Standard", True, True, (0, 21), True, True, "kserve/gateway", True)
MODE = "serving.kserve.io/deploymentMode"
GATEWAYS, ROUTES = "gateways.gateway.networking.k8s.io", "httproutes.gateway.networking.k8s.io"
KSERVICES, GRAPHS = "services.serving.knative.dev", "inferencegraphs.serving.kserve.io"


@pytest.mark.parametrize(
    ("change", "mode"),
    [
        ({}, STANDARD),
        ({"default_mode": "RawDeployment"}, STANDARD),
        ({"default_mode": "Knative"}, KNATIVE),
        ({"default_mode": "Serverless"}, KNATIVE),
        ({"default_mode": "Serverless", "knative": False}, STANDARD),
        ({"default_mode": "Serverless", "version": None}, KNATIVE),  # it matters to the other mode alone
        ({"gateway_api": False}, KNATIVE),
        ({"canary_field": False}, KNATIVE),
        ({"version": (0, 20)}, KNATIVE),  # it takes spec.canary, and gives it no weight
        ({"version": (1, 0)}, STANDARD),
        ({"gateway_api": False, "knative": False}, ROUTE),
        ({"canary_field": False, "knative": False}, ROUTE),
        ({"version": (0, 20), "knative": False}, ROUTE),
        ({"gateway": "", "knative": False}, GRAPH),
        ({"httproutes": False, "knative": False}, GRAPH),
        ({"default_mode": "Knative", "knative": False, "gateway_api": False, "httproutes": False}, GRAPH),
    ],
)
def test_the_default_mode_if_it_can_else_another_that_can(change: dict[str, Any], mode: str) -> None:
    assert choose(replace(ALL, **change)) == mode


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": None}, "do not tell its version.*FTI_SERVING=standard"),
        ({"default_mode": "ModelMesh"}, "ModelMesh"),
        ({"knative": False, "gateway_api": False, "httproutes": False, "graphs": False}, "can split .* in no way"),
    ],
)
def test_what_cannot_be_told_is_not_guessed(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        choose(replace(ALL, **change))


def test_the_host_is_that_which_kserve_would_give() -> None:
    assert host_of("late", "flights", ALL) == "late-flights.example.com"
    other = replace(ALL, domain="svc.org", domain_template="{{.Name}}.{{ .Namespace }}.{{.IngressDomain}}")
    assert host_of("late", "flights", other) == "late.flights.svc.org"
    assert host_of("a" * 40, "n" * 22, ALL).startswith("a")
    with pytest.raises(ConfigError, match="64 characters between two dots"):
        host_of("a" * 40, "n" * 23, ALL)
    with pytest.raises(ConfigError, match="domainTemplate"):
        host_of("late", "flights", replace(ALL, domain_template="{{ .Labels.team }}.{{ .IngressDomain }}"))


def asking(cluster: Cluster) -> Settings:
    return replace(cluster.settings, serving="cluster")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["standard", "knative", "route", "graph"])
def test_a_first_push_follows_the_cluster_and_later_ones_the_service(
    models: list[ModelPackage], mode: str, request: pytest.FixtureRequest
) -> None:
    cluster: Cluster = request.getfixturevalue(mode)
    pushing(models[0], asking(cluster))
    said = {item["metadata"]["annotations"][MODE] for key, item in cluster.api.objects.items() if key[0] == ISVC}
    assert said == {"Knative" if mode == "knative" else "Standard"}
    other = "knative" if mode == "standard" else "standard"
    say(cluster.api, other)  # the platform changes its mind: what exists stays what it is
    cluster.api.absent |= {KSERVICES}
    cluster.api.requests.clear()
    pushing(models[1], asking(cluster), 20)
    assert cluster.kserve.history[-1] == {short(models[0]): 80, short(models[1]): 20}
    assert ("get", GATEWAYS) not in cluster.api.requests  # nor is it asked again


@pytest.mark.slow
@pytest.mark.parametrize("resource", ["configmaps", GATEWAYS])
def test_what_may_not_be_read_is_named_with_the_manifest_that_grants_it(
    standard: Cluster, models: list[ModelPackage], resource: str
) -> None:
    standard.api.forbidden = {("get", resource)}
    with pytest.raises(ServingError, match=f"right to get {resource} is missing.*manifests/cluster/rights.yaml"):
        pushing(models[0], asking(standard))
    assert not any(key[0] == ISVC for key in standard.api.objects)
    pushing(models[0], standard.settings)  # whoever says the mode needs no such right


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "no ConfigMap kserve/inferenceservice-config.*FTI_KSERVE_NAMESPACE"),
        ({"deploy": "{"}, "no JSON"),
        ({"ingress": "[]"}, "no JSON"),
        ({"deploy": '{"defaultDeploymentMode": "ModelMesh"}'}, "ModelMesh"),
    ],
)
def test_settings_of_kserve_that_cannot_be_read(
    standard: Cluster, models: list[ModelPackage], data: dict[str, str] | None, message: str
) -> None:
    key = ("configmaps", "kserve", "inferenceservice-config")
    if data is None:
        del standard.api.objects[key]
    else:
        standard.api.objects[key]["data"] |= data
    with pytest.raises(FtiError, match=message):
        pushing(models[0], asking(standard))


@pytest.mark.slow
def test_a_kserve_before_weights_and_one_that_does_not_say(standard: Cluster, models: list[ModelPackage]) -> None:
    say(standard.api, "standard", version="latest")
    with pytest.raises(ConfigError, match="do not tell its version"):
        pushing(models[0], asking(standard))
    say(standard.api, "standard", version="v0.20.1")
    pushing(models[0], asking(standard))
    service = read_service("late", asking(standard))
    assert service and (ISVC, "flights", "late-blue") in standard.api.objects
