"""What changes leave that were refused, beaten, killed or never answered: no traffic goes where none was asked for."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from fti.common.errors import BusyError, ServingError
from fti.common.inference_service import Service, read_service, write_service
from fti.common.inference_service.single import OneInferenceService
from fti.common.model_package import ModelPackage
from fti.push.lifecycle import delete, stop
from fti.push.traffic import promote, rollback
from tests.push.api_server import ApiError
from tests.push.conftest import Cluster
from tests.push.kserve import ISVC
from tests.push.test_push_to_cluster import NO_IMAGE, models, pushing, short

__all__ = ["models"]
pytestmark = pytest.mark.slow

STARTING: dict[str, Any] = {"containerStatuses": []}
OUT_OF_MEMORY = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}


def killed(*_: object) -> None:
    raise KeyboardInterrupt


def serving(cluster: Cluster) -> Service:
    service = read_service("late", cluster.settings)
    assert service
    return service


def on_first_patch(cluster: Cluster, change: Callable[[dict[str, Any]], object]) -> list[str]:
    """Somebody else changes an InferenceService just before it is patched for the first time; returns its name then."""
    react, done = cluster.api.before, list[str]()

    def other(verb: str, resource: str, name: str) -> None:
        react(verb, resource, name)
        if verb == "patch" and resource == ISVC and not done:
            done.append(name)
            found = cluster.api.objects[ISVC, "flights", name]
            change(found)
            cluster.api.put(ISVC, "flights", found)

    cluster.api.before = other
    return done


@pytest.mark.parametrize("percent", [20, 100])
def test_what_a_killed_push_made_gets_nothing_before_it_is_ready(
    single: Cluster, models: list[ModelPackage], percent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three = models
    settings = replace(single.settings, serving_seconds=1)
    pushing(one, settings)
    pushing(two, settings, 20)
    rollback("late", settings)  # two is bad: it must never again get anything
    single.kserve.history.clear()
    single.kserve.broken = {short(three): STARTING}
    with monkeypatch.context() as patch:
        patch.setattr(OneInferenceService, "_wait", killed)
        with pytest.raises(KeyboardInterrupt):
            pushing(three, settings, percent)
    for _ in range(2):
        with pytest.raises(ServingError, match="not in force"):
            pushing(three, settings, percent)
    assert all(shares == {short(one): 100} for shares in single.kserve.history)
    single.kserve.broken = {}
    pushing(three, single.settings, percent)
    expected = {short(one): 100 - percent, short(three): percent}
    assert single.kserve.history[-1] == {model: share for model, share in expected.items() if share}


@pytest.mark.parametrize("percent", [20, 100])
def test_what_a_killed_push_made_is_tried_before_it_gets_anything(
    single: Cluster, models: list[ModelPackage], percent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*_: object) -> None:
        assert single.kserve.history == [{short(models[0]): 100}]
        raise ServingError("answers wrongly")

    pushing(models[0], single.settings)
    with monkeypatch.context() as patch:
        patch.setattr(OneInferenceService, "_wait", killed)
        with pytest.raises(KeyboardInterrupt):
            pushing(models[1], single.settings, 20)
    monkeypatch.setattr("fti.push.logic._probe", lambda *_: wrong)
    with pytest.raises(ServingError, match="answers wrongly"):
        pushing(models[1], single.settings, percent)
    assert single.kserve.history == [{short(models[0]): 100}]


@pytest.mark.parametrize("percent", [20, 100])
def test_knative_a_model_that_never_came_up_can_be_pushed_again(
    knative: Cluster, models: list[ModelPackage], percent: int
) -> None:
    one, two, three = models
    pushing(one, knative.settings)
    pushing(two, knative.settings, 20)
    rollback("late", knative.settings)
    knative.kserve.history.clear()
    knative.kserve.broken = {short(three): NO_IMAGE}
    for _ in range(2):  # the second time it is the newest revision already, and two the newest that is ready
        with pytest.raises(ServingError, match="ImagePullBackOff"):
            pushing(three, knative.settings, percent)
        assert serving(knative).canary is None
    assert all(shares == {short(one): 100} for shares in knative.kserve.history)


def test_a_refused_promotion_forgets_no_stable_model(cluster: Cluster, models: list[ModelPackage]) -> None:
    one, two, _ = models
    pushing(one, cluster.settings)
    pushing(two, cluster.settings, 20)
    admit = cluster.api.admit

    def deny(*_: object) -> None:
        raise ApiError(403, "Forbidden", 'admission webhook "x" denied the request: not now')

    cluster.api.admit = deny
    with pytest.raises(ServingError, match="not now"):
        promote("late", cluster.settings)
    cluster.api.admit = admit
    service = serving(cluster)
    assert service.canary
    assert (service.stable.digest, service.canary.digest, service.canary_percent) == (one.digest, two.digest, 20)
    rollback("late", cluster.settings)
    assert cluster.kserve.history[-1] == {short(one): 100}


def test_knative_a_beaten_promotion_forgets_no_stable_model(knative: Cluster, models: list[ModelPackage]) -> None:
    pushing(models[0], knative.settings)
    pushing(models[1], knative.settings, 20)
    on_first_patch(knative, lambda found: found["spec"]["predictor"].update(canaryTrafficPercent=30))
    with pytest.raises(BusyError, match="somebody else"):
        promote("late", knative.settings)
    service = serving(knative)
    assert (service.stable.digest, service.canary_percent) == (models[0].digest, 30)
    rollback("late", knative.settings)
    assert knative.kserve.history[-1] == {short(models[0]): 100}


def test_the_same_share_for_another_model_is_no_lost_answer(single: Cluster, models: list[ModelPackage]) -> None:
    pushing(models[0], single.settings)
    pushing(models[1], single.settings, 20)

    def other(found: dict[str, Any]) -> None:
        predictor = found["spec"]["predictor"]
        if "canary" in found["spec"]:
            found["spec"]["canary"][0]["trafficPercent"] = 30
            predictor = found["spec"]["canary"][0]["predictor"]
        else:
            predictor["canaryTrafficPercent"] = 30
        predictor["annotations"]["fti/model-digest"] = models[2].digest

    service = serving(single)
    on_first_patch(single, other)
    with pytest.raises(BusyError, match="somebody else"):
        write_service(replace(service, canary_percent=30), single.settings)


@pytest.mark.parametrize(
    ("metadata", "ready"),
    [({}, True), ({"deletionTimestamp": "2026-01-01T00:00:00Z"}, False)],
    ids=["long ago", "going"],
)
@pytest.mark.parametrize("model", [0, 1])
def test_what_a_pod_once_died_of_is_over(
    single: Cluster, models: list[ModelPackage], metadata: dict[str, Any], ready: bool, model: int
) -> None:
    pushing(models[0], single.settings)
    labels = {"serving.kserve.io/inferenceservice": "late", "fti/revision": short(models[model])}
    container = {"name": "kserve-container", "ready": ready, "state": {"running": {}}, "lastState": OUT_OF_MEMORY}
    pod = {"metadata": {"name": "late-x", "labels": labels, **metadata}, "status": {"containerStatuses": [container]}}
    single.api.put("pods", "flights", pod)
    assert pushing(models[1], single.settings, 20)["percent"] == 20


def test_a_stable_model_that_is_down_can_be_replaced(single: Cluster, models: list[ModelPackage]) -> None:
    pushing(models[0], single.settings)
    labels = {"serving.kserve.io/inferenceservice": "late", "fti/revision": short(models[0])}
    single.api.put("pods", "flights", {"metadata": {"name": "late-x", "labels": labels}, "status": NO_IMAGE})
    pushing(models[1], single.settings, 100)
    assert single.kserve.history[-1] == {short(models[1]): 100}


def test_a_write_whose_answer_was_lost(
    cluster: Cluster, models: list[ModelPackage], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, admit, lost = cluster.api.answer, cluster.api.admit, set[str]()

    def once_lost(method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        said, key = answer(method, path, query, body), f"{method} {path} {json.dumps(body)}"
        if method not in {"POST", "PATCH"} or key in lost:
            return said
        lost.add(key)
        return 0, ""

    def defaults(resource: str, body: dict[str, Any]) -> None:
        """As KServe's mutating webhook fills in."""
        if resource == ISVC:
            model = body["spec"]["predictor"]["model"]
            model["name"] = "kserve-container"
            model.setdefault("resources", {"limits": {"cpu": "1"}})
        admit(resource, body)

    cluster.api.admit = defaults
    monkeypatch.setattr(cluster.api, "answer", once_lost)
    pushing(models[0], cluster.settings)
    pushing(models[1], cluster.settings, 20)
    promote("late", cluster.settings)
    one, two = map(short, models[:2])
    assert cluster.kserve.history == [{one: 100}, {one: 80, two: 20}, {two: 100}]
    assert len(lost) >= 4


