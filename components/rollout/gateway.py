"""The figures of a rollout on this machine: requests from the gateway's counters, the rest from the predictors'."""

import json
from collections import defaultdict
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from typing import Any

from fti.common.inference_service import CANARY, STABLE
from fti.common.settings import Settings
from fti.rollout.counters import FAILURES, NAMED, REFUSALS, REQUESTS, SENT, SLOW, Counts, Odometer
from fti.rollout.metrics import Reading
from fti.rollout.predictor_metrics import Labels, counted, own_counts, samples_of
from fti.serve.local.admin import ask
from fti.serve.local.envoy import GRPC, ROUTES
from fti.serve.local.ports import HOST
from fti.serve.local.routes import BY_UNIT
from fti.serve.protocol import INFER

_COUNTERS = ("total", "completed", "retry", "retry_success", "4xx", "5xx")
_CALLS = f"grpc.{INFER.replace('/', '.')}."
# gRPC's statuses of a server that failed: CANCELLED, UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS.
_FAILED = (1, 2, 4, 13, 14, 15)
_REFUSED = tuple(status for status in range(3, 17) if status not in _FAILED)
_OF_CLUSTERS, _OF_ROUTES = f"cluster.*upstream_rq_(time|{'|'.join(_COUNTERS)})", "route.*upstream_rq_completed"
_STATS = f"/stats?filter=({_OF_CLUSTERS}|{_OF_ROUTES}|{_CALLS}[0-9]*)$&format=json&histogram_buckets=cumulative"
_ROUTE, _NAMED = f"vhost.{ROUTES}.route.", ".upstream_rq_completed"


class GatewayMetrics:
    """The counters of the gateway and of the predictors that `fti serve` runs.

    Args:
        settings: Where the runner's state lies.
        latency_budget_ms: From when a request is slow, milliseconds; rounded up to a bound of the histograms.
    """

    def __init__(self, settings: Settings, latency_budget_ms: float) -> None:
        self._settings, self._budget = settings, latency_budget_ms
        self._gateway = Odometer[tuple[str, int, str, str]]()
        self._named = Odometer[int]()
        # One for each variant: a look at one says nothing of when the other's counters began.
        self._predictors = defaultdict[str, Odometer[tuple[int, str, Labels]]](Odometer)
        self._last: dict[str, Counts] = {}

    def read(self, service: str) -> Reading | None:
        """What was counted since the look before, or None where nobody serves it or the gateway does not answer."""
        from fti.serve.local.status import read_state

        state = read_state(self._settings) or {"services": {}}
        if service not in state["services"]:
            return None
        variants = state["services"][service]["revisions"]
        counters = _counters(state["admin_port"], self._budget)
        if counters is None or not {of["cluster"] for of in variants.values()} <= counters.keys():
            return None
        requests = self._of_gateway(state["gateway_pid"], variants, counters)
        totals = {
            variant: requests[variant].plus(self._of_predictor(service, variant, of))
            for variant, of in variants.items()
        }
        named = self._named.read({state["gateway_pid"]: counters.get(service + BY_UNIT, {}).get(NAMED, 0)})
        totals[STABLE] = totals[STABLE].plus({NAMED: sum(named.values())})
        added = {variant: counts.since(self._last.get(variant, {})) for variant, counts in totals.items()}
        self._last |= totals
        canary = variants.get(CANARY, {"percent": 0, "shadow": False})
        names = {variant: of["revision"] for variant, of in variants.items()}
        return Reading(names, canary["percent"], canary["shadow"], added)

    def _of_gateway(
        self, pid: int, variants: Mapping[str, Any], counters: Mapping[str, Mapping[str, int]]
    ) -> dict[str, Counts]:
        """Variant -> what became of its requests, over HTTP and gRPC."""
        now = {
            (variant, pid, cluster, name): value
            for variant, of in variants.items()
            for cluster in (of["cluster"], of["cluster"] + GRPC)
            for name, value in counters.get(cluster, {}).items()
        }
        clusters: dict[tuple[str, int, str], dict[str, int]] = defaultdict(dict)
        for (variant, process, cluster, name), total in self._gateway.read(now).items():
            clusters[variant, process, cluster][name] = total
        found = {variant: Counts() for variant in variants}
        for (variant, *_), totals in clusters.items():
            if variant in found:
                found[variant] = found[variant].plus(_counts(totals))
        return found

    def _of_predictor(self, service: str, variant: str, of: Mapping[str, Any]) -> Counts:
        """What only a predictor can count. One that does not answer now is counted the next time."""
        odometer, samples = self._predictors[variant], samples_of(_metrics_text(of["port"]), service)
        now = {(of["pid"], name, labels): value for name, labels, value in samples}
        totals = odometer.read(now) if now else odometer.totals()
        # The processes of a variant count together.
        found: dict[tuple[str, Labels], int] = defaultdict(int)
        for (_, name, labels), total in totals.items():
            found[name, labels] += total
        return own_counts(counted(found))


