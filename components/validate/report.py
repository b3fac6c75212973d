"""The data report: what was broken, by how many rows, and what the valid values look like. Bounded in size."""

from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from fti.common.report import BLUE, GREY, RED, Report, new_figure
from fti.validate.profile import FEW, Histogram, Profile, profile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fti.validate.engine import Broken, Engine
    from fti.validate.verdict import Verdict

_DRAWN, _LISTED = 40, 300  # columns with a plot, columns in the table
_RULES, _EXAMPLED, _EXAMPLES, _WIDE = 50, 10, 5, 8  # rules listed, rules with examples, rows each, columns each
_LONG = 48  # characters of a value


def write_report(verdict: "Verdict", engine: "Engine", valid: Path, path: str | Path) -> None:
    """Writes the report as one HTML file.

    Args:
        verdict: What was found.
        engine: Gives examples of rows that break a rule.
        valid: The valid rows.
        path: Where the report goes.
    """
    contract = engine.contract
    report = Report(
        title=f"Data report: {verdict.table}" if verdict.table else "Data report",
        summary=contract.description,
        verdict="accepted" if verdict.accepted else "refused",
        good=verdict.accepted,
    )
    report.facts(
        {
            "rows received": verdict.rows,
            "valid": verdict.valid,
            "rejected": verdict.rejected,
            "rejected, share": _percent(verdict.reject_share),
            "share tolerated": _percent(contract.max_reject_share),
            "rules": len(engine.rules),
        }
    )
    if verdict.problems:
        report.points(verdict.problems, good=False)
    _add_violations(report, verdict, engine)
    profiles = profile(engine.connection, valid, _DRAWN, _LISTED)
    if verdict.valid:
        _add_distributions(report, profiles)
    _add_columns(report, profiles, len(engine.output))
    report.write(path)


def _add_violations(report: Report, verdict: "Verdict", engine: "Engine") -> None:
    broken = [item for item in verdict.broken if item.rows]
    kept = len(engine.rules) - len(broken)
    report.heading("Violations", f"{kept} of {len(engine.rules)} rules are kept by every row.")
    if not broken:
        return
    if len(broken) > 1:
        report.figures(_bars("rows that break a rule", [(b.rule.name, b.rows) for b in broken[:12]], RED, width=9.0))
    rows = [(_short(b.rule.name), _short(b.rule.text, 120), b.rows, _percent(b.rows / verdict.rows)) for b in broken]
    report.table(["rule", "meaning", "rows", "share"], rows[:_RULES])
    for item in broken[:_EXAMPLED]:
        _add_examples(report, item, engine)


def _add_examples(report: Report, item: "Broken", engine: "Engine") -> None:
    names, rows = engine.examples(item.rule, _EXAMPLES)
    shown = "all" if item.rows <= _EXAMPLES else f"the first {_EXAMPLES}"
    report.heading(f"Rows where {_short(item.rule.text, 120)}", f"{shown} of {item.rows:,}, as they came")
    report.table([_short(n) for n in names[:_WIDE]], [[_cell(value) for value in row[:_WIDE]] for row in rows])


def _add_distributions(report: Report, profiles: list[Profile]) -> None:
    note = "Valid rows. Tails that hold less than a thousandth of the values are left out, and counted under the plot."
    report.heading("Distributions", note)
    figures, captions = [], []
    for item in profiles:
        if item.shape is not None:
            figures.append(_figure(item))
            captions.append(_caption(item))
    report.figures(*figures, captions=captions)
    if len(profiles) > _DRAWN:
        report.points([f"{len(profiles) - _DRAWN} further columns are not drawn"])


def _add_columns(report: Report, profiles: list[Profile], total: int) -> None:
    report.heading("Columns", f"The first {_LISTED} of {total}." if total > _LISTED else "Valid rows.")
    rows = [
        (
            _short(p.name),
            p.type.lower().replace("timestamp with time zone", "timestamp, UTC"),
            p.missing,
            _percent(p.missing / p.rows) if p.rows else "–",
            p.distinct if p.distinct <= FEW else f"≈ {p.distinct:,}",
            _cell(p.minimum),
            _cell(p.maximum),
            p.mean,
        )
        for p in profiles
    ]
    report.table(["column", "type", "missing", "share", "different values", "min", "max", "mean"], rows)


def _caption(item: Profile) -> str:
    parts = [f"{_percent(item.missing / item.rows)} missing" if item.missing else "none missing"]
    if isinstance(item.shape, Histogram) and item.shape.beyond:
        parts.append(f"{item.shape.beyond:,} beyond the plot, from {_cell(item.minimum)} to {_cell(item.maximum)}")
    if isinstance(item.shape, list) and item.distinct > len(item.shape):
        parts.append(f"the {len(item.shape)} most frequent of {item.distinct:,}")
    return " · ".join(parts)


def _figure(item: Profile) -> "Figure":
    if isinstance(item.shape, Histogram):
        return _histogram(item.name, item.shape)
    return _bars(item.name, item.shape or [], BLUE)


def _histogram(name: str, shape: Histogram) -> "Figure":
    figure = new_figure(4.2, 2.5)
    axes: Axes = figure.subplots()
    axes.stairs(shape.counts, shape.edges, fill=True, color=BLUE)
    axes.set_xlim(shape.edges[0], shape.edges[-1])
    if shape.is_time:
        _label_times(axes, shape.edges[0], shape.edges[-1])
    _finish(axes, name)
    axes.grid(visible=False, axis="x")
    axes.yaxis.set_major_formatter(_thousands)
    if len(shape.counts) < 10:  # few whole numbers: one tick each
        axes.set_xticks([(left + right) / 2 for left, right in pairwise(shape.edges)])
    return figure


def _bars(name: str, values: list[tuple[str, int]], colour: str, width: float = 4.2) -> "Figure":
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(width, max(2.5, 0.24 * len(values) + 0.6))
    axes: Axes = figure.subplots()
    labels = [_literal(_short(label, 28)) for label, _ in values]
    axes.barh(range(len(values)), [count for _, count in values], color=colour)
    axes.set_yticks(range(len(values)), labels)
    axes.invert_yaxis()
    _finish(axes, name)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_formatter(_thousands)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    return figure


def _finish(axes: "Axes", name: str) -> None:
    axes.set_title(_literal(_short(name, 40)), loc="left")
    axes.tick_params(colors=GREY, labelcolor="#1b1f24", length=0)


def _label_times(axes: "Axes", first: float, last: float) -> None:
    days = (last - first) / 86400
    pattern = "%Y" if days > 1500 else "%b %Y" if days > 120 else "%d %b" if days > 3 else "%d %b %H:%M"
    ticks = [first + (last - first) * share for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    axes.set_xticks(ticks, [datetime.fromtimestamp(tick, UTC).strftime(pattern) for tick in ticks])
    labels = axes.get_xticklabels()
    labels[0].set_horizontalalignment("left")
    labels[-1].set_horizontalalignment("right")


def _thousands(value: float, _position: object) -> str:
    if abs(value) >= 1e6:
        return f"{value / 1e6:g} M"
    return f"{value / 1e3:g} k" if abs(value) >= 1e4 else f"{value:g}"


def _literal(text: str) -> str:
    """Text for matplotlib, to which a dollar would open a formula."""
    return text.replace("$", r"\$")


def _short(text: str, limit: int = _LONG) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _cell(value: object) -> object:
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    if value is None or isinstance(value, bool | int | float):
        return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else value
    return _short(str(value))


def _percent(share: float) -> str:
    return f"{share:.3%}" if 0 < share < 0.01 else f"{share:.1%}"
