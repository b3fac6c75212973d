"""A real cluster: the one that KUBECONFIG names, else a control plane that is started here, else none."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster.client import Client
from tests.cluster.control_plane import binary, control_plane
from tests.cluster.objects import RealCluster, prepared
from tests.crds import CRD

NAMESPACE = "fti-test"


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    """The cluster, with `overlays/minio` and `manifests/cluster` applied."""
    namespace = os.environ.get("FTI_TEST_NAMESPACE", "")
    if namespace and os.environ.get("KUBECONFIG"):
        kubeconfig = Path(os.environ["KUBECONFIG"])
        yield prepared(RealCluster(kubeconfig, namespace, Client.of_kubeconfig(kubeconfig)))
    elif binary("etcd") and binary("kube-apiserver"):
        with control_plane(tmp_path_factory.mktemp("control-plane")) as kubeconfig:
            admin = Client.of_kubeconfig(kubeconfig)
            _define(admin)
            yield prepared(RealCluster(kubeconfig, NAMESPACE, admin))
    else:
        pytest.skip(
            "no Kubernetes API server: set KUBECONFIG and FTI_TEST_NAMESPACE to a cluster's, or KUBEBUILDER_ASSETS to "
            "a folder with etcd and kube-apiserver (setup-envtest use -p path)"
        )


def _define(admin: Client) -> None:
    """Makes the kinds known whose definitions lie beside the checkout."""
    if not CRD.exists():
        pytest.skip("the definitions of KServe's kinds lie outside of the repository")
    names = []
    for path in sorted(CRD.parent.glob("*.yaml")):
        definition = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
        admin.do(
            "POST",
            "apis/apiextensions.k8s.io/v1/customresourcedefinitions",
            json.loads(json.dumps(definition, default=str)),
        )
        names.append(definition["metadata"]["name"])
    deadline = time.monotonic() + 60
    while not all(_established(admin, name) for name in names):
        assert time.monotonic() < deadline, "the kinds are not established"
        time.sleep(0.1)


def _established(admin: Client, name: str) -> bool:
    found = admin.get(f"apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}") or {}
    conditions = (found.get("status") or {}).get("conditions") or []
    return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)
