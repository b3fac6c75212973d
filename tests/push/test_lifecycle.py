"""`fti stop`, `fti start`, `fti delete`: on a cluster in each mode, and on this machine under a running `fti serve`."""

from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from fti.cli.lifecycle import delete_command, start_command, stop_command
from fti.cli.serving import status_command
from fti.common.errors import ConfigError, ServingError
from fti.common.inference_service import read_service, service_names
from fti.common.model_package import ModelPackage
from fti.common.settings import Settings
from fti.push.lifecycle import delete, start, stop
from fti.push.logic import push
from fti.push.traffic import promote, rollback
from fti.serve.local.runner import running, serve
from fti.serve.local.status import read
from tests.push.conftest import Cluster
from tests.push.kserve import ISVC
from tests.push.test_push_to_cluster import models, pushing, short
from tests.serve import tiny
from tests.serve.test_lifecycle import until

__all__ = ["models"]
pytestmark = pytest.mark.slow


def up(cluster: Cluster) -> list[str]:
    return [name for resource, _, name in cluster.api.objects if resource == "deployments.apps" and name != "late"]


def test_a_stopped_service_comes_back_with_what_it_had(cluster: Cluster, models: list[ModelPackage]) -> None:
    pushing(models[0], cluster.settings)
    pushing(models[1], cluster.settings, 20)
    if cluster.settings.serving == "knative":
        with pytest.raises(ConfigError, match="canary would get all of the traffic.*fti promote late"):
            stop("late", cluster.settings)
        promote("late", cluster.settings)
    before = read_service("late", cluster.settings)
    cluster.kserve.fronts.watching = False  # nothing answers on purpose
    assert stop("late", cluster.settings) and not stop("late", cluster.settings)
    assert not up(cluster)
    stopped = read_service("late", cluster.settings)
    assert stopped and before and stopped == replace(before, stopped=True)
    with pytest.raises(ConfigError, match="is stopped.*fti start late"):
        pushing(models[2], cluster.settings, 30)
    assert start("late", cluster.settings) and not start("late", cluster.settings)
    assert read_service("late", cluster.settings) == before
    cluster.kserve.fronts.watching = True
    pushing(models[2], cluster.settings, 30)
    assert cluster.kserve.history[-1][short(models[2])] == 30


def test_knative_a_canary_that_was_taken_back_does_not_come_back_by_a_start(
    knative: Cluster, models: list[ModelPackage]
) -> None:
    pushing(models[0], knative.settings)
    pushing(models[1], knative.settings, 20)
    rollback("late", knative.settings)
    stop("late", knative.settings)
    knative.kserve.history.clear()
    start("late", knative.settings)
    assert knative.kserve.history == [{short(models[0]): 100}]
    pushing(models[2], knative.settings, 30)
    assert knative.kserve.history[-1] == {short(models[0]): 70, short(models[2]): 30}


def test_a_kserve_that_knows_no_stop(cluster: Cluster, models: list[ModelPackage]) -> None:
    pushing(models[0], cluster.settings)
    cluster.kserve.stops = False
    with pytest.raises(ServingError, match="has not stopped late.*serving.kserve.io/stop"):
        stop("late", replace(cluster.settings, serving_seconds=0.3))


def test_the_commands_say_what_they_did(
    cluster: Cluster, models: list[ModelPackage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FTI_HOME", str(cluster.settings.home))
    monkeypatch.setenv("FTI_SERVING", cluster.settings.serving)
    pushing(models[0], cluster.settings)
    cluster.kserve.fronts.watching = False
    runner = CliRunner()
    assert runner.invoke(stop_command, ["late"]).output == "late: stopped.\n"
    assert runner.invoke(stop_command, ["late"]).output == "late is stopped already.\n"
    assert runner.invoke(start_command, ["late"]).output == "late: started.\n"
    assert runner.invoke(start_command, ["late"]).output == "late is not stopped.\n"
    assert runner.invoke(delete_command, ["late"]).output.startswith("late: deleted. Its packages stay under ")
    assert runner.invoke(delete_command, ["late"]).output == "late was not pushed, or is deleted already.\n"
    assert service_names(cluster.settings) == []
    with pytest.raises(ConfigError, match="'late' was not pushed"):
        stop("late", cluster.settings)


@pytest.mark.parametrize("name", ["", "..", "../inferenceservices/late", "late/status", "Late", "a" * 300])
def test_a_name_that_no_service_can_have(cluster: Cluster, models: list[ModelPackage], name: str) -> None:
    pushing(models[0], cluster.settings)
    for change in (delete, stop, start, promote, rollback):
        with pytest.raises(ConfigError, match="cannot name a service"):
            change(name, cluster.settings)
    with pytest.raises(ConfigError, match="cannot name a service"):
        read_service(name, cluster.settings)
    assert service_names(cluster.settings) == ["late"]


@pytest.mark.parametrize("name", ["../precious", "a" * 300])
def test_no_file_but_a_services_is_deleted(settings: Settings, name: str) -> None:
    settings.services.mkdir(parents=True)
    precious = settings.services.parent / "precious.yaml"
    precious.write_text("x: 1")
    with pytest.raises(ConfigError, match="cannot name a service"):
        delete(name, settings)
    assert precious.is_file()


def test_what_others_made_is_not_deleted(single: Cluster) -> None:
    theirs = {"metadata": {"name": "late", "annotations": {}}, "spec": {"predictor": {"model": {}}}}
    single.api.before = lambda *_: None
    single.api.put(ISVC, "flights", theirs)
    with pytest.raises(ServingError, match="was not made by a push"):
        delete("late", single.settings)
    assert (ISVC, "flights", "late") in single.api.objects


def test_on_this_machine(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTI_HOME", str(settings.home))
    for name in ("late", "other"):
        package = tiny.write_binary(tmp_path / name)
        push(package.path, tiny.blessing(tmp_path / f"{name}.json", package), service=name, settings=settings)
    with running(settings) as endpoints:

        def answers(name: str) -> int:
            return httpx.post(endpoints[name], json={"instances": [tiny.ROW]}, timeout=30).status_code

        assert answers("late") == 200
        assert stop("late", settings) and not stop("late", settings)
        until(lambda: answers("late") == 404)
        assert answers("other") == 200
        until(lambda: read(settings)["services"]["late"]["in_sync"])
        state = read(settings)["services"]["late"]
        assert state == {"desired": {}, "actual": None, "in_sync": True, "stopped": True, "failures": {}}
        assert "late  stopped: fti start late" in CliRunner().invoke(status_command).output
        with pytest.raises(ConfigError, match="is stopped"):
            push(package.path, tmp_path / "other.json", service="late", settings=settings)
        assert start("late", settings) and not start("late", settings)
        until(lambda: answers("late") == 200)
        assert delete("late", settings) and not delete("late", settings)
        until(lambda: answers("late") == 404)
        assert answers("other") == 200
        until(lambda: read(settings)["services"].keys() == {"other"})
        stop("other", settings)
        until(lambda: answers("other") == 404)
    with pytest.raises(ServingError, match="every service is stopped.*fti start"):
        serve(settings, port=0)
