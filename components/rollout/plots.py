"""The plots in the report of a rollout."""

import math
from datetime import datetime
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

from fti.common.inference_service import CANARY, STABLE
from fti.common.report import BLUE, GREEN, GREY, ORANGE, RED, new_figure
from fti.rollout.record import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_VARIANTS = ((STABLE, BLUE), (CANARY, ORANGE))
_LABELS = 12  # of shares have room in a plot
_FEW = 10  # looks, of which each is marked, for a line between two is none
_MOST_NAMED = 8  # titles in a caption
_COLORS = (RED, GREEN, BLUE, ORANGE, "#CC79A7", "#56B4E9", "#000000")

Point = dict[str, Any]


def traffic_plot(record: Record) -> "Figure":
    """The share of each look."""
    figure = new_figure()
    axes = figure.subplots()
    times, unit = _times(record)
    axes.step(times, [point["percent"] for point in record.history], where="post", color=ORANGE, linewidth=2)
    axes.set(title="Traffic of the canary", xlabel=unit, ylabel="percent", ylim=(0, 105))
    return figure


def requests_plot(record: Record) -> "Figure":
    """Of both variants, since the step began."""
    figure = new_figure()
    axes = figure.subplots()
    times, unit = _times(record)
    for variant, color in _VARIANTS:
        counts = [float(point["requests"].get(variant, 0)) for point in record.history]
        _line(axes, times, counts, _starts(record), color=color, label=variant)
    axes.set(title="Requests within a step", xlabel=unit, ylim=(0, None))
    _mark_steps(axes, record, times)
    axes.legend()
    return figure


def evidence_plot(record: Record) -> "Figure":
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
    _mark_steps(axes, record, times)
    axes.legend(fontsize=8)
    return figure


def band_plots(record: Record) -> tuple[list["Figure"], list[str]]:
    """A plot of each figure that was ever known, and what is to be said under it."""
    known = [name for name in _names(record) if _is_known(record, name)]
    return [_bands(record, name) for name in known], [_caption(record, name) for name in known]


def _bands(record: Record, name: str) -> "Figure":
    figure = new_figure()
    axes = figure.subplots()
    times, unit = _times(record)
    last = next(point["findings"][name] for point in reversed(record.history) if name in point["findings"])
    scale, starts = 100 if last["percent"] else 1, _starts(record, name)
    for variant, color in _VARIANTS:
        bands = [_of(point, name).get(variant) or [None] * 3 for point in record.history]
        middle, low, high = ([scale * _number(band[at]) for band in bands] for at in range(3))
        _line(axes, times, middle, starts, color=color, label=variant)
        for begin, end in pairwise(starts):
            axes.fill_between(times[begin:end], low[begin:end], high[begin:end], color=color, alpha=0.2, linewidth=0)
    title = last["title"] if len(_titles(record, name)) == 1 else name.capitalize()
    axes.set(title=title, xlabel=unit, ylabel="percent" if last["percent"] else "")
    _zoom(axes, record, name, scale, from_zero=last["percent"])
    _mark_steps(axes, record, times)
    axes.legend()
    return figure


def _caption(record: Record, name: str) -> str:
    """What is shown, stretch by stretch, where that is not the same all the time: as the cut-off of scores."""
    titles = _titles(record, name)
    if len(titles) == 1:
        return ""
    before = "…; " if len(titles) > _MOST_NAMED else ""
    return f"Lines break where what is shown changes. In this order: {before}{'; '.join(titles[-_MOST_NAMED:])}."


def _titles(record: Record, name: str) -> list[str]:
    """What is shown, one after another, as far as anything is known of it."""
    findings = [point["findings"][name] for point in record.history if name in point["findings"]]
    return [title for title, _ in groupby(each["title"] for each in findings if each["canary"][0] is not None)]


def _starts(record: Record, name: str = "") -> list[int]:
    """Where stretches begin that one line may join: of one step, and of one title of a figure; and the end."""
    same = [(point["percent"], _of(point, name).get("title")) for point in record.history]
    return [0, *(at for at in range(1, len(same)) if same[at] != same[at - 1]), len(same)]


def _line(axes: Any, times: list[float], values: list[float], starts: list[int], *, color: str, label: str) -> None:
    """A line for each stretch; a look that nothing is joined with is a point."""
    for begin, end in pairwise(starts):
        marker = "o" if end - begin == 1 or len(times) < _FEW else ""
        axes.plot(times[begin:end], values[begin:end], color=color, linewidth=2, marker=marker, markersize=4)
    axes.plot([], [], color=color, linewidth=2, label=label)


def _mark_steps(axes: Any, record: Record, times: list[float]) -> None:
    """A thin line with the share where a step begins."""
    room, labelled = (times[-1] - times[0]) / _LABELS, -math.inf
    for at in _starts(record)[:-1]:
        axes.axvline(times[at], color=GREY, linewidth=0.6)
        if times[at] - labelled >= room:
            labelled, share = times[at], f" {record.history[at]['percent']} %"
            axes.text(times[at], 0.99, share, transform=axes.get_xaxis_transform(), va="top", fontsize=8, color=GREY)


def _names(record: Record) -> list[str]:
    """The findings, in the order in which they appeared."""
    return list(dict.fromkeys(name for point in record.history for name in point["findings"]))


def _is_known(record: Record, name: str) -> bool:
    """Whether anything was ever seen of it."""
    return any(band[0] is not None for point in record.history for band in [_of(point, name).get("canary", [None])])


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
