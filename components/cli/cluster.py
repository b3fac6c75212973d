"""What the verbs that speak to a cluster have in common."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fti.common.errors import FtiError, PipelinesError

if TYPE_CHECKING:
    from fti.kubeflow.api import Api
    from fti.kubeflow.pipelines import Version
    from fti.kubeflow.runs import Task

_RESOURCES = "What the steps are given: a resource profile (YAML file), or one that comes along: small, gpu."
_NAMESPACE = "The profile's namespace, where Kubeflow serves many users. [default: $FTI_KFP_NAMESPACE]"
_MARKS = {"SUCCEEDED": "✓", "SKIPPED": "–", "FAILED": "✗", "CANCELED": "✗"}

resources_option = click.option("--resources", metavar="PROFILE", help=_RESOURCES)
namespace_option = click.option("--namespace", help=_NAMESPACE)


def cluster_options() -> list[click.Option]:
    """The options of a command that starts runs on a cluster."""
    return [
        click.Option(["--resources"], metavar="PROFILE", help=f"On a cluster: {_RESOURCES}"),
        click.Option(["--namespace"], help=f"On a cluster: {_NAMESPACE}"),
        click.Option(["--experiment"], help="On a cluster: the group of runs. [default: the pipeline's name]"),
        click.Option(["--service-account"], help="On a cluster: as whom the pods run. [default: the cluster's]"),
    ]


@contextmanager
def connected(namespace: str | None) -> "Iterator[Api]":
    """The cluster's API, as the environment says."""
    from fti.kubeflow.api import connect
    from fti.kubeflow.connection import Connection

    with connect(Connection.from_env(namespace=namespace or "")) as api:
        yield api


def uploaded(api: "Api", pipeline: Any, resources: str | None, *, version_name: str = "") -> "Version":
    """Compiles and uploads a pipeline, and says which version it is."""
    from fti.compilation import compile_pipeline
    from fti.kubeflow.profile import profile_named

    profile = profile_named(resources) if resources else None
    with tempfile.TemporaryDirectory() as folder:
        path = compile_pipeline(pipeline, Path(folder) / "pipeline.yaml", profile)
        return upload_text(api, path.read_text(encoding="utf-8"), version_name=version_name)


def upload_text(api: "Api", text: str, *, version_name: str = "") -> "Version":
    """Uploads a compiled pipeline, and says which version it is."""
    from fti.kubeflow.pipelines import upload

    version = upload(api, text, version_name=version_name)
    what = "uploaded" if version.created else "is there already"
    click.echo(f"{version.pipeline}: version {version.name} {what}: {version.link}")
    return version


def followed(api: "Api", run_id: str, interval: float = 5.0) -> None:
    """Shows the steps of a run as they end, and fails as it fails.

    Raises:
        PipelinesError: The run failed, or the cluster no longer answers.
        click.Abort: Interrupted by the user; the run goes on.
    """
    from fti.kubeflow import runs

    hint = f"The run goes on: {api.connection.link('runs', 'details', run_id)}"
    try:
        run = runs.follow(api, run_id, _show, interval=interval)
    except KeyboardInterrupt:
        click.echo(f"{hint}\nFollow it again: fti follow {run_id}")
        raise click.Abort from None
    except FtiError as error:
        raise PipelinesError(str(error), remedy=f"{hint}. Follow it again: fti follow {run_id}") from error
    runs.require_succeeded(api, run)
    click.echo(f"The run ended well: {api.connection.link('runs', 'details', run_id)}")


def _show(task: "Task") -> None:
    if task.state in _MARKS:
        color = "red" if task.state in ("FAILED", "CANCELED") else "green"
        click.echo(f"  {click.style(_MARKS[task.state], fg=color)} {task.name:<32} {task.seconds:6.0f} s")
    elif task.state == "RUNNING":
        click.echo(f"  … {task.name}")
