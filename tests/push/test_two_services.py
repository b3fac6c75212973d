"""Where KServe splits nothing: two InferenceServices behind a route or a graph, and their difficult histories."""

import copy
import json
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fti.common.errors import BusyError, ConfigError, FtiError, ServingError
from fti.common.inference_service import read_service, service_names, wait_in_force, write_service
from fti.common.inference_service.cluster import ClusterServices
from fti.common.inference_service.fronts import Graph, Route, Split, split_of
from fti.common.inference_service.modes import Abilities
from fti.common.inference_service.stopping import gone
from fti.common.inference_service.twins import TwoInferenceServices
from fti.common.kubernetes_api import KubernetesApi
from fti.common.model_package import ModelPackage
from fti.push.lifecycle import delete, start, stop
from fti.push.traffic import promote, rollback
from tests.push.conftest import Cluster
from tests.push.fronts import GRAPHS, ROUTES
from tests.push.kserve import ISVC
from tests.push.test_push_to_cluster import NO_IMAGE, models, pushing, short

__all__ = ["models"]

splits = st.builds(
    lambda stable, trial, percent: (
        Split(stable, {"blue": "green", "green": "blue"}[stable] if trial else "", percent) if trial else Split(stable)
    ),
    st.sampled_from(["blue", "green"]),
    st.booleans(),
    st.integers(0, 100),
)


@given(splits, splits)
def test_what_is_written_of_a_split_reads_back(first: Split, second: Split) -> None:
    api = KubernetesApi(None, "flights")  # type: ignore[arg-type]  # nothing is asked
    abilities = Abilities("Standard", False, False, None, False, True, "kserve/gateway", True)
    for front in (Route(api, abilities), Graph(api)):
        base = front.render("late", first, None)
        assert split_of(front, "late", base, "here") == first
        assert split_of(front, "late", front.render("late", second, base), "here") == second
        assert sum(front.weights("late", base).values()) == 100


NEVER_READY: dict[str, object] = {"containerStatuses": []}


def killed(*_: object) -> None:
    raise KeyboardInterrupt


def halves(cluster: Cluster) -> list[str]:
    return sorted(name for resource, _, name in cluster.api.objects if resource == ISVC)


@pytest.mark.slow
def test_both_answer_as_the_service_and_show_no_address_of_their_own(two: Cluster, models: list[ModelPackage]) -> None:
    pushing(models[0], two.settings)
    found = two.api.objects[ISVC, "flights", "late-blue"]
    found["spec"]["predictor"] |= {"minReplicas": 3, "maxReplicas": 9}
    found["spec"]["predictor"]["model"]["resources"] = {"limits": {"cpu": "3"}}
    two.api.put(ISVC, "flights", found)
    pushing(models[1], two.settings, 20)
    for half in ("late-blue", "late-green"):
        manifest = two.api.objects[ISVC, "flights", half]
        predictor = manifest["spec"]["predictor"]
        assert manifest["metadata"]["labels"]["networking.kserve.io/visibility"] == "cluster-local"
        assert predictor["model"]["args"] == ["--name=late"]
        assert predictor["model"]["readinessProbe"]["httpGet"]["path"] == "/v2/models/late/ready"
        assert (predictor["serviceAccountName"], predictor["minReplicas"]) == ("fti-predictor", 3)
        assert predictor["model"]["resources"] == {"limits": {"cpu": "3"}}  # what the platform set is the canary's too
    assert service_names(two.settings) == ["late"]


@pytest.mark.slow
def test_a_route_is_for_kserves_host_and_reaches_a_variant_by_header(
    route: Cluster, models: list[ModelPackage]
) -> None:
    pushing(models[0], route.settings)
    pushing(models[1], route.settings, 20)
    spec = route.api.objects[ROUTES, "flights", "late"]["spec"]
    assert spec["hostnames"] == ["late-flights.example.org"]
    assert (spec["parentRefs"][0]["namespace"], spec["parentRefs"][0]["name"]) == ("kserve", "kserve-ingress-gateway")
    asked = {rule["matches"][0]["headers"][0]["value"]: rule["backendRefs"][0]["name"] for rule in spec["rules"][:-1]}
    assert asked == {"stable": "late-blue-predictor", "canary": "late-green-predictor"}
    assert {ref["name"]: ref["weight"] for ref in spec["rules"][-1]["backendRefs"]} == {
        "late-blue-predictor": 80,
        "late-green-predictor": 20,
    }


