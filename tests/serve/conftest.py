"""Two services behind one gateway, started once for all tests of serving."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from fti.common.model_package import ModelPackage
from fti.common.settings import Settings
from fti.push.logic import push
from fti.serve.local.runner import running
from fti.serve.local.status import State, read
from tests.serve import tiny


@dataclass(frozen=True)
class Served:
    """`late` with a canary at 20 %, and `other`, a multiclass model."""

    settings: Settings
    gateway: str
    stable: ModelPackage
    canary: ModelPackage

    @property
    def names(self) -> dict[str, str]:
        return {"stable": self.stable.digest[:12], "canary": self.canary.digest[:12]}

    def state(self, service: str = "late") -> State:
        actual: State = read(self.settings)["services"][service]["actual"]["revisions"]
        return actual


def publish(settings: Settings, package: ModelPackage, service: str, percent: int = 100) -> None:
    blessing = tiny.blessing(package.path.with_suffix(".json"), package)
    push(package.path, blessing, service=service, settings=settings, canary_percent=percent)


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    settings = Settings.from_env({"FTI_HOME": str(folder / "home")})
    stable, canary = tiny.write_binary(folder / "stable"), tiny.write_binary(folder / "canary", bias=0.5)
    publish(settings, stable, "late")
    publish(settings, canary, "late", percent=20)
    publish(settings, tiny.write_other(folder / "other", "multiclass"), "other")
    with running(settings) as endpoints:
        gateway = endpoints["late"].removesuffix("/v1/models/late:predict")
        yield Served(settings, gateway, stable, canary)


@pytest.fixture(scope="session")
def client(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.gateway, timeout=30) as client:
        yield client


@pytest.fixture
def one_service(settings: Settings, tmp_path: Path) -> ModelPackage:
    """A service `late` that is pushed, not yet served."""
    package = tiny.write_binary(tmp_path / "package")
    publish(settings, package, "late")
    return package
