"""What predictors count, read through Prometheus: exact in the end, through restarts, each scraped at its instant."""

import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fti.common.errors import ConfigError
from fti.common.inference_service import CANARY, STABLE, Revision, Service, read_service, write_service
from fti.common.model_package import ModelPackage
from fti.common.settings import Settings
from fti.rollout.counters import Counts
from fti.rollout.gateway import GatewayMetrics
from fti.rollout.logic import Rollout
from fti.rollout.metrics import Reading
from fti.rollout.prometheus import PrometheusMetrics, _Series
from fti.rollout.record import PROMOTED, ROLLED_BACK
from fti.rollout.sources import metrics_from
from fti.serve.local.runner import running
from fti.serve.local.status import read_state
from tests.push.api_server import ApiServer, write_kubeconfig
from tests.rollout import canaries, prometheus
from tests.rollout.conftest import V1, under_load
from tests.rollout.test_rollout import PLAN
from tests.serve import tiny
from tests.serve.conftest import publish
from tests.serve.load import post_many
from tests.serve.test_lifecycle import until

BODY = json.dumps({"instances": [{**tiny.ROW, "distance": canaries.BAD_DISTANCE}]}).encode()


def ports_of(settings: Settings) -> list[int]:
    state = read_state(settings) or {"services": {}}
    return [of["port"] for service in state["services"].values() for of in service["revisions"].values() if of["port"]]


@contextmanager
def scraped(kind: str, settings: Settings, folder: Path) -> Iterator[str]:
    if kind == "real":
        with prometheus.real(lambda: ports_of(settings), folder) as url:
            yield url
    else:
        with prometheus.stand_in(lambda: ports_of(settings)) as url:
            yield url


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["stand-in", pytest.param("real", marks=prometheus.INSTALLED)])
def test_every_request_counts_once_through_a_restart(
    settings: Settings, one_service: ModelPackage, tmp_path: Path, kind: str
) -> None:
    publish(settings, tiny.write_binary(tmp_path / "canary", bias=0.5), "late", percent=50)
    with running(settings) as endpoints, scraped(kind, settings, tmp_path) as url:
        gateway, service = endpoints["late"].removesuffix(V1), read_service("late", settings)
        assert service
        metrics = PrometheusMetrics(url, settings, 1000)
        totals = {STABLE: Counts(), CANARY: Counts()}

        def look() -> Reading | None:
            reading = metrics.read("late")
            for variant, added in (reading.added if reading else {}).items():
                totals[variant] = totals[variant].plus(added)
            return reading

        def counted(requests: int) -> Callable[[], bool]:
            return lambda: bool(look()) and sum(counts["requests"] for counts in totals.values()) >= requests

        until(lambda: look() is not None)
        for _ in range(30):  # which the split did not choose
            httpx.post(gateway + V1, content=BODY, headers={"x-variant": CANARY}).raise_for_status()
        post_many(gateway, V1, BODY, 300)
        until(counted(300), 100)
        pid = (read_state(settings) or {})["services"]["late"]["revisions"]["canary"]["pid"]
        os.kill(pid, signal.SIGKILL)

        names = {variant: revision.name for variant, (revision, _) in service.revisions().items()}

        def restarted() -> bool:
            """Whether a scrape has seen it: one that counts past its old value before would look as if it had not."""
            samples = metrics._samples("late", names).values()
            return any(points[-1][1] < max(value for _, value in points) for points in samples)

        until(restarted, 100)
        post_many(gateway, V1, BODY, 300)
        until(counted(600), 100)
        assert sum(counts["requests"] for counts in totals.values()) == 600
        assert sum(counts.group("scores")["inf"] for counts in totals.values()) == 600
        assert all(counts["failures"] == counts["refusals"] == 0 for counts in totals.values())
        assert min(counts["requests"] for counts in totals.values()) > 100


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "phase"), [("sound", PROMOTED), ("failing", ROLLED_BACK)])
def test_a_rollout_that_only_prometheus_sees(
    settings: Settings, one_service: ModelPackage, tmp_path: Path, kind: str, phase: str
) -> None:
    sound = kind == "sound"
    path = tmp_path / "canary"
    publish(settings, tiny.write_binary(path, bias=0.5) if sound else canaries.write(path, kind), "late", percent=0)
    with (
        running(settings) as endpoints,
        prometheus.stand_in(lambda: ports_of(settings)) as url,
        under_load(endpoints["late"].removesuffix(V1), BODY) as answers,
    ):
        metrics = metrics_from(replace(settings, prometheus_url=url), 1000)
        record = Rollout("late", PLAN, settings, metrics, lambda *_: None).run(threading.Event())
    assert record.phase == phase, record.decisions[-1]["reason"]
    assert {status for status, _ in answers} == {200}
    if not sound:
        # The stable model answers besides what the canary fails: whichever of the two is seen first.
        reasons = ("failures: 100.00% against 0.00%", "the canary got ")
        assert record.decisions[-1]["reason"].startswith(reasons)


def test_where_figures_come_from(settings: Settings) -> None:
    assert isinstance(metrics_from(settings, 100), GatewayMetrics)
    assert isinstance(metrics_from(replace(settings, prometheus_url="http://p"), 100), PrometheusMetrics)
    with pytest.raises(ConfigError, match="FTI_PROMETHEUS_URL is not set"):
        metrics_from(replace(settings, serving="standard"), 100)
    assert "secret" not in repr(replace(settings, prometheus_url="http://me:secret@p"))


