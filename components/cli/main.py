"""The command's entry: its verbs, and errors as sentences instead of tracebacks."""

import sys

import click

from fti.cli.compile import compile_command
from fti.cli.demo import demo_command
from fti.cli.doctor import doctor_command
from fti.cli.features import features_command
from fti.cli.lifecycle import delete_command, start_command, stop_command
from fti.cli.rollout import rollout_command
from fti.cli.run import run_command
from fti.cli.schedule import schedule_command
from fti.cli.serving import (
    explain_command,
    predict_command,
    promote_command,
    rollback_command,
    serve_command,
    status_command,
)
from fti.cli.stream import stream_command
from fti.cli.upload import follow_command, upload_command
from fti.common.errors import FtiError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="kfp-fti", prog_name="fti")
def cli() -> None:
    """Features, training and inference on Kubeflow Pipelines, on this machine or on a cluster.

    \b
    The way through:
      fti demo              the whole loop on a year of real flights, to a served canary
      fti run loop          the same loop as one pipeline, with your own parameters
      fti features          what the feature store holds, and how fresh it is
      fti stream            keep features up to date by events over HTTP
      fti serve             serve what has been pushed, behind one address
      fti predict NAME      ask a served model; fti explain NAME tells what moved its answer
      fti rollout NAME      take its canary to all of the traffic or back, on evidence
      fti stop NAME         run nothing of it, until fti start; fti delete takes it away
      fti doctor            what is missing, on this machine or on a cluster
      fti compile           write every pipeline and component as YAML for Kubeflow
      fti upload            the pipelines to Kubeflow; fti run loop --cluster runs one there
      fti schedule          start them by the clock

    All state lies under ./.fti (or $FTI_HOME) and can be deleted.
    """


for command in (
    run_command,
    compile_command,
    upload_command,
    follow_command,
    schedule_command,
    features_command,
    serve_command,
    stream_command,
    predict_command,
    explain_command,
    status_command,
    promote_command,
    rollback_command,
    rollout_command,
    stop_command,
    start_command,
    delete_command,
    demo_command,
    doctor_command,
):
    cli.add_command(command)


def main() -> None:
    """Runs the command. Exit codes: 0 done, 1 an error that was explained, 2 wrong usage, 130 interrupted."""
    try:
        cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except FtiError as error:
        click.secho(f"Error: {error}", fg="red", err=True)
        sys.exit(1)
    except OSError as error:
        click.secho(
            f"Error: {error.filename or 'a file'} could not be used: {error.strerror or error}.", fg="red", err=True
        )
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        sys.exit(130)
