"""`fti stop`, `fti start`, `fti delete`: whether a pushed service runs, here or on a cluster."""

import click

from fti.common.settings import LOCAL, Settings


@click.command("stop")
@click.argument("service")
def stop_command(service: str) -> None:
    """Stop SERVICE: nothing of it runs, nothing answers; `fti start` brings it back. Safe to repeat."""
    from fti.push.lifecycle import stop

    settings = Settings.from_env()
    changed = stop(service, settings)
    click.echo(f"{service}: stopped{_taken_over(settings, changed)}." if changed else f"{service} is stopped already.")


@click.command("start")
@click.argument("service")
def start_command(service: str) -> None:
    """Start SERVICE again, with the models and shares that it had. Safe to repeat."""
    from fti.push.lifecycle import start

    settings = Settings.from_env()
    changed = start(service, settings)
    click.echo(f"{service}: started{_taken_over(settings, changed)}." if changed else f"{service} is not stopped.")


@click.command("delete")
@click.argument("service")
def delete_command(service: str) -> None:
    """Delete SERVICE with all that runs of it. Its model packages stay in the store. Safe to repeat."""
    from fti.push.lifecycle import delete

    settings = Settings.from_env()
    changed = delete(service, settings)
    packages = f"Its packages stay under {settings.models_uri}/{service}."
    deleted = f"{service}: deleted{_taken_over(settings, changed)}. {packages}"
    click.echo(deleted if changed else f"{service} was not pushed, or is deleted already.")


def _taken_over(settings: Settings, changed: bool) -> str:
    """What follows on this machine; a cluster has done it by now."""
    from fti.serve.local.status import read_state

    running = changed and settings.serving == LOCAL and read_state(settings) is not None
    return "; `fti serve` takes it over" if running else ""
