"""The same unit always sees the same variant, at any weight and over any protocol."""

import json
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import httpx
import pytest
import yaml

from fti.common.inference_service import Revision, Service, manifest_path
from fti.common.model_package import ModelPackage
from fti.common.settings import Settings
from fti.serve.client import predict
from fti.serve.local.kept import Kept
from fti.serve.local.plan import Replica
from fti.serve.local.routes import routes
from fti.serve.local.runner import running
from fti.serve.local.status import State, read
from tests.serve import tiny
from tests.serve.conftest import publish
from tests.serve.grpc_load import infer_many
from tests.serve.load import post_many
from tests.serve.test_lifecycle import until

V1 = "/v1/models/late:predict"
BODY = json.dumps({"instances": [tiny.ROW]}).encode()
UNITS = [f"customer {number}" for number in range(2000)]


def within(share: float, count: int) -> float:
    """4.5 standard deviations of a share among so many: one run in 150,000 is outside by chance."""
    return float(4.5 * (share * (1 - share) / count) ** 0.5)


def seen(gateway: str, units: list[str], **headers: str) -> dict[str, str]:
    """The revision that answers each unit."""
    revisions: dict[str, str] = {}
    left = iter(units)
    lock = threading.Lock()

    def take() -> str | None:
        with lock:
            return next(left, None)

    def work() -> None:
        connection = HTTPConnection(gateway.removeprefix("http://"), timeout=30)
        for unit in iter(take, None):
            connection.request("POST", V1, BODY, {"x-fti-unit": unit, **headers})
            response = connection.getresponse()
            response.read()
            assert response.status == 200
            revisions[unit] = response.headers["x-fti-revision"]
        connection.close()

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return revisions


def actual(settings: Settings) -> State:
    state: State = read(settings)["services"]["late"]["actual"]["revisions"]
    return state


@pytest.mark.slow
def test_a_unit_stays_with_its_variant_while_the_weight_rises(
    settings: Settings, one_service: ModelPackage, tmp_path: Path
) -> None:
    canary = tiny.write_binary(tmp_path / "canary", bias=0.5)
    new, old = canary.digest[:12], one_service.digest[:12]
    before: set[str] = set()
    publish(settings, canary, "late", percent=5)
    with running(settings) as endpoints:
        gateway = endpoints["late"].removesuffix(V1)
        load = ThreadPoolExecutor(1).submit(infer_many, gateway.removeprefix("http://"), 1500, threads=1)
        for percent in (5, 25, 60):
            publish(settings, canary, "late", percent=percent)
            until(lambda: read(settings)["services"]["late"]["in_sync"])
            revisions = seen(gateway, UNITS)
            in_canary = {unit for unit, revision in revisions.items() if revision == new}
            assert before <= in_canary
            assert len(in_canary) / len(UNITS) == pytest.approx(percent / 100, abs=within(percent / 100, len(UNITS)))
            before = in_canary
        assert {status for status, _ in load.result()[0]} == {"OK"}  # nothing is lost while weights change
        again = {unit: revisions[unit] for unit in UNITS[:300]}
        assert seen(gateway, UNITS[:300]) == again

        def metadata(number: int) -> tuple[tuple[str, str], ...]:
            return (("x-fti-unit", UNITS[number]),)

        _, by_number = infer_many(gateway.removeprefix("http://"), 300, metadata)
        assert {UNITS[number]: revision for number, revision in by_number.items()} == again

        # The header that chooses goes before the unit; who names no unit, or an empty one, gets either.
        assert set(seen(gateway, UNITS[:50], **{"x-variant": "stable"}).values()) == {old}
        assert post_many(gateway, V1, BODY, 100).answers.keys() == {(200, old), (200, new)}
        assert {revision for _ in range(30) for revision in seen(gateway, [""]).values()} == {old, new}

        # While the canary is away its units are answered by the stable model, and they come back to it.
        pid = actual(settings)["canary"]["pid"]
        os.kill(pid, signal.SIGKILL)
        assert seen(gateway, UNITS[:100]).keys() == set(UNITS[:100])
        until(lambda: actual(settings)["canary"]["pid"] not in {None, pid} and actual(settings)["canary"]["ready"])
        until(lambda: seen(gateway, UNITS[:300]) == again)


