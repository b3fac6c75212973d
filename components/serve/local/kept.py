"""Predictors that have lost their traffic and are kept for a while."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from fti.common.inference_service import STABLE
from fti.serve.local.envoy import REQUEST_SECONDS
from fti.serve.local.plan import Replica

IN_FLIGHT_SECONDS = float(REQUEST_SECONDS)  # a request in flight may be tried again for as long
BAKE_SECONDS = 600.0


@dataclass
class Kept:
    """Every predictor that lost its traffic a moment ago, and of each service the stable one that was replaced last.

    That one takes over again should its successor die before the bake ends. It costs the memory of one predictor.

    Attributes:
        bake_seconds: How long a replaced stable predictor is kept; at least as long as requests may be in flight.
    """

    bake_seconds: float = BAKE_SECONDS
    _leaving: dict[Replica, float] = field(default_factory=dict)
    _earlier: dict[str, tuple[Replica, float]] = field(default_factory=dict)

    def move(self, before: Iterable[Replica], after: Sequence[Replica], now: float) -> None:
        """Takes note that a service's traffic has moved; to nowhere, where it is served no more."""
        live = {replica.revision for replica in after}
        for replica in before:
            if replica.revision not in live:
                self._leaving[replica] = now + IN_FLIGHT_SECONDS
                if replica.variant == STABLE:
                    self._earlier[replica.service] = (replica, now + max(self.bake_seconds, IN_FLIGHT_SECONDS))
                if not after:
                    self._earlier.pop(replica.service, None)

    def replicas(self, now: float) -> list[Replica]:
        """All that are kept."""
        self._leaving = {replica: until for replica, until in self._leaving.items() if now < until}
        self._earlier = {name: kept for name, kept in self._earlier.items() if now < kept[1]}
        return [*self._leaving, *(replica for replica, _ in self._earlier.values())]

    def earlier(self, service: str) -> Replica | None:
        """The stable predictor that a service's present one has replaced, while it is kept."""
        return self._earlier[service][0] if service in self._earlier else None
