"""`fti stream`: events in over HTTP, features out."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from fti.common.errors import ConfigError
from fti.common.settings import Settings
from fti.pipelines import reference

DEFAULT_PORT = 8090


@click.command("stream")
@click.option("--port", default=DEFAULT_PORT, show_default=True, help="0 lets the system choose.")
@click.option("--host", default="127.0.0.1", show_default=True, help="There is no authentication: keep it inside.")
@click.option("--feature-repo", default=reference.FEATURE_REPO, show_default=True, help="Holds stream.yaml.")
@click.option("--tables", help="As of `fti run features`, as JSON.  [default: those of the reference problem]")
@click.option("--null-values", help='Texts that mean "missing" in CSV files, as JSON.  [default: ["", "NA"]]')
@click.option("--tick", default=5.0, show_default=True, help="Seconds between steps of time without a push.")
@click.option("--flush", default=60.0, show_default=True, help="Seconds that rows may wait for the offline store.")
@click.option("--start", help="Replay the past: the clock starts at this instant, ISO 8601.")
@click.option("--reseed", is_flag=True, help="Start from the sources again; they must hold what was pushed.")
def stream_command(port: int, host: str, tick: float, flush: float, **options: Any) -> None:
    """Keep features up to date by events, until Ctrl-C.

    POST rows of a source table to /v1/tables/TABLE:push as {"events": [{column: value}]}. They go through the contract
    and the SQL of the batch path; the features are online at once, and offline within --flush seconds. Run
    `fti run features` first.
    """
    from fti.stream.opening import open_stream
    from fti.stream.server import serve

    opened = open_stream(
        options["feature_repo"],
        _json("--tables", options["tables"]) or reference.TABLES,
        Settings.from_env(),
        null_values=_json("--null-values", options["null_values"]) or reference.NULL_VALUES,
        clock=_clock(options["start"]),
        flush_every=timedelta(seconds=flush),
        reseed=options["reseed"],
    )

    def ready(url: str) -> None:
        click.echo(f"Push to {url}/v1/tables/TABLE:push; stop with Ctrl-C.")

    serve(opened, host=host, port=port, tick_every=timedelta(seconds=tick), on_ready=ready)


def _json(option: str, text: str | None) -> Any:
    try:
        parsed = json.loads(text or "[]")
    except ValueError as error:
        raise ConfigError(f"{option} is not JSON: {error}", allowed="a JSON list") from error
    if not isinstance(parsed, list):
        raise ConfigError(f"{option} is {text!r:.100}", allowed="a JSON list")
    return parsed


def _clock(start: str | None) -> Any:
    """The clock, or one that starts at another instant."""
    if not start:
        return lambda: datetime.now(UTC)
    try:
        begin = datetime.fromisoformat(start)
    except ValueError:
        raise ConfigError(
            f"--start is {start!r}", allowed="an instant in ISO 8601, such as 2013-06-10T12:00Z"
        ) from None
    offset = (begin if begin.tzinfo else begin.replace(tzinfo=UTC)) - datetime.now(UTC)
    return lambda: datetime.now(UTC) + offset
