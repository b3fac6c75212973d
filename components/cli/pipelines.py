"""The pipelines as commands: their parameters are the options."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import click

from fti.pipelines import PIPELINES, pipeline_named

_SHORT = {
    "features": "sources → checked tables → features → online store",
    "training": "features as of each prediction → model → judged on unseen data",
    "deployment": "a blessed model → its share of the traffic",
    "loop": "all of the above in one run",
}


class PipelineGroup(click.Group):
    """Lists the pipelines without importing kfp; builds a pipeline's command when it is asked for.

    Args:
        do: Called with the pipeline and its options' values.
        options: Options beside the pipeline's parameters; their values are among those that `do` gets.
    """

    def __init__(
        self, *args: Any, do: Callable[..., None], options: Sequence[click.Option] = (), **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._do, self._options = do, options

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The pipelines, in the order of the loop."""
        return list(PIPELINES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of one pipeline."""
        return self._command(cmd_name) if cmd_name in PIPELINES else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the list of pipelines."""
        with formatter.section("Pipelines"):
            formatter.write_dl([(name, _SHORT[name]) for name in PIPELINES])

    def _command(self, name: str) -> click.Command:
        pipeline = pipeline_named(name)
        inputs = pipeline.component_spec.inputs or {}
        return click.Command(
            name,
            help=(pipeline.description or "").split("\n\nArgs:")[0],
            params=[*(_option(key, spec) for key, spec in inputs.items()), *self._options],
            callback=lambda **options: self._do(pipeline, **options),
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


def _short(text: str) -> str:
    return text if len(text) <= 70 else f"{text[:67]}…"
