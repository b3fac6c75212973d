"""No field of a manifest is ignored without a word: it is honoured, named in a warning, or an error."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from fti.cli.serving import status_command
from fti.common.errors import ServingError
from fti.common.inference_service import manifest_path, read_service, write_service
from fti.common.model_package import ModelPackage
from fti.common.settings import Settings
from fti.push.lifecycle import stop
from fti.push.traffic import promote
from fti.serve.local import fields
from fti.serve.local.conditions import status_of
from fti.serve.local.plan import Plan, desired_services
from fti.serve.local.status import read, wait_in_sync, write_state
from tests.crds import CRD, check_inference_service
from tests.serve import tiny
from tests.serve.conftest import publish

Change = Callable[[dict[str, Any]], Any]


@pytest.fixture
def with_canary(settings: Settings, one_service: ModelPackage, tmp_path: Path) -> None:
    publish(settings, tiny.write_binary(tmp_path / "canary", bias=0.5), "late", percent=20)


def change(settings: Settings, to: Change) -> dict[str, Any]:
    path = manifest_path("late", settings)
    manifest: dict[str, Any] = yaml.safe_load(path.read_text())
    to(manifest)
    path.write_text(yaml.safe_dump(manifest))
    return manifest


def at(*path: Any, **values: Any) -> Change:
    """Sets fields of what lies under a path."""

    def to(manifest: dict[str, Any]) -> None:
        for key in path:
            manifest = manifest[key]
        manifest.update(values)

    return to


def annotated(name: str, value: Any, *path: Any) -> Change:
    return at(*path, "annotations", **{name: value})


PREDICTOR = ("spec", "predictor")
MODEL = (*PREDICTOR, "model")
CANARY = ("spec", "canary", 0)


@pytest.mark.parametrize(
    ("to", "error"),
    [
        (at(foo=1), "late.yaml has the field foo, which KServe does not know"),
        (at("metadata", anotations={}), "metadata has the field anotations, .* Write annotations"),
        (at("spec", predictr={}), "spec has the field predictr"),
        (at(*CANARY, foo=1), "canary has the field foo"),
        (at(*CANARY, transformer={"containers": []}), "canary has the field transformer"),
        (at(*CANARY, "predictor", minReplica=1), "canary has the field minReplica"),
        (at(*CANARY, "predictor", canaryTrafficPercent=1), "canary has a canaryTrafficPercent"),
        (at(*PREDICTOR, minReplica=1), "predictor has the field minReplica, which .* Write minReplicas"),
        (at(*PREDICTOR, sklearn={"storageUri": "x"}), "predictor has sklearn beside its model"),
        (at(*PREDICTOR, containers=[{"name": "x"}]), "predictor has containers beside its model"),
        (at(*MODEL, storageURI="x"), "model has the field storageURI, which .* Write storageUri"),
        (at(*MODEL, runtime="fti-triton"), "predictor runs on fti-triton, which only a cluster has"),
        (at(*MODEL, protocolVersion="v99"), "protocolVersion 'v99'.* Allowed: v1, v2, grpc-v2"),
        (at(*MODEL, protocolVersion="grpc-v1"), "protocolVersion 'grpc-v1'"),
        (at(*MODEL, "modelFormat", version="99"), "version '99' of the model format"),
        (at(*MODEL, "modelFormat", foo=1), "modelFormat has the field foo"),
        (at(*MODEL, args=["--feature_repo=a", "--feature_repo=b"]), "2 feature repositories.* Allowed: one"),
        (at(*MODEL, args="--feature_repo=a"), "the args '--feature_repo=a'.* Allowed: a list of text"),
        (annotated("fti/unti", "origin", "metadata"), "metadata has the annotation fti/unti. Allowed: fti/unit"),
        (annotated("fti/unit", "origin", *PREDICTOR), "predictor has the annotation fti/unit"),
        (annotated("fti/shadow", "true", *PREDICTOR), "predictor has the annotation fti/shadow"),
        (annotated("fti/shadow", "True", *CANARY, "predictor"), "canary has fti/shadow: 'True'.* Allowed: \"true\""),
        (annotated("fti/shadow", True, *CANARY, "predictor"), "canary has fti/shadow: True"),
        (annotated("serving.kserve.io/stop", "yes", "metadata"), "serving.kserve.io/stop: 'yes'.* Allowed: \"true\""),
    ],
)
def test_what_means_nothing_is_an_error(settings: Settings, with_canary: None, to: Change, error: str) -> None:
    change(settings, to)
    plan = desired_services(settings)
    assert not plan.services
    with pytest.raises(ServingError, match=error):
        raise plan.errors["late"]


@pytest.mark.parametrize(
    ("to", "warning"),
    [
        (annotated("serving.kserve.io/autoscalerClass", "hpa", "metadata"), "serving.kserve.io/autoscalerClass"),
        (annotated("serving.kserve.io/stop", "true", *PREDICTOR), "serving.kserve.io/stop"),
        (at("metadata", deletionTimestamp="2026-01-01T00:00:00Z"), "metadata: only a cluster heeds deletionTimestamp"),
        (at(*PREDICTOR, name="zzz"), "predictor: only a cluster heeds name"),
        (at(*PREDICTOR, minReplicas=3, tolerations=[{}]), "predictor: only a cluster heeds minReplicas, tolerations"),
        (at(*CANARY, "predictor", timeout=1), "canary: only a cluster heeds timeout"),
        (at(*MODEL, name="other", env=[{"name": "X"}]), "predictor: only a cluster heeds model.env, model.name"),
        (at(*MODEL, runtime="fti-predictor-gpu"), "predictor: only a cluster heeds model.runtime"),
        (annotated("fti/unit", "nope", "metadata"), "stable: fti/unit names nope, no text column"),
        (annotated("fti/unit", "month", "metadata"), "canary: fti/unit names month, no text column"),
    ],
)
def test_what_is_left_to_a_cluster_is_a_warning(
    settings: Settings, with_canary: None, to: Change, warning: str
) -> None:
    change(settings, to)
    plan = desired_services(settings)
    assert plan.services.keys() == {"late"} and not plan.errors
    assert warning in "\n".join(plan.warnings["late"])


@pytest.mark.parametrize(
    "to",
    [
        lambda manifest: None,
        at(status={"url": "http://late"}),
        at(
            "metadata",
            namespace="x",
            uid="1",
            resourceVersion="2",
            generation=3,
            creationTimestamp="2026-01-01T00:00:00Z",
            labels={"team": "a"},
            managedFields=[],
            finalizers=["inferenceservice.finalizers"],
            ownerReferences=[],
            generateName="late-",
        ),
        annotated("kubectl.kubernetes.io/last-applied-configuration", "{}", "metadata"),
        annotated("serving.kserve.io/stop", "False", "metadata"),
        annotated("fti/unit", "carrier", "metadata"),
        annotated("fti/shadow", "false", *CANARY, "predictor"),
        at(*PREDICTOR, minReplicas=1, containers=[], nodeName=None),
        at(*MODEL, protocolVersion="v1", runtime="fti-predictor", name="kserve-container"),
        at(*MODEL, protocolVersion="grpc-v2"),
        at(*CANARY, "predictor", "model", args=["--feature_repo="]),  # as push says that it has none
    ],
)
def test_what_holds_here_too_is_taken_without_a_word(settings: Settings, with_canary: None, to: Change) -> None:
    change(settings, to)
    plan = desired_services(settings)
    assert plan.services.keys() == {"late"} and not plan.errors and not plan.warnings


def test_an_entity_key_names_the_unit_where_features_are_looked_up(settings: Settings, tmp_path: Path) -> None:
    package = tiny.write_binary(tmp_path / "keyed", entity_keys=("origin",), feature_service="late")
    publish(settings, package, "late")
    change(settings, annotated("fti/unit", "origin", "metadata"))
    assert "fti/unit names origin" in desired_services(settings).warnings["late"][0]
    change(settings, at(*MODEL, args=["--feature_repo=somewhere"]))
    assert not desired_services(settings).warnings


def test_what_the_project_writes_is_taken_without_a_word(settings: Settings, with_canary: None, tmp_path: Path) -> None:
    def silent() -> bool:
        plan = desired_services(settings)
        return plan.services.keys() == {"late"} and not plan.errors and not plan.warnings

    service = read_service("late", settings)
    assert service and silent()
    write_service(replace(service, canary_percent=0, shadow=True), settings)
    assert "fti/shadow: 'true'" in manifest_path("late", settings).read_text() and silent()
    publish(settings, tiny.write_binary(tmp_path / "canary", bias=0.5), "late", percent=0)
    assert silent()
    promote("late", settings)
    assert yaml.safe_load(manifest_path("late", settings).read_text())["spec"]["predictor"]["name"] == "canary"
    publish(settings, tiny.write_binary(tmp_path / "third", bias=0.7), "late", percent=20)
    assert silent()


def test_a_stopped_service_stops_whatever_else_its_manifest_says(settings: Settings, with_canary: None) -> None:
    change(settings, at("spec", transformer={"containers": []}))
    stop("late", settings)
    assert desired_services(settings) == Plan()


def test_each_warning_is_logged_when_it_is_new(
    settings: Settings, with_canary: None, caplog: pytest.LogCaptureFixture
) -> None:
    first = desired_services(settings)
    change(settings, at(*PREDICTOR, timeout=1))
    second = desired_services(settings)
    for before, after, logged in ((first, second, 1), (second, second, 0), (second, first, 0), (first, second, 1)):
        caplog.clear()
        after.log_news(before)
        messages = [record.message for record in caplog.records if record.levelno == logging.WARNING]
        assert messages == ["late: predictor: only a cluster heeds timeout"] * logged


def test_status_shows_warnings_and_errors(settings: Settings, with_canary: None) -> None:
    assert "warnings" not in read(settings)["services"]["late"]
    before = read(settings)["services"]["late"]
    change(settings, at(*PREDICTOR, timeout=1))
    assert read(settings)["services"]["late"] == {**before, "warnings": ["predictor: only a cluster heeds timeout"]}
    lines = CliRunner().invoke(status_command, env=settings.environ()).output.splitlines()
    assert "  warning: predictor: only a cluster heeds timeout" in lines
    change(settings, at("spec", transformer={"containers": []}))
    assert "has a transformer" in read(settings)["services"]["late"]["error"]
    assert "has a transformer" in CliRunner().invoke(status_command, env=settings.environ()).output


def test_nobody_waits_for_a_manifest_that_cannot_be_served(settings: Settings, with_canary: None) -> None:
    write_state({"port": 8080, "services": {"late": {"url": "", "revisions": {}}}, "failures": {}}, settings)
    change(settings, at("spec", transformer={"containers": []}))
    with pytest.raises(ServingError, match="late is not served as desired: .*has a transformer"):
        wait_in_sync("late", settings, seconds=0.5)


def test_the_status_in_kserves_form_holds_the_warnings(settings: Settings, with_canary: None) -> None:
    manifest = change(settings, at(*PREDICTOR, timeout=1, tolerations=[]))
    service = read_service("late", settings)
    assert service
    status = status_of(service, {}, {}, "http://x", {}, notes=desired_services(settings).notes("late"))
    honoured = next(each for each in status["conditions"] if each["type"] == "ManifestHonoured")
    assert (honoured["status"], honoured["severity"]) == ("False", "Warning")
    assert honoured["message"] == "predictor: only a cluster heeds timeout"
    assert "ManifestHonoured" not in str(status_of(service, {}, {}, "http://x", status))
    check_inference_service({**manifest, "status": status})


def test_the_names_of_fields_are_those_of_kserve() -> None:
    if not CRD.exists():
        pytest.skip("KServe's CRDs lie outside of the repository")
    crd = yaml.load(CRD.read_text(), Loader=yaml.CSafeLoader)
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    spec = schema["spec"]["properties"]
    predictor, canary = spec["predictor"]["properties"], spec["canary"]["items"]["properties"]
    model = predictor["model"]["properties"]
    assert schema.keys() == fields._MANIFEST
    assert spec.keys() == {"predictor", "canary", "transformer", "explainer"}
    assert canary.keys() == {"predictor", "trafficPercent"}
    assert predictor.keys() | canary["predictor"]["properties"].keys() == fields._PREDICTOR
    assert model.keys() == fields._MODEL
    assert model["modelFormat"]["properties"].keys() == {"name", "version"}