@pytest.mark.slow
def test_a_key_in_the_body_is_a_unit_too(settings: Settings, one_service: ModelPackage, tmp_path: Path) -> None:
    canary = tiny.write_binary(tmp_path / "canary", bias=0.5)
    publish(settings, canary, "late", percent=50)
    path = manifest_path("late", settings)
    manifest = yaml.safe_load(path.read_text())
    manifest["metadata"]["annotations"]["fti/unit"] = "carrier"
    path.write_text(yaml.safe_dump(manifest))
    publish(settings, canary, "late", percent=60)
    assert yaml.safe_load(path.read_text())["metadata"]["annotations"]["fti/unit"] == "carrier"  # a push keeps it
    units = [f"{letter}é {number}" for letter in "ab" for number in range(30)]
    with running(settings) as endpoints, httpx.Client() as client:

        def by_body(unit: str) -> str:
            answer = client.post(endpoints["late"], json={"instances": [{**tiny.ROW, "carrier": unit}] * 2})
            assert answer.status_code == 200
            return str(answer.headers["x-fti-revision"])

        found = {unit: by_body(unit) for unit in units}
        assert set(found.values()) == {canary.digest[:12], one_service.digest[:12]}
        assert {unit: by_body(unit) for unit in units} == found
        rows = [{**tiny.ROW, "carrier": "someone else"}]
        for unit in units[:20]:  # the same, whoever names it, and however
            assert predict(settings, "late", rows, unit=unit)["revision"] == found[unit]


def replicas(service: Service) -> list[Replica]:
    return [
        Replica(service.name, variant, revision, percent, number, 100 + number)
        for number, (variant, (revision, percent)) in enumerate(service.revisions().items())
    ]


def test_no_trial_has_the_units_of_another() -> None:
    one, two, three = (Revision(letter * 64, f"/{letter}") for letter in "abc")
    trials = [Service("late", one, two, 5), Service("early", one, two, 5), Service("late", one, three, 5)]
    salts = []
    for trial in trials:
        *_, last = (
            route["route"]["hash_policy"]
            for route in routes(replicas(trial))["virtual_hosts"][0]["routes"]
            if "hash_policy" in route.get("route", {})
        )
        salts.append(last[0]["header"]["regex_rewrite"]["substitution"])
    assert len(set(salts)) == 3
    promoted = Service("late", one, two, 60)
    assert salts[0] in json.dumps(routes(replicas(promoted)))  # the same at any weight


def test_what_is_kept_is_bounded() -> None:
    a, b, c, d = (Revision(letter * 64, f"/{letter}") for letter in "abcd")
    kept = Kept(bake_seconds=600)
    first, trial, promoted = (
        replicas(service) for service in (Service("late", a), Service("late", a, b, 20), Service("late", b))
    )
    kept.move(first, trial, 0)
    assert kept.replicas(0) == []
    kept.move(trial, promoted, 10)
    assert [replica.revision for replica in kept.replicas(39)] == [a, a]  # in flight, and to take over again
    kept.move(promoted, replicas(Service("late", c)), 50)
    assert {replica.revision for replica in kept.replicas(80)} == {b}  # one predictor, however often it is pushed
    assert (kept.earlier("late") or trial[0]).revision == b
    kept.move(replicas(Service("late", c, d, 20)), replicas(Service("late", c)), 100)
    assert (kept.earlier("late") or trial[0]).revision == b  # a canary that was taken back is nothing to go back to
    kept.move(promoted, [], 110)
    assert kept.earlier("late") is None  # the service is gone
    assert kept.replicas(650) == []
