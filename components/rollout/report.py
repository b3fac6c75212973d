"""The HTML report of a rollout: traffic, the figures of both models with their bounds, and every decision."""

import math
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fti.common.report import BLUE, GREEN, GREY, ORANGE, RED, Report, new_figure
from fti.common.settings import Settings
from fti.rollout.archive import folder_of
from fti.rollout.record import ENDS, Record, data_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GOOD = {"promoted": True, "rolled_back": False}
_FEW = 10  # looks, of which each is marked, for a line between two is none
_COLORS = (RED, GREEN, BLUE, ORANGE, "#CC79A7", "#56B4E9", "#000000")

_NOTE = (
    "Lines are figures within a step, bands all values that are not yet refuted. Evidence of harm above the limit "
    "takes the canary back; of other scores only where they are also further apart than the margin."
)

Point = dict[str, Any]


def write_report(record: Record, settings: Settings) -> Path:
    """Writes the report beside the record, and returns its path."""
    path = folder_of(record.service, settings) / f"{record.name}.html"
    render(record).write(path)
    return path


def render(record: Record) -> Report:
    """The report of a rollout, ended or not."""
    report = Report(
        title=f"Rollout of {record.service}",
        summary=f"Canary {record.canary[:12]} over stable {record.stable[:12]}, begun {record.started[:19]} UTC.",
        verdict=record.phase.replace("_", " "),
        good=_GOOD.get(record.phase),
    )
    report.facts({"steps": " → ".join(f"{step} %" for step in record.steps), **_totals(record)})
    _decisions(report, record)
    if record.history:
        _findings(report, record)
        report.heading("What was seen", _NOTE)
        report.figures(_traffic(record), _requests(record), _evidence(record))
        report.figures(*(_bands(record, name) for name in _names(record) if _is_known(record, name)))
    _provenance(report, record)
    return report


def _totals(record: Record) -> dict[str, object]:
    """Requests of each variant over all steps."""
    ended = [each["counts"] for each in record.decisions if each["decision"] in {"continue", *ENDS}]
    counted = [*ended, *([record.counts] if record.phase == "running" else [])]
    return {
        f"requests to {variant}": sum(counts.get(variant, {}).get("requests", 0) for counts in counted)
        for variant in ("canary", "stable")
    }


def _decisions(report: Report, record: Record) -> None:
    report.heading("Decisions", "Each carries the digest of the one before: none can be changed unnoticed.")
    rows = [
        (
            each["time"][:19],
            f"{each['percent']} %" if "percent" in each else "",
            each["decision"].replace("_", " "),
            each["reason"],
            each["who"],
            each["digest"][:12],
        )
        for each in record.decisions
    ]
    report.table(["time", "share", "decision", "why", "who", "digest"], rows)


def _findings(report: Report, record: Record) -> None:
    """The last look, guardrail by guardrail."""
    last = record.history[-1]
    report.heading(
        "Guardrails at the last look",
        f"At {last['percent']} %. In brackets all values not yet refuted; the difference may reach the margin.",
    )
    rows = [
        (
            finding["title"],
            _band(finding, "canary"),
            _band(finding, "stable"),
            _said(finding, finding["excess"]),
            _said(finding, finding["margin"]),
            finding["verdict"] if finding["needed"] or finding["verdict"] == "failure" else "not asked yet",
        )
        for finding in last["findings"].values()
    ]
    report.table(["", "canary", "stable", "worse by up to", "margin", "verdict"], rows)


def _band(finding: Point, variant: str) -> str:
    middle, low, high = finding[variant]
    if middle is None:
        return "–"
    return f"{_said(finding, middle)} [{_said(finding, low)}, {_said(finding, high)}]"


def _said(finding: Point, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.2f}\u00a0%" if finding["percent"] else f"{value:.4g}"


def _provenance(report: Report, record: Record) -> None:
    report.heading("What was rolled out")
    rows: list[list[object]] = []
    for variant, digest in (("canary", record.canary), ("stable", record.stable)):
        rows.append([f"{variant}: package, SHA-256", digest])
        rows.append([f"{variant}: algorithm", record.lineage[variant].get("algorithm", "unknown")])
        rows += [[f"{variant}: {part} table, SHA-256", sha] for part, sha in data_of(record.lineage[variant]).items()]
    asked = {name: value for name, value in record.limits.items() if name != "goal"}
    asked |= {f"goal: {name}": value for name, value in (record.limits.get("goal") or {}).items()}
    rows += [[f"asked: {name.replace('_', ' ')}", value] for name, value in asked.items()]
    report.table(["", ""], rows)


