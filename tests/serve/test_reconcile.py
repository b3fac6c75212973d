"""A running `fti serve` takes over whatever is pushed, and loses no request while it does."""

import json
import logging
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from fti.common.errors import ServingError
from fti.common.inference_service import manifest_path, read_service
from fti.common.model_package import ModelPackage
from fti.common.settings import Settings
from fti.push.traffic import rollback
from fti.serve.local.runner import running
from fti.serve.local.status import State, read, read_state
from tests.crds import check_inference_service
from tests.serve import tiny
from tests.serve.conftest import publish
from tests.serve.load import Load, post_many
from tests.serve.test_lifecycle import gone, until

pytestmark = pytest.mark.slow

BODY = json.dumps({"instances": [tiny.ROW]}).encode()
V1 = "/v1/models/late:predict"


def in_sync(settings: Settings, service: str = "late") -> bool:
    return bool(read(settings)["services"][service]["in_sync"])


def actual(settings: Settings) -> State:
    state: State = read(settings)["services"]["late"]["actual"]["revisions"]
    return state


@contextmanager
def under_load(gateway: str) -> Iterator[list[Load]]:
    """Asks on four connections for as long as the block lasts; the answers are there after it."""
    loads: list[Load] = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            loads.append(post_many(gateway, V1, BODY, 200))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield loads
    finally:
        ended.set()
        thread.join()


