"""A page about each feature view, and one that lists them, for people who look for features or answer for them."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from fti.catalog.overview import Overview, facts
from fti.catalog.plots import distribution
from fti.catalog.tables import Files
from fti.catalog.text import duration_text, share_text, size_text, time_text
from fti.common.files import atomic_dir
from fti.common.report import Report, link
from fti.common.settings import Settings
from fti.common.storage import local_copy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROWS, _FILES = 100_000, 60  # of the newest partitions, for the plots
_DRAWN = 60  # features with a plot


def write_pages(found: list[Overview], project: str, feature_repo: str, folder: Path, settings: Settings) -> Path:
    """Writes `index.html` and `<view>.html` for each view; the folder appears whole and replaces what was there.

    Args:
        found: The views.
        project: The feature store's name.
        feature_repo: Path or URI of the Feast repository; its `sql/` is shown.
        folder: Where the pages go.
        settings: How object stores are reached.

    Returns:
        The index.

    Raises:
        StorageError: A table cannot be read, or the folder cannot be written.
    """
    with local_copy(feature_repo, settings) as repo, atomic_dir(folder) as scratch:
        for each in found:
            _view_page(each, repo / "sql", settings).write(scratch / f"{each.view.name}.html")
        _index(found, project).write(scratch / "index.html")
    return folder / "index.html"


def _index(found: list[Overview], project: str) -> Report:
    tables = [each.table for each in found if each.table]
    report = Report(title=f"Features of {project}", summary=f"As of {time_text(found[0].now)} UTC")
    report.facts(
        {
            "feature views": len(found),
            "features": sum(len(each.view.features) for each in found),
            "rows": sum(table.rows for table in tables),
            "on disk": size_text(sum(table.size for table in tables)),
        }
    )
    report.table(
        ["view", "meaning", "keys", "owner", "rows", "latest event", "age", "holds"],
        [
            (
                link(each.view.name, f"{each.view.name}.html"),
                each.view.description,
                ", ".join(key.name for key in each.view.keys),
                each.view.owner or "–",
                each.table.rows if each.table else None,
                _unbroken(time_text(each.table.latest if each.table else None)),
                _unbroken(duration_text(each.age) if each.age else "–"),
                _unbroken(duration_text(each.view.ttl)),
            )
            for each in found
        ],
    )
    report.heading("Feature services", "What models are given.")
    services = sorted({service for each in found for service in each.view.services})
    report.table(
        ["service", "views", "features"],
        [
            (
                service,
                ", ".join(each.view.name for each in found if service in each.view.services),
                sum(len(each.view.features) for each in found if service in each.view.services),
            )
            for service in services
        ],
    )
    report.heading("Features")
    report.table(
        ["feature", "unit", "meaning", "view"],
        [
            (feature.name, feature.unit or "–", feature.description, link(each.view.name, f"{each.view.name}.html"))
            for each in found
            for feature in each.view.features
        ],
    )
    return report


def _view_page(found: Overview, sql: Path, settings: Settings) -> Report:
    view = found.view
    report = Report(title=view.name, summary=view.description)
    if found.table:
        report.facts(
            {
                "rows": found.table.rows,
                "on disk": size_text(found.table.size),
                "latest event, UTC": time_text(found.table.latest),
                "a value holds": duration_text(view.ttl),
            }
        )
    report.table([], list(facts(found).items()))
    report.heading("Features")
    report.table(
        ["feature", "type", "unit", "missing", "default", "meaning"],
        [
            (
                feature.name,
                feature.type,
                feature.unit or "–",
                share_text(found.missing(feature.name)),
                feature.default,
                feature.description,
            )
            for feature in view.features
        ],
    )
    _add_plots(report, found, settings)
    _add_sql(report, sql, view.source.rpartition("/")[2])
    report.points([link("All feature views", "index.html")])
    return report


def _add_plots(report: Report, found: Overview, settings: Settings) -> None:
    view = found.view
    if not found.table or not found.table.rows:
        return
    columns = [view.time_column, *(view.columns[feature.name] for feature in view.features[:_DRAWN])]
    rows = Files(view.source, settings, view.s3_endpoint).newest(columns, _ROWS, _FILES)
    drawn: list[tuple[Figure, str]] = []
    for feature in view.features[:_DRAWN]:
        values = rows[view.columns[feature.name]]
        figure = distribution(values, feature.unit)
        if figure:
            drawn.append((figure, f"{feature.name} · {share_text(values.null_count / len(values))} missing"))
    times = rows[view.time_column]
    span = f", {times[0].as_py():%Y-%m-%d} to {times[-1].as_py():%Y-%m-%d}" if found.table.latest else ""
    report.heading("Distributions", f"The latest {len(rows):,} rows{span}.")
    report.figures(*(figure for figure, _ in drawn), captions=[caption for _, caption in drawn])


def _add_sql(report: Report, sql: Path, table: str) -> None:
    """Shows the transform that makes a table, and folded the helpers that it reads."""
    file = sql / f"{table}.sql"
    if not table or not file.is_file():
        return
    text = file.read_text(encoding="utf-8")
    report.heading("How it is made", f"sql/{file.name}")
    report.code(text)
    for helper in sorted(sql.glob("_*.sql")):
        if re.search(rf"\b{re.escape(helper.stem)}\b", text):
            report.code(helper.read_text(encoding="utf-8"), title=f"sql/{helper.name}, which it reads")


def _unbroken(text: str) -> str:
    return text.replace(" ", "\N{NO-BREAK SPACE}").replace("-", "\N{NON-BREAKING HYPHEN}")
