"""Envoy's configuration: that Envoy accepts it, and that it says what was asked."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from fti.common.inference_service import Revision, Service
from fti.serve.local import envoy
from fti.serve.local.plan import Replica
from fti.serve.local.routes import routes

ONE, TWO = Revision("a" * 64, "/a"), Revision("b" * 64, "/b")


def replicas(*services: Service) -> list[Replica]:
    shares = [(service, *share) for service in services for share in service.revisions().items()]
    return [
        Replica(service.name, variant, revision, percent, 20_000 + number, 30_000 + number)
        for number, (service, variant, (revision, percent)) in enumerate(shares)
    ]


@pytest.mark.parametrize("percent", [0, 1, 99, None])
def test_envoy_accepts_it(tmp_path: Path, percent: int | None) -> None:
    late = Service("late", ONE) if percent is None else Service("late", ONE, TWO, percent)
    every = replicas(late, Service("late-arrival", TWO))
    config = envoy.bootstrap(18080, 19901, tmp_path / "clusters.yaml", tmp_path / "routes.yaml")
    # Envoy reads the two files only once it runs: to be validated, their content stands in the configuration itself.
    del config["dynamic_resources"]
    config["static_resources"]["clusters"] = envoy.clusters(every)
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    del manager["rds"]
    manager["route_config"] = routes(every)
    path = tmp_path / "envoy.yaml"
    path.write_text(yaml.safe_dump(config))
    command = [envoy.binary(), "--mode", "validate", "--config-path", str(path), "--log-level", "warning"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr.lower()


def test_weights_are_the_shares() -> None:
    pair = replicas(Service("late", ONE, TWO, 20))
    table = routes(pair)["virtual_hosts"][0]["routes"]
    weighted = [route["route"]["weighted_clusters"] for route in table if "weighted_clusters" in route.get("route", {})]
    stable, canary = envoy.cluster_names(pair).values()
    for split in weighted:
        shares = {re.sub("-(grpc|asked)$", "", part["name"]): part["weight"] for part in split["clusters"]}
        assert list(shares.items()) == [(stable, 80), (canary, 20)]  # always in this order: see test_sticky


def test_an_explanation_is_asked_of_one_variant_alone_and_counted_apart() -> None:
    table = routes(replicas(Service("late", ONE, TWO, 20)))["virtual_hosts"][0]["routes"]
    explained = [route for route in table if route["match"].get("path", "").endswith(":explain")]
    answered = [route["route"] for route in explained if "weighted_clusters" in route.get("route", {})]
    assert answered
    for route in answered:
        assert all(part["name"].endswith("-asked") for part in route["weighted_clusters"]["clusters"])
        assert "5xx" not in route["retry_policy"]["retry_on"] and "request_mirror_policies" not in route


def test_a_cluster_is_never_changed_but_replaced() -> None:
    one, two, three = (Revision(letter * 64, f"/{letter}") for letter in "abc")
    seen: dict[str, Any] = {}
    for service in (
        Service("late", one),
        Service("late", one, two, 20),
        Service("late", two),
        Service("late", two, three, 5),
    ):
        ports = {one: 1, two: 2, three: 3}
        group = [
            Replica("late", variant, revision, percent, ports[revision], 0)
            for variant, (revision, percent) in service.revisions().items()
        ]
        for cluster in envoy.clusters(group):
            assert seen.setdefault(cluster["name"], cluster) == cluster


def test_the_canary_falls_back_to_the_stable_predictor_and_not_the_other_way() -> None:
    stable, canary = pair = replicas(Service("late", ONE, TWO, 20))
    ports = [
        [part["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]["port_value"] for part in parts]
        for parts in (cluster["load_assignment"]["endpoints"] for cluster in envoy.clusters(pair))
    ]
    assert ports == 2 * [[stable.port], [stable.grpc_port]] + 2 * [
        [canary.port, stable.port],
        [canary.grpc_port, stable.grpc_port],
    ]  # by share, and when asked for


def test_all_listens_on_loopback_only(tmp_path: Path) -> None:
    text = yaml.safe_dump(envoy.bootstrap(18080, 19901, tmp_path / "clusters.yaml", tmp_path / "routes.yaml"))
    text += yaml.safe_dump(envoy.clusters(replicas(Service("late", ONE, TWO, 20))))
    addresses = {line.split()[-1] for line in text.splitlines() if line.strip().startswith("address: 1")}
    assert addresses == {"127.0.0.1"} and "0.0.0.0" not in text


def test_what_only_reads_is_counted_apart() -> None:
    table = routes(replicas(Service("late", ONE, TWO, 20)))["virtual_hosts"][0]["routes"]
    names = {}
    for route in table:
        for part in route.get("route", {}).get("weighted_clusters", {}).get("clusters", []):
            match = route["match"]
            path = match.get("path") or match.get("path_separated_prefix") or match["safe_regex"]["regex"]
            names.setdefault(path, set()).add(part["name"].endswith("-asked"))
    assert names["/v2/models/late/infer"] == names["/v1/models/late:(predict|features)"] == {False}
    assert names["/v2/models/late"] == names["/v1/models/late"] == {True}
