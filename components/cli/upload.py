"""`fti upload` and `fti follow`: pipelines to a cluster, and its runs."""

from pathlib import Path

import click

from fti.cli.cluster import connected, followed, namespace_option, resources_option, upload_text, uploaded


@click.command("upload")
@click.argument("pipelines", nargs=-1, metavar="[PIPELINE|FILE]...")
@resources_option
@click.option("--version", "version_name", help="The version's name. [default: the library's version and a digest]")
@namespace_option
def upload_command(
    pipelines: tuple[str, ...], resources: str | None, version_name: str | None, namespace: str | None
) -> None:
    """Upload pipelines to Kubeflow, at FTI_KFP_URL.

    Each PIPELINE is one of features, training, deployment, loop (without any: all of them), or a compiled YAML file.
    The first upload makes the pipeline, further ones make versions; the same content makes no new version.
    """
    from fti.pipelines import PIPELINES, pipeline_named

    wrong = [name for name in pipelines if name not in PIPELINES and not Path(name).is_file()]
    if wrong:
        raise click.UsageError(f"{wrong[0]} is neither a file nor a pipeline. Allowed: {', '.join(PIPELINES)}")
    if resources and any(name not in PIPELINES for name in pipelines):
        raise click.UsageError("--resources is given when a pipeline is compiled: fti compile --resources")
    with connected(namespace) as api:
        for name in pipelines or PIPELINES:
            if name in PIPELINES:
                uploaded(api, pipeline_named(name), resources, version_name=version_name or "")
            else:
                upload_text(api, Path(name).read_text(encoding="utf-8"), version_name=version_name or "")


@click.command("follow")
@click.argument("run_id")
@namespace_option
def follow_command(run_id: str, namespace: str | None) -> None:
    """Follow a run on Kubeflow to its end; its exit code is the run's."""
    with connected(namespace) as api:
        followed(api, run_id)
