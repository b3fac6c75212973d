"""Envoy's configuration: its listener, and a cluster for each way to a predictor; the routes are in `routes`.

See Envoy's reference for `config.bootstrap.v3.Bootstrap`. Routes and clusters are files of their own that Envoy takes
over whenever they are replaced (xDS from the file system), so that traffic moves without a restart.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fti.common.errors import ServingError
from fti.common.inference_service import STABLE
from fti.serve.admission import Limits, OverloadedError, most_calls
from fti.serve.local.plan import Replica
from fti.serve.local.ports import HOST
from fti.serve.protocol import INFER, MAX_BODY, PUSHBACK

REQUEST_SECONDS = 30
# Upper bounds of the latency histograms, milliseconds: five to a decade.
BUCKETS = [round(10 ** (step / 5), 1) for step in range(-5, 23)]

TYPE = "type.googleapis.com/envoy.extensions"
ROUTES = "services"  # the name of the table of routes
ASKED, GRPC = "-asked", "-grpc"  # the ends of clusters' names

UNIT_FILTER_NAME = "envoy.filters.http.lua"
_UNIT_FILTER = Path(__file__).with_name("unit.lua")
_HTTP = f"{TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager"
_REQUEST_ID = f"{TYPE}.request_id.uuid.v3.UuidRequestIdConfig"

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
    buffer = {"@type": f"{TYPE}.filters.http.buffer.v3.Buffer", "max_request_bytes": MAX_BODY}
    lua = {"@type": f"{TYPE}.filters.http.lua.v3.Lua", "default_source_code": {"filename": str(_UNIT_FILTER)}}
    router = {"@type": f"{TYPE}.filters.http.router.v3.Router"}
    service, _, method = INFER.partition("/")
    counted = {"services": [{"name": service, "method_names": [method]}]}
    statuses = {
        "@type": f"{TYPE}.filters.http.grpc_stats.v3.FilterConfig",
        "individual_method_stats_allowlist": counted,
    }
    manager = {
        "@type": _HTTP,
        "stat_prefix": "gateway",
        "rds": {"route_config_name": ROUTES, "config_source": _file(routes_file)},
        # Whoever calls may name the request; the name comes back unchanged, with answers of the gateway's own too.
        "preserve_external_request_id": True,
        "always_set_request_id_in_response": True,
        "request_id_extension": {"typed_config": {"@type": _REQUEST_ID, "pack_trace_reason": False}},
        "local_reply_config": {"mappers": [_overloaded()]},
        "http_filters": [
            # Over gRPC nearly every answer is 200 to HTTP: its own statuses say what became of a call.
            {"name": "envoy.filters.http.grpc_stats", "typed_config": statuses},
            # A request is retried as a whole, so it must be held as a whole; larger ones are answered 413.
            {"name": "envoy.filters.http.buffer", "typed_config": buffer},
            {"name": UNIT_FILTER_NAME, "typed_config": lua},
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


def _overloaded() -> Config:
    """What a call over gRPC is answered that a cluster takes no more of: as the predictors do."""
    calls = {"name": "content-type", "string_match": {"prefix": "application/grpc"}}
    filters = [{"response_flag_filter": {"flags": ["UO"]}}, {"header_filter": {"header": calls}}]
    headers = {"grpc-status": "8", PUSHBACK: str(1000 * OverloadedError.retry_after)}
    added = [
        {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
        for key, value in headers.items()
    ]
    text = str(OverloadedError(most_calls(Limits())))  # which Envoy makes the status's message
    return {"filter": {"and_filter": {"filters": filters}}, "headers_to_add": added, "body": {"inline_string": text}}


def clusters(replicas: Sequence[Replica]) -> list[Config]:
    """The clusters of each variant: of its share and of requests that ask for it, each for HTTP and for gRPC.

    So each is counted. A canary's has the stable predictor as second priority, a shadow's has not.
    """
    stable = {replica.service: replica for replica in replicas if replica.variant == STABLE}
    return [
        _cluster(name + protocol, [replica] if _alone(replica) else [replica, stable[replica.service]], protocol)
        for replica, share in cluster_names(replicas).items()
        for name in (share, share + ASKED)
        for protocol in ("", GRPC)
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


def _cluster(name: str, endpoints: list[Replica], protocol: str) -> Config:
    assignments = [
        {"priority": priority, "lb_endpoints": [{"endpoint": _endpoint(endpoint, protocol)}]}
        for priority, endpoint in enumerate(endpoints)
    ]
    # A predictor that is alone has none to fail over to: what it could not even refuse is refused here.
    most = most_calls(Limits()) if protocol == GRPC and endpoints[0].variant == STABLE else 4096
    many = {"max_connections": 4096, "max_pending_requests": most, "max_requests": most}
    budget = {"retry_budget": {"budget_percent": {"value": 100}, "min_retry_concurrency": 100}}
    options = {
        "@type": f"{TYPE}.upstreams.http.v3.HttpProtocolOptions",
        # Shorter than the predictor's keep-alive, so that no request meets a connection that is just being closed.
        "common_http_protocol_options": {"idle_timeout": "30s"},
        "explicit_http_config": {"http2_protocol_options" if protocol == GRPC else "http_protocol_options": {}},
    }
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": assignments},
        "health_checks": [_health_check(endpoints[0].service)],
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "circuit_breakers": {"thresholds": [{**many, **budget}]},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
    }


def _endpoint(replica: Replica, protocol: str) -> Config:
    if protocol == GRPC:  # whether the model answers is asked over HTTP
        return {"address": _address(replica.grpc_port), "health_check_config": {"port_value": replica.port}}
    return {"address": _address(replica.port)}


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


def _address(port: int) -> Config:
    return {"socket_address": {"address": HOST, "port_value": port}}


def _file(path: Path) -> Config:
    return {"path_config_source": {"path": str(path)}, "resource_api_version": "V3"}
