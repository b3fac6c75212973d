"""`fti run`: a pipeline on this machine or on a cluster; its options are the pipeline's own parameters."""

import json
from pathlib import Path
from typing import Any

import click

from fti.cli.cluster import cluster_options, connected, followed, uploaded
from fti.cli.pipelines import PipelineGroup
from fti.cli.progress import step_progress
from fti.common.settings import Settings
from fti.local_run import run_pipeline


def _run(pipeline: Any, **options: Any) -> None:
    asked = {option.name: options.pop(option.name) for option in _OPTIONS if option.name}
    given = {key: value for key, value in options.items() if value is not None}
    on_cluster = asked.pop("cluster")
    if not on_cluster and any(asked.values()):
        wrong = ", ".join(f"--{name.replace('_', '-')}" for name, value in asked.items() if value)
        raise click.UsageError(f"{wrong} means nothing on this machine. Perhaps --cluster is missing.")
    if on_cluster:
        _on_cluster(pipeline, given, **asked)
    else:
        _here(pipeline, given)


def _here(pipeline: Any, given: dict[str, Any]) -> None:
    with step_progress(pipeline.name) as on_step:
        finished = run_pipeline(pipeline, given, Settings.from_env(), on_step)
    click.echo(f"{pipeline.name} finished in {finished.seconds:.1f} s: {finished.folder}")
    for name, value in finished.outputs.items():
        click.echo(f"  {name}: {value}")
    for report in finished.reports:
        click.echo(f"  report: {report}")
    for blessing in finished.artifacts("infra-validate", "infra_blessing"):
        click.echo(_verdict(json.loads(Path(blessing["uri"]).read_text(encoding="utf-8"))))


def _on_cluster(
    pipeline: Any,
    given: dict[str, Any],
    *,
    resources: str | None,
    namespace: str | None,
    experiment: str | None,
    service_account: str | None,
    detach: bool,
) -> None:
    from fti.kubeflow import runs

    with connected(namespace) as api:
        version = uploaded(api, pipeline, resources)
        run_id = runs.submit(
            api,
            version,
            given,
            experiment_id=runs.experiment(api, experiment or version.pipeline),
            service_account=service_account or "",
        )
        click.echo(f"{version.pipeline} runs: {api.connection.link('runs', 'details', run_id)}")
        if detach:
            click.echo(f"Follow it: fti follow {run_id}")
        else:
            followed(api, run_id)


def _verdict(blessing: dict[str, Any]) -> str:
    reasons = "; ".join(blessing["reasons"])
    return f"Blessed: {reasons}." if blessing["blessed"] else f"Not blessed, and so not to be pushed: {reasons}."


_OPTIONS = [
    click.Option(["--cluster"], is_flag=True, help="Run it on Kubeflow, at FTI_KFP_URL, in place of this machine."),
    *cluster_options(),
    click.Option(["--detach"], is_flag=True, help="With --cluster: do not wait for the end."),
]

run_command = PipelineGroup(
    "run",
    do=_run,
    options=_OPTIONS,
    help="""Run a pipeline on this machine, each step a process; or on a cluster.

    `fti run PIPELINE --help` lists the pipeline's parameters; lists and maps are given as JSON.
    """,
)
