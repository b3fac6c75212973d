"""Envoy's configuration: that Envoy accepts it, and that it says what was asked."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from fti.common.inference_service import Revision, Service
from fti.serve import envoy
from fti.serve.plan import Replica, replicas_of
from fti.serve.ports import Ports

ONE, TWO = Revision("a" * 64, "/a"), Revision("b" * 64, "/b")


def replicas(*services: Service) -> list[Replica]:
    with Ports() as ports:
        return replicas_of(services, ports)


@pytest.mark.parametrize("percent", [0, 1, 99, None])
def test_envoy_accepts_it(tmp_path: Path, percent: int | None) -> None:
    late = Service("late", ONE) if percent is None else Service("late", ONE, TWO, percent)
    config = envoy.bootstrap(replicas(late, Service("late-arrival", TWO)), 18080, 19901)
    path = tmp_path / "envoy.yaml"
    path.write_text(yaml.safe_dump(config))
    command = [envoy.binary(), "--mode", "validate", "--config-path", str(path), "--log-level", "warning"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr.lower()


def test_weights_are_the_shares() -> None:
    table = envoy.routes(replicas(Service("late", ONE, TWO, 20)))["virtual_hosts"][0]["routes"]
    weighted = [route["route"]["weighted_clusters"] for route in table if "weighted_clusters" in route.get("route", {})]
    shares: list[dict[str, Any]] = [{"name": "late-stable", "weight": 80}, {"name": "late-canary", "weight": 20}]
    assert weighted == [{"clusters": shares}] * 2  # V1 and V2


def test_the_canary_falls_back_to_the_stable_predictor_and_not_the_other_way() -> None:
    stable, canary = pair = replicas(Service("late", ONE, TWO, 20))
    ports = [
        [part["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]["port_value"] for part in parts]
        for parts in (cluster["load_assignment"]["endpoints"] for cluster in envoy.clusters(pair))
    ]
    assert ports == [[stable.port], [canary.port, stable.port]]


def test_all_listens_on_loopback_only() -> None:
    text = yaml.safe_dump(envoy.bootstrap(replicas(Service("late", ONE, TWO, 20)), 18080, 19901))
    addresses = {line.split()[-1] for line in text.splitlines() if line.strip().startswith("address: 1")}
    assert addresses == {"127.0.0.1"} and "0.0.0.0" not in text
