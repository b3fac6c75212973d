"""What the report of a rollout shows, beside what the record says."""

import math

import pytest

from fti.rollout.counters import quantile
from fti.rollout.plots import band_plots, evidence_plot, requests_plot, traffic_plot
from fti.rollout.record import HELD, RUNNING, Record
from fti.rollout.report import render

DIGESTS = {"canary": "c" * 64, "stable": "b" * 64}


def seen(second: int, percent: int, requests: int, cut: float) -> dict[str, object]:
    band = [0.4, 0.3, 0.5]
    title = f"Scores over {cut:.4g}, where they differ most"
    shift = {"title": title, "canary": band, "stable": band, "log_evidence": 1.0, "limit": 5.0, "percent": True}
    shift |= {"excess": 0.2, "margin": 0.3, "verdict": "success", "needed": True}
    time = f"2026-01-01T00:00:{second:02d}.000+00:00"
    return {
        "time": time,
        "percent": percent,
        "requests": dict.fromkeys(DIGESTS, requests),
        "findings": {"shift": shift},
    }


def counts(requests: int, within: int) -> dict[str, int]:
    return {"requests": requests, "seconds/0.1": within, "seconds/0.5": requests, "seconds/inf": requests}


@pytest.fixture
def record() -> Record:
    lineage = {variant: {} for variant in DIGESTS}
    record = Record("late", *DIGESTS.values(), lineage, [20, 50], {}, "2026-01-01T00:00:00.000+00:00", (20, False))
    record.begin("ann")
    cuts = [(20, 0.5), (20, 0.5), (20, 0.25), (20, 0.25), (50, 0.25), (50, 0.25), (50, 0.5)]
    record.history = [seen(at, percent, 100 * at, cut) for at, (percent, cut) in enumerate(cuts)]
    for decision, phase in (("continue", RUNNING), ("held", HELD), ("held", HELD)):
        step = (20, "t0") if decision == "continue" else (50, "t1")
        of = {"canary": counts(100, 90), "stable": counts(400, 100)}
        said = {"decision": decision, "percent": step[0], "since": step[1], "reason": "", "counts": of, "findings": []}
        record.phase = phase
        record.decide(said, "ann")
    return record


def test_a_quantile_is_prometheus_own_estimate() -> None:
    histogram = [(0.1, 50), (0.5, 90), (math.inf, 100)]
    assert quantile(histogram, 0.25) == pytest.approx(0.05) and quantile(histogram, 0.7) == pytest.approx(0.3)
    assert quantile(histogram, 0.99) == 0.5, "the last finite bound"
    assert quantile([], 0.5) is None and quantile([(0.1, 0), (math.inf, 0)], 0.5) is None


def test_latencies_by_step(record: Record) -> None:
    page = "".join(map(str, render(record).sections))
    cells = ("20 %", "55.6\u00a0ms", "233\u00a0ms", "460\u00a0ms", "495\u00a0ms")
    rows = [row for row in page.split("<tr>") if all(f">{cell}<" in row for cell in cells)]
    assert len(rows) == 1 and "p99, stable" in page and "histogram_quantile" in page


def test_a_step_that_was_held_and_went_on_counts_once(record: Record) -> None:
    page = "".join(map(str, render(record).sections))
    assert "<dd>200</dd>" in page and "<dd>800</dd>" in page


def test_a_line_breaks_where_the_cut_off_or_the_step_changes(record: Record) -> None:
    (plot,), (caption,) = band_plots(record)
    (axes,) = plot.axes
    of_canary = [list(line.get_xdata()) for line in axes.lines if line.get_color() == "#E69F00"]
    assert of_canary == [[0, 1], [2, 3], [4, 5], [6], []] and axes.get_title() == "Shift"
    said = [f"Scores over {cut}, where they differ most" for cut in (0.5, 0.25, 0.5)]
    assert caption == f"Lines break where what is shown changes. In this order: {'; '.join(said)}."
    for point in record.history:
        point["findings"]["shift"]["title"] = said[0]
    (plot,), captions = band_plots(record)
    assert plot.axes[0].get_title() == said[0] and captions == [""]


def test_steps_are_marked(record: Record) -> None:
    for plot in (requests_plot(record), evidence_plot(record), *band_plots(record)[0]):
        (axes,) = plot.axes
        marks = [
            line.get_xdata()[0] for line in axes.lines if list(line.get_ydata()) == [0, 1] and line.get_linewidth() < 1
        ]
        assert marks == [0, 4] and [text.get_text() for text in axes.texts] == [" 20 %", " 50 %"]
    assert traffic_plot(record).axes[0].get_title() == "Traffic of the canary"
