"""The examples of a package, sent to a model that is really served."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from fti.common.errors import ServingError
from fti.common.inference_service import Revision, Service, read_service, wait_in_force, write_service
from fti.common.model_package import ModelPackage
from fti.common.settings import Settings
from fti.push.endpoint import try_examples
from fti.push.logic import push
from fti.serve.local.runner import running
from tests.push.conftest import Cluster
from tests.serve import tiny

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, ModelPackage]]]:
    folder = tmp_path_factory.mktemp("served")
    settings = Settings.from_env({"FTI_HOME": str(folder / "home")})
    packages = {"binary": tiny.write_binary(folder / "binary")}
    packages |= {task: tiny.write_other(folder / task, task) for task in ("multiclass", "regression")}
    for name, package in packages.items():
        push(package.path, tiny.blessing(folder / f"{name}.json", package), service=name, settings=settings)
    with running(settings) as endpoints:
        yield endpoints["binary"].split("/v1/")[0], packages


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_a_model_that_answers_as_it_was_packed(served: tuple[str, dict[str, ModelPackage]], task: str) -> None:
    address, packages = served
    try_examples(packages[task], task, address)


def test_a_model_that_answers_otherwise(served: tuple[str, dict[str, ModelPackage]], tmp_path: Path) -> None:
    address, _ = served
    other = tiny.write_binary(tmp_path / "other", bias=0.5)
    with pytest.raises(ServingError, match=r"binary answers .* to example 0 of its package, which recorded"):
        try_examples(other, "binary", address)
    with pytest.raises(ServingError, match="does not answer its package's examples"):
        try_examples(other, "multiclass", address, patience=0)
    with pytest.raises(ServingError, match="does not answer"):
        try_examples(other, "binary", "http://127.0.0.1:1", patience=0)


def test_a_model_that_answers_otherwise_is_taken_back(
    cluster: Cluster, served: tuple[str, dict[str, ModelPackage]], tmp_path: Path
) -> None:
    address, packages = served
    other = tiny.write_binary(tmp_path / "other", bias=0.5)
    one = packages["binary"]
    blessing = tiny.blessing(tmp_path / "one.json", one)
    push(one.path, blessing, service="binary", settings=cluster.settings)
    service = read_service("binary", cluster.settings)
    assert service
    asked = []

    def probe(where: str) -> None:
        asked.append(where)
        partial(try_examples, other, "binary")(address)

    canary = replace(service.stable, digest=other.digest)
    with pytest.raises(ServingError, match="which recorded"):
        write_service(replace(service, canary=canary, canary_percent=20), cluster.settings, probe)
    after = read_service("binary", cluster.settings)
    assert after and (after.stable.digest, after.canary) == (one.digest, None)
    assert cluster.kserve.history == [{one.digest[:12]: 100}]  # it never got any traffic
    names = {"standard": "binary-canary-predictor", "knative": "binary-predictor", "cluster": "binary-green-predictor"}
    where = names[cluster.settings.serving]
    assert asked == [f"http://{where}.flights.svc.cluster.local"]


def test_a_first_model_that_answers_otherwise_is_taken_away_and_tried_again(
    cluster: Cluster, served: tuple[str, dict[str, ModelPackage]], tmp_path: Path
) -> None:
    address, packages = served
    one, other = packages["binary"], tiny.write_binary(tmp_path / "other", bias=0.5)

    def probe(_: str) -> None:
        try_examples(other, "binary", address)

    first = Service("binary", Revision(one.digest, str(one.path)))
    with pytest.raises(ServingError, match="which recorded"):
        write_service(first, cluster.settings, probe)
    assert read_service("binary", cluster.settings) is None
    write_service(first, cluster.settings)  # such as a push that is killed before its trial
    there = read_service("binary", cluster.settings)
    assert there
    with pytest.raises(ServingError, match="which recorded"):
        wait_in_force(there, cluster.settings, probe)
