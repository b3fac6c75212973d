"""Where the figures of a rollout come from: one small interface."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from fti.rollout.counters import Counts


@dataclass(frozen=True)
class Reading:
    """One look at a service.

    Attributes:
        revisions: Variant -> the revision that has its traffic.
        percent: The canary's share of the traffic in force, 0 to 100.
        shadow: Whether it is sent copies of the requests only.
        added: Variant -> what was counted since the look before; nothing at the first.
        blur: By how many requests the canary's count may be off, because not all counters are read at one instant.
    """

    revisions: Mapping[str, str]
    percent: int
    shadow: bool
    added: Mapping[str, Counts]
    blur: int = 0


class Metrics(Protocol):
    """Where the figures of a rollout come from."""

    def read(self, service: str) -> Reading | None:
        """What has happened to a service's variants since the look before, or None where that cannot be read now."""
