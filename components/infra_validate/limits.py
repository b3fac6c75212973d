"""What a server may do: tolerances, budgets and limits."""

from dataclasses import dataclass

from fti.common.errors import ConfigError


@dataclass(frozen=True)
class Limits:
    """What is asked of the server.

    Attributes:
        sample: How many test rows are replayed; all, where there are fewer.
        feature_tolerance: How far a served feature may be from training's, as a share of training's value, which
            counts as 1 where it is smaller.
        prediction_tolerance: The same for probabilities and values.
        latency_budget_ms: For the 99th percentile of requests of one row each, in milliseconds.
        memory_limit_mb: For the server's resident memory at its peak, in MiB.
        ready_within_s: Seconds until the server must answer.
        seed: Of the sample.
    """

    sample: int = 200
    feature_tolerance: float = 1e-6
    prediction_tolerance: float = 1e-5
    latency_budget_ms: float = 100.0
    memory_limit_mb: float = 2048.0
    ready_within_s: float = 120.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks them.

        Raises:
            ConfigError: One cannot be.
        """
        if self.sample < 1 or self.sample != int(self.sample):
            raise ConfigError(f"sample is {self.sample!r}", allowed="a whole number from 1 on")
        for name in ("feature_tolerance", "prediction_tolerance"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} is {getattr(self, name)!r}", allowed="a number from 0 on")
        for name in ("latency_budget_ms", "memory_limit_mb", "ready_within_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)!r}", allowed="a number above 0")
