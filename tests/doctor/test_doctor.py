"""`fti doctor`: a cluster as the manifests make it is well; whatever is taken away is named, with what brings it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fti.cli.doctor import doctor_command
from fti.common.kubernetes_api import ForbiddenError, KubernetesApi
from fti.common.settings import Settings
from fti.doctor.cluster import check_cluster
from fti.doctor.finding import Finding
from fti.doctor.rights import RIGHTS
from fti.feature_repo import __file__ as flights
from tests.manifests.rendered import ROOT, of_kind, overlay, rendered
from tests.push.api_server import KINDS, ApiServer, serving, write_kubeconfig

pytestmark = pytest.mark.slow

CRD = "customresourcedefinitions.apiextensions.k8s.io"
OF_KIND = {kind: resource for resource, kind in KINDS.items()}


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    """KServe in Standard mode, with manifests/cluster and overlays/minio, the placeholders of that filled in."""
    with serving(ApiServer()) as api:
        for each in [*overlay("minio"), *rendered(ROOT / "cluster")]:
            if each["kind"] in OF_KIND:
                if each["kind"] == "Secret":
                    each = {**each, "data": dict.fromkeys(each["data"], "aHVudGVyMg==")}
                api.put(OF_KIND[each["kind"]], each["metadata"].get("namespace", ""), each)
        for each in of_kind(overlay("minio"), "StatefulSet"):
            api.put("statefulsets.apps", "fti", {**each, "status": {"readyReplicas": 1}})
        api.objects["configmaps", "fti", "fti-settings"]["data"]["FTI_SERVING"] = "standard"
        api.put(CRD, "", crd("inferenceservices.serving.kserve.io", "v1beta1", canary={}))
        api.put(CRD, "", crd("httproutes.gateway.networking.k8s.io", "v1"))
        ingress = {"enableGatewayApi": True, "kserveIngressGateway": "kserve/kserve-ingress-gateway"}
        data = {"ingress": json.dumps(ingress), "deploy": json.dumps({"defaultDeploymentMode": "Standard"})}
        api.put("configmaps", "kserve", {"metadata": {"name": "inferenceservice-config"}, "data": data})
        node = {"metadata": {"name": "gpu-1"}, "status": {"allocatable": {"nvidia.com/gpu": "2"}}}
        api.put("nodes", "", node)
        monkeypatch.setenv("KUBECONFIG", str(write_kubeconfig(tmp_path / "kubeconfig", api)))
        monkeypatch.setenv("FTI_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("FTI_SERVING", "standard")
        monkeypatch.setenv("FTI_NAMESPACE", "fti")
        yield api


@pytest.fixture
def asked(api: ApiServer) -> ApiServer:
    """The same, with `FTI_SERVING=cluster`."""
    api.objects["configmaps", "fti", "fti-settings"]["data"]["FTI_SERVING"] = "cluster"
    config = api.objects["configmaps", "kserve", "inferenceservice-config"]["data"]
    config["router"] = json.dumps({"image": "kserve/router:v0.21.0"})
    return api


def crd(name: str, version: str, **spec: Any) -> dict[str, Any]:
    schema = {"openAPIV3Schema": {"properties": {"spec": {"properties": spec}}}}
    return {"metadata": {"name": name}, "spec": {"versions": [{"name": version, "schema": schema}]}}


def found(mode: str = "standard") -> list[Finding]:
    settings = Settings.from_env({"FTI_HOME": "/nowhere", "FTI_SERVING": mode, "FTI_NAMESPACE": "fti"})
    return check_cluster(settings, KubernetesApi.connect("fti"))


@pytest.mark.parametrize("mode", ["standard", "cluster"])
def test_a_cluster_as_the_manifests_make_it_is_well(api: ApiServer, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    api.objects["configmaps", "fti", "fti-settings"]["data"]["FTI_SERVING"] = mode
    config = api.objects["configmaps", "kserve", "inferenceservice-config"]["data"]
    config["router"] = json.dumps({"image": "kserve/router:v0.21.0"})
    monkeypatch.setenv("FTI_SERVING", mode)
    assert [finding for finding in found(mode) if finding.status != "ok"] == []
    result = CliRunner().invoke(doctor_command, ["--json"])
    assert result.exit_code == 0 and "hunter2" not in result.output
    assert {each["status"] for each in json.loads(result.output)} == {"ok"}
    assert not {verb for verb, _ in api.requests} & {"patch", "delete"}


@pytest.mark.parametrize(
    ("taken", "text", "remedy"),
    [
        (("namespaces", "", "fti"), "fti does not exist", "manifests/base/namespace.yaml"),
        ((CRD, "", "inferenceservices.serving.kserve.io"), "not installed", "KServe 0.21"),
        ((CRD, "", "httproutes.gateway.networking.k8s.io"), "httproutes", "Gateway API"),
        (("configmaps", "kserve", "inferenceservice-config"), "inferenceservice-config", "KServe"),
        (("gateways.gateway.networking.k8s.io", "kserve", "kserve-ingress-gateway"), "Gateway", "manifests/cluster"),
        (("serviceaccounts", "fti", "fti-predictor"), "fti-predictor", "manifests/base/service-accounts.yaml"),
        (("configmaps", "fti", "fti-settings"), "fti-settings", "manifests/base/settings.env"),
        (("secrets", "fti", "fti-object-store"), "fti-object-store does not exist", "manifests/base/object-store.env"),
        (("secrets", "fti", "fti-feature-store"), "fti-feature-store", "manifests/base/feature-store.env"),
        (("servingruntimes.serving.kserve.io", "fti", "fti-predictor"), "fti", "manifests/base/serving-runtimes.yaml"),
    ],
)
def test_what_is_taken_away_is_named(api: ApiServer, taken: tuple[str, str, str], text: str, remedy: str) -> None:
    del api.objects[taken]
    (missing,) = (finding for finding in found() if finding.status == "missing")
    assert text in missing.text and remedy in missing.remedy
    for file in [word.rstrip(",;") for word in missing.remedy.split() if word.startswith("manifests/")]:
        assert (Path(__file__).parents[2] / file).exists()
    result = CliRunner().invoke(doctor_command, [])
    assert result.exit_code == 1 and missing.text in result.output


def test_kserve_that_cannot_split(api: ApiServer) -> None:
    api.put(CRD, "", crd("inferenceservices.serving.kserve.io", "v1beta1"))
    (missing,) = (finding for finding in found() if finding.status == "missing")
    assert "no spec.canary" in missing.text and "FTI_SERVING=knative" in missing.remedy
    (warning,) = (finding for finding in found("knative") if finding.status != "ok")
    assert "steps push in standard mode" in warning.text


def test_how_a_cluster_that_is_asked_splits_traffic(asked: ApiServer) -> None:
    (traffic,) = (finding for finding in found("cluster") if finding.name == "traffic")
    assert (traffic.status, traffic.text) == (
        "ok", "new services are split by KServe's routes (standard), as the cluster says"
    )  # fmt: skip
    config = asked.objects["configmaps", "kserve", "inferenceservice-config"]["data"]
    config["router"] = json.dumps({"image": "kserve/router:latest"})
    (missing,) = (finding for finding in found("cluster") if finding.status == "missing")
    assert "do not tell its version" in missing.text and "FTI_SERVING=standard" in missing.remedy


@pytest.mark.parametrize("right", [("get", "configmaps"), ("get", "gateways.gateway.networking.k8s.io")])
def test_who_may_not_read_how_traffic_can_be_split_cannot_push(asked: ApiServer, right: tuple[str, str]) -> None:
    def kserves(verb: str, resource: str, name: str) -> None:
        named = name in {"inferenceservice-config", "kserve-ingress-gateway"}
        asked.forbidden = {right} if named else set()

    asked.before = kserves
    (missing,) = (finding for finding in found("cluster") if finding.status == "missing")
    assert missing.name == "traffic" and "says how traffic can be split here, and may not be read" in missing.text
    assert "manifests/cluster/rights.yaml" in missing.remedy and "FTI_SERVING" in missing.remedy
    assert not [each for each in found("knative") if each.status == "missing"]  # which asks nothing


def test_the_account_of_steps_needs_that_right_too(asked: ApiServer) -> None:
    binding = asked.objects["rolebindings.rbac.authorization.k8s.io", "kserve", "fti-kserve-reader"]
    binding["subjects"] = [each for each in binding["subjects"] if each["namespace"] != "fti"]
    (missing,) = (finding for finding in found("cluster") if finding.status != "ok")
    rights = "get configmaps/inferenceservice-config, get gateways.gateway.networking.k8s.io"
    assert (missing.status, missing.text) == ("missing", f"fti-pipelines may not {rights}, in kserve")
    assert missing.remedy == "Apply manifests/cluster/rights.yaml, with fti-pipelines of fti in it"
    asked.forbidden = {REVIEWS}
    kserve, steps = (finding for finding in found("cluster") if finding.status != "ok")
    assert (kserve.status, steps.status) == ("warning", "warning")
    assert "whether fti-pipelines may read how KServe splits traffic" in kserve.text
    asked.user = "system:serviceaccount:fti:fti-pipelines"  # it has just read what it needs
    assert not [finding for finding in found("cluster") if finding.status != "ok"]


def test_kserves_settings_that_say_nothing_are_its_defaults(api: ApiServer) -> None:
    config = api.objects["configmaps", "kserve", "inferenceservice-config"]
    del config["data"]
    texts = {finding.name: (finding.status, finding.text) for finding in found()}
    assert texts["deployment mode"] == ("ok", "Knative by default; services of push say their own")
    assert texts["gateway"] == ("missing", "KServe makes no HTTPRoutes: a canary would get no traffic")
    config["data"] = {"ingress": '{"enableGatewayApi": true}'}
    texts = {finding.name: (finding.status, finding.text) for finding in found()}
    assert texts["gateway"] == ("ok", "HTTPRoutes on Gateway kserve/kserve-ingress-gateway")
    config["data"] = {"deploy": "{"}
    texts = {finding.name: (finding.status, finding.text) for finding in found()}
    assert texts["KServe's settings"][0] == "missing" and "holds what is no JSON" in texts["KServe's settings"][1]


def test_kserve_without_the_gateway_api(api: ApiServer) -> None:
    config = api.objects["configmaps", "kserve", "inferenceservice-config"]
    config["data"]["ingress"] = json.dumps({"enableGatewayApi": False})
    (missing,) = (finding for finding in found() if finding.status == "missing")
    assert '"enableGatewayApi": true' in missing.remedy


@pytest.mark.parametrize("right", sorted(RIGHTS))
def test_every_right_that_is_missing_is_named(api: ApiServer, right: tuple[str, str]) -> None:
    api.forbidden = {right}
    (missing,) = (finding for finding in found() if finding.status == "missing")
    assert missing.text == f"fti-pipelines may not {' '.join(right)}"
    assert "manifests/base/rights.yaml" in missing.remedy


REVIEWS = ("create", "localsubjectaccessreviews.authorization.k8s.io")


def test_rights_are_those_of_the_accounts_and_not_of_who_asks(api: ApiServer) -> None:
    """The one who asks may do everything; the account only what the Roles of the manifests say."""
    settings = Settings.from_env()
    texts = [each.text for each in check_cluster(settings, KubernetesApi.connect("fti"), "default-editor")]
    assert any(text.startswith("default-editor may not create workflowtaskresults.argoproj.io") for text in texts)
    binding = api.objects["rolebindings.rbac.authorization.k8s.io", "fti", "fti-deployer"]
    binding["subjects"] = [{"kind": "ServiceAccount", "name": "fti-predictor"}]
    rights = {each.status: each.text for each in found() if each.name == "rights"}
    lacking = {f"{verb} {resource}" for verb, resource in RIGHTS}
    assert rights["missing"].startswith("fti-pipelines may not ")
    assert set(rights["missing"].removeprefix("fti-pipelines may not ").split(", ")) == lacking
    assert rights["warning"].startswith("fti-predictor may list pods, patch inferenceservices")
    result = CliRunner().invoke(doctor_command, ["--service-account", "pipeline-runner"])
    assert result.exit_code == 1 and "pipeline-runner may not" in result.output
    assert "service account: pipeline-runner does not exist" in result.output


def test_who_may_not_ask_for_others_is_told_of_themselves(api: ApiServer) -> None:
    api.forbidden = {REVIEWS}
    (warning,) = (finding for finding in found() if finding.status != "ok")
    assert warning.status == "warning" and "you may not ask whether fti-pipelines has" in warning.text
    api.forbidden |= {("patch", "inferenceservices.serving.kserve.io")}
    (missing,) = (finding for finding in found() if finding.status != "ok")
    assert missing.text == "you may not patch inferenceservices.serving.kserve.io"
    api.user = "system:serviceaccount:fti:fti-pipelines"  # a step, which need not ask for others
    (missing,) = (finding for finding in found() if finding.status != "ok")
    assert missing.text == "fti-pipelines may not patch inferenceservices.serving.kserve.io"


def test_what_may_not_be_seen_is_unknown_and_the_rest_goes_on(api: ApiServer) -> None:
    api.forbidden = {("get", "secrets"), ("get", CRD), ("list", "nodes")}
    statuses = {finding.name: finding.status for finding in found()}
    assert {name for name, status in statuses.items() if status == "unknown"} == {"KServe", "secrets", "GPUs"}
    assert statuses["runtime"] == "ok"
    (secrets,) = (finding for finding in found() if finding.name == "secrets")
    assert secrets.text == "you may not see it: the right to get secrets is missing"
    assert "administrator" in secrets.remedy and "rights.yaml" not in secrets.remedy  # which grants no such thing


def test_a_right_that_is_missing_says_where(api: ApiServer) -> None:
    """An account of another namespace is refused in one that does not exist, too."""
    api.forbidden = {("list", "pods")}
    with pytest.raises(ForbiddenError, match="rights.yaml in namespace ftj, if there is one, and run as"):
        KubernetesApi.connect("ftj").items("api/v1/namespaces/ftj/pods")


def test_models_on_a_pods_own_disk(api: ApiServer) -> None:
    api.objects["configmaps", "fti", "fti-settings"]["data"]["FTI_MODELS_URI"] = "/tmp/fti/models"
    (missing,) = (finding for finding in found() if finding.status == "missing")
    assert "which no other pod can read" in missing.text and "s3://" in missing.remedy


def test_placeholders_and_missing_keys(api: ApiServer) -> None:
    api.objects["secrets", "fti", "fti-object-store"]["data"]["AWS_ACCESS_KEY_ID"] = "Y2hhbmdlLW1l"  # change-me
    del api.objects["secrets", "fti", "fti-feature-store"]["data"]["FTI_REDIS"]
    statuses = {finding.text: finding.status for finding in found() if finding.name == "secret"}
    assert statuses == {
        "fti-object-store still holds the placeholders of the manifests": "warning",
        "fti-feature-store lacks FTI_REDIS": "missing",
    }


def test_pods_that_wait_for_an_image_stores_that_are_not_ready_and_no_gpu(api: ApiServer) -> None:
    waiting = {"image": "kfp-fti/predictor:0.1.0", "state": {"waiting": {"reason": "ImagePullBackOff"}}}
    api.put("pods", "fti", {"metadata": {"name": "late-x"}, "status": {"containerStatuses": [waiting]}})
    api.objects["statefulsets.apps", "fti", "fti-redis"]["status"] = {"readyReplicas": 0}
    del api.objects["nodes", "", "gpu-1"]
    texts = {finding.text: finding.status for finding in found() if finding.status != "ok"}
    assert texts["kfp-fti/predictor:0.1.0 cannot be pulled (pod late-x)"] == "missing"
    assert texts["fti-redis is not ready"] == "missing"
    assert next(text for text, status in texts.items() if status == "warning").startswith("no node has nvidia.com/gpu")


def test_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTI_HOME", str(tmp_path))
    for name in ("FTI_SERVING", "FTI_PROFILE", "AWS_ENDPOINT_URL", "FTI_REDIS", "FTI_POSTGRES", "FTI_OFFLINE_URI"):
        monkeypatch.delenv(name, raising=False)
    result = CliRunner().invoke(doctor_command, ["--feature-repo", str(Path(str(flights)).parent), "--json"])
    assert result.exit_code == 0, result.output
    statuses = {each["name"]: each["status"] for each in json.loads(result.output)}
    assert statuses == {"python": "ok", "gateway": "ok", "home": "ok", "profile": "ok"}
    monkeypatch.setenv("FTI_PROFILE", "server")
    result = CliRunner().invoke(doctor_command, ["--json"])
    (missing,) = (each for each in json.loads(result.output) if each["status"] == "missing")
    assert result.exit_code == 1 and "FTI_POSTGRES_PASSWORD" in missing["remedy"]
    monkeypatch.setenv("FTI_REDIS", "127.0.0.1:1,password=hunter2")
    result = CliRunner().invoke(doctor_command, ["--json"])
    assert "FTI_REDIS: 127.0.0.1:1 cannot be reached" in result.output and "hunter2" not in result.output


def test_a_home_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FTI_SERVING", raising=False)
    (tmp_path / "file").touch()
    monkeypatch.setenv("FTI_HOME", str(tmp_path / "file" / "home"))
    result = CliRunner().invoke(doctor_command, [])
    assert result.exit_code == 1 and "cannot be written" in result.output
