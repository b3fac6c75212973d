"""The gateway's routes: which service is asked, which variant answers, and what is asked again where.

A request names its service in the path (V1, V2), or, where the protocol's path has no room for it (gRPC, the server's
own health), in the host `<service>.<anything>`, as KServe's hosts do, or in the header `x-fti-service`. A service that
is alone need not be named. See Envoy's reference for `config.route.v3.RouteConfiguration`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from fti.serve.local.envoy import (
    ASKED,
    GRPC,
    REQUEST_SECONDS,
    ROUTES,
    TYPE,
    UNIT_FILTER_NAME,
    Config,
    cluster_names,
)
from fti.serve.local.plan import Replica

SERVICE_HEADER, VARIANT_HEADER, UNIT_HEADER = "x-fti-service", "x-variant", "x-fti-unit"
BY_UNIT = "-by-unit"  # the end of the name of statistics: of a service's requests that name their unit

_GRPC = r"/inference\.GRPCInferenceService/"
# What would change a server (load, unload) has no route.
_GRPC_METHODS = "ServerLive|ServerReady|ServerMetadata|ModelReady|ModelMetadata|ModelInfer"
_SERVER_PATHS = r"/(|v1/models|v2(/models|/health/(live|ready)|/repository/index)?)"
_JSON = {"header": {"key": "content-type", "value": "application/json"}}
_BROKEN = "connect-failure,refused-stream,reset"


@dataclass(frozen=True)
class Kind:
    """A kind of requests.

    Attributes:
        retry_on: What has the stable model answer instead.
        suffix: Of the names of the clusters that answer.
        grpc: Whether they are gRPC.
    """

    retry_on: str
    suffix: str = ""
    grpc: bool = False


# A canary that answers 5xx is a broken canary: its requests go to the stable predictor.
HTTP = Kind(f"{_BROKEN},5xx,retriable-status-codes")
CALL = Kind(f"{HTTP.retry_on},cancelled,deadline-exceeded,internal,unavailable", GRPC, grpc=True)
# What only reads says nothing of a model: no rollout counts it.
READ = Kind(HTTP.retry_on, ASKED)
# An explanation that takes too long is no broken model: another's explanation would be a wrong answer, and the clusters
# of requests that ask for a variant are those that no rollout counts.
EXPLANATION = Kind(_BROKEN, ASKED)


def routes(replicas: Sequence[Replica]) -> Config:
    """The whole table: by service, then by the header `x-variant`, then by unit or by chance, as the weights say."""
    by_service = {name: list(group) for name, group in groupby(replicas, key=lambda replica: replica.service)}
    names = cluster_names(replicas)
    table = []
    for name, group in by_service.items():
        for match, kind in _matches(name, alone=len(by_service) == 1):
            table += [
                {"match": {**match, "headers": [*match.get("headers", []), *headers]}, **action}
                for headers, action in _actions(group, names, kind)
            ]
    served = ", ".join(by_service) or "none"
    which = f"name the service, as the host <service>.<anything> or in {SERVICE_HEADER}. Served: {served}"
    table.append({"match": {"safe_regex": {"regex": f"{_GRPC}.*"}, "grpc": {}}, **_not_found(which, grpc=True)})
    table.append({"match": {"prefix": "/"}, **_not_found(f"no such service or path. Served: {served}")})
    return {"name": ROUTES, "virtual_hosts": [{"name": ROUTES, "domains": ["*"], "routes": table}]}


def _matches(name: str, *, alone: bool) -> list[tuple[Config, Kind]]:
    """The requests that are of a service, and their kind."""
    escaped = re.escape(name)
    named: list[tuple[Config, Kind]] = [
        ({"path": f"/v1/models/{name}:explain"}, EXPLANATION),
        ({"safe_regex": {"regex": f"/v1/models/{escaped}:(predict|features)"}}, HTTP),
        ({"path": f"/v2/models/{name}/infer"}, HTTP),
        ({"path": f"/v1/models/{name}"}, READ),
        ({"path_separated_prefix": f"/v2/models/{name}"}, READ),
    ]
    own = {"name": SERVICE_HEADER, "string_match": {"exact": name}}
    other = {"name": SERVICE_HEADER, "present_match": True, "invert_match": True}
    host = {"name": ":authority", "string_match": {"safe_regex": {"regex": f"(?i){escaped}([.:].*)?"}}}
    conditions: list[list[Config]] = [[own], [other] if alone else [host, other]]
    servers = [
        ({**match, "headers": condition}, kind)
        for condition in conditions
        for match, kind in (
            ({"safe_regex": {"regex": f"{_GRPC}({_GRPC_METHODS})"}, "grpc": {}}, CALL),
            ({"safe_regex": {"regex": _SERVER_PATHS}}, READ),
        )
    ]
    return [*named, *servers]


def _actions(group: list[Replica], clusters: Mapping[Replica, str], kind: Kind) -> list[tuple[list[Config], Config]]:
    """What to do with a service's requests, by the header that chooses, the first that matches."""
    options, asked = _route_options(kind), ASKED + (GRPC if kind.grpc else "")
    actions: list[tuple[list[Config], Config]] = [
        (
            [{"name": VARIANT_HEADER, "string_match": {"exact": replica.variant}}],
            {"route": {"cluster": clusters[replica] + asked, **options}},
        )
        for replica in group
    ]
    variants = ", ".join(replica.variant for replica in group)
    refused = f"{group[0].service} has no such variant. Allowed in {VARIANT_HEADER}: {variants}"
    mirrors = [
        {"cluster": clusters[replica] + kind.suffix, "runtime_fraction": {"default_value": {"numerator": 100}}}
        for replica in group
        if replica.shadow and ASKED not in kind.suffix
    ]
    mirrored = {"request_mirror_policies": mirrors} if mirrors else {}
    weighted = [{"name": clusters[replica] + kind.suffix, "weight": replica.percent} for replica in group]
    split = {"weighted_clusters": {"clusters": weighted}, **mirrored, **options}
    # Counted, so that a rollout knows of it: the requests of a unit are not independent.
    counted = {} if ASKED in kind.suffix else {"stat_prefix": group[0].service + BY_UNIT}
    named_unit = {"name": UNIT_HEADER, "string_match": {"safe_regex": {"regex": ".+"}}}
    # The filter reads the unit from the body, adds the header, and has the route chosen again.
    unit = "" if kind.grpc else group[0].unit
    column = {"metadata": {"filter_metadata": {UNIT_FILTER_NAME: {"unit": unit}}}} if unit else {}
    return [
        *actions,
        ([{"name": VARIANT_HEADER, "present_match": True}], _not_found(refused, grpc=kind.grpc)),
        ([named_unit], {"route": _sticky(split, group), **counted}),
        ([], {"route": split, **column}),
    ]