@pytest.mark.slow
def test_a_graph_asks_each_model_by_the_services_name(graph: Cluster, models: list[ModelPackage]) -> None:
    pushing(models[0], graph.settings)
    pushing(models[1], graph.settings, 20)
    root = graph.api.objects[GRAPHS, "flights", "late"]["spec"]["nodes"]["root"]
    assert root["routerType"] == "Splitter"
    assert {step["serviceUrl"]: step["weight"] for step in root["steps"]} == {
        "http://late-blue-predictor.flights.svc.cluster.local/v1/models/late:predict": 80,
        "http://late-green-predictor.flights.svc.cluster.local/v1/models/late:predict": 20,
    }


@pytest.mark.slow
def test_what_has_no_traffic_goes(two: Cluster, models: list[ModelPackage]) -> None:
    one, other, third = models
    pushing(one, two.settings)
    pushing(other, two.settings, 20)
    assert halves(two) == ["late-blue", "late-green"]
    promote("late", two.settings)
    assert halves(two) == ["late-green"]
    pushing(third, two.settings, 20)
    rollback("late", two.settings)
    assert halves(two) == ["late-green"]
    pushing(one, two.settings)  # with 100 percent: tried in the other colour first
    assert halves(two) == ["late-blue"]
    assert ClusterServices.of(two.settings).delete("late")
    assert halves(two) == [] and not any(key[0] in {ROUTES, GRAPHS} for key in two.api.objects)
    assert not ClusterServices.of(two.settings).delete("late")


@pytest.mark.slow
def test_a_canary_in_place_of_another_loses_its_traffic_first(two: Cluster, models: list[ModelPackage]) -> None:
    one, bad, good = models
    pushing(one, two.settings)
    pushing(bad, two.settings, 20)
    pushing(good, two.settings, 30)
    shared = {short(one): 80, short(bad): 20}
    assert two.kserve.history[-3:] == [shared, {short(one): 100}, {short(one): 70, short(good): 30}]
    two.kserve.broken = {short(bad): NO_IMAGE}
    with pytest.raises(ServingError, match="ImagePullBackOff"):
        pushing(bad, two.settings, 40)
    service = read_service("late", two.settings)
    assert service and (service.stable.digest, service.canary) == (one.digest, None)
    assert two.kserve.history[-1] == {short(one): 100} and halves(two) == ["late-blue"]


@pytest.mark.slow
def test_a_gateway_that_does_not_take_the_share_leaves_it_as_it_was(route: Cluster, models: list[ModelPackage]) -> None:
    pushing(models[0], route.settings)
    pushing(models[1], route.settings, 20)
    service = read_service("late", route.settings)
    assert service
    route.kserve.fronts.refused = "not allowed"
    with pytest.raises(ServingError, match="not in force.*NotAllowedByListeners: not allowed"):
        write_service(replace(service, canary_percent=50), replace(route.settings, serving_seconds=0.5))
    now = read_service("late", route.settings)
    assert now == service
    route.kserve.fronts.refused = ""
    promote("late", route.settings)
    assert route.kserve.history[-1] == {short(models[1]): 100}


