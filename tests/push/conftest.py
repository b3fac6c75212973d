"""A namespace of a cluster: the stand-in's, or that which FTI_TEST_NAMESPACE and KUBECONFIG name.

On a real cluster where no KServe works, its controller is played on real objects (`tests.cluster.real_api`).
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fti.common.inference_service.fronts import Graph, Route
from fti.common.settings import Settings
from fti.doctor.rights import KSERVE_RIGHTS, RIGHTS
from tests.push.api_server import ApiServer, serving, write_kubeconfig
from tests.push.kserve import KServe

if TYPE_CHECKING:
    from tests.cluster.real_api import RealApi


@dataclass
class Cluster:
    """What a test of push needs of a cluster."""

    settings: Settings
    api: ApiServer
    kserve: KServe


MODES = ("standard", "knative", "route", "graph")


@pytest.fixture(params=MODES)
def cluster(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    yield from _stand_in(request.param, tmp_path, monkeypatch)


@pytest.fixture(params=["standard", "knative"])
def single(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster where a service is one InferenceService."""
    yield from _stand_in(request.param, tmp_path, monkeypatch)


@pytest.fixture(params=["route", "graph"])
def two(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster where a service is two InferenceServices."""
    yield from _stand_in(request.param, tmp_path, monkeypatch)


@pytest.fixture
def standard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    yield from _stand_in("standard", tmp_path, monkeypatch)


@pytest.fixture
def knative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    yield from _stand_in("knative", tmp_path, monkeypatch)


@pytest.fixture
def route(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    yield from _stand_in("route", tmp_path, monkeypatch)


@pytest.fixture
def graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    yield from _stand_in("graph", tmp_path, monkeypatch)


@pytest.fixture(params=MODES)
def any_cluster(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """Settings of a real cluster (FTI_TEST_NAMESPACE, and FTI_TEST_MODE: its mode), else of the stand-in.

    A real cluster in mode `route` or `graph` is one that must say so itself: FTI_SERVING=cluster.
    """
    namespace = os.environ.get("FTI_TEST_NAMESPACE", "")
    if not namespace or _played() is not None:
        for made in _stand_in(request.param, tmp_path, monkeypatch):
            yield made.settings
        return
    if os.environ.get("FTI_TEST_MODE", "standard") != request.param:
        pytest.skip("the cluster works in another mode")
    # Packages must lie where its pods can read them: FTI_MODELS_URI and the store's keys come from the environment.
    yield Settings.from_env({**os.environ, "FTI_HOME": str(tmp_path), "FTI_SERVING": _serving_of(request.param),
                             "FTI_NAMESPACE": namespace})  # fmt: skip


def _serving_of(mode: str) -> str:
    return mode if mode in {"standard", "knative"} else "cluster"


def _stand_in(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setattr("fti.common.inference_service.in_force._LONGEST_PAUSE", 0.05)  # the stand-in is quick
    for front in (Route, Graph):
        monkeypatch.setattr(front, "drain", 0.0)
    with _api(mode) as of_namespace, serving(of_namespace) as api:
        monkeypatch.setenv("KUBECONFIG", str(write_kubeconfig(tmp_path / "kubeconfig", api)))
        settings = Settings.from_env(
            {"FTI_HOME": str(tmp_path / "home"), "FTI_SERVING": _serving_of(mode), "FTI_SERVING_SECONDS": "20"}
        )
        kserve = KServe(api)
        kserve.install()
        yield Cluster(settings, api, kserve)
        assert set(api.requests) <= RIGHTS | KSERVE_RIGHTS  # what manifests/base and manifests/cluster grant
        assert not kserve.fronts.lost


@contextmanager
def _api(mode: str) -> Iterator[ApiServer]:
    played = _played()
    if played is None:
        api = ApiServer()
        api.put("namespaces", "", {"metadata": {"name": "flights"}})
        say(api, mode)
        yield api
        return
    played.clear()
    say(played, mode)
    try:
        yield played
    finally:
        played.clear()


def _played() -> "RealApi | None":
    """The real cluster on which KServe is to be played, or None: there is none, or its own KServe works."""
    namespace, kubeconfig = os.environ.get("FTI_TEST_NAMESPACE", ""), os.environ.get("KUBECONFIG", "")
    if not namespace:
        return None
    from tests.cluster.client import Client, kserve_runs
    from tests.cluster.real_api import RealApi

    admin = Client.of_kubeconfig(kubeconfig)
    if kserve_runs(admin):
        return None
    _prepare(kubeconfig, namespace)
    return RealApi(admin, namespace)


@cache
def _prepare(kubeconfig: str, namespace: str) -> None:
    from tests.cluster.client import Client
    from tests.cluster.objects import RealCluster, prepared

    prepared(RealCluster(Path(kubeconfig), namespace, Client.of_kubeconfig(kubeconfig)))


def say(api: ApiServer, mode: str, version: str = "v0.21.0") -> None:
    """Makes a cluster say of itself that it splits in a mode."""
    default = {"knative": "Serverless"}.get(mode, "Standard")
    ingress = {"enableGatewayApi": mode == "standard", "ingressDomain": "example.org"}
    data = {"_example": "no # JSON", "ingress": ingress, "deploy": {"defaultDeploymentMode": default}}
    data |= {"agent": {"image": f"registry:5000/kserve/agent:{version}"}}
    data = {key: value if isinstance(value, str) else json.dumps(value) for key, value in data.items()}
    api.put("configmaps", "kserve", {"metadata": {"name": "inferenceservice-config"}, "data": data})
    gateways, routes = "gateways.gateway.networking.k8s.io", "httproutes.gateway.networking.k8s.io"
    api.put(gateways, "kserve", {"metadata": {"name": "kserve-ingress-gateway"}})
    api.absent |= set() if mode == "knative" else {"services.serving.knative.dev"}
    api.absent |= {gateways, routes} if mode == "graph" else set()