class Scripted(PrometheusMetrics):
    """Samples as a test writes them."""

    script: dict[str, list[tuple[float, float]]]

    def _samples(self, service: str, revisions: Any) -> Any:
        of = {STABLE: revisions[STABLE], CANARY: revisions[CANARY]}
        return {
            (
                ("__name__", "fti_requests_total"),
                ("code", "200"),
                ("pod", name),
                ("revision", of[name.split("-")[0]]),
            ): points
            for name, points in self.script.items()
            if points
        }


@pytest.fixture
def scripted(settings: Settings) -> Scripted:
    write_service(Service("late", Revision("a" * 64, "/a"), Revision("b" * 64, "/b"), 50), settings)
    return Scripted("http://nowhere", settings, 100)


def test_pods_are_read_at_one_instant(scripted: Scripted) -> None:
    """Both get 10 requests a second; the canary was scraped 9 seconds later."""
    stable = [(float(t), 10.0 * t) for t in range(0, 300, 10)]
    canary = [(t + 9, value + 90) for t, value in stable]
    scripted.script = {"stable-1": stable[:5], "canary-1": canary[:5]}
    assert scripted.read("late") is None  # what came before belongs to another split
    scripted.script = {"stable-1": stable[:9], "canary-1": canary[:9]}
    assert scripted.read("late")
    scripted.script = {"stable-1": stable[:20], "canary-1": canary[:20]}
    reading = scripted.read("late")
    assert reading and {variant: of["requests"] for variant, of in reading.added.items()} == {
        STABLE: 1100,
        CANARY: 1100,
    }
    assert reading.blur == 100  # of one interval


def test_pods_come_and_go(scripted: Scripted) -> None:
    line = [(float(t), 10.0 * t) for t in range(0, 300, 10)]
    scripted.script = {"stable-1": line[:5], "canary-1": line[:5]}
    scripted.read("late")
    scripted.script = {"stable-1": line[:8], "canary-1": line[:8]}
    assert scripted.read("late")  # at 60
    restarted = [*line[:10], *((t, value - 1000) for t, value in line[10:20])]  # from 0 again at 100
    scripted.script = {"stable-1": line[:20], "canary-1": restarted, "canary-2": [(t, v - 800) for t, v in line[8:20]]}
    reading = scripted.read("late")  # at 180
    assert reading and reading.added[STABLE]["requests"] == 1200
    assert reading.added[CANARY]["requests"] == (300 + 800) + 1000
    scripted.script = {"stable-1": line[:25], "canary-1": [], "canary-2": [(t, v - 800) for t, v in line[8:25]]}
    reading = scripted.read("late")
    assert reading and reading.added[CANARY]["requests"] == 500 + 100  # what the gone one showed last is counted too


def test_a_prometheus_that_scrapes_no_more_has_no_figures(scripted: Scripted) -> None:
    line = [(t / 100, float(t)) for t in range(10)]
    scripted.script = {"stable-1": line[:5], "canary-1": line[:5]}
    scripted.read("late")
    scripted.script = {"stable-1": line, "canary-1": line}
    assert scripted.read("late")
    until(lambda: scripted.read("late") is None)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "nonsense", "http://me:secret@127.0.0.1:9"])
def test_a_prometheus_that_does_not_answer(scripted: Scripted, url: str, caplog: pytest.LogCaptureFixture) -> None:
    assert PrometheusMetrics(url, scripted._settings, 100).read("late") is None
    assert "Prometheus has no figures" in caplog.text and "secret" not in caplog.text


@given(st.lists(st.tuples(st.integers(0, 50), st.booleans()), min_size=2, max_size=40), st.integers(1, 10))
def test_a_series_counts_all_that_grew_in_whatever_pieces_it_is_read(steps: list[tuple[int, bool]], piece: int) -> None:
    points, value, grown = [(0.0, 7.0)], 7.0, 0.0
    for time, (more, restart) in enumerate(steps, 1):
        value = float(more) if restart and more < value else value + more
        grown += more
        points.append((float(time), value))
    series = _Series(from_zero=False)
    for end in range(1, len(points) + piece, piece):
        series.add(points[max(0, end - piece - 2) : end])
    assert series.at(len(points)) == grown
    later = [series.at(t / 2) for t in range(2 * len(points) - 6, 2 * len(points))]
    assert later == sorted(later)


def test_only_series_of_the_services_namespace_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another profile may serve the very same model under the same name; FTI_NAMESPACE is empty in a step."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())["query"][0])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"status": "success", "data": {"resultType": "matrix", "result": []}}')

        def log_message(self, *_: object) -> None:
            """Quiet."""

    monkeypatch.setenv("KUBECONFIG", str(write_kubeconfig(tmp_path / "kubeconfig", ApiServer(url="http://nobody"))))
    cluster = Settings.from_env({"FTI_HOME": str(tmp_path), "FTI_SERVING": "standard"})
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            for settings in (cluster, replace(cluster, namespace="team"), replace(cluster, serving="local")):
                metrics = PrometheusMetrics(f"http://127.0.0.1:{server.server_port}", settings, 100)
                assert metrics._samples("late", {STABLE: "a", CANARY: "b"}) == {}
        finally:
            server.shutdown()
            thread.join()
    assert [re.findall('namespace="(.*?)"', query) for query in asked] == [["flights"], ["team"], []]
