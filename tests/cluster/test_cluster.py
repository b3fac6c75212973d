"""The manifests, the rights, the doctor and push on a real Kubernetes API server. Slow; skipped where there is none.

On a cluster such as kind's or k3d's, with KServe or without (then its controller is played):
    KUBECONFIG=~/.kube/config FTI_TEST_NAMESPACE=fti-test pytest tests/cluster
The namespace is made and kept, with `manifests/overlays/minio` in it, and whatever is called `late` or `binary` there
is deleted; `manifests/cluster` goes into the namespace `kserve`. All of push's own tests run there too:
    KUBECONFIG=~/.kube/config FTI_TEST_NAMESPACE=fti-test pytest tests/push/test_push_to_cluster.py
Without a cluster: KUBEBUILDER_ASSETS=$(setup-envtest use -p path) pytest tests/cluster, or the binaries on PATH.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from fti.common.errors import ConfigError, ServingError
from fti.common.inference_service import Revision
from fti.common.inference_service.failures import failures
from fti.common.kubernetes_api import ConflictError, KubernetesApi
from fti.common.settings import Settings
from fti.doctor.cluster import check_cluster
from fti.doctor.rights import RIGHTS, RUN_RIGHTS
from tests.cluster.client import Client, Object, kserve_runs, managed, may
from tests.cluster.objects import RealCluster, applied, is_known, kubeconfig_of
from tests.cluster.real_api import ACCOUNT, QUOTA, RealApi
from tests.manifests.rendered import OVERLAYS, ROOT, of_kind, overlay
from tests.push.api_server import TOKEN, ApiServer, serving, write_kubeconfig

pytestmark = pytest.mark.slow

ISVCS = "apis/serving.kserve.io/v1beta1/namespaces/{}/inferenceservices"
STRICT = {"fieldValidation": "Strict"}
MUST_NOT = {
    ("get", "secrets", "fti-object-store"),
    ("list", "secrets", ""),
    ("list", "configmaps", ""),
    ("create", "pods", ""),
    ("delete", "pods", ""),
    ("create", "pods/exec", ""),
    ("get", "pods/log", ""),
    ("patch", "deployments.apps", ""),
    ("patch", "inferenceservices.serving.kserve.io/status", ""),
    ("deletecollection", "inferenceservices.serving.kserve.io", ""),
    ("patch", "servingruntimes.serving.kserve.io", ""),
    ("create", "serviceaccounts/token", "fti-predictor"),
    ("create", "rolebindings.rbac.authorization.k8s.io", ""),
    ("impersonate", "serviceaccounts", ""),
}


def service(name: str = "late", **spec: Any) -> Object:
    predictor = {"model": {"modelFormat": {"name": "fti"}, "storageUri": "s3://fti/models/late"}, **spec}
    of = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService"}
    return {**of, "metadata": {"name": name}, "spec": {"predictor": predictor}}


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_object_is_accepted_without_a_warning(real: RealCluster, name: str) -> None:
    unknown = set()
    for each in overlay(name):
        if not is_known(real.admin, each):
            unknown.add(each["kind"])
            continue
        answer = applied(real.admin, each, real.namespace)
        assert answer.code < 300, (each["kind"], each["metadata"]["name"], answer.body)
        assert not answer.warnings, (each["kind"], each["metadata"]["name"], answer.warnings)
    assert unknown <= {"ServiceMonitor"}  # of Prometheus' operator


def test_an_unknown_field_is_an_error(real: RealCluster) -> None:
    (budget,) = of_kind(overlay("minio"), "PodDisruptionBudget")
    answer = applied(real.admin, {**budget, "spec": {**budget["spec"], "maxUnavailabel": 1}}, real.namespace)
    assert answer.code >= 400 and "maxUnavailabel" in str(answer.body)


def test_the_namespace_admits_our_pods_and_no_others(real: RealCluster) -> None:
    path = f"api/v1/namespaces/{real.namespace}/pods"
    pods = {
        each["metadata"]["name"]: each["spec"]["template"]["spec"] for each in of_kind(overlay("minio"), "StatefulSet")
    }
    pods |= {
        each["metadata"]["name"]: each["spec"]["template"]["spec"]
        for each in of_kind(overlay("seaweedfs"), "StatefulSet")
    }
    pods["late"] = RealApi(real.admin, real.namespace).pod_spec("late")
    for name, spec in pods.items():
        spec = {**spec, "volumes": [*(spec.get("volumes") or []), {"name": "data", "emptyDir": {}}]}
        answer = real.admin.ask(
            "POST", path, {"metadata": {"name": f"{name}-try"}, "spec": spec}, {"dryRun": "All", **STRICT}
        )
        assert answer.code == 201 and not answer.warnings, (name, answer)
    careless = {"serviceAccountName": "fti-stores", "containers": [{"name": "c", "image": "c"}]}
    answer = real.admin.ask("POST", path, {"metadata": {"name": "careless"}, "spec": careless}, {"dryRun": "All"})
    assert answer.code == 403 and 'violates PodSecurity "restricted' in answer.body["message"]


def test_a_controller_makes_the_pods_of_the_stores(real: RealCluster) -> None:
    if not managed(real.admin, real.namespace):
        pytest.skip("no kube-controller-manager works here")
    path, deadline = f"api/v1/namespaces/{real.namespace}/pods", time.monotonic() + 60
    wanted = {f"{each['metadata']['name']}-0" for each in of_kind(overlay("minio"), "StatefulSet")}
    while not wanted <= (there := {each["metadata"]["name"] for each in real.admin.do("GET", path)["items"]}):
        assert time.monotonic() < deadline, wanted - there
        time.sleep(0.2)


def test_the_steps_account_has_the_rights_that_the_code_uses_and_no_other(real: RealCluster) -> None:
    def granted(account: str) -> set[tuple[str, str]]:
        """All that the authorizer grants to an account beyond what every account has."""
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview"}
        client = real.admin.account(real.namespace, account)
        path = "apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
        rules = client.do("POST", path, {**body, "spec": {"namespace": real.namespace}})["status"]["resourceRules"]
        return {
            (verb, (f"{plural}.{group}" if group else plural) + f"/{name}".rstrip("/"))
            for rule in rules
            for group in rule["apiGroups"]
            for plural in rule["resources"]
            for verb in rule["verbs"]
            for name in rule.get("resourceNames") or [""]
        }

    everybody = granted("fti-stores")
    assert granted("fti-predictor") == everybody
    assert not {verb for verb, _ in everybody} - {"create"}  # reviews of one's own rights
    assert granted(ACCOUNT) - everybody == RIGHTS | RUN_RIGHTS


@pytest.mark.parametrize(("verb", "resource", "name"), sorted(MUST_NOT))
def test_what_the_steps_account_must_not(real: RealCluster, verb: str, resource: str, name: str) -> None:
    plural, _, sub = resource.partition("/")
    assert not may(
        real.admin.account(real.namespace, ACCOUNT), real.namespace, verb, plural + (f"/{sub}" if sub else ""), name
    )


def test_its_rights_end_with_the_namespace(real: RealCluster) -> None:
    account = real.admin.account(real.namespace, ACCOUNT)
    for verb, resource in sorted(RIGHTS):
        assert may(account, real.namespace, verb, resource)
        assert not may(account, "default", verb, resource)
    assert account.ask("GET", ISVCS.format("default")).code == 403
    assert account.ask("GET", f"api/v1/namespaces/{real.namespace}/secrets/fti-object-store").code == 403


def test_refusals_as_sentences(real: RealCluster, tmp_path: Path) -> None:
    path = kubeconfig_of(tmp_path / "steps", real, real.admin.token(real.namespace, ACCOUNT))
    api = KubernetesApi.connect(environ={"KUBECONFIG": str(path)})
    with pytest.raises(ServingError, match=r"the right to list secrets is missing.*manifests/base/rights\.yaml"):
        api.call("GET", f"api/v1/namespaces/{api.namespace}/secrets")
    isvcs = ISVCS.format(api.namespace)
    api.call("POST", isvcs, service("binary"), {**STRICT, "dryRun": "All"})
    with pytest.raises(ServingError, match='unknown field "spec.predictor.nobody"'):
        api.call("POST", isvcs, service("binary", nobody=1), STRICT)
    old = api.call("POST", isvcs, service("binary"), STRICT)
    try:
        with pytest.raises(ServingError, match='patch [^{]*: strict decoding error: unknown field "spec.nobody"'):
            api.call("PATCH", f"{isvcs}/binary", {"spec": {"nobody": {}}}, STRICT)
        with pytest.raises(ConflictError, match="already exists"):
            api.call("POST", isvcs, service("binary"), STRICT)
        api.call("PATCH", f"{isvcs}/binary", {"metadata": {"annotations": {"a": "b"}}})
        version = {"metadata": {"resourceVersion": old["metadata"]["resourceVersion"], "annotations": {"a": "c"}}}
        with pytest.raises(ConflictError, match="the object has been modified"):
            api.call("PATCH", f"{isvcs}/binary", version)
    finally:
        api.call("DELETE", f"{isvcs}/binary")
    path = kubeconfig_of(tmp_path / "wrong", real, "wrong")
    with pytest.raises(ConfigError, match="does not accept the credentials"):
        KubernetesApi.connect(environ={"KUBECONFIG": str(path)}).items("api/v1/pods")


REQUESTS: dict[str, tuple[str, str, Any, dict[str, str]]] = {
    "absent": ("GET", ISVCS + "/nobody", None, {}),
    "patch of what is absent": ("PATCH", ISVCS + "/nobody", {"spec": {}}, {}),
    "deletion of what is absent": ("DELETE", ISVCS + "/nobody", None, {}),
    "unknown kind": ("GET", ISVCS.replace("v1beta1", "v0"), None, {}),
    "unknown namespace": ("POST", ISVCS.format("nowhere"), service("binary"), STRICT),
    "unknown field": ("POST", ISVCS, service("binary", nobody=1), STRICT),
    "unknown field, dropped": ("POST", ISVCS, service("binary", nobody=1), {}),
    "wrong type": ("POST", ISVCS, service("binary", minReplicas="many"), STRICT),
    "exists": ("POST", ISVCS, service("binary"), STRICT),
    "stale": ("PATCH", ISVCS + "/binary", {"metadata": {"resourceVersion": "1"}, "spec": {"canary": []}}, {}),
    "unknown field in a patch": ("PATCH", ISVCS + "/binary", {"spec": {"predictor": {"nobody": 1}}}, STRICT),
}  # fmt: skip


def test_the_stand_in_answers_as_the_real_server_does(real: RealCluster, tmp_path: Path) -> None:
    """Whatever push's tests show on the stand-in holds on a real server: same codes, reasons and words."""
    isvcs = ISVCS.format(real.namespace)
    with serving(ApiServer()) as api:
        api.put("namespaces", "", {"metadata": {"name": real.namespace}})
        other = Client.of_kubeconfig(write_kubeconfig(tmp_path / "stand-in", api, TOKEN))
        differ = {}
        try:
            for name, (method, path, body, query) in REQUESTS.items():
                said = []
                for client in (real.admin, other):
                    answer = client.ask(method, path.format(real.namespace), body, query)
                    if name.endswith("dropped"):
                        client.ask("GET", f"{isvcs}/binary")
                    status = answer.body if isinstance(answer.body, dict) else {"message": answer.body}
                    message = re.sub(r'"\{.*\}"', '"{…}"', str(status.get("message", "")))
                    details = {key: (status.get("details") or {}).get(key) for key in ("name", "kind")}
                    said.append((answer.code, status.get("reason"), message, details if answer.code == 404 else {}))
                if said[0] != said[1]:
                    differ[name] = said
        finally:
            real.admin.ask("DELETE", f"{isvcs}/binary")
    assert not differ, "\n".join(f"{name}:\n  real      {a}\n  stand-in  {b}" for name, (a, b) in differ.items())


