"""On a real API server, where its binaries are: the manifests are taken, and rights are those that its RBAC gives."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from fti.common.kubernetes_api import KubernetesApi
from fti.doctor.accounts import kserve_rights, predictor_rights, step_rights
from fti.doctor.finding import Finding
from tests.cluster.control_plane import binary, control_plane
from tests.crds import CRD
from tests.manifests.rendered import ELSEWHERE, ROOT, overlay
from tests.manifests.test_manifests import UNCHECKED

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CRD.exists(), reason="KServe's CRDs lie outside of the repository"),
    pytest.mark.skipif(
        not all([shutil.which("kubectl"), binary("etcd"), binary("kube-apiserver")]),
        reason="etcd, kube-apiserver or kubectl is not on this machine (KUBEBUILDER_ASSETS)",
    ),
]
ACCOUNTS = {"minio": ("fti", "fti-pipelines"), "profile": ("team", "default-editor"),
            "single-user": ("kubeflow", "pipeline-runner")}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A kubeconfig of an administrator; Kubeflow's own namespaces and accounts are there, and all three overlays."""
    with control_plane(tmp_path_factory.mktemp("server")) as kubeconfig:
        for file in CRD.parent.glob("*.yaml"):
            kubectl(kubeconfig, "apply", "--server-side", "-f", str(file))
        established = ("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
        kubectl(kubeconfig, *established)
        for name, (namespace, account) in ACCOUNTS.items():
            if name in ELSEWHERE:
                kubectl(kubeconfig, "create", "namespace", namespace)
                kubectl(kubeconfig, "-n", namespace, "create", "serviceaccount", account)
            objects = [each for each in overlay(name) if each["kind"] not in UNCHECKED]
            apply = ("apply", "--server-side", "--validate=strict", "-f", "-")
            kubectl(kubeconfig, *apply, text=yaml.safe_dump_all(objects))
        kubectl(kubeconfig, "create", "namespace", "kserve")
        kubectl(kubeconfig, "apply", "-k", str(ROOT / "cluster"))
        yield kubeconfig


def kubectl(kubeconfig: Path, *arguments: str, text: str = "") -> str:
    environ = {**os.environ, "KUBECONFIG": str(kubeconfig)}
    done = subprocess.run(["kubectl", *arguments], input=text, env=environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rights(kubeconfig: Path, namespace: str, account: str) -> list[Finding]:
    api = KubernetesApi.connect(namespace, {"KUBECONFIG": str(kubeconfig)})
    return [*step_rights(api, account), *predictor_rights(api, "fti-predictor")]


@pytest.mark.parametrize("name", ACCOUNTS)
def test_the_accounts_of_steps_may_push_and_predictors_nothing(server: Path, name: str) -> None:
    namespace, account = ACCOUNTS[name]
    steps, predictor = rights(server, namespace, account)
    if name == "minio":
        assert (steps.status, steps.text.partition(" has all ")[0]) == ("ok", account)
    else:  # what Kubeflow itself gives its own accounts is not here; all that push needs is
        kubeflows = "create workflowtaskresults.argoproj.io, get secrets/mlpipeline-minio-artifact"
        assert steps.text == f"{account} may not {kubeflows}, patch workflowtaskresults.argoproj.io"
    assert (predictor.status, predictor.text) == ("ok", "fti-predictor has none, and needs none")


@pytest.mark.parametrize("name", ACCOUNTS)
def test_the_accounts_of_steps_may_read_how_kserve_splits_and_no_other(server: Path, name: str) -> None:
    namespace, account = ACCOUNTS[name]
    api = KubernetesApi.connect(namespace, {"KUBECONFIG": str(server)})
    (found,) = kserve_rights(api, account, "kserve", "kserve")
    assert (found.status, found.text) == ("ok", f"{account} may read how KServe splits traffic")
    (found,) = kserve_rights(api, "fti-predictor", "kserve", "")
    assert found.text == "fti-predictor may not get configmaps/inferenceservice-config, in kserve"


def test_what_a_binding_gives_too_much_is_told(server: Path) -> None:
    binding = ("create", "rolebinding", "too-much", "--clusterrole=view", "--serviceaccount=team:fti-predictor")
    kubectl(server, "-n", "team", *binding)
    _, predictor = rights(server, "team", "default-editor")
    assert (predictor.status, predictor.text) == ("warning", "fti-predictor may list pods, and needs no right at all")


def test_a_step_asks_for_itself_and_others_only_as_far_as_they_may(server: Path, tmp_path: Path) -> None:
    token = kubectl(server, "-n", "fti", "create", "token", "fti-pipelines").strip()
    config = yaml.safe_load(server.read_text())
    config["users"][0]["user"] = {"token": token}
    step = tmp_path / "kubeconfig"
    step.write_text(yaml.safe_dump(config))
    (own,) = rights(step, "fti", "fti-pipelines")
    assert (own.status, own.text.partition(" has all ")[0]) == ("ok", "fti-pipelines")
    (other,) = rights(step, "fti", "default-editor")
    assert other.status == "warning" and "you may not ask whether default-editor has" in other.text
