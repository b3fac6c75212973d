"""The plots of an infra validation."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fti.common.report import BLUE, GREEN, GREY, ORANGE, RED, new_figure
from fti.infra_validate.compare import FeatureSkew
from fti.infra_validate.replay import VECTORS, Replay
from fti.infra_validate.server import Server
from fti.infra_validate.verdict import milliseconds

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = {True: BLUE, False: ORANGE}
_BARS = 20
_MISSING = -0.12  # where the plot of features shows that one side has no value


def latency(replays: Sequence[Replay], budget_ms: float) -> "Figure":
    """How long predictions took, by form; the 99th percentiles, and the budget where it is near."""
    import numpy as np

    figure = new_figure()
    axes = figure.subplots()
    slowest = max(milliseconds(replay.seconds, 1.0) for replay in replays)
    edges = np.linspace(0, slowest * 1.02, 50).tolist()
    for replay in replays:
        colour, late = _COLOURS[replay.form == VECTORS], milliseconds(replay.seconds, 0.99)
        axes.hist(1000 * np.array(replay.seconds), edges, color=colour, alpha=0.6, label=replay.form)
        axes.axvline(late, color=colour, linestyle="--", linewidth=1.2, label=f"99 %: {late:.3g} ms")
    if budget_ms < 1.5 * slowest:
        axes.axvline(budget_ms, color=RED, linewidth=1.5, label=f"budget {budget_ms:g} ms")
    axes.set(title="Latency of one row", xlabel="milliseconds", ylabel="requests", xlim=(0, None))
    axes.legend()
    return figure


def predictions(replay: Replay, expected: "np.ndarray", rows: "np.ndarray", differ: Sequence[int]) -> "Figure":
    """The server's predictions against the model's own."""
    import numpy as np

    figure = new_figure()
    axes = figure.subplots()
    _diagonal(axes, expected[rows], replay.scores[rows])
    same = np.setdiff1d(rows, list(differ))
    axes.scatter(expected[same], replay.scores[same], s=14, color=BLUE, alpha=0.6, linewidths=0, label="equal")
    if len(differ):
        bad = list(differ)
        axes.scatter(expected[bad], replay.scores[bad], s=18, color=RED, alpha=0.8, linewidths=0, label="differ")
        axes.legend()
    axes.set(title=f"Predictions with {replay.form}", xlabel="the model itself", ylabel="the server")
    return figure


def features(skews: Sequence[FeatureSkew]) -> "Figure":
    """All looked-up numbers against training's, each feature scaled to its own range in training."""
    figure = new_figure()
    axes = figure.subplots()
    points: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    for skew in skews:
        numbers = [ours for ours, _ in skew.pairs.values() if isinstance(ours, float)]
        low, high = min(numbers, default=0.0), max(numbers, default=1.0)
        for row, pair in skew.pairs.items():
            if pair != (None, None) and not any(isinstance(value, str) for value in pair):
                x, y = (_MISSING if v is None else (v - low) / (high - low or 1.0) for v in pair)
                points[row not in skew.differ].append((x, min(max(y, _MISSING), 1.2)))
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
    for equal, colour, label in ((True, BLUE, "equal"), (False, RED, "differ")):
        if points[equal]:
            xs, ys = zip(*points[equal], strict=True)
            axes.scatter(xs, ys, s=8, color=colour, alpha=0.5, linewidths=0, label=label, rasterized=True)
    if points[False]:
        axes.legend()
    axes.set(title="Looked-up features", xlabel="training, scaled by feature", ylabel="the server, scaled alike")
    return figure


def skewed(skews: Sequence[FeatureSkew]) -> "Figure":
    """The share of rows in which each feature differs, those that differ most."""
    worst = sorted((skew for skew in skews if skew.differ), key=lambda skew: len(skew.differ) / len(skew.pairs))
    worst = worst[-_BARS:]
    shares = [100 * len(skew.differ) / len(skew.pairs) for skew in worst]
    figure = new_figure(height=max(2.0, 0.8 + 0.26 * len(worst)))
    axes = figure.subplots()
    axes.barh([skew.name for skew in worst], shares, color=RED, alpha=0.8)
    axes.set(title="Features that differ", xlabel="% of rows", xlim=(0, 100))
    return figure


def memory(server: Server, limit_mb: float) -> "Figure":
    """The server's resident memory from its start to the end of the replay."""
    figure = new_figure()
    axes = figure.subplots()
    seconds, held = zip(*server.memory, strict=True)
    axes.plot(seconds, held, color=BLUE, linewidth=2)
    if server.ready_after is not None:
        axes.axvline(server.ready_after, color=GREEN, linestyle="--", linewidth=1.2, label="ready")
    if limit_mb < 1.5 * server.peak_mb:
        axes.axhline(limit_mb, color=RED, linewidth=1.5, label=f"limit {limit_mb:,g} MB")
    axes.set(title=f"Memory, peak {server.peak_mb:,.0f} MB", xlabel="seconds", ylabel="MB", ylim=(0, None))
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    return figure


def _diagonal(axes: "Axes", *values: "np.ndarray") -> None:
    low, high = min(float(each.min()) for each in values), max(float(each.max()) for each in values)
    axes.plot([low, high], [low, high], color=GREY, linestyle="--", linewidth=1)
