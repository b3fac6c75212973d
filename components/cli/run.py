"""`fti run`: a pipeline on this machine; its options are the pipeline's own parameters."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from fti.cli.progress import step_progress
from fti.common.settings import Settings
from fti.local_run import run_pipeline
from fti.pipelines import PIPELINES, pipeline_named


class PipelineGroup(click.Group):
    """Lists the pipelines without importing kfp; builds a pipeline's command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The pipelines, in the order of the loop."""
        return list(PIPELINES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of one pipeline."""
        return _command(cmd_name) if cmd_name in PIPELINES else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the list of pipelines."""
        with formatter.section("Pipelines"):
            formatter.write_dl([(name, _SHORT[name]) for name in PIPELINES])


_SHORT = {
    "features": "sources → checked tables → features → online store",
    "training": "features as of each prediction → model → judged on unseen data",
    "deployment": "a blessed model → its share of the traffic",
    "loop": "all of the above in one run",
}


@click.group("run", cls=PipelineGroup)
def run_command() -> None:
    """Run a pipeline on this machine, each step a process.

    `fti run PIPELINE --help` lists the pipeline's parameters; lists and maps are given as JSON.
    """


def _command(name: str) -> click.Command:
    pipeline = pipeline_named(name)
    inputs = pipeline.component_spec.inputs or {}
    return click.Command(
        name,
        help=(pipeline.description or "").split("\n\nArgs:")[0],
        params=[_option(key, spec) for key, spec in inputs.items()],
        callback=_runner(pipeline),
    )


def _option(name: str, spec: Any) -> click.Option:
    kinds: dict[str, click.ParamType[Any]] = {
        "Integer": click.INT,
        "Float": click.FLOAT,
        "Boolean": click.BOOL,
        "typing.List": Json(list),
        "typing.Dict": Json(dict),
    }
    default = json.dumps(spec.default) if isinstance(spec.default, list | dict | str) else spec.default
    # The pipeline knows its defaults: they are shown here, not repeated.
    return click.Option(
        [f"--{name.replace('_', '-')}", name],
        type=kinds.get(spec.type.split("[")[0], click.STRING),
        required=not spec.optional,
        help=f"{spec.description or ''}" + (f"  [default: {_short(str(default))}]" if spec.optional else ""),
    )


class Json(click.ParamType[Any]):
    """A list or map, given as JSON."""

    def __init__(self, kind: type) -> None:
        self.kind = kind
        self.name = "json list" if kind is list else "json map"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parses the text, or fails with an example of what is allowed."""
        example = '["a", "b"]' if self.kind is list else '{"key": 1}'
        try:
            parsed = json.loads(value)
        except json.JSONDecodeError as error:
            self.fail(f"{value!r} is not JSON ({error}). Allowed: {example}", param, ctx)
        if not isinstance(parsed, self.kind):
            self.fail(f"{value!r} is not a {self.name}. Allowed: {example}", param, ctx)
        return parsed


def _verdict(blessing: dict[str, Any]) -> str:
    reasons = "; ".join(blessing["reasons"])
    return f"Blessed: {reasons}." if blessing["blessed"] else f"Not blessed, and so not to be pushed: {reasons}."


def _short(text: str) -> str:
    return text if len(text) <= 70 else f"{text[:67]}…"


def _runner(pipeline: Any) -> Callable[..., None]:
    def run(**options: Any) -> None:
        given = {key: value for key, value in options.items() if value is not None}
        with step_progress(pipeline.name) as on_step:
            finished = run_pipeline(pipeline, given, Settings.from_env(), on_step)
        click.echo(f"{pipeline.name} finished in {finished.seconds:.1f} s: {finished.folder}")
        for name, value in finished.outputs.items():
            click.echo(f"  {name}: {value}")
        for report in finished.reports:
            click.echo(f"  report: {report}")
        for blessing in finished.artifacts("infra-validate", "infra_blessing"):
            click.echo(_verdict(json.loads(Path(blessing["uri"]).read_text(encoding="utf-8"))))

    return run
