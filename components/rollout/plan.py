"""How a canary is rolled out."""

from dataclasses import dataclass, field

from fti.common.errors import ConfigError
from fti.rollout.rules import GUARDRAILS, Limits

LONGEST_MS = 10_000.0  # a try may take no longer anyway


@dataclass(frozen=True)
class Plan:
    """How a canary is rolled out.

    Attributes:
        steps: Shares of the traffic, percent, rising; at 0 it is a shadow, sent copies of all requests. The last is
            kept until it has proved itself too.
        step_seconds: How long a step may go on without evidence before the rollout is held.
        missing_seconds: How long figures may be missing before the canary is taken back.
        look_seconds: How often to look.
        limits: What is asked of the canary.
    """

    steps: tuple[int, ...] = (0, 5, 25, 50, 100)
    step_seconds: float = 3600.0
    missing_seconds: float = 60.0
    look_seconds: float = 1.0
    limits: Limits = field(default_factory=Limits)


def check_plan(plan: Plan) -> None:
    """Refuses a plan that cannot be followed.

    Raises:
        ConfigError: Names what is wrong.
    """
    steps, limits = plan.steps, plan.limits
    if not steps or list(steps) != sorted(set(steps)) or not all(0 <= step <= 100 for step in steps):
        raise ConfigError(f"the steps are {list(steps)}", allowed="rising whole numbers from 0 to 100")
    if steps == (100,):
        raise ConfigError("the only step is 100 %", allowed="a step before it, beside the stable model")
    for name in ("alpha", *GUARDRAILS.values()):
        if not 0 < getattr(limits, name) < 1:
            raise ConfigError(f"{name} is {getattr(limits, name)}", allowed="more than 0 and less than 1")
    if not 0 < limits.latency_budget_ms <= LONGEST_MS:
        raise ConfigError(
            f"latency_budget_ms is {limits.latency_budget_ms}", allowed=f"more than 0, up to {LONGEST_MS}"
        )
    for name in ("step_seconds", "missing_seconds"):
        if not getattr(plan, name) > 0:
            raise ConfigError(f"{name} is {getattr(plan, name)}", allowed="more than 0")
    if limits.min_requests < 1:
        raise ConfigError(f"min_requests is {limits.min_requests}", allowed="1 or more")
