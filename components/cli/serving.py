"""`fti serve`, `fti predict`, `fti explain`, `fti status`: what has been pushed, on this machine."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from fti.common.errors import ConfigError
from fti.common.settings import LOCAL, Settings
from fti.serve.local.ports import DEFAULT_PORT


def _bake_seconds() -> float:
    from fti.serve.local.kept import BAKE_SECONDS

    return BAKE_SECONDS


@click.command("serve")
@click.argument("services", nargs=-1)
@click.option(
    "--port",
    default=DEFAULT_PORT,
    show_default=True,
    help="The gateway's port on 127.0.0.1; 0 lets the system choose.",
)
@click.option(
    "--bake",
    default=_bake_seconds,
    show_default="10 minutes",
    type=click.FloatRange(min=0),
    help="Seconds for which the stable model that was replaced last stays in memory, to take over should the new one "
    "die; for half a minute at least.",
)
def serve_command(services: tuple[str, ...], port: int, bake: float) -> None:
    """Serve the pushed InferenceServices until Ctrl-C, and take over whatever is pushed meanwhile.

    Each revision is a KServe model server of its own; Envoy in front splits the traffic as the manifest asks.
    SERVICES are names; none means all, those pushed later too.
    """
    from fti.serve.local.runner import serve

    def ready(endpoints: dict[str, str]) -> None:
        for name, url in endpoints.items():
            click.echo(f"{name}: {url}")
        click.echo("Ready. Ask with `fti predict NAME`; stop with Ctrl-C.")

    serve(Settings.from_env(), names=list(services), port=port, on_ready=ready, bake_seconds=bake)


@click.command("predict")
@click.argument("service")
@click.option(
    "--rows", type=click.File("r"), help="A JSON list of rows, each a map from column to value; - reads stdin."
)
@click.option("--variant", type=click.Choice(["stable", "canary"]), help="Reach this variant instead of the split.")
@click.option("--unit", default="", help="Whom the rows are about: the same unit sees the same variant each time.")
def predict_command(service: str, rows: Any, variant: str | None, unit: str) -> None:
    """Ask a served model; without --rows, with the examples that its package carries.

    A row needs either every feature, or the entity keys by which the server finds the features itself.
    """
    from fti.serve.client import examples, predict

    settings = Settings.from_env()
    instances = _parsed(rows) if rows else examples(settings, service)
    answer = predict(settings, service, instances, variant=variant, unit=unit)
    click.echo(json.dumps(answer, indent=2))


@click.command("explain")
@click.argument("service")
@click.option(
    "--rows", type=click.File("r"), help="A JSON list of rows, each a map from column to value; - reads stdin."
)
@click.option("--variant", type=click.Choice(["stable", "canary"]), help="Reach this variant instead of the split.")
def explain_command(service: str, rows: Any, variant: str | None) -> None:
    """Show what moved a served model's predictions; without --rows, that of the first example of its package.

    The model explains in a process of its own, which starts with the first question.
    """
    from fti.serve.client import examples, explain

    settings = Settings.from_env()
    instances = _parsed(rows) if rows else examples(settings, service)[:1]
    click.echo(json.dumps(explain(settings, service, instances, variant=variant), indent=2))


def _parsed(rows: Any) -> list[dict[str, Any]]:
    try:
        parsed = json.load(rows)
    except ValueError as error:  # no JSON, or no UTF-8
        raise ConfigError(
            f"{Path(rows.name).name} is not JSON: {error}", allowed='[{"column": value, …}, …]'
        ) from error
    if not isinstance(parsed, list) or not all(isinstance(row, dict) for row in parsed):
        raise ConfigError(f"{Path(rows.name).name} is not a list of rows", allowed='[{"column": value, …}, …]')
    return parsed


@click.command("promote")
@click.argument("service")
def promote_command(service: str) -> None:
    """Make a service's canary its stable model, and sign it in the record of its rollout. Safe to repeat."""
    from fti.push.traffic import promote

    _end_trial(service, promote, "the canary is stable now")


@click.command("rollback")
@click.argument("service")
def rollback_command(service: str) -> None:
    """Take a service's canary away, and sign it in the record of its rollout. Safe to repeat.

    The stable model gets all of the traffic.
    """
    from fti.push.traffic import rollback

    _end_trial(service, rollback, "the canary is gone")


def _end_trial(service: str, end: Callable[[str, Settings], bool], done: str) -> None:
    from fti.common.inference_service import read_service
    from fti.rollout.endings import note_by_hand
    from fti.serve.local.status import wait_in_sync

    settings = Settings.from_env()
    before = read_service(service, settings)
    ended = end(service, settings)
    served = settings.serving != LOCAL or wait_in_sync(service, settings)  # a cluster has done it by now
    where = "and it is served so" if served else "`fti serve` takes it over"
    click.echo(f"{service}: {done}, {where}." if ended else f"{service} has no canary; nothing to do.")
    if said := note_by_hand(service, before, settings):  # after the traffic: the record holds nothing up
        click.echo(said)


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of lines.")
def status_command(as_json: bool) -> None:
    """Show what is pushed and what is served."""
    from fti.serve.local.status import read

    state = read(Settings.from_env())
    if as_json:
        click.echo(json.dumps(state, indent=2))
        return
    click.echo(_described(state))


def _described(state: dict[str, Any]) -> str:
    lines = [
        f"serving on port {state['port']} (pid {state['pid']})" if state["pid"] else "nothing is served: fti serve"
    ]
    if not state["services"]:
        lines.append("nothing was pushed: fti run loop")
    for name, service in state["services"].items():
        actual = service["actual"] or {"url": "", "revisions": {}}
        stopped = f"stopped: fti start {name}" if service.get("stopped") else ""
        lines.append(f"{name}  {service.get('error') or stopped or actual['url']}".rstrip())
        for variant, desired in service["desired"].items():
            live = actual["revisions"].get(variant, {})
            same = {key: live.get(key) for key in desired} == desired and live.get("ready")
            state_now = "ready" if same else "not yet served" if state["pid"] else "pushed"
            lines.append(f"  {variant:<7} {desired['percent']:>3} %  {desired['revision']}  {state_now}")
        lines += [f"  warning: {warning}" for warning in service.get("warnings", [])]
        if actual.get("kept"):
            lines.append(f"  earlier          {actual['kept']}  kept to take over again")
        if state["pid"] and not service["in_sync"]:
            served = (f"{variant} {of['percent']} % {of['revision']}" for variant, of in actual["revisions"].items())
            lines.append(f"  now served: {', '.join(served) or 'nothing'}")
            lines += [f"  {variant} cannot start: {why}" for variant, why in service.get("failures", {}).items()]
    return "\n".join(lines)
