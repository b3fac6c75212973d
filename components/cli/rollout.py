"""`fti rollout`: a canary step by step to all of the traffic, or back, by itself."""

import sys
from typing import Any

import click

from fti.common.settings import Settings

_BY_HOW_MUCH = "By how much its share of {} may exceed stable's; 1: off."


@click.command("rollout")
@click.argument("service")
@click.option(
    "--steps",
    default="0,5,25,50,100",
    show_default=True,
    help="Shares of the traffic, percent; at 0 it gets copies of the requests, unseen.",
)
@click.option(
    "--alpha", default=0.05, show_default=True, help="Probability of a false rollback, and of a false promotion."
)
@click.option("--failure-margin", default=0.02, show_default=True, help=_BY_HOW_MUCH.format("failures"))
@click.option("--refusal-margin", default=0.02, show_default=True, help=_BY_HOW_MUCH.format("4xx answers"))
@click.option("--latency-budget-ms", default=100.0, show_default=True, help="From when a request is slow.")
@click.option("--slow-margin", default=0.05, show_default=True, help=_BY_HOW_MUCH.format("slow requests"))
@click.option(
    "--staleness-margin", default=0.05, show_default=True, help=_BY_HOW_MUCH.format("rows without fresh features")
)
@click.option(
    "--shift-margin",
    default=0.3,
    show_default=True,
    help="How far its share of scores above any cut-off may be from stable's; 1: off.",
)
@click.option("--min-requests", default=200, show_default=True, help="Requests that the canary must have had per step.")
@click.option(
    "--requests-of-unit",
    default=0,
    show_default="read off the inference log",
    help="The most requests of one user in a step, where the header x-fti-unit makes splits sticky.",
)
@click.option("--outcomes", help="A table of request_id, outcome (and row, time): what became of predictions.")
@click.option(
    "--goal",
    type=click.Choice(["better", "no-worse"]),
    default="no-worse",
    show_default=True,
    help="What the outcomes must show in the last step beside the stable model.",
)
@click.option(
    "--goal-metric",
    type=click.Choice(["outcome", "cost", "log_loss", "squared_error", "absolute_error"]),
    default="log_loss",
    show_default=True,
    help="What is measured: the outcome itself (more is better), or a loss of the score against it.",
)
@click.option("--goal-margin", default=0.01, show_default=True, help="By how much, in the metric's own unit.")
@click.option("--step-seconds", default=3600.0, show_default=True, help="How long a step may lack evidence.")
@click.option("--missing-seconds", default=60.0, show_default=True, help="How long figures may be missing.")
@click.option("--look-seconds", default=1.0, show_default=True, help="How often to look.")
def rollout_command(service: str, steps: str, **options: Any) -> None:
    """Roll the canary of SERVICE out: step by step, on evidence, to a promotion or a rollback.

    Figures come from `fti serve`, which must run here, or from Prometheus, where FTI_PROMETHEUS_URL names one. Each
    step lasts until the canary is shown to be no worse than the margins, or to be worse. The statistics stay valid
    however often one looks. Interrupted, the same command goes on where it was. After the end it says again how
    that was, as long as no other model is stable, and writes the report anew.

    Exit codes: 0 promoted; 1 an error; 3 held, without evidence or interrupted; 4 rolled back; 5 superseded by a push.
    """
    from fti.rollout.logic import Rollout
    from fti.rollout.outcomes import Goal
    from fti.rollout.plan import Plan
    from fti.rollout.record import HELD, PROMOTED, ROLLED_BACK, RUNNING, SUPERSEDED
    from fti.rollout.report import write_report
    from fti.rollout.rules import Limits
    from fti.rollout.sources import metrics_from
    from fti.serve.local.runner import stopped_by_signals

    settings = Settings.from_env()
    seconds = {name: options.pop(name) for name in ("step_seconds", "missing_seconds", "look_seconds")}
    outcomes, goal = options.pop("outcomes"), [options.pop(name) for name in ("goal_metric", "goal", "goal_margin")]
    limits = Limits(**options, goal=Goal(outcomes, *goal) if outcomes else None)
    plan = Plan(_parsed(steps), limits=limits, **seconds)
    metrics = metrics_from(settings, limits.latency_budget_ms)
    with stopped_by_signals() as stop:
        record = Rollout(service, plan, settings, metrics, _Line()).run(stop)
        report = write_report(record, settings)
    reason = record.decisions[-1]["reason"] or "interrupted"
    click.echo(f"{service}: {record.phase.replace('_', ' ')}. {reason[:1].upper()}{reason[1:]}.\nReport: {report}")
    sys.exit({PROMOTED: 0, RUNNING: 3, HELD: 3, ROLLED_BACK: 4, SUPERSEDED: 5}[record.phase])


def _parsed(steps: str) -> tuple[int, ...]:
    try:
        return tuple(int(step) for step in steps.split(","))
    except ValueError:
        raise click.BadParameter(f"{steps!r} is not a list such as 0,5,25,50,100", param_hint="--steps") from None


class _Line:
    """What is going on: one line that changes on a terminal, one line for each step in a log."""

    def __init__(self) -> None:
        self._step = -1

    def __call__(self, record: Any, judgement: Any) -> None:
        percent = record.steps[min(record.step, len(record.steps) - 1)]
        text = judgement.reason if judgement else "waiting for this share to be served"
        if sys.stderr.isatty():
            click.echo(f"\r\x1b[2K{percent:>3} %  {text}", nl=False, err=True)
            if judgement and judgement.outcome != "inconclusive":
                click.echo(err=True)
        elif (judgement and judgement.outcome != "inconclusive") or record.step != self._step:
            click.echo(f"{percent:>3} %  {text}", err=True)
        self._step = record.step