def _names(record: Record) -> list[str]:
    """The findings, in the order in which they appeared."""
    return list(dict.fromkeys(name for point in record.history for name in point["findings"]))


def _is_known(record: Record, name: str) -> bool:
    """Whether anything was ever seen of it."""
    return any(band[0] is not None for point in record.history for band in [_of(point, name).get("canary", [None])])


def _traffic(record: Record) -> "Figure":
    figure = new_figure()
    axes = figure.subplots()
    times, unit = _times(record)
    axes.step(times, [point["percent"] for point in record.history], where="post", color=ORANGE, linewidth=2)
    axes.set(title="Traffic of the canary", xlabel=unit, ylabel="percent", ylim=(0, 105))
    return figure


def _requests(record: Record) -> "Figure":
    figure = new_figure()
    axes = figure.subplots()
    times, unit = _times(record)
    for variant, color in (("stable", BLUE), ("canary", ORANGE)):
        counts = [point["requests"].get(variant, 0) for point in record.history]
        axes.plot(times, counts, color=color, linewidth=2, label=variant)
    axes.set(title="Requests within a step", xlabel=unit, ylim=(0, None))
    axes.legend()
    return figure


def _evidence(record: Record) -> "Figure":
    """Of harm, as far as it is counted in likelihood ratios."""
    figure = new_figure()
    axes = figure.subplots()
    times, unit = _times(record)
    tested = [name for name in _names(record) if any(_of(point, name).get("limit") for point in record.history)]
    for place, name in enumerate(tested):
        values = [_of(point, name).get("log_evidence", math.nan) / math.log(10) for point in record.history]
        axes.plot(times, values, color=_COLORS[place % len(_COLORS)], linewidth=2, label=name)
    limits = [_of(point, name).get("limit") for point in record.history for name in tested]
    axes.axhline(
        min((limit for limit in limits if limit), default=0) / math.log(10),
        color=GREY,
        linestyle="--",
        linewidth=1,
        label="limit",
    )
    axes.set(title="Evidence of harm", xlabel=unit, ylabel="log10 of the likelihood ratio")
    axes.legend(fontsize=8)
    return figure


def _bands(record: Record, name: str) -> "Figure":
    figure = new_figure()
    axes = figure.subplots()
    times, unit = _times(record)
    last = next(point["findings"][name] for point in reversed(record.history) if name in point["findings"])
    scale = 100 if last["percent"] else 1
    for variant, color in (("stable", BLUE), ("canary", ORANGE)):
        bands = [_of(point, name).get(variant) or [None] * 3 for point in record.history]
        middle, low, high = ([scale * _number(band[at]) for band in bands] for at in range(3))
        axes.plot(times, middle, color=color, linewidth=2, label=variant, marker="o" if len(times) < _FEW else "")
        axes.fill_between(times, low, high, color=color, alpha=0.2, linewidth=0)
    axes.set(title=last["title"], xlabel=unit, ylabel="percent" if last["percent"] else "")
    _zoom(axes, record, name, scale, from_zero=last["percent"])
    axes.legend()
    return figure


def _zoom(axes: Any, record: Record, name: str, scale: float, *, from_zero: bool) -> None:
    """Shows what the bands became, not how wide they began."""
    later = [_of(point, name) for point in record.history[len(record.history) // 4 :]]
    ends = [
        scale * end
        for finding in later
        for variant in ("stable", "canary")
        for end in (finding.get(variant) or [])[1:]
        if end is not None and not (from_zero and end >= 1)
    ]
    if ends:
        low, high = (0.0, max(1.0, *ends)) if from_zero else (min(ends), max(ends))
        axes.set_ylim(low, high + 0.1 * (high - low))


def _of(point: Point, name: str) -> Point:
    found: Point = point["findings"].get(name, {})
    return found


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _times(record: Record) -> tuple[list[float], str]:
    """When each point was seen, since the first, and in which unit."""
    begin = datetime.fromisoformat(record.history[0]["time"])
    seconds = [(datetime.fromisoformat(point["time"]) - begin).total_seconds() for point in record.history]
    return (seconds, "seconds") if seconds[-1] < 300 else ([each / 60 for each in seconds], "minutes")