@pytest.mark.slow
@pytest.mark.parametrize("promoting", [False, True])
def test_a_change_that_was_cut_off_is_ended_by_the_same_again(
    two: Cluster, models: list[ModelPackage], promoting: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushing(models[0], two.settings)
    if promoting:
        pushing(models[1], two.settings, 20)

    with monkeypatch.context() as patch:
        patch.setattr(TwoInferenceServices, "_tidy" if promoting else "_wait_model", killed)
        with pytest.raises(KeyboardInterrupt):
            pushing(models[1], two.settings, 100 if promoting else 20)
    assert halves(two) == ["late-blue", "late-green"]
    pushing(models[1], two.settings, 100 if promoting else 20)
    last = {short(models[1]): 100} if promoting else {short(models[0]): 80, short(models[1]): 20}
    assert two.kserve.history[-1] == last
    assert halves(two) == (["late-green"] if promoting else ["late-blue", "late-green"])


@pytest.mark.slow
@pytest.mark.parametrize("percent", [20, 100])
def test_a_push_that_was_cut_off_gives_nothing_to_what_is_not_up(
    two: Cluster, models: list[ModelPackage], percent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushing(models[0], two.settings)
    two.kserve.broken = {short(models[1]): NEVER_READY}
    with monkeypatch.context() as patch:
        patch.setattr(TwoInferenceServices, "_wait_model", killed)
        with pytest.raises(KeyboardInterrupt):
            pushing(models[1], two.settings, percent)
    with pytest.raises(ServingError, match="not in force.*kubectl describe inferenceservices/late-green"):
        pushing(models[1], replace(two.settings, serving_seconds=0.5), percent)
    assert two.kserve.history == [{short(models[0]): 100}] and halves(two) == ["late-blue"]


@pytest.mark.slow
def test_a_canary_whose_pods_have_died_is_not_promoted(two: Cluster, models: list[ModelPackage]) -> None:
    pushing(models[0], two.settings)
    pushing(models[1], two.settings, 20)
    two.kserve.broken = {short(models[1]): NEVER_READY}
    dead = two.api.objects["deployments.apps", "flights", "late-green-predictor"]
    counts = {"replicas": 1, "updatedReplicas": 1, "availableReplicas": 0}
    two.api.put("deployments.apps", "flights", {**dead, "status": counts})
    two.kserve.fronts.watching = False  # it had a share when it died
    with pytest.raises(ServingError, match="late-green-predictor has 0 of 1 pods ready"):
        promote("late", replace(two.settings, serving_seconds=0.5))
    assert halves(two) == ["late-blue", "late-green"]
    assert two.kserve.history[-1] == {short(models[0]): 80, short(models[1]): 20}


@pytest.mark.slow
def test_what_has_lost_its_traffic_goes_when_the_last_request_has_followed(
    two: Cluster, models: list[ModelPackage], monkeypatch: pytest.MonkeyPatch
) -> None:
    for front in (Route, Graph):
        monkeypatch.setattr(front, "drain", 0.3)
    pushing(models[0], two.settings)
    pushing(models[1], two.settings, 20)
    react, moved, gone = two.api.before, [0.0], [0.0]

    def noting(verb: str, resource: str, name: str) -> None:
        react(verb, resource, name)
        if verb == "delete":
            gone.append(time.monotonic())
        elif two.kserve.history[-1] == {short(models[1]): 100}:
            moved.append(time.monotonic())

    two.api.before = noting
    promote("late", two.settings)
    assert halves(two) == ["late-green"] and gone[1] - moved[1] >= 0.3


@pytest.mark.slow
def test_another_push_while_the_last_requests_follow(
    two: Cluster, models: list[ModelPackage], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other, third = models
    pushing(one, two.settings)
    pushing(other, two.settings, 20)
    tidy = TwoInferenceServices._tidy

    def late(self: TwoInferenceServices, name: str, split: Split, state: object) -> None:
        monkeypatch.setattr(TwoInferenceServices, "_tidy", tidy)
        pushing(third, two.settings, 30)
        tidy(self, name, split, state)  # type: ignore[arg-type]

    monkeypatch.setattr(TwoInferenceServices, "_tidy", late)
    promote("late", two.settings)
    service = read_service("late", two.settings)
    assert service and service.canary and service.canary.digest == third.digest
    assert two.kserve.history[-1] == {short(other): 70, short(third): 30}


@pytest.mark.slow
def test_only_what_was_seen_is_deleted(route: Cluster, models: list[ModelPackage]) -> None:
    pushing(models[0], route.settings)
    api, path = KubernetesApi.connect(), "apis/serving.kserve.io/v1beta1/namespaces/flights/inferenceservices/late-blue"
    react, changes = route.api.before, ["status", "spec"]

    def other(verb: str, resource: str, name: str) -> None:
        react(verb, resource, name)
        if verb == "delete" and changes:
            found = copy.deepcopy(route.api.objects[resource, "flights", name])
            found[changes.pop(0)].setdefault("predictor", {})["minReplicas"] = 4
            route.api.put(resource, "flights", found)

    route.api.before = other
    route.kserve.fronts.watching = False
    with pytest.raises(BusyError, match="somebody else changed late-blue"):
        gone(api, path, "late-blue", 5, seen=api.get(path))
    assert not changes and halves(route) == ["late-blue"]
    assert gone(api, path, "late-blue", 5, seen=api.get(path)) and halves(route) == []
    assert not gone(api, path, "late-blue", 5)


@pytest.mark.slow
def test_a_push_into_what_is_being_deleted_waits_for_that(
    two: Cluster, models: list[ModelPackage], monkeypatch: pytest.MonkeyPatch
) -> None:
    pushing(models[0], two.settings)
    pushing(models[1], two.settings, 20)
    two.api.lingers = 20
    with monkeypatch.context() as patch:
        patch.setattr("fti.common.inference_service.stopping.wait", killed)
        with pytest.raises(KeyboardInterrupt):
            promote("late", two.settings)
    pushing(models[2], two.settings, 20)
    assert two.kserve.history[-1] == {short(models[1]): 80, short(models[2]): 20}


@pytest.mark.slow
@pytest.mark.parametrize("trial", [False, True])
def test_a_service_whose_stable_model_was_deleted_by_hand(
    two: Cluster, models: list[ModelPackage], trial: bool
) -> None:
    pushing(models[0], two.settings)
    if trial:
        pushing(models[1], two.settings, 20)
    with pytest.raises(ServingError, match="late-blue is one of the two that are service late"):
        delete("late-blue", two.settings)
    two.kserve.fronts.watching = False
    for anew in (True, False):
        del two.api.objects[ISVC, "flights", "late-blue"]  # kubectl delete inferenceservice late-blue
        assert read_service("late", two.settings) is None
        with pytest.raises(FtiError):
            stop("late", two.settings)
        if anew:
            two.kserve.broken = {short(models[2]): NO_IMAGE}
            with pytest.raises(ServingError, match="ImagePullBackOff"):
                pushing(models[2], two.settings)
            two.kserve.broken = {}
            assert halves(two) == (["late-green"] if trial else [])  # as it was
            pushing(models[2], two.settings)
            assert two.kserve.history[-1] == {short(models[2]): 100} and halves(two) == ["late-blue"]
        else:
            assert delete("late", two.settings) and not delete("late", two.settings)
    assert halves(two) == [] and not any(key[0] in {ROUTES, GRAPHS} for key in two.api.objects)


@pytest.mark.slow
def test_what_is_pushed_anew_runs_though_the_rest_was_stopped(two: Cluster, models: list[ModelPackage]) -> None:
    pushing(models[0], two.settings)
    pushing(models[1], two.settings, 20)
    two.kserve.fronts.watching = False
    stop("late", two.settings)
    del two.api.objects[ISVC, "flights", "late-blue"]
    pushing(models[2], two.settings)
    service = read_service("late", two.settings)
    assert service and not service.stopped and two.kserve.history[-1] == {short(models[2]): 100}
    (front,) = (item for key, item in two.api.objects.items() if key[0] in {ROUTES, GRAPHS})
    assert "serving.kserve.io/stop" not in front["metadata"]["annotations"]


@pytest.mark.slow
def test_a_canary_that_was_deleted_by_hand(two: Cluster, models: list[ModelPackage]) -> None:
    pushing(models[0], two.settings)
    pushing(models[1], two.settings, 20)
    two.kserve.fronts.watching = False
    del two.api.objects[ISVC, "flights", "late-green"]
    pushing(models[0], two.settings)
    assert two.kserve.history[-1] == {short(models[0]): 100}


@pytest.mark.slow
@pytest.mark.parametrize("stopping", [True, False])
def test_a_stop_or_a_start_that_was_cut_off_is_ended_by_the_same_again(
    two: Cluster, models: list[ModelPackage], stopping: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushing(models[0], two.settings)
    pushing(models[1], two.settings, 20)
    two.kserve.fronts.watching = False
    if not stopping:
        stop("late", two.settings)
    write, written = TwoInferenceServices._write_model, list[object]()

    def once(self: TwoInferenceServices, *args: Any) -> Any:
        if written:
            raise KeyboardInterrupt
        written.append(args)
        return write(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(TwoInferenceServices, "_write_model", once)
        with pytest.raises(KeyboardInterrupt):
            (stop if stopping else start)("late", two.settings)
    with pytest.raises(ConfigError, match="is stopped.*fti start late"):
        pushing(models[2], two.settings, 10)
    if stopping:
        assert stop("late", two.settings) and not stop("late", two.settings)
    assert start("late", two.settings) and not start("late", two.settings)
    service = read_service("late", two.settings)
    assert service and service.canary and not service.stopped
    pushing(models[2], two.settings, 10)
    assert two.kserve.history[-1] == {short(models[0]): 90, short(models[2]): 10}


@pytest.mark.slow
def test_what_others_write_while_it_stops_is_kept(two: Cluster, models: list[ModelPackage]) -> None:
    pushing(models[0], two.settings)
    react, done = two.api.before, list[str]()

    def other(verb: str, resource: str, name: str) -> None:
        react(verb, resource, name)
        if verb == "patch" and resource == ISVC and not done:
            done.append(name)
            found = copy.deepcopy(two.api.objects[resource, "flights", name])
            found["metadata"]["annotations"]["team/owner"] = "me"
            two.api.put(resource, "flights", found)

    two.api.before = other
    two.kserve.fronts.watching = False
    stop("late", two.settings)
    annotations = two.api.objects[ISVC, "flights", "late-blue"]["metadata"]["annotations"]
    assert (annotations["team/owner"], annotations["serving.kserve.io/stop"]) == ("me", "true")


@pytest.mark.slow
def test_a_host_that_dns_forbids_is_refused_before_a_model_comes_up(route: Cluster, models: list[ModelPackage]) -> None:
    config = route.api.objects["configmaps", "kserve", "inferenceservice-config"]
    template = "{{ .Name }}-of-" + "a" * 60 + ".{{ .IngressDomain }}"
    config["data"]["ingress"] = json.dumps({"ingressDomain": "example.org", "domainTemplate": template})
    with pytest.raises(ConfigError, match="the host of late would be late-of-a.*68 characters.*at most 63"):
        pushing(models[0], route.settings)
    assert halves(route) == [] and not route.kserve.starts


@pytest.mark.slow
def test_a_first_push_that_was_cut_off(
    two: Cluster, models: list[ModelPackage], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(TwoInferenceServices, "_wait_model", killed)
        with pytest.raises(KeyboardInterrupt):
            pushing(models[0], two.settings)
    assert read_service("late", two.settings) is None
    for change in (stop, start):
        with pytest.raises(ConfigError, match="first push was cut off.*Push it again, or `fti delete late`"):
            change("late", two.settings)
    assert delete("late", two.settings) and not delete("late", two.settings) and halves(two) == []
    with monkeypatch.context() as patch:
        patch.setattr(TwoInferenceServices, "_wait_model", killed)
        with pytest.raises(KeyboardInterrupt):
            pushing(models[0], two.settings)
    pushing(models[1], two.settings)
    assert two.kserve.history == [{short(models[1]): 100}]


@pytest.mark.slow
@pytest.mark.parametrize("changed", ["the front", "late-green"])
def test_a_change_by_another_while_it_waits(two: Cluster, models: list[ModelPackage], changed: str) -> None:
    pushing(models[0], two.settings)
    react, looks = two.api.before, 0

    def other(verb: str, resource: str, name: str) -> None:
        nonlocal looks
        react(verb, resource, name)
        found = two.api.objects.get((resource, "flights", name))
        if verb != "get" or not found or (ISVC, "flights", "late-green") not in two.api.objects:
            return
        if name == "late-green" if changed == "late-green" else resource in {ROUTES, GRAPHS} and name == "late":
            looks += 1
            if looks == 2:
                found["metadata"]["annotations"]["fti/stable"] = "green"
                if resource == ISVC:
                    found["spec"]["predictor"]["minReplicas"] = 4
                two.api.put(resource, "flights", found)

    two.api.before = other
    with pytest.raises(BusyError, match="somebody else changed"):
        pushing(models[1], two.settings, 20)
    if changed == "late-green":  # whoever was second decides about it
        assert two.api.objects[ISVC, "flights", "late-green"]["spec"]["predictor"]["minReplicas"] == 4


@pytest.mark.slow
def test_a_push_that_comes_between_reading_and_writing(two: Cluster, models: list[ModelPackage]) -> None:
    pushing(models[0], two.settings)
    react = two.api.before

    def other(verb: str, resource: str, name: str) -> None:
        react(verb, resource, name)
        if verb == "patch" and resource in {ROUTES, GRAPHS}:
            found = two.api.objects[resource, "flights", name]
            found["metadata"]["annotations"]["fti/canary"] = "green"
            two.api.put(resource, "flights", found)

    two.api.before = other
    with pytest.raises(BusyError, match="somebody else"):
        pushing(models[1], two.settings, 20)
    fronts = [item["spec"] for key, item in two.api.objects.items() if key[0] in {ROUTES, GRAPHS}]
    assert "late-green" not in json.dumps(fronts)


@pytest.mark.slow
def test_status_that_moves_meanwhile_is_no_conflict(two: Cluster, models: list[ModelPackage]) -> None:
    pushing(models[0], two.settings)
    conflicts = 0
    react = two.api.before

    def busy(verb: str, resource: str, name: str) -> None:
        nonlocal conflicts
        react(verb, resource, name)
        if verb == "patch" and resource in {ROUTES, GRAPHS} and conflicts < 5:
            conflicts += 1
            found = two.api.objects[resource, "flights", name]
            two.api.put(resource, "flights", {**found, "status": {**found["status"]}})

    two.api.before = busy
    pushing(models[1], two.settings, 20)
    assert conflicts == 5


@pytest.mark.slow
def test_what_others_made_under_the_names_is_left_alone(two: Cluster, models: list[ModelPackage]) -> None:
    theirs = {"metadata": {"name": "late-blue", "annotations": {}}, "spec": {"predictor": {"model": {}}}}
    two.api.before = lambda *_: None
    two.api.put(ISVC, "flights", theirs)
    with pytest.raises(ServingError, match="late-blue was not made by a push"):
        pushing(models[0], two.settings)
    assert not ClusterServices.of(two.settings).delete("late")
    assert halves(two) == ["late-blue"]


@pytest.mark.slow
def test_a_split_that_no_push_wrote_is_refused(two: Cluster, models: list[ModelPackage]) -> None:
    pushing(models[0], two.settings)
    pushing(models[1], two.settings, 20)
    (key,) = (key for key in two.api.objects if key[0] in {ROUTES, GRAPHS})
    two.api.objects[key]["metadata"]["annotations"]["fti/canary"] = "red"
    with pytest.raises(ServingError, match="as push writes"):
        read_service("late", two.settings)


@pytest.mark.slow
def test_a_graph_cannot_ask_triton(graph: Cluster, models: list[ModelPackage]) -> None:
    pushing(models[0], graph.settings)
    service = read_service("late", graph.settings)
    assert service
    with pytest.raises(ConfigError, match="InferenceGraph asks with protocol V1"):
        write_service(replace(service, stable=replace(service.stable, runtime="triton")), graph.settings)


@pytest.mark.slow
def test_a_router_that_does_not_come_up(graph: Cluster, models: list[ModelPackage]) -> None:
    labels = {"serving.kserve.io/inferencegraph": "late"}
    graph.api.put("pods", "flights", {"metadata": {"name": "late-x", "labels": labels}, "status": NO_IMAGE})
    graph.kserve.late_routes = 10**6
    with pytest.raises(ServingError, match="pod late-x, container kserve-container: ImagePullBackOff"):
        pushing(models[0], graph.settings)
    assert halves(graph) == [] and (GRAPHS, "flights", "late") not in graph.api.objects


@pytest.mark.slow
def test_what_is_in_force_is_waited_for_again(two: Cluster, models: list[ModelPackage]) -> None:
    asked: list[str] = []
    pushing(models[0], two.settings)
    pushing(models[1], two.settings, 20)
    service = read_service("late", two.settings)
    assert service
    wait_in_force(service, two.settings, asked.append)
    assert asked == ["http://late-green-predictor.flights.svc.cluster.local"]
