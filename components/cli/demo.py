"""`fti demo`: the story of the library, told on a year of real flights."""

import click

from fti.cli.progress import step_progress
from fti.common.settings import Settings


@click.command("demo")
@click.option("--requests", default=1000, show_default=True, help="How many predictions to ask of the two models.")
def demo_command(requests: int) -> None:
    """Run the whole loop on 336,776 flights out of New York, ending at a model served behind a canary.

    Needs no server, cloud or container. Leaves its figures in .fti/demo.json and everything else under .fti.
    """
    from fti.demo import run_demo

    run_demo(Settings.from_env(), requests=requests, say=click.echo, progress=step_progress)
