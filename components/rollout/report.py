"""The HTML report of a rollout: traffic, the rates of both models with their bounds, and every decision."""

import math
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fti.common.report import BLUE, GREEN, GREY, ORANGE, RED, Report, new_figure
from fti.common.settings import Settings
from fti.rollout.record import Record, folder_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TITLES = {
    "failures": "Requests not answered at the first try",
    "refusals": "Requests answered 4xx",
    "slow": "Requests over the latency budget",
}
_GOOD = {"promoted": True, "rolled_back": False}


def write_report(record: Record, settings: Settings) -> Path:
    """Writes the report beside the record, and returns its path."""
    path = folder_of(record.service, settings) / f"{record.name}.html"
    report = Report(
        title=f"Rollout of {record.service}",
        summary=f"Canary {record.canary[:12]} over stable {record.stable[:12]}, begun {record.started[:19]} UTC.",
        verdict=record.phase.replace("_", " "),
        good=_GOOD.get(record.phase),
    )
    report.facts({"steps": " → ".join(f"{step} %" for step in record.steps), **_totals(record)})
    _decisions(report, record)
    if record.history:
        report.heading("What was seen", "Lines are rates within a step, bands all rates that are not yet refuted.")
        report.figures(_traffic(record), _evidence(record))
        report.figures(*(_rates(record, name) for name in _TITLES))
    _provenance(report, record)
    report.write(path)
    return path


def _totals(record: Record) -> dict[str, object]:
    counted = [decision["counts"] for decision in record.decisions]
    counted += (
        []
        if record.phase != "running"
        else [{variant: {"requests": counts.requests} for variant, counts in record.counts.items()}]
    )
    return {
        f"requests to {variant}": sum(counts.get(variant, {"requests": 0})["requests"] for counts in counted)
        for variant in ("canary", "stable")
    }


def _decisions(report: Report, record: Record) -> None:
    report.heading("Decisions", "Each carries the digest of the one before: none can be changed unnoticed.")
    rows = [
        (
            each["time"][:19],
            f"{each['percent']} %",
            each["decision"].replace("_", " "),
            each["reason"],
            each["digest"][:12],
        )
        for each in record.decisions
    ]
    report.table(["time", "share", "decision", "why", "digest"], rows)


def _provenance(report: Report, record: Record) -> None:
    report.heading("What was rolled out")
    data = record.lineage.get("data", {}).get("train", {})
    rows = [
        ["canary's package, SHA-256", record.canary],
        ["stable model's package, SHA-256", record.stable],
        ["canary's training table, SHA-256", data.get("sha256", "unknown")],
        ["canary's algorithm", record.lineage.get("algorithm", "unknown")],
        *([f"asked: {name}", value] for name, value in record.limits.items()),
    ]
    report.table(["", ""], rows)


def _traffic(record: Record) -> "Figure":
    figure = new_figure()
    axes = figure.subplots()
    axes.step(
        _times(record)[0], [point["percent"] for point in record.history], where="post", color=ORANGE, linewidth=2
    )
    axes.set(title="Traffic of the canary", xlabel=_times(record)[1], ylabel="percent", ylim=(0, 105))
    return figure


def _evidence(record: Record) -> "Figure":
    figure = new_figure()
    axes = figure.subplots()
    for name, color in zip(_TITLES, (RED, GREEN, BLUE), strict=True):
        values = [point["findings"][name]["log_evidence"] / math.log(10) for point in record.history]
        axes.plot(_times(record)[0], values, color=color, linewidth=2, label=name)
    limit = math.log10(2 * len(_TITLES) / record.limits["alpha"])
    axes.axhline(limit, color=GREY, linestyle="--", linewidth=1, label="rolled back above")
    axes.set(title="Evidence of harm", xlabel=_times(record)[1], ylabel="log10 of the likelihood ratio")
    axes.legend()
    return figure


def _rates(record: Record, name: str) -> "Figure":
    figure = new_figure()
    axes = figure.subplots()
    times, unit = _times(record)
    for variant, color in (("stable", BLUE), ("canary", ORANGE)):
        bands = [point["findings"][name][variant] for point in record.history]
        percents = [[100 * (part if part is not None else math.nan) for part in band] for band in bands]
        axes.plot(times, [band[0] for band in percents], color=color, linewidth=2, label=variant)
        axes.fill_between(
            times, [band[1] for band in percents], [band[2] for band in percents], color=color, alpha=0.2, linewidth=0
        )
    top = max(
        (100 * band for point in record.history[len(record.history) // 4 :] for band in _upper(point, name)), default=5
    )
    axes.set(title=_TITLES[name], xlabel=unit, ylabel="percent", ylim=(0, max(1.0, 1.1 * top)))
    axes.legend()
    return figure


def _upper(point: dict[str, Any], name: str) -> list[float]:
    """The upper ends of a point's bands that say anything."""
    bounds = [point["findings"][name][variant][2] for variant in ("stable", "canary")]
    return [bound for bound in bounds if bound is not None and bound < 1]


def _times(record: Record) -> tuple[list[float], str]:
    """When each point was seen, since the first, and in which unit."""
    begin = datetime.fromisoformat(record.history[0]["time"])
    seconds = [(datetime.fromisoformat(point["time"]) - begin).total_seconds() for point in record.history]
    return (seconds, "seconds") if seconds[-1] < 300 else ([each / 60 for each in seconds], "minutes")
