"""The KFP face of a rollout."""

from typing import List

from kfp.dsl import HTML, Artifact, Input, Output

from fti.step import step


@step
def rollout(
    endpoint: Input[Artifact],
    record: Output[Artifact],
    report: Output[HTML],
    steps: List[int] = [5, 25, 50, 100],
    alpha: float = 0.05,
    failure_margin: float = 0.02,
    refusal_margin: float = 0.02,
    latency_budget_ms: float = 100.0,
    slow_margin: float = 0.05,
    staleness_margin: float = 0.05,
    shift_margin: float = 0.3,
    min_requests: int = 200,
    requests_of_unit: int = 0,
    outcomes: str = "",
    goal: str = "no-worse",
    goal_metric: str = "log_loss",
    goal_margin: float = 0.01,
    step_seconds: float = 3600.0,
    missing_seconds: float = 300.0,
    look_seconds: float = 5.0,
    who: str = "",
) -> str:
    """Takes a pushed canary through steps of traffic to all of it, or back, on evidence that looking does not spoil.

    A step ends when the canary is shown to be no worse than the margins beside the stable model (go on), or to be worse
    (take back). Without evidence in time the rollout is held; without figures the canary is taken back. Run again, it
    goes on where it was. Figures come from Prometheus, `FTI_PROMETHEUS_URL`, or from `fti serve` on the same machine.

    Args:
        endpoint: From push: JSON that names the service. A model that is stable already is promoted.
        record: JSON: every decision with its evidence, models and data, each holding the digest of the one before.
        report: Traffic, figures of both models with confidence bands, and why it was decided so.
        steps: Shares of the traffic in percent, rising; 0 for a shadow, which is sent copies of all requests (not on
            every cluster).
        alpha: The probability of a false rollback, and of a false promotion, over the whole rollout.
        failure_margin: By how much the canary's share of failed requests may exceed the stable model's; 1: off.
        refusal_margin: The same for requests answered 4xx.
        latency_budget_ms: From when a request is slow, in milliseconds.
        slow_margin: The same for slow requests.
        staleness_margin: The same for rows looked up without a fresh value, for each feature view.
        shift_margin: How far the share of scores above any cut-off may be from the stable model's; 1: off.
        min_requests: How many requests the canary must have had in each step.
        requests_of_unit: The most requests of one user in a step, where the header x-fti-unit makes splits sticky; 0:
            read off the inference log, where there is one.
        outcomes: A table of request_id, outcome (and row, time), joined with the inference log; empty: no goal.
        goal: What outcomes must show: `better` or `no-worse`.
        goal_metric: `outcome`, `cost`, `log_loss`, `squared_error` or `absolute_error`.
        goal_margin: By how much, in the metric's own unit.
        step_seconds: How long a step may lack evidence before the rollout is held.
        missing_seconds: How long figures may be missing before the canary is taken back.
        look_seconds: How often to look.
        who: Who answers for it, for the record, such as the run's name; empty: the user of the process.

    Returns:
        promoted, rolled_back, held or superseded. One that is interrupted fails, and goes on when it is run again.
    """
    from fti.common.settings import Settings
    from fti.rollout.outcomes import Goal
    from fti.rollout.plan import Plan
    from fti.rollout.rules import Limits
    from fti.rollout.run import roll_out, write_artifacts

    limits = Limits(
        alpha=alpha,
        latency_budget_ms=latency_budget_ms,
        failure_margin=failure_margin,
        refusal_margin=refusal_margin,
        slow_margin=slow_margin,
        staleness_margin=staleness_margin,
        shift_margin=shift_margin,
        min_requests=int(min_requests),
        requests_of_unit=int(requests_of_unit),
        goal=Goal(outcomes, goal_metric, goal, goal_margin) if outcomes else None,  # type: ignore[arg-type]
    )
    plan = Plan(tuple(int(share) for share in steps), step_seconds, missing_seconds, look_seconds, limits)
    rolled = roll_out(endpoint.path, plan, Settings.from_env(), who=who)
    record.metadata.update(write_artifacts(rolled, record.path, report.path))
    return rolled.phase
