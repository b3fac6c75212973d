"""`fti schedule`: pipelines that start by the clock, on a cluster."""

from typing import Any

import click

from fti.cli.cluster import cluster_options, connected, namespace_option, uploaded
from fti.cli.pipelines import PipelineGroup


@click.group("schedule")
def schedule_command() -> None:
    """Start pipelines by the clock, on Kubeflow, at FTI_KFP_URL."""


def _create(
    pipeline: Any,
    *,
    name: str,
    cron: str,
    every: str,
    catch_up: bool,
    resources: str | None,
    namespace: str | None,
    experiment: str | None,
    service_account: str | None,
    **options: Any,
) -> None:
    from fti.kubeflow import runs, schedules

    when = schedules.trigger(cron or "", every or "")
    with connected(namespace) as api:
        version = uploaded(api, pipeline, resources)
        made = schedules.create(
            api,
            version,
            name,
            when,
            {key: value for key, value in options.items() if value is not None},
            experiment_id=runs.experiment(api, experiment or version.pipeline),
            catch_up=catch_up,
            service_account=service_account or "",
        )
    click.echo(f"{made.name} starts {version.pipeline} by {made.when}: {made.link}")


_create_command = PipelineGroup(
    "create",
    do=_create,
    options=[
        click.Option(["--name"], required=True, help="The schedule's name."),
        click.Option(["--cron"], help="Minute, hour, day, month, weekday, such as '0 3 * * *'; UTC by default."),
        click.Option(["--every"], help="In place of --cron: a span of time such as 6h."),
        click.Option(["--catch-up"], is_flag=True, help="Make up for times that were missed."),
        *cluster_options(),
    ],
    help="""Start a pipeline by the clock, one run at a time, with these parameters.

    The version that is uploaded now is what runs; for a later one delete the schedule and create it again.
    """,
)
schedule_command.add_command(_create_command)


@schedule_command.command("list")
@namespace_option
def _list_command(namespace: str | None) -> None:
    """List the schedules."""
    from fti.kubeflow import schedules

    with connected(namespace) as api:
        found = schedules.schedules(api)
    for schedule in found:
        state = "enabled" if schedule.enabled else "disabled"
        click.echo(f"{schedule.name:<24} {schedule.when:<24} {state:<9} {schedule.link}")
    if not found:
        click.echo("There is no schedule.")


def _by_name(verb: str, done: str, about: str) -> None:
    @click.argument("name")
    @namespace_option
    def command(name: str, namespace: str | None) -> None:
        from fti.kubeflow import schedules

        with connected(namespace) as api:
            getattr(schedules, verb)(api, name)
        click.echo(f"{name} is {done}.")

    schedule_command.command(verb, help=about)(command)


_by_name("enable", "enabled", "Let a schedule start runs again.")
_by_name("disable", "disabled", "Let a schedule start no more runs, until it is enabled.")
_by_name("delete", "deleted", "Delete a schedule; the runs that it started stay.")
