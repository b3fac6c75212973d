"""`fti features`: what the feature store holds, how fresh it is, and what it says of one entity."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fti.common.errors import ConfigError
from fti.common.settings import Settings
from fti.pipelines.reference import FEATURE_REPO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from fti.catalog.overview import Overview
    from fti.catalog.vector import Value

_COLOURS = {"fresh": "green", "stale": "yellow", "missing": "red"}


@click.command("features")
@click.argument("view", required=False)
@click.option(
    "--entity",
    "-e",
    multiple=True,
    metavar="KEY=VALUE",
    help="Show the current values of the entity with this key instead; repeat it for several keys.",
)
@click.option("--html", type=click.Path(path_type=Path, file_okay=False), help="Write a page about each view here.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
@click.option("--feature-repo", default=FEATURE_REPO, show_default=True, help="The Feast repository, by path or URI.")
def features_command(
    view: str | None, entity: tuple[str, ...], html: Path | None, as_json: bool, feature_repo: str
) -> None:
    """Show the feature views, their freshness and size; with VIEW its features.

    \b
      fti features                               every view
      fti features origin_weather                one of them, with its features
      fti features -e carrier=UA -e origin=JFK   what the online store says of these now
      fti features --html pages                  a page about each view

    FTI_PROFILE=server looks into the stores of the repository's feature_store.server.yaml.
    """
    from fti.catalog.overview import overview
    from fti.catalog.vector import current
    from fti.catalog.views import registered, view_named
    from fti.common.feature_store import open_store

    settings = Settings.from_env()
    store = open_store(feature_repo, settings)
    views = registered(store)
    chosen = [view_named(views, view)] if view else views
    if entity:
        values = current(store, chosen, dict(_pair(text) for text in entity), settings.clock)
        _print_json({"values": [value.as_json() for value in values]}) if as_json else _print_values(values)
        return
    found = [overview(each, settings) for each in chosen]
    if html:
        from fti.catalog.pages import write_pages

        click.echo(write_pages(found, store.project, feature_repo, html, settings))
    elif as_json:
        _print_json({"project": store.project, "views": [each.as_json() for each in found]})
    elif view:
        _print_view(found[0])
    else:
        _print_views(found)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ConfigError(f"--entity is {text!r}", allowed="KEY=VALUE, such as origin=JFK")
    return key, value


def _print_views(found: "list[Overview]") -> None:
    from fti.catalog.text import duration_text, size_text, time_text

    table = _table(
        "view", "keys", "#features", "#rows", "#size", "latest event, UTC", "#age", "online through", "holds"
    )
    for each in found:
        of = each.table
        _add_row(
            table,
            each.view.name,
            ", ".join(key.name for key in each.view.keys),
            len(each.view.features),
            f"{of.rows:,}" if of else "–",
            size_text(of.size) if of else "–",
            time_text(of.latest) if of else "–",
            duration_text(each.age) if each.age else "–",
            time_text(each.view.online_through),
            duration_text(each.view.ttl),
        )
    _console().print(table)


def _print_view(found: "Overview") -> None:
    from rich.text import Text

    from fti.catalog.overview import facts
    from fti.catalog.text import share_text

    console = _console()
    console.print(Text(found.view.name, "bold"), Text(found.view.description))
    for name, text in facts(found).items():
        console.print(Text(f"  {name:<16}", "dim"), Text(text))
    table = _table("feature", "type", "unit", "#missing", "default", "meaning")
    for feature in found.view.features:
        missing = share_text(found.missing(feature.name))
        default = "–" if feature.default is None else feature.default
        _add_row(table, feature.name, feature.type, feature.unit, missing, default, feature.description)
    console.print(table)


def _print_values(values: "list[Value]") -> None:
    from rich.text import Text

    from fti.catalog.text import time_text

    table = _table("view", "feature", "#stored", "unit", "known since, UTC", "status", "#a prediction gets")
    for each in values:
        status = Text(each.status, _COLOURS.get(each.status, "red"))
        since, given = time_text(each.known_at), _cell(each.value)
        _add_row(table, each.view, each.feature, _cell(each.stored), each.unit, since, status, given)
    _console().print(table)


def _cell(value: object) -> str:
    return "–" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _table(*columns: str) -> "Table":
    """A table; columns whose names begin with `#` are aligned right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name.removeprefix("#"), justify="right" if name.startswith("#") else "left")
    table.columns[0].no_wrap = True
    return table


def _add_row(table: "Table", *cells: object) -> None:
    """Adds cells as they are: a bracket in a text is no markup."""
    from rich.text import Text

    table.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in cells))


def _console() -> "Console":
    from rich.console import Console

    console = Console(file=sys.stdout, highlight=False)
    if not console.is_terminal:
        console.width = 250  # nothing is wrapped for a file or another program
    return console


def _print_json(value: dict[str, Any]) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))