@pytest.mark.parametrize("why", ["exceeded quota", "violates PodSecurity"])
def test_why_a_controller_makes_no_pod_is_told(real: RealCluster, why: str, tmp_path: Path) -> None:
    if not managed(real.admin, real.namespace) or kserve_runs(real.admin):
        pytest.skip("needs a kube-controller-manager, and no KServe that would undo this")
    played = RealApi(real.admin, real.namespace)
    quota = f"api/v1/namespaces/{real.namespace}/resourcequotas"
    played.clear()
    try:
        if why == "exceeded quota":
            of = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": QUOTA}}
            real.admin.do("POST", quota, {**of, "spec": {"hard": {"pods": "0"}}})
            until(lambda: (real.admin.get(f"{quota}/{QUOTA}") or {}).get("status", {}).get("hard"))
        else:
            played.pod_spec = careless  # type: ignore[method-assign]
        labels = {"serving.kserve.io/inferenceservice": "late"}
        spec = {"replicas": 1, "template": {"metadata": {"labels": labels}}}
        played.put(
            "deployments.apps", "flights", {"metadata": {"name": "late-predictor", "labels": labels}, "spec": spec}
        )
        path = kubeconfig_of(tmp_path / "steps", real, real.admin.token(real.namespace, ACCOUNT))
        api = KubernetesApi.connect(environ={"KUBECONFIG": str(path)})
        found = until(lambda: failures("late", [Revision("a" * 64, "s3://fti/late")], {}, api))
        assert [failure.reason for failure in found] == ["FailedCreate"] and why in found[0].text
        assert not found[0].final
    finally:
        real.admin.ask("DELETE", f"{quota}/{QUOTA}")
        played.clear()


