"""A running stand-in, and our API's client on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fti.compilation import compile_pipeline
from fti.kubeflow.api import Api
from fti.kubeflow.connection import Connection
from fti.kubeflow.pipelines import Version, upload
from tests.cli import steps
from tests.kubeflow.standin import Kubeflow, kubeflow


@pytest.fixture
def cluster() -> Iterator[Kubeflow]:
    with kubeflow() as standin:
        yield standin


@pytest.fixture
def api(cluster: Kubeflow) -> Iterator[Api]:
    with Api(Connection(cluster.url, cluster.url), pause=0.01) as client:
        yield client


@pytest.fixture(scope="session")
def shouting(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A compiled pipeline with one parameter, `text`."""
    path = tmp_path_factory.mktemp("compiled") / "shouting.yaml"
    return compile_pipeline(steps.shouting, Path(path)).read_text()


@pytest.fixture
def version(api: Api, shouting: str) -> Version:
    """The pipeline, uploaded."""
    return upload(api, shouting)
