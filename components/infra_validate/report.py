"""The HTML report of an infra validation."""

from pathlib import Path

from fti.common.report import Report
from fti.infra_validate import plots
from fti.infra_validate.compare import FeatureSkew
from fti.infra_validate.logic import Trial
from fti.infra_validate.replay import KEYS
from fti.infra_validate.server import Server
from fti.infra_validate.verdict import milliseconds, shown

_TRIED = (
    "Tried with full feature vectors, and with entity keys at the historical time: for each row an online store of "
    "its own held what the feature tables say was known last at the row's time, with event times moved to now, so that "
    "ages are as they were."
)


def write_report(trial: Trial, path: str | Path) -> None:
    """Writes the report: the verdict and its reasons, latency, memory, predictions and features side by side."""
    signature = trial.package.signature
    report = Report(
        title=f"Serving of {signature.name}",
        summary="The server that will serve this model package, held against training before it is pushed.",
        verdict="blessed" if trial.blessed else "not blessed",
        good=trial.blessed,
    )
    if trial.server and trial.sample:
        _facts(report, trial)
    _verdict(report, trial)
    if trial.server:
        _plots(report, trial, trial.server)
    if trial.features:
        _features(report, trial)
        _views(report, trial)
    if trial.log:
        report.heading("The server's log")
        report.code(trial.log, "Its last lines")
    report.heading("What was tried")
    report.table(["", "SHA-256"], [["model package", trial.package.digest], ["test table", trial.test_digest]])
    report.write(path)


def _facts(report: Report, trial: Trial) -> None:
    assert trial.server and trial.sample  # noqa: S101 - asked before
    timed = [replay for replay in trial.replays if replay.seconds]
    facts: dict[str, object] = {f"of {trial.sample.total:,} test rows": len(trial.sample)}
    facts |= {f"ms, 99 % with {replay.form}": milliseconds(replay.seconds, 0.99) for replay in timed}
    facts["MB of memory at the peak"] = round(trial.server.peak_mb)
    if trial.server.ready_after is not None:
        facts["s until ready"] = trial.server.ready_after
    report.facts(facts)


def _verdict(report: Report, trial: Trial) -> None:
    keyed = any(replay.form == KEYS for replay in trial.replays)
    wants_keys = any(feature.source != "request" for feature in trial.package.signature.inputs)
    report.heading("Verdict", _TRIED if keyed else "Tried with full feature vectors.")
    if not trial.checks:
        report.points(["evaluate has not blessed this model, so its server was not tried", *trial.reasons], good=False)
    for passed in (False, True):
        if reasons := [check.reason for check in trial.checks if check.passed == passed]:
            report.points(reasons, good=passed)
    if wants_keys and trial.checks and not keyed:
        report.points(["Entity keys were not tried, because no feature repository was given."])


def _plots(report: Report, trial: Trial, server: Server) -> None:
    drawn, captions = [], []
    for replay, skew in zip(trial.replays, trial.predictions, strict=False):
        if trial.expected is not None and len(skew.compared):
            drawn.append(plots.predictions(replay, trial.expected, skew.compared, skew.differ))
            captions.append("")
    if any(skew.pairs for skew in trial.features):
        drawn.append(plots.features(trial.features))
        captions.append("At -0.12: no value on that side.")
    if any(skew.differ for skew in trial.features):
        drawn.append(plots.skewed(trial.features))
        captions.append("")
    if timed := [replay for replay in trial.replays if replay.seconds]:
        drawn.append(plots.latency(timed, trial.limits.latency_budget_ms))
        captions.append("Without five requests to warm up.")
    if server.memory:
        drawn.append(plots.memory(server, trial.limits.memory_limit_mb))
        captions.append("Resident memory of the process.")
    if drawn:
        report.heading("Closer")
        report.figures(*drawn, captions=captions)


def _features(report: Report, trial: Trial) -> None:
    tolerance = f"{trial.limits.feature_tolerance:g} of training's value, which counts as 1 where it is smaller"
    report.heading(
        "Feature by feature",
        f"{len(trial.features[0].pairs)} rows. Equal means within {tolerance}; missing equals missing.",
    )
    skews = sorted(trial.features, key=lambda skew: -len(skew.differ))
    differ = bool(skews[0].differ)
    header = ["feature", "missing in training", "missing in serving", "rows that differ", "by up to"]
    rows: list[list[object]] = [
        [skew.name, *skew.missing, len(skew.differ), skew.largest, *([_example(skew)] * differ)] for skew in skews
    ]
    report.table([*header, *(["training → serving"] * differ)], rows)


def _example(skew: FeatureSkew) -> str:
    return " → ".join(map(shown, skew.pairs[skew.differ[0]])) if skew.differ else ""


def _views(report: Report, trial: Trial) -> None:
    replay = trial.replays[-1]
    if not replay.statuses:
        return
    report.heading("Views", f"How the server found each view's value. Left out of the comparison: {_left_out(trial)}.")
    statuses = ("fresh", "stale", "missing")
    report.table(
        ["view", *statuses],
        [
            [view, *(sum(row[view] == status for row in replay.statuses) for status in statuses)]
            for view in replay.statuses[0]
        ],
    )


def _left_out(trial: Trial) -> str:
    reasons = list(trial.replays[-1].left_out.values())
    counts = {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)}
    return ", ".join(f"{count} rows ({reason})" for reason, count in counts.items()) or "no row"