def test_an_annotation_of_another_is_kept_where_a_write_is_repeated(
    cluster: Cluster, models: list[ModelPackage]
) -> None:
    pushing(models[0], cluster.settings)
    names = on_first_patch(cluster, lambda found: found["metadata"]["annotations"].update({"team/owner": "me"}))
    cluster.kserve.fronts.watching = False  # nothing answers on purpose
    stop("late", cluster.settings)
    assert cluster.api.objects[ISVC, "flights", names[0]]["metadata"]["annotations"]["team/owner"] == "me"


def test_an_annotation_of_another_is_kept_where_a_push_is_taken_back(
    standard: Cluster, models: list[ModelPackage], monkeypatch: pytest.MonkeyPatch
) -> None:
    pushing(models[0], standard.settings)

    def wrong(*_: object) -> None:
        on_first_patch(standard, lambda found: found["metadata"]["annotations"].update({"team/owner": "me"}))
        raise ServingError("answers wrongly")

    monkeypatch.setattr("fti.push.logic._probe", lambda *_: wrong)
    with pytest.raises(ServingError, match="answers wrongly"):
        pushing(models[1], standard.settings, 20)
    found = standard.api.objects[ISVC, "flights", "late"]
    assert "canary" not in found["spec"]
    assert found["metadata"]["annotations"]["team/owner"] == "me"


def test_a_deletion_that_was_cut_off_is_ended(knative: Cluster, models: list[ModelPackage]) -> None:
    pushing(models[0], knative.settings)
    pushing(models[1], knative.settings, 20)
    del knative.api.objects[ISVC, "flights", "late"]  # as far as it came
    delete("late", knative.settings)
    assert ("configmaps", "flights", "fti-trial-late") not in knative.api.objects
