"""A namespace of a cluster: the stand-in's, or that which FTI_TEST_NAMESPACE and KUBECONFIG name."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fti.common.settings import Settings
from fti.doctor.rights import RIGHTS
from tests.push.api_server import ApiServer, serving, write_kubeconfig
from tests.push.kserve import KServe


@dataclass
class Cluster:
    """What a test of push needs of a cluster; `kserve` is None on a real one."""

    settings: Settings
    api: ApiServer
    kserve: KServe


@pytest.fixture(params=["standard", "knative"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    yield from _stand_in(request.param, tmp_path, monkeypatch)


@pytest.fixture
def standard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    yield from _stand_in("standard", tmp_path, monkeypatch)


@pytest.fixture
def knative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    yield from _stand_in("knative", tmp_path, monkeypatch)


@pytest.fixture(params=["standard", "knative"])
def any_cluster(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """Settings of a real cluster (FTI_TEST_NAMESPACE, and FTI_TEST_MODE: its mode), else of the stand-in."""
    namespace = os.environ.get("FTI_TEST_NAMESPACE", "")
    if not namespace:
        for made in _stand_in(request.param, tmp_path, monkeypatch):
            yield made.settings
        return
    if os.environ.get("FTI_TEST_MODE", "standard") != request.param:
        pytest.skip("the cluster works in the other mode")
    # Packages must lie where its pods can read them: FTI_MODELS_URI and the store's keys come from the environment.
    yield Settings.from_env({**os.environ, "FTI_HOME": str(tmp_path), "FTI_SERVING": request.param,
                             "FTI_NAMESPACE": namespace})  # fmt: skip


def _stand_in(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setattr("fti.common.inference_service.in_force._LONGEST_PAUSE", 0.05)  # the stand-in is quick
    with serving(ApiServer()) as api:
        api.put("namespaces", "", {"metadata": {"name": "flights"}})
        monkeypatch.setenv("KUBECONFIG", str(write_kubeconfig(tmp_path / "kubeconfig", api)))
        settings = Settings.from_env(
            {"FTI_HOME": str(tmp_path / "home"), "FTI_SERVING": mode, "FTI_SERVING_SECONDS": "20"}
        )
        kserve = KServe(api)
        kserve.install()
        yield Cluster(settings, api, kserve)
        assert set(api.requests) <= RIGHTS  # what manifests/base/rights.yaml grants
