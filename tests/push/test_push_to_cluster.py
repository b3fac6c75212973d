"""Push, promote and rollback on a cluster: who gets what traffic, in KServe's two modes and their difficult histories.

Against a real cluster: KUBECONFIG=… FTI_TEST_NAMESPACE=… FTI_TEST_MODE=standard FTI_MODELS_URI=s3://… pytest -k any.
"""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fti.common.errors import BusyError, ConfigError, FtiError, ServingError
from fti.common.inference_service import read_service, service_names, stable_package_uri, write_service
from fti.common.inference_service.cluster import ClusterServices
from fti.common.inference_service.single import OneInferenceService
from fti.common.model_package import ModelPackage
from fti.common.settings import Settings
from fti.push.logic import push
from fti.push.traffic import promote, rollback
from tests.push.api_server import TOKEN, unknown_field, write_kubeconfig
from tests.push.conftest import Cluster
from tests.push.kserve import ISVC
from tests.serve import tiny

pytestmark = pytest.mark.slow

NO_IMAGE = {
    "containerStatuses": [
        {"name": "kserve-container", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}}
    ]
}


@pytest.fixture
def models(tmp_path: Path) -> list[ModelPackage]:
    return [tiny.write_binary(tmp_path / f"m{number}", bias=number / 10) for number in range(3)]


def pushing(package: ModelPackage, settings: Settings, percent: int = 100) -> dict[str, Any]:
    blessing = tiny.blessing(package.path.with_suffix(".json"), package)
    return push(package.path, blessing, service="late", settings=settings, canary_percent=percent)


def short(package: ModelPackage) -> str:
    return package.digest[:12]


def test_a_models_way_on_any_cluster(any_cluster: Settings, models: list[ModelPackage]) -> None:
    one, two, three = models
    ClusterServices.of(any_cluster).delete("late")
    assert read_service("late", any_cluster) is None
    assert stable_package_uri("late", any_cluster) is None
    pushed = pushing(one, any_cluster, 20)
    assert (pushed["variant"], pushed["percent"]) == ("stable", 100)
    assert pushed["manifest"].split(" ")[0] in {"InferenceService", "HTTPRoute", "InferenceGraph"}
    assert pushing(two, any_cluster, 20)["variant"] == "canary"
    assert service_names(any_cluster) == ["late"]
    service = read_service("late", any_cluster)
    assert service and service.canary
    assert (service.stable.digest, service.canary.digest, service.canary_percent) == (one.digest, two.digest, 20)
    write_service(replace(service, canary_percent=50), any_cluster)
    assert promote("late", any_cluster) and not promote("late", any_cluster)
    service = read_service("late", any_cluster)
    assert service and (service.stable.digest, service.canary) == (two.digest, None)
    assert stable_package_uri("late", any_cluster) == service.stable.storage_uri
    pushing(three, any_cluster, 10)
    assert rollback("late", any_cluster) and not rollback("late", any_cluster)
    service = read_service("late", any_cluster)
    assert service and (service.stable.digest, service.canary) == (two.digest, None)
    pushing(one, any_cluster, 100)
    service = read_service("late", any_cluster)
    assert service and (service.stable.digest, service.canary) == (one.digest, None)
    assert ClusterServices.of(any_cluster).delete("late")
    assert service_names(any_cluster) == []


def test_nobody_gets_more_than_was_asked_for_meanwhile(cluster: Cluster, models: list[ModelPackage]) -> None:
    one, two, three = models
    pushing(one, cluster.settings)
    pushing(two, cluster.settings, 20)
    rollback("late", cluster.settings)  # two is bad: it must never again get anything
    cluster.kserve.history.clear()
    pushing(three, cluster.settings, 30)
    promote("late", cluster.settings)
    pushing(one, cluster.settings, 100)
    assert all(short(two) not in shares for shares in cluster.kserve.history)
    shares = [shares.get(short(three), 0) for shares in cluster.kserve.history]
    assert sorted(shares[: shares.index(100)]) == shares[: shares.index(100)]
    assert cluster.kserve.history[-1] == {short(one): 100}


