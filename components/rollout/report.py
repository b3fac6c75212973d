"""The HTML report of a rollout: traffic, the figures of both models with their bounds, and every decision."""

from collections.abc import Mapping
from pathlib import Path

from fti.common.inference_service import CANARY, STABLE
from fti.common.report import Report
from fti.common.settings import Settings
from fti.rollout.archive import folder_of
from fti.rollout.counters import REQUESTS, SECONDS, Counts, quantile
from fti.rollout.journal import BY_HAND
from fti.rollout.plots import Point, band_plots, evidence_plot, requests_plot, traffic_plot
from fti.rollout.record import PROMOTED, ROLLED_BACK, RUNNING, Record, data_of

_GOOD = {PROMOTED: True, ROLLED_BACK: False}
_QUANTILES = {"p50": 0.5, "p99": 0.99}

_NOTE = (
    "Lines are figures within a step, bands all values that are not yet refuted. Thin lines mark where a step begins, "
    "and with it most counts. Evidence of harm above the limit takes the canary back; of other scores only where they "
    "are also further apart than the margin."
)
_LATENCIES = (
    "As the predictors measure it, without the gateway. Estimated from histograms as Prometheus' histogram_quantile "
    "does: by linear interpolation within a bucket, and no more than the last bucket's bound."
)


def write_report(record: Record, settings: Settings) -> Path:
    """Writes the report beside the record, and returns its path."""
    path = folder_of(record.service, settings) / f"{record.name}.html"
    render(record).write(path)
    return path


def render(record: Record) -> Report:
    """The report of a rollout, ended or not."""
    last = record.decisions[-1]
    by_hand = last.get("state") == BY_HAND
    hand = f" Decided by hand: {last['reason']} ({last['who']}, {last['time'][:19]} UTC)." if by_hand else ""
    report = Report(
        title=f"Rollout of {record.service}",
        summary=f"Canary {record.canary[:12]} over stable {record.stable[:12]}, begun {record.started[:19]} UTC.{hand}",
        verdict=record.phase.replace("_", " ") + (" by hand" if by_hand else ""),
        good=_GOOD.get(record.phase),
    )
    report.facts({"steps": " → ".join(f"{step} %" for step in record.steps), **_totals(record)})
    _decisions(report, record)
    if record.history:
        _findings(report, record)
        _latencies(report, record)
        report.heading("What was seen", _NOTE)
        report.figures(traffic_plot(record), requests_plot(record), evidence_plot(record))
        plots, captions = band_plots(record)
        report.figures(*plots, captions=captions)
    _provenance(report, record)
    return report


def _totals(record: Record) -> dict[str, object]:
    """Requests of each variant over all steps."""
    return {
        f"requests to {variant}": sum(counts[variant][REQUESTS] for _, counts in _steps(record))
        for variant in (CANARY, STABLE)
    }


def _steps(record: Record) -> list[tuple[int, dict[str, Counts]]]:
    """Share and counts of each step; a step that was held and went on is one."""
    counted: dict[tuple[int, str], Mapping[str, Mapping[str, int]]] = {
        (each["percent"], each["since"]): each["counts"] for each in record.decisions if each.get("since")
    }
    if record.phase == RUNNING and record.step_started:
        counted[record.steps[record.step], record.step_started] = record.counts
    return [
        (percent, {variant: Counts(of.get(variant, {})) for variant in (CANARY, STABLE)})
        for (percent, _), of in counted.items()
    ]


def _latencies(report: Report, record: Record) -> None:
    rows = [
        (f"{percent} %", *(_milliseconds(counts[variant], q) for q in _QUANTILES.values() for variant in counts))
        for percent, counts in _steps(record)
        if any(counts[variant].group(SECONDS) for variant in counts)
    ]
    if rows:
        report.heading("Latency", _LATENCIES)
        report.table(["share", *(f"{name}, {variant}" for name in _QUANTILES for variant in (CANARY, STABLE))], rows)


def _milliseconds(counts: Counts, q: float) -> str:
    seconds = quantile(counts.histogram(SECONDS), q)
    return "–" if seconds is None else f"{1000 * seconds:.3g}\u00a0ms"


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
