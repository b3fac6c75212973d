"""Manifests: what a push does to the traffic, and that KServe's own schema accepts what is written."""

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fti.common.errors import ConfigError, ServingError
from fti.common.inference_service import (
    Revision,
    Service,
    check_name,
    manifest_path,
    parse,
    pushed,
    read_service,
    render,
    service_names,
    stable_package_uri,
    write_service,
)
from fti.common.settings import Settings
from tests.crds import check_inference_service

digests = st.sampled_from(["a" * 64, "b" * 64, "c" * 64])
revisions = st.builds(lambda digest: Revision(digest, f"s3://models/late/{digest[:12]}"), digests)
pushes = st.lists(st.tuples(revisions, st.integers(0, 100)), min_size=1, max_size=8)


def after(history: list[tuple[Revision, int]]) -> Service:
    service = None
    for revision, percent in history:
        service = pushed(service, "late", revision, percent)
    assert service is not None
    return service


@given(pushes)
def test_the_shares_always_sum_to_100(history: list[tuple[Revision, int]]) -> None:
    shares = [percent for _, percent in after(history).revisions().values()]
    assert sum(shares) == 100
    assert all(0 <= share <= 100 for share in shares)


@given(pushes)
def test_the_same_push_again_changes_nothing(history: list[tuple[Revision, int]]) -> None:
    assert after([*history, history[-1]]) == after(history)


@given(pushes, revisions)
def test_100_promotes_and_ends_every_trial(history: list[tuple[Revision, int]], revision: Revision) -> None:
    assert after([*history, (revision, 100)]) == Service("late", stable=revision)


@given(pushes, revisions, st.integers(0, 99))
def test_less_than_100_never_touches_the_stable_model(
    history: list[tuple[Revision, int]], revision: Revision, percent: int
) -> None:
    before, now = after(history), after([*history, (revision, percent)])
    assert now.stable == before.stable
    if revision != before.stable:
        assert (now.canary, now.canary_percent) == (revision, percent)


@given(pushes)
def test_a_manifest_reads_back_as_it_was_written(history: list[tuple[Revision, int]]) -> None:
    service = after(history)
    manifest = yaml.safe_load(yaml.safe_dump(render(service)))
    assert parse(manifest, "here") == service


def test_other_fields_of_a_manifest_survive_a_push_and_are_the_canarys_too() -> None:
    one, two = Revision("a" * 64, "s3://m/a"), Revision("b" * 64, "s3://m/b", "/features")
    manifest = render(Service("late", one))
    manifest["metadata"]["labels"] = {"team": "delays"}
    manifest["spec"]["predictor"]["serviceAccountName"] = "models"
    manifest["spec"]["predictor"]["model"]["resources"] = {"limits": {"cpu": "1"}}
    after_push = render(Service("late", one, two, 20), manifest)
    canary = after_push["spec"]["canary"][0]["predictor"]
    assert after_push["metadata"]["labels"] == {"team": "delays"}
    assert canary["serviceAccountName"] == "models"
    assert canary["model"]["resources"] == {"limits": {"cpu": "1"}}
    assert canary["model"]["args"] == ["--feature_repo=/features"]
    assert "args" not in after_push["spec"]["predictor"]["model"]
    promoted = render(Service("late", two), after_push)
    assert "canary" not in promoted["spec"]
    assert promoted["spec"]["predictor"]["model"]["storageUri"] == "s3://m/b"


def test_kserves_own_schema_accepts_the_manifest() -> None:
    import jsonschema

    one, two = Revision("a" * 64, "s3://m/a"), Revision("b" * 64, "s3://m/b", "/features")
    check_inference_service(render(Service("late", one)))
    check_inference_service(render(Service("late", one, two, 0)))
    wrong = render(Service("late", one, two, 20))
    wrong["spec"]["canary"][0]["trafic"] = 3
    with pytest.raises(jsonschema.ValidationError, match="trafic"):
        check_inference_service(wrong)


def test_the_manifest_by_hand() -> None:
    one, two = Revision("a" * 64, "s3://m/a"), Revision("b" * 64, "s3://m/b", "/features")

    def predictor(digest: str, **more: Any) -> dict[str, Any]:
        model = {"name": "", "modelFormat": {"name": "fti"}, "protocolVersion": "v2", "storageUri": f"s3://m/{digest}"}
        return {
            "annotations": {"fti/model-digest": digest * 64},
            "labels": {"fti/revision": digest * 12},
            "model": {**model, **more},
        }

    canary = {**predictor("b", args=["--feature_repo=/features"]), "name": "canary"}
    assert render(Service("late", one, two, 20)) == {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "late", "annotations": {"serving.kserve.io/deploymentMode": "Standard"}},
        "spec": {"predictor": predictor("a"), "canary": [{"trafficPercent": 20, "predictor": canary}]},
    }


def test_written_read_and_listed(settings: Settings) -> None:
    assert service_names(settings) == []
    assert read_service("late", settings) is None
    assert stable_package_uri("late", settings) is None
    service = Service("late", Revision("a" * 64, "s3://m/a"))
    write_service(service, settings)
    assert manifest_path("late", settings).is_file()
    assert service_names(settings) == ["late"]
    assert read_service("late", settings) == service
    assert stable_package_uri("late", settings) == "s3://m/a"


@pytest.mark.parametrize(
    "name", ["", "Late", "1st", "late_arrival", "-late", "late-", "late.arrival", "l/ate", "x" * 41]
)
def test_names_that_kubernetes_refuses(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a service"):
        check_name(name)


@pytest.mark.parametrize("name", ["a", "late-arrival", "x" * 40, "v2"])
def test_names_that_kubernetes_takes(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(kind="Deployment"), "Deployment"),
        (lambda m: m["metadata"].pop("annotations"), "deployment mode None"),
        (lambda m: m["metadata"]["annotations"].update({"serving.kserve.io/deploymentMode": "Knative"}), "Knative"),
        (lambda m: m["spec"].pop("predictor"), "predictor"),
        (lambda m: m["spec"]["predictor"].pop("model"), "model"),
        (lambda m: m["spec"]["predictor"].update(canaryTrafficPercent=20), "canaryTrafficPercent"),
        (lambda m: m["spec"].update(canary=[m["spec"]["canary"][0]] * 2), "2 canaries"),
        (lambda m: m["spec"]["canary"][0].update(trafficPercent=120), "120 percent"),
        (lambda m: m["spec"]["canary"][0].update(trafficPercent="20"), "'20' percent"),
        (lambda m: m.update(spec=[]), "wrong type"),
    ],
)
def test_manifests_that_cannot_be_read(change: Any, message: str) -> None:
    manifest = render(Service("late", Revision("a" * 64, "s3://m/a"), Revision("b" * 64, "s3://m/b"), 20))
    change(manifest)
    with pytest.raises(ServingError, match=message):
        parse(manifest, "late.yaml")


@pytest.mark.parametrize("text", ["a: [", "- a list", "", "\x00"])
def test_files_that_are_no_manifest(settings: Settings, text: str) -> None:
    path = manifest_path("late", settings)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(ServingError, match=r"late\.yaml"):
        read_service("late", settings)