def _counts(totals: Mapping[str, int]) -> Counts:
    """What was not answered at the first try: answered 5xx in the end, by another try, or passed on untried.

    A canary's second host is the stable predictor. It is sent what is tried again, once, and what is passed on.
    """
    passed_on = max(0, totals["elsewhere"] - totals["retry"])
    return Counts(
        {
            REQUESTS: totals["completed"],
            FAILURES: totals["5xx"] + totals["retry_success"] + passed_on,
            REFUSALS: totals["4xx"],
            SLOW: totals["slow"],
            SENT: max(totals["total"] - totals["retry"], totals["completed"]),
        }
    )


def _counters(port: int, budget: float) -> dict[str, dict[str, int]] | None:
    """Cluster, or name of a route's statistics -> its counters, all of them monotone, since the gateway began."""
    said = [ask(port, path) for path in ("/clusters?format=json", _STATS)]
    if not all(said):
        return None
    listed, stats = map(json.loads, said)
    found = {stat["name"]: int(stat["value"]) for stat in stats.get("stats", []) if "value" in stat}
    slow = _slow(stats, budget)
    counters = {}
    for cluster in listed.get("cluster_statuses", []):
        name = cluster["name"]
        others = [stat for host in cluster["host_statuses"][1:] for stat in host["stats"] if stat["name"] == "rq_total"]
        counters[name] = {
            **{counter: found.get(f"cluster.{name}.upstream_rq_{counter}", 0) for counter in _COUNTERS},
            "elsewhere": sum(int(stat.get("value", 0)) for stat in others),
            "slow": slow.get(name, 0),
        }
        if name.endswith(GRPC):
            for kind, statuses in (("4xx", _REFUSED), ("5xx", _FAILED)):
                counters[name][kind] = sum(found.get(f"cluster.{name}.{_CALLS}{status}", 0) for status in statuses)
    of_routes = {name.removeprefix(_ROUTE): value for name, value in found.items() if name.startswith(_ROUTE)}
    return counters | {name.removesuffix(_NAMED): {NAMED: value} for name, value in of_routes.items()}


def _slow(stats: dict[str, Any], budget: float) -> dict[str, int]:
    """Cluster -> how many requests took longer than the budget."""
    slow = {}
    for stat in stats.get("stats", []):
        for histogram in stat.get("histograms", []):
            name = histogram["name"].removeprefix("cluster.").removesuffix(".upstream_rq_time")
            buckets = histogram["buckets"]
            total = buckets[-1]["cumulative"] if buckets else 0
            within = next((b["cumulative"] for b in buckets if b["upper_bound"] >= budget), total)
            slow[name] = total - within
    return slow


def _metrics_text(port: int | None) -> str:
    """The text of a predictor's metrics; empty where it does not answer within a second."""
    if not port:
        return ""
    connection = HTTPConnection(HOST, port, timeout=1)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
    except (OSError, HTTPException):
        return ""
    finally:
        connection.close()
