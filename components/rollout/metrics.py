"""What canary and stable have done, counted: from the gateway on this machine."""

import json
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Any, Protocol

from fti.common.inference_service import CANARY
from fti.common.settings import Settings
from fti.serve.admin import ask

_STATS = (
    "/stats?filter=cluster.*upstream_rq_(time|completed|4xx|5xx|retry|retry_success)$"
    "&format=json&histogram_buckets=cumulative"
)


@dataclass(frozen=True)
class Counts:
    """What became of the requests that were assigned to one variant.

    Attributes:
        requests: How many were assigned.
        failures: How many it failed to answer at the first try, whoever answered them in the end: an error, a broken
            connection, no answer in time, or passed on because it was out of order.
        refusals: How many it answered 4xx.
        slow: How many took longer than the latency budget.
    """

    requests: int = 0
    failures: int = 0
    refusals: int = 0
    slow: int = 0

    def since(self, before: "Counts") -> "Counts":
        """What was added."""
        return Counts(*(mine - earlier for mine, earlier in zip(astuple(self), astuple(before), strict=True)))

    def plus(self, more: "Counts") -> "Counts":
        """The sum."""
        return Counts(*(mine + other for mine, other in zip(astuple(self), astuple(more), strict=True)))


@dataclass(frozen=True)
class Reading:
    """One look at the counters of a service.

    Attributes:
        epoch: Names the process that counts: its counters begin at 0.
        revisions: Variant -> the revision that has its traffic.
        percent: The canary's share of the traffic in force, 0 to 100.
        shadow: Whether it is sent copies of the requests only.
        counts: Variant -> what it has done since the epoch began.
    """

    epoch: str
    revisions: Mapping[str, str]
    percent: int
    shadow: bool
    counts: Mapping[str, Counts]


class Metrics(Protocol):
    """Where the figures of a rollout come from."""

    def read(self, service: str) -> Reading | None:
        """The counters of a service, or None where they cannot be read now."""


class GatewayMetrics:
    """The counters of the gateway that `fti serve` runs.

    Args:
        settings: Where the runner's state lies.
        latency_budget_ms: From when a request is slow, milliseconds; rounded up to a bound of the histograms.
    """

    def __init__(self, settings: Settings, latency_budget_ms: float) -> None:
        self._settings, self._budget = settings, latency_budget_ms

    def read(self, service: str) -> Reading | None:
        """The counters of a service, or None where nobody serves it or the gateway does not answer."""
        from fti.serve.status import read_state

        state = read_state(self._settings) or {"services": {}}
        if service not in state["services"]:
            return None
        revisions = state["services"][service]["revisions"]
        clusters = {variant: of["cluster"] for variant, of in revisions.items()}
        counts = self._counts(state["admin_port"], clusters)
        if counts is None:
            return None
        return Reading(
            epoch=f"{state['gateway_pid']} {' '.join(clusters.values())}",
            revisions={variant: of["revision"] for variant, of in revisions.items()},
            percent=revisions.get(CANARY, {"percent": 0})["percent"],
            shadow=revisions.get(CANARY, {"shadow": False})["shadow"],
            counts=counts,
        )

    def _counts(self, port: int, clusters: Mapping[str, str]) -> dict[str, Counts] | None:
        said = [ask(port, path) for path in ("/clusters?format=json", _STATS)]
        if not all(said):
            return None
        listed, stats = map(json.loads, said)
        hosts = {cluster["name"]: cluster["host_statuses"] for cluster in listed.get("cluster_statuses", [])}
        if not set(clusters.values()) <= hosts.keys():
            return None
        counters = {stat["name"]: int(stat["value"]) for stat in stats.get("stats", []) if "value" in stat}
        slow = _slow(stats, self._budget)
        return {
            variant: _counted(f"cluster.{name}.upstream_rq_", counters, hosts[name], slow.get(name, 0))
            for variant, name in clusters.items()
        }


def _counted(name: str, counters: Mapping[str, int], hosts: list[dict[str, Any]], slow: int) -> Counts:
    """What was not answered at the first try: answered 5xx in the end, by another try, or passed on untried.

    A canary's second host is the stable predictor. It is sent what is tried again, once, and what is passed on.
    """
    retries, healed = counters.get(name + "retry", 0), counters.get(name + "retry_success", 0)
    others = [int(stat.get("value", 0)) for host in hosts[1:] for stat in host["stats"] if stat["name"] == "rq_total"]
    passed_on = max(0, sum(others) - retries) if others else 0
    return Counts(
        requests=counters.get(name + "completed", 0),
        failures=counters.get(name + "5xx", 0) + healed + passed_on,
        refusals=counters.get(name + "4xx", 0),
        slow=slow,
    )


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