def test_a_canary_becomes_stable_without_a_new_pod(cluster: Cluster, models: list[ModelPackage]) -> None:
    one, two, _ = models
    pushing(one, cluster.settings)
    pushing(two, cluster.settings, 20)
    starts = list(cluster.kserve.starts)
    promote("late", cluster.settings)
    assert cluster.kserve.starts == starts
    rolled = read_service("late", cluster.settings)
    assert rolled and rolled.stable.digest == two.digest


def test_ready_says_nothing_where_weights_come_late(cluster: Cluster, models: list[ModelPackage]) -> None:
    one, two, _ = models
    pushing(one, cluster.settings)
    cluster.kserve.late_routes = 6
    pushing(two, cluster.settings, 20)
    assert cluster.kserve.history[-1] == {short(one): 80, short(two): 20}


def test_the_same_push_again_writes_nothing(cluster: Cluster, models: list[ModelPackage]) -> None:
    pushing(models[0], cluster.settings)
    first = pushing(models[1], cluster.settings, 20)
    cluster.api.requests.clear()
    assert pushing(models[1], cluster.settings, 20) == first
    assert not {verb for verb, _ in cluster.api.requests} & {"patch", "create"}


def test_the_same_push_again_waits_for_what_an_interrupted_one_began(
    single: Cluster, models: list[ModelPackage], monkeypatch: pytest.MonkeyPatch
) -> None:
    pushing(models[0], single.settings)
    single.kserve.late_routes = 10**6
    hasty = replace(single.settings, serving_seconds=0.3)
    services = ClusterServices.of(hasty)
    monkeypatch.setattr(OneInferenceService, "_restore", lambda *_: None)  # killed while it waits
    service = read_service("late", hasty)
    assert service
    canary = replace(service.stable, digest="b" * 64)
    with pytest.raises(ServingError, match="not in force"):
        services.write(replace(service, canary=canary, canary_percent=20))
    now = read_service("late", hasty)
    assert now and now.canary == canary
    with pytest.raises(ServingError, match="not in force"):
        services.wait(now)
    single.kserve.late_routes = 0
    ClusterServices.of(single.settings).wait(now)