def answers(loads: list[Load]) -> Counter[tuple[int, str | None]]:
    return sum((load.answers for load in loads), Counter())


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has lost its traffic is kept for seconds only."""
    monkeypatch.setattr("fti.serve.local.kept.IN_FLIGHT_SECONDS", 3.0)


@pytest.mark.parametrize("damage", ["modelFormat: sklearn", "a folder", "the gateway's files"])
def test_nothing_that_breaks_ends_what_is_served(
    settings: Settings, one_service: ModelPackage, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    publish(settings, tiny.write_other(tmp_path / "other", "multiclass"), "other")
    with running(settings) as endpoints:
        if damage == "a folder":
            (settings.services / "backup.yaml").mkdir()
        elif damage == "modelFormat: sklearn":
            manifest = yaml.safe_load(manifest_path("other", settings).read_text())
            manifest["spec"]["predictor"]["model"]["modelFormat"] = "sklearn"
            manifest_path("other", settings).write_text(yaml.safe_dump(manifest))
            until(lambda: "other.yaml cannot be served" in caplog.text)
        else:
            shutil.rmtree(settings.home / "envoy")
            (settings.home / "envoy").write_text("in the way")
            publish(settings, tiny.write_binary(tmp_path / "canary", bias=0.5), "late", percent=50)
            until(lambda: "could not be written" in caplog.text or "File exists" in caplog.text)
        for service, row in (("late", tiny.ROW), ("other", {"x": 1.0})):
            assert httpx.post(endpoints[service], json={"instances": [row]}).status_code == 200


def test_a_model_that_dies_after_its_promotion_gives_way_to_the_one_before(
    settings: Settings, one_service: ModelPackage, tmp_path: Path
) -> None:
    new = tiny.write_binary(tmp_path / "new", bias=0.5)
    with running(settings) as endpoints:
        old_pid = actual(settings)["stable"]["pid"]
        publish(settings, new, "late")
        until(lambda: in_sync(settings))
        until_later = time.monotonic() + 4  # nothing is in flight any more
        until(lambda: time.monotonic() > until_later)
        assert read(settings)["services"]["late"]["actual"]["kept"] == one_service.digest[:12]
        os.kill(actual(settings)["stable"]["pid"], signal.SIGKILL)
        until(lambda: actual(settings)["stable"]["pid"] == old_pid)
        answer = post_many(endpoints["late"].removesuffix(V1), V1, BODY, 200).answers
        assert answer == {(200, one_service.digest[:12]): 200}


def test_a_canary_that_was_taken_back_never_stands_in_for_the_stable_model(
    settings: Settings, one_service: ModelPackage, tmp_path: Path
) -> None:
    canary = tiny.write_binary(tmp_path / "canary", bias=0.5)
    publish(settings, canary, "late", percent=20)
    with running(settings) as endpoints:
        rollback("late", settings)
        until(lambda: in_sync(settings))
        os.kill(actual(settings)["stable"]["pid"], signal.SIGKILL)
        answer = post_many(endpoints["late"].removesuffix(V1), V1, BODY, 500).answers
        assert canary.digest[:12] not in {revision for _, revision in answer}
        until(lambda: in_sync(settings))
        assert actual(settings).keys() == {"stable"}


def test_a_canary_comes_moves_and_is_promoted_without_a_request_lost(
    settings: Settings, one_service: ModelPackage, tmp_path: Path
) -> None:
    canary = tiny.write_binary(tmp_path / "canary", bias=0.5)
    old, new = one_service.digest[:12], canary.digest[:12]
    with running(settings, bake_seconds=0) as endpoints:
        gateway = endpoints["late"].removesuffix(V1)
        stable_pid = actual(settings)["stable"]["pid"]
        with under_load(gateway) as loads:
            publish(settings, canary, "late", percent=20)
            until(lambda: in_sync(settings))
            assert actual(settings)["stable"]["pid"] == stable_pid
            canary_pid = actual(settings)["canary"]["pid"]
            for percent in (50, 0, 80, 20):
                publish(settings, canary, "late", percent=percent)
                until(lambda: in_sync(settings))
                share = post_many(gateway, V1, BODY, 400).answers[200, new] / 400
                assert share == pytest.approx(percent / 100, abs=0.12)
            publish(settings, canary, "late", percent=100)
            until(lambda: in_sync(settings))
            assert actual(settings) == {"stable": {**actual(settings)["stable"], "pid": canary_pid, "revision": new}}
            until(lambda: gone(stable_pid))
        assert answers(loads).keys() == {(200, old), (200, new)}
        assert post_many(gateway, V1, BODY, 50).answers == {(200, new): 50}


def test_a_revision_that_cannot_start_takes_no_traffic_and_says_why(
    settings: Settings, one_service: ModelPackage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tiny.write_binary(tmp_path / "broken", bias=0.5)
    with running(settings) as endpoints:
        publish(settings, broken, "late", percent=20)
        card = Path(settings.models_uri) / "late" / broken.digest[:12] / "card.md"
        card.write_text("tampered")
        service = read_service("late", settings)
        failures = until(lambda: (read_state(settings) or {})["failures"])
        assert "card.md" in failures["late-canary"] and "differs" in failures["late-canary"]
        assert post_many(endpoints["late"].removesuffix(V1), V1, BODY, 200).answers == {
            (200, one_service.digest[:12]): 200
        }
        card.write_text("# A model\n")  # mended: it is taken over by itself
        until(lambda: in_sync(settings))
        assert read_service("late", settings) == service and not (read_state(settings) or {})["failures"]


def test_at_the_start_a_broken_canary_leaves_the_stable_model_serving(
    settings: Settings, one_service: ModelPackage, tmp_path: Path
) -> None:
    from fti.serve.local.gateway import Gateway
    from fti.serve.local.ports import Ports
    from fti.serve.local.reconciler import Reconciler

    broken = tiny.write_binary(tmp_path / "broken", bias=0.5)
    publish(settings, broken, "late", percent=20)
    (Path(settings.models_uri) / "late" / broken.digest[:12] / "card.md").write_text("tampered")
    with Ports() as ports:
        gateway = Gateway(ports.reserve(), ports.reserve(), settings)
        reconciler = Reconciler(settings, [], gateway, ports)
        reconciler.start()
        try:
            assert reconciler.wait_settled(threading.Event())
            assert reconciler.served == ["late"] and reconciler.failures.keys() == {"late-canary"}
            assert httpx.post(gateway.url("late"), content=BODY).headers["x-fti-revision"] == one_service.digest[:12]
        finally:
            reconciler.stop()
    with pytest.raises(ServingError, match=r"late-canary ended; its log (.|\n)*card\.md"), running(settings):
        pass


def test_status_is_in_kserves_own_form(settings: Settings, one_service: ModelPackage, tmp_path: Path) -> None:
    canary = tiny.write_binary(tmp_path / "canary", bias=0.5)
    publish(settings, canary, "late", percent=20)
    path = settings.services / "status" / "late.yaml"
    with running(settings) as endpoints:

        def ready() -> Any:
            status = yaml.safe_load(path.read_text())["status"]
            return {each["type"]: each["status"] for each in status["conditions"]} == {
                "CanaryPredictorReady": "True",
                "IngressReady": "True",
                "PredictorReady": "True",
                "Ready": "True",
            }

        until(ready)
        whole = yaml.safe_load(path.read_text())
        assert whole["status"]["components"]["predictor"]["traffic"] == [
            {"revisionName": one_service.digest[:12], "percent": 80, "tag": "stable", "latestRevision": False},
            {"revisionName": canary.digest[:12], "percent": 20, "tag": "canary", "latestRevision": True},
        ]
        assert whole["status"]["canaryStatuses"] == [{"name": "canary", "ready": True, "trafficPercent": 20}]
        assert whole["status"]["url"] == endpoints["late"]
    assert not path.exists()  # nothing is served any more
    manifest = yaml.safe_load(manifest_path("late", settings).read_text())
    check_inference_service({**manifest, "status": whole["status"]})


def test_services_come_and_go(settings: Settings, one_service: ModelPackage, tmp_path: Path, caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    with running(settings) as endpoints:
        url = endpoints["late"].replace("/late:", "/{}:")
        before = manifest_path("late", settings).read_text()
        manifest_path("late", settings).write_text("a: [")
        until(lambda: "is not YAML" in caplog.text)
        assert httpx.post(url.format("late"), content=BODY).status_code == 200
        manifest_path("late", settings).write_text(before)
        publish(settings, tiny.write_other(tmp_path / "other", "multiclass"), "other")
        until(lambda: in_sync(settings, "other"))
        assert httpx.post(url.format("other"), json={"instances": [{"x": 1.0}]}).status_code == 200
        pid = actual(settings)["stable"]["pid"]
        manifest_path("late", settings).unlink()
        until(lambda: "late" not in read(settings)["services"])
        refusal = httpx.post(url.format("late"), content=BODY)
        assert (refusal.status_code, refusal.json()) == (404, {"error": "no such service or path. Served: other"})
        until(lambda: gone(pid))


def test_what_a_laptop_cannot_honour_does_not_stop_what_is_served(
    settings: Settings, one_service: ModelPackage, caplog: pytest.LogCaptureFixture
) -> None:
    def noted(note: str) -> bool:
        conditions = yaml.safe_load((settings.services / "status" / "late.yaml").read_text())["status"]["conditions"]
        return any(each["type"] == "ManifestHonoured" and note in each["message"] for each in conditions)

    with running(settings) as endpoints:
        before = manifest_path("late", settings).read_text()
        manifest = yaml.safe_load(before)
        manifest["spec"]["predictor"]["timeout"] = 1
        manifest_path("late", settings).write_text(yaml.safe_dump(manifest))
        until(lambda: noted("only a cluster heeds timeout"))
        assert in_sync(settings) and "late: predictor: only a cluster heeds timeout" in caplog.text
        manifest["spec"]["transformer"] = {"containers": []}
        manifest_path("late", settings).write_text(yaml.safe_dump(manifest))
        failures = until(lambda: (read_state(settings) or {})["failures"])
        assert "has a transformer" in failures["late"]
        until(lambda: noted("has a transformer"))
        assert "has a transformer" in read(settings)["services"]["late"]["error"]
        assert httpx.post(endpoints["late"], content=BODY).status_code == 200
        manifest_path("late", settings).write_text(before)
        until(lambda: in_sync(settings) and not (read_state(settings) or {})["failures"])
