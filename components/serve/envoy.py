"""Envoy's configuration: routes by service, weights by variant, and no request lost when a canary dies.

See Envoy's reference for `config.bootstrap.v3.Bootstrap`. Routes and clusters are files of their own that Envoy takes
over whenever they are replaced (xDS from the file system), so that traffic moves without a restart.
"""

import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

from fti.common.errors import ServingError
from fti.common.inference_service import STABLE
from fti.serve.plan import Replica
from fti.serve.ports import HOST
from fti.serve.protocol import MAX_BODY

VARIANT_HEADER = "x-variant"
REQUEST_SECONDS = 30
# Upper bounds of the latency histograms, milliseconds: five to a decade.
BUCKETS = [round(10 ** (step / 5), 1) for step in range(-5, 23)]

_TYPE = "type.googleapis.com/envoy.extensions"
_HTTP = f"{_TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTES = "services"
_ASKED = "-asked"
_JSON = {"header": {"key": "content-type", "value": "application/json"}}

Config = dict[str, Any]


def binary() -> str:
    """The path of Envoy.

    Raises:
        ServingError: It is not installed.
    """
    spec = find_spec("envoy")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "_bin" / "envoy"
        if path.is_file():
            return str(path)
    raise ServingError("Envoy is not installed", remedy="Install it: pip install 'kfp-fti[local]'")


def bootstrap(port: int, admin_port: int, clusters_file: Path, routes_file: Path) -> Config:
    """What Envoy starts with: its addresses, and where it finds clusters and routes.

    Args:
        port: Where the gateway listens.
        admin_port: Where Envoy's own administration listens.
        clusters_file: A discovery response with `clusters`.
        routes_file: A discovery response with `routes`.
    """
    return {
        "node": {"id": "fti", "cluster": "fti"},
        "admin": {"address": _address(admin_port)},
        "stats_flush_interval": "1s",
        "stats_config": {"histogram_bucket_settings": [{"match": {"safe_regex": {"regex": ".*"}}, "buckets": BUCKETS}]},
        "dynamic_resources": {"cds_config": _file(clusters_file)},
        "static_resources": {"listeners": [listener(port, routes_file)]},
    }


def discovery_response(version: int, kind: str, resources: Sequence[Config]) -> Config:
    """A file that Envoy takes over. `kind` is `cluster.v3.Cluster` or `route.v3.RouteConfiguration`."""
    typed = [{"@type": f"type.googleapis.com/envoy.config.{kind}", **resource} for resource in resources]
    return {"version_info": str(version), "resources": typed}


def listener(port: int, routes_file: Path) -> Config:
    """The gateway's listener."""
    buffer = {"@type": f"{_TYPE}.filters.http.buffer.v3.Buffer", "max_request_bytes": MAX_BODY}
    router = {"@type": f"{_TYPE}.filters.http.router.v3.Router"}
    manager = {
        "@type": _HTTP,
        "stat_prefix": "gateway",
        "rds": {"route_config_name": _ROUTES, "config_source": _file(routes_file)},
        "http_filters": [
            # A request is retried as a whole, so it must be held as a whole; larger ones are answered 413.
            {"name": "envoy.filters.http.buffer", "typed_config": buffer},
            {"name": "envoy.filters.http.router", "typed_config": router},
        ],
    }
    return {
        "name": "gateway",
        "address": _address(port),
        "enable_reuse_port": False,  # a second server on this port shall fail, not share its connections
        "per_connection_buffer_limit_bytes": 2 * MAX_BODY,
        "filter_chains": [{"filters": [{"name": "envoy.http_connection_manager", "typed_config": manager}]}],
    }


def routes(replicas: Sequence[Replica]) -> Config:
    """Routes by the service in the path; the header `x-variant` reaches one variant, else weights decide."""
    by_service = {name: list(group) for name, group in groupby(replicas, key=lambda replica: replica.service)}
    names = cluster_names(replicas)
    table = [
        {"match": {**path, **header}, **action}
        for name, group in by_service.items()
        for path in _paths(name)
        for header, action in _actions(name, group, names)
    ]
    served = ", ".join(by_service) or "none"
    table.append({"match": {"prefix": "/"}, **_not_found(f"no such service or path. Served: {served}")})
    return {"name": _ROUTES, "virtual_hosts": [{"name": _ROUTES, "domains": ["*"], "routes": table}]}


def clusters(replicas: Sequence[Replica]) -> list[Config]:
    """Two clusters per variant: of its share of the traffic, and of requests that ask for it, so that each is counted.

    A canary's has the stable predictor as second priority, a shadow's has not.
    """
    stable = {replica.service: replica for replica in replicas if replica.variant == STABLE}
    return [
        _cluster(replica, [replica] if _alone(replica) else [replica, stable[replica.service]], name)
        for replica, share in cluster_names(replicas).items()
        for name in (share, share + _ASKED)
    ]