def careless(name: str) -> Object:
    return {"containers": [{"name": name, "image": "careless"}]}


def test_the_doctor_finds_what_the_manifests_made(real: RealCluster, tmp_path: Path) -> None:
    env = {"FTI_HOME": str(tmp_path), "FTI_SERVING": "cluster", "FTI_NAMESPACE": real.namespace}
    api = KubernetesApi.connect(real.namespace, {"KUBECONFIG": str(real.kubeconfig)})
    found = check_cluster(Settings.from_env(env), api)
    statuses: dict[str, set[str]] = {}
    for finding in found:
        statuses.setdefault(finding.name, set()).add(finding.status)
    for name in ("API server", "namespace", "KServe", "rights", "service account", "settings", "runtime"):
        assert statuses[name] == {"ok"}, [each for each in found if each.name == name]
    assert statuses["secret"] == {"warning"}  # the placeholders
    path = kubeconfig_of(tmp_path / "steps", real, real.admin.token(real.namespace, ACCOUNT))
    found = check_cluster(Settings.from_env(env), KubernetesApi.connect(real.namespace, {"KUBECONFIG": str(path)}))
    assert {each.status for each in found if each.name == "rights"} == {"ok"}
    assert {each.status for each in found if each.name == "secrets"} == {"unknown"}  # steps may not read them


def test_autoscaling_patches_are_accepted(real: RealCluster) -> None:
    isvcs = ISVCS.format(real.namespace)
    real.admin.do("POST", isvcs, service("binary"))
    try:
        for file in sorted((ROOT / "autoscaling").glob("*.yaml")):
            patch = yaml.safe_load(file.read_text())
            answer = real.admin.ask("PATCH", f"{isvcs}/binary", patch, {"dryRun": "All", **STRICT})
            assert answer.code == 200 and not answer.warnings, (file.name, answer)
    finally:
        real.admin.ask("DELETE", f"{isvcs}/binary")


def test_a_models_way(real: RealCluster) -> None:
    """Push, canary, promotion and rollback, as the steps' account; KServe is played where none works."""
    env = {**os.environ, "KUBECONFIG": str(real.kubeconfig), "FTI_TEST_NAMESPACE": real.namespace}
    tests = ROOT.parent / "tests/push/test_push_to_cluster.py"
    words = "any_cluster and (standard or knative)"
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "-k", words, str(tests)]
    result = subprocess.run(command, env=env, cwd=ROOT.parent, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stdout[-4000:]


def until(look: Any, seconds: float = 30) -> Any:
    """What a look finds, as soon as it finds something."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found
