"""How a canary is rolled out."""

import math
from dataclasses import dataclass, field

from fti.common.errors import ConfigError
from fti.rollout.outcomes import METRICS, Goal
from fti.rollout.rules import Limits

LONGEST_MS = 10_000.0  # a try may take no longer anyway
_MARGINS = ("failure_margin", "refusal_margin", "slow_margin", "staleness_margin", "shift_margin")


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
    if not 0 < limits.alpha < 1:
        raise ConfigError(f"alpha is {limits.alpha}", allowed="more than 0 and less than 1")
    for name in _MARGINS:
        if not 0 < getattr(limits, name) <= 1:
            raise ConfigError(f"{name} is {getattr(limits, name)}", allowed="more than 0, up to 1, which means off")
    if not limits.guardrails():
        raise ConfigError("every margin is 1 and there is no goal", allowed="at least one guardrail")
    if not 0 < limits.latency_budget_ms <= LONGEST_MS:
        raise ConfigError(
            f"latency_budget_ms is {limits.latency_budget_ms}", allowed=f"more than 0, up to {LONGEST_MS}"
        )
    for name in ("step_seconds", "missing_seconds"):
        if not getattr(plan, name) > 0:
            raise ConfigError(f"{name} is {getattr(plan, name)}", allowed="more than 0")
    for name, least in (("min_requests", 1), ("requests_of_unit", 0)):
        if getattr(limits, name) < least:
            raise ConfigError(f"{name} is {getattr(limits, name)}", allowed=f"{least} or more")
    if limits.goal:
        _check_goal(limits.goal)


def _check_goal(goal: Goal) -> None:
    if goal.metric not in METRICS:
        raise ConfigError(f"the goal's metric is {goal.metric!r}", allowed=", ".join(METRICS))
    if goal.wanted not in {"better", "no-worse"}:
        raise ConfigError(f"the goal is {goal.wanted!r}", allowed="better, no-worse")
    if not 0 <= goal.margin < math.inf or (goal.wanted == "no-worse" and goal.margin == 0):
        raise ConfigError(f"goal_margin is {goal.margin}", allowed="0 or more for better, more than 0 for no-worse")
    if not goal.outcomes:
        raise ConfigError("a goal needs outcomes", allowed="the path or URI of a table of them")