@pytest.mark.parametrize("percent", [20, 100])
@pytest.mark.parametrize(
    ("pod", "words"),
    [
        (NO_IMAGE, "ImagePullBackOff: not found"),
        ({"initContainerStatuses": [{"name": "storage-initializer", "restartCount": 3, "state": {"waiting": {
            "reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"exitCode": 1, "message": "no bucket"}}}]},
         "exit code 1: no bucket"),
        ({"containerStatuses": [{"name": "kserve-container", "state": {}, "lastState": {"terminated": {
            "reason": "OOMKilled", "exitCode": 137}}}]}, "out of memory"),
        ({"containerStatuses": [{"name": "kserve-container", "state": {"waiting": {
            "reason": "CreateContainerConfigError", "message": 'secret "fti-feature-store" not found'}}}]},
         'secret "fti-feature-store" not found'),
        ({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                          "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."}]}, "nvidia.com/gpu"),
    ],
)  # fmt: skip
def test_a_model_that_does_not_come_up(
    cluster: Cluster, models: list[ModelPackage], percent: int, pod: dict[str, Any], words: str
) -> None:
    one, two, _ = models
    settings = replace(cluster.settings, serving_seconds=2)
    pushing(one, settings)
    before = cluster.kserve.history[-1]
    cluster.kserve.broken = {short(two): pod}
    with pytest.raises(ServingError, match=words):
        pushing(two, settings, percent)
    service = read_service("late", settings)
    assert service and (service.stable.digest, service.canary) == (one.digest, None)
    assert cluster.kserve.history[-1] == before
    pushing(models[2], settings, 30)  # and life goes on
    assert cluster.kserve.history[-1] == {short(one): 70, short(models[2]): 30}


@pytest.mark.parametrize("percent", [20, 100])
@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({"conditions_of_deployment": [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate",
            "message": 'pods "late-x" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, used: '
            "requests.nvidia.com/gpu=4, limited: requests.nvidia.com/gpu=4"}]}, "gets no pod: pods .*: exceeded quota"),
        ({"failure": {"reason": "NoSupportingRuntime", "message": "No runtime found to support specified model"}},
         "NoSupportingRuntime: No runtime found.*serving-runtimes.yaml"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["standard", "route"])
def test_a_model_of_which_no_pod_comes_to_be(
    models: list[ModelPackage], broken: dict[str, Any], words: str, percent: int, mode: str,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    cluster: Cluster = request.getfixturevalue(mode)
    if "conditions_of_deployment" in broken and getattr(cluster.api, "managed", False):
        pytest.skip("Kubernetes' own controller says here what Deployments lack")
    settings = replace(cluster.settings, serving_seconds=2)
    pushing(models[0], settings)
    cluster.kserve.broken = {short(models[1]): broken}
    with pytest.raises(ServingError, match=words):
        pushing(models[1], settings, percent)
    service = read_service("late", settings)
    assert service and (service.stable.digest, service.canary) == (models[0].digest, None)
    assert cluster.kserve.history[-1] == {short(models[0]): 100}


def test_status_that_moves_meanwhile_is_no_conflict(single: Cluster, models: list[ModelPackage]) -> None:
    pushing(models[0], single.settings)
    conflicts = 0
    react = single.api.before

    def busy(verb: str, resource: str, name: str) -> None:
        nonlocal conflicts
        react(verb, resource, name)
        if verb == "patch" and resource == ISVC and conflicts < 5:
            conflicts += 1
            found = single.api.objects[ISVC, "flights", name]
            single.api.put(ISVC, "flights", {**found, "status": {**found["status"], "url": f"http://{conflicts}"}})

    single.api.before = busy
    pushing(models[1], single.settings, 20)
    assert conflicts == 5


def test_of_two_pushes_at_once_one_says_so(cluster: Cluster, models: list[ModelPackage]) -> None:
    pushing(models[0], cluster.settings)
    mine = read_service("late", cluster.settings)
    assert mine
    pushing(models[1], cluster.settings, 20)
    with pytest.raises(BusyError, match=r"somebody else changed \w+ flights/late"):
        write_service(replace(mine, canary=replace(mine.stable, digest="c" * 64), canary_percent=5), cluster.settings)
    service = read_service("late", cluster.settings)
    assert service and service.canary and service.canary.digest == models[1].digest


def test_a_push_that_comes_between_reading_and_writing(single: Cluster, models: list[ModelPackage]) -> None:
    pushing(models[0], single.settings)
    react = single.api.before

    def other(verb: str, resource: str, name: str) -> None:
        react(verb, resource, name)
        if verb == "patch" and resource == ISVC:
            found = single.api.objects[ISVC, "flights", name]
            found["spec"]["predictor"]["minReplicas"] = 4
            single.api.put(ISVC, "flights", found)

    single.api.before = other
    with pytest.raises(BusyError, match="somebody else"):
        pushing(models[1], single.settings, 20)
    assert short(models[1]) not in str(single.api.objects[ISVC, "flights", "late"]["spec"])


def test_a_change_by_another_while_it_waits(single: Cluster, models: list[ModelPackage]) -> None:
    pushing(models[0], single.settings)
    single.kserve.late_routes = 10**6
    react, looks = single.api.before, 0

    def other(verb: str, resource: str, name: str) -> None:
        nonlocal looks
        react(verb, resource, name)
        found = single.api.objects.get((ISVC, "flights", name))
        if verb == "get" and resource == ISVC and found and short(models[1]) in str(found["spec"]):
            looks += 1
            if looks == 3:
                found["spec"]["predictor"]["minReplicas"] = 4
                single.api.put(ISVC, "flights", found)

    single.api.before = other
    with pytest.raises(BusyError, match="somebody else"):
        pushing(models[1], single.settings, 20)
    assert single.api.objects[ISVC, "flights", "late"]["spec"]["predictor"]["minReplicas"] == 4


def test_an_api_server_that_restarts(cluster: Cluster, models: list[ModelPackage]) -> None:
    pushing(models[0], cluster.settings)
    react = cluster.api.before

    def restart(verb: str, resource: str, name: str) -> None:
        react(verb, resource, name)
        if verb == "patch":
            cluster.api.faults += [0, 503, 0, 429, 500]

    cluster.api.before = restart
    pushing(models[1], cluster.settings, 20)
    assert cluster.kserve.history[-1] == {short(models[0]): 80, short(models[1]): 20}


@pytest.mark.parametrize("verb", ["get", "create"])
def test_a_missing_right_is_named(cluster: Cluster, models: list[ModelPackage], verb: str) -> None:
    cluster.api.forbidden = {(verb, ISVC)}
    with pytest.raises(ServingError, match=f"the right to {verb} {ISVC} is missing.*manifests/base/rights.yaml"):
        pushing(models[0], cluster.settings)


def test_a_cluster_without_kserve(cluster: Cluster, models: list[ModelPackage]) -> None:
    cluster.api.absent = {ISVC}
    with pytest.raises(FtiError, match=f"does not know {ISVC}.*Install"):
        pushing(models[0], cluster.settings)


def test_a_namespace_that_is_not_there(cluster: Cluster, models: list[ModelPackage]) -> None:
    settings = replace(cluster.settings, namespace="elsewhere")
    with pytest.raises(FtiError, match="namespace 'elsewhere' does not exist.*manifests"):
        pushing(models[0], settings)


def test_credentials_that_are_refused_are_not_shown(
    cluster: Cluster, models: list[ModelPackage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.DEBUG)
    path = write_kubeconfig(tmp_path / "other", cluster.api, token="wrong-" + TOKEN)
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(ConfigError, match="does not accept the credentials") as caught:
        pushing(models[0], cluster.settings)
    assert TOKEN not in str(caught.value) + caplog.text


@pytest.mark.parametrize("text", ["", "a: [", "kind: Config", "users: [{user: {token: hunter2}}]"])
def test_a_kubeconfig_that_is_none(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    path = tmp_path / "broken"
    path.write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(ConfigError, match="no way to a Kubernetes cluster") as caught:
        read_service("late", cluster.settings)
    assert "hunter2" not in str(caught.value)


def test_a_service_that_others_made_is_left_alone(cluster: Cluster, models: list[ModelPackage]) -> None:
    theirs = {"metadata": {"name": "late", "annotations": {}}, "spec": {"predictor": {"model": {}}}}
    cluster.api.put(ISVC, "flights", theirs)
    cluster.api.before = lambda *_: None
    assert service_names(cluster.settings) == []
    with pytest.raises(ServingError, match="was not made by a push"):
        pushing(models[0], cluster.settings)


def test_the_other_mode_is_refused(single: Cluster, models: list[ModelPackage]) -> None:
    pushing(models[0], single.settings)
    other = "knative" if single.settings.serving == "standard" else "standard"
    with pytest.raises(ServingError, match="deployment mode"):
        pushing(models[1], replace(single.settings, serving=other))


def test_a_shadow_cannot_be(cluster: Cluster, models: list[ModelPackage]) -> None:
    pushing(models[0], cluster.settings)
    pushing(models[1], cluster.settings, 20)
    service = read_service("late", cluster.settings)
    assert service
    with pytest.raises(ConfigError, match="copies of the requests"):
        write_service(replace(service, canary_percent=0, shadow=True), cluster.settings)


def test_a_canary_at_nothing_runs_and_can_be_promoted(cluster: Cluster, models: list[ModelPackage]) -> None:
    pushing(models[0], cluster.settings)
    assert pushing(models[1], cluster.settings, 0)["variant"] == "canary"
    assert cluster.kserve.history[-1] == {short(models[0]): 100}
    assert promote("late", cluster.settings)
    assert cluster.kserve.history[-1] == {short(models[1]): 100}


def test_what_the_platform_set_is_kept(standard: Cluster, models: list[ModelPackage]) -> None:
    pushing(models[0], standard.settings)
    found = standard.api.objects[ISVC, "flights", "late"]
    assert found["spec"]["predictor"]["serviceAccountName"] == "fti-predictor"
    found["spec"]["predictor"] |= {"minReplicas": 3, "maxReplicas": 9, "scaleMetric": "cpu", "scaleTarget": 60}
    standard.api.put(ISVC, "flights", found)
    pushing(models[1], standard.settings, 20)  # the webhook refuses a canary with any of these
    promote("late", standard.settings)
    pushing(models[2], standard.settings, 20)  # its name must not be that of the stable one now
    predictor = standard.api.objects[ISVC, "flights", "late"]["spec"]["predictor"]
    assert (predictor["minReplicas"], predictor["maxReplicas"]) == (3, 9)


def test_a_stable_model_scaled_to_zero_has_no_canary(standard: Cluster, models: list[ModelPackage]) -> None:
    pushing(models[0], standard.settings)
    found = standard.api.objects[ISVC, "flights", "late"]
    found["spec"]["predictor"]["minReplicas"] = 0
    standard.api.put(ISVC, "flights", found)
    with pytest.raises(ConfigError, match="minReplicas is 0"):
        pushing(models[1], standard.settings, 20)


def test_without_the_gateway_api_standard_mode_splits_nothing(standard: Cluster, models: list[ModelPackage]) -> None:
    standard.kserve.gateway_api = False
    pushing(models[0], standard.settings)
    with pytest.raises(ServingError, match="enableGatewayApi: true"):
        pushing(models[1], replace(standard.settings, serving_seconds=1), 20)


def test_an_older_kserve_that_knows_no_canary(standard: Cluster, models: list[ModelPackage]) -> None:
    pushing(models[0], standard.settings)

    def old(_: str, body: dict[str, Any]) -> None:
        if "canary" in body["spec"]:
            raise unknown_field(body, "spec.canary")

    standard.api.admit = old
    with pytest.raises(ServingError, match=r"spec\.canary.*KServe 0\.21"):
        pushing(models[1], standard.settings, 20)


def test_knative_a_first_model_that_never_was_ready(knative: Cluster, models: list[ModelPackage]) -> None:
    knative.kserve.broken = {short(models[0]): NO_IMAGE}
    with pytest.raises(ServingError, match="ImagePullBackOff"):
        pushing(models[0], knative.settings)
    assert not knative.api.objects.keys() & {(ISVC, "flights", "late")}  # taken away: it is no stable model of others
    pushing(models[1], knative.settings, 20)
    assert knative.kserve.history == [{short(models[1]): 100}]


def test_knative_a_split_that_no_push_made_is_left_alone(knative: Cluster, models: list[ModelPackage]) -> None:
    pushing(models[0], knative.settings)
    found = knative.api.objects[ISVC, "flights", "late"]
    found["spec"]["predictor"]["canaryTrafficPercent"] = 10
    knative.api.put(ISVC, "flights", found)
    with pytest.raises(ServingError, match="that no push wrote"):
        pushing(models[1], knative.settings, 20)


def test_knative_the_stable_model_cannot_change_beside_a_canary(knative: Cluster, models: list[ModelPackage]) -> None:
    pushing(models[0], knative.settings)
    pushing(models[1], knative.settings, 20)
    service = read_service("late", knative.settings)
    assert service
    with pytest.raises(ConfigError, match="cannot get another address"):
        write_service(replace(service, stable=replace(service.stable, feature_repo="x://y")), knative.settings)