def _sticky(split: Config, replicas: Sequence[Replica]) -> Config:
    """A split by the unit's hash instead of by chance.

    Envoy takes hash mod 100, the sum of the weights, and walks the clusters in their order. With the canary always
    last, a unit that is in it at 5 % still is at 25 %. The hash is salted with the two revisions, so that no trial has
    the units of another.
    """
    salt = "/".join([replicas[0].service, *(replica.revision.name for replica in replicas)])
    salted = {"pattern": {"regex": "^"}, "substitution": f"{salt}/"}
    return {
        **split,
        "weighted_clusters": {**split["weighted_clusters"], "use_hash_policy": True},
        "hash_policy": [{"header": {"header_name": UNIT_HEADER, "regex_rewrite": salted}}],
    }


def _route_options(kind: Kind) -> Config:
    priorities = {
        "@type": f"{TYPE}.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
        "update_frequency": 1,
    }
    return {
        "timeout": f"{REQUEST_SECONDS}s",
        "retry_policy": {
            "retry_on": kind.retry_on,
            "num_retries": 1,
            "per_try_timeout": "5s",
            "retry_priority": {"name": "envoy.retry_priorities.previous_priorities", "typed_config": priorities},
        },
    }


def _not_found(message: str, *, grpc: bool = False) -> Config:
    """A refusal, in JSON; over gRPC Envoy makes its text the status's message."""
    text = message if grpc else json.dumps({"error": message})
    answer = {"direct_response": {"status": 404, "body": {"inline_string": text}}}
    return answer if grpc else {**answer, "response_headers_to_add": [_JSON]}