def cluster_names(replicas: Sequence[Replica]) -> dict[Replica, str]:
    """The name of each replica's cluster.

    It names all revisions that answer there: a cluster never changes, so that requests in flight finish where they
    began while the next ones go to another.
    """
    stable = {replica.service: replica for replica in replicas if replica.variant == STABLE}
    return {
        replica: f"{replica.service}-{replica.revision.name}-{replica.port}"
        + ("" if _alone(replica) else f"-else-{stable[replica.service].port}")
        for replica in replicas
    }


def _alone(replica: Replica) -> bool:
    return replica.variant == STABLE or replica.shadow


def _paths(name: str) -> list[Config]:
    return [
        {"safe_regex": {"regex": f"/v1/models/{re.escape(name)}(:predict|:features)?"}},
        {"path_separated_prefix": f"/v2/models/{name}"},
    ]


def _actions(name: str, group: list[Replica], clusters: Mapping[Replica, str]) -> list[tuple[Config, Config]]:
    """What to do with a service's requests, by the header that chooses, the first that matches."""
    actions = [
        (
            {"headers": [{"name": VARIANT_HEADER, "string_match": {"exact": replica.variant}}]},
            {"route": {"cluster": clusters[replica] + _ASKED, **_route_options()}},
        )
        for replica in group
    ]
    variants = ", ".join(replica.variant for replica in group)
    refusal = _not_found(f"{name} has no such variant. Allowed in {VARIANT_HEADER}: {variants}")
    mirrors = [
        {"cluster": clusters[replica], "runtime_fraction": {"default_value": {"numerator": 100}}}
        for replica in group
        if replica.shadow
    ]
    weighted = [{"name": clusters[replica], "weight": replica.percent} for replica in group]
    split = {"weighted_clusters": {"clusters": weighted}}
    mirrored = {"request_mirror_policies": mirrors} if mirrors else {}
    return [
        *actions,
        ({"headers": [{"name": VARIANT_HEADER, "present_match": True}]}, refusal),
        ({}, {"route": {**split, **mirrored, **_route_options()}}),
    ]


def _route_options() -> Config:
    priorities = {
        "@type": f"{_TYPE}.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
        "update_frequency": 1,
    }
    return {
        "timeout": f"{REQUEST_SECONDS}s",
        "retry_policy": {
            # A canary that answers 5xx is a broken canary: its requests go to the stable predictor.
            "retry_on": "connect-failure,refused-stream,reset,5xx,retriable-status-codes",
            "num_retries": 1,
            "per_try_timeout": "5s",
            "retry_priority": {"name": "envoy.retry_priorities.previous_priorities", "typed_config": priorities},
        },
    }


def _cluster(replica: Replica, endpoints: list[Replica], name: str) -> Config:
    assignments = [
        {"priority": priority, "lb_endpoints": [{"endpoint": {"address": _address(endpoint.port)}}]}
        for priority, endpoint in enumerate(endpoints)
    ]
    many = {"max_connections": 4096, "max_pending_requests": 4096, "max_requests": 4096}
    budget = {"retry_budget": {"budget_percent": {"value": 100}, "min_retry_concurrency": 100}}
    options = {
        "@type": f"{_TYPE}.upstreams.http.v3.HttpProtocolOptions",
        # Shorter than the predictor's keep-alive, so that no request meets a connection that is just being closed.
        "common_http_protocol_options": {"idle_timeout": "30s"},
        "explicit_http_config": {"http_protocol_options": {}},
    }
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": assignments},
        "health_checks": [_health_check(replica.service)],
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "circuit_breakers": {"thresholds": [{**many, **budget}]},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
    }


def _health_check(service: str) -> Config:
    return {
        "timeout": "1s",
        "interval": "0.5s",
        "no_traffic_interval": "0.5s",
        "unhealthy_interval": "0.2s",
        "unhealthy_threshold": 2,
        "healthy_threshold": 1,
        # The server's own readiness stays 200 without a model.
        "http_health_check": {"path": f"/v2/models/{service}/ready"},
    }


def _not_found(message: str) -> Config:
    body = {"inline_string": f'{{"error": "{message}"}}'}
    return {"direct_response": {"status": 404, "body": body}, "response_headers_to_add": [_JSON]}


def _address(port: int) -> Config:
    return {"socket_address": {"address": HOST, "port_value": port}}


def _file(path: Path) -> Config:
    return {"path_config_source": {"path": str(path)}, "resource_api_version": "V3"}
