"""How the latest values of a feature are distributed: one small plot each."""

from collections import Counter
from typing import TYPE_CHECKING

from fti.common.report import BLUE, GREY, new_figure

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

_BARS, _TOP = 30, 8  # of a histogram, of texts
_TAIL = 0.001  # the share of values beyond either end of a histogram


def distribution(values: "pa.ChunkedArray", unit: str) -> "Figure | None":
    """Draws a column.

    Args:
        values: The column; missing values are left out.
        unit: The axis' label.

    Returns:
        A histogram of numbers, its thin tails cut off; the most frequent of other values; None where there is none.
    """
    import pyarrow as pa

    present = values.drop_null()
    if not len(present):
        return None
    figure = new_figure(3.6, 2.0)
    axes = figure.subplots()
    if pa.types.is_floating(present.type) or pa.types.is_integer(present.type):
        _histogram(axes, present.to_numpy().astype("float64"), whole=pa.types.is_integer(present.type))
        axes.set_xlabel(unit)
    else:
        _frequencies(axes, present)
    axes.tick_params(colors=GREY, labelcolor="#1b1f24", length=0)
    return figure


def _histogram(axes: "Axes", values: "np.ndarray", *, whole: bool) -> None:
    import numpy as np

    values = values[np.isfinite(values)]
    low, high = np.quantile(values, [_TAIL, 1 - _TAIL]) if len(values) else (0.0, 1.0)
    if whole:  # a bar stands over its whole numbers
        width = max(1, np.ceil((high - low + 1) / _BARS))
        edges = np.arange(np.floor(low) - 0.5, high + width, width)
    else:
        edges = np.linspace(low, high if high > low else low + 1, _BARS + 1)
    counts, _ = np.histogram(values, edges)
    axes.stairs(counts / max(1, len(values)), edges, fill=True, color=BLUE)
    axes.set_xlim(edges[0], edges[-1])
    axes.grid(visible=False, axis="x")
    axes.xaxis.set_major_locator(_few(integer=whole))
    axes.yaxis.set_major_locator(_few(integer=False))
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g}%")


def _frequencies(axes: "Axes", values: "pa.ChunkedArray") -> None:
    top = Counter(map(str, values.to_pylist())).most_common(_TOP)
    axes.barh(range(len(top)), [count / len(values) for _, count in top], color=BLUE)
    axes.set_yticks(range(len(top)), [value[:20].replace("$", r"\$") for value, _ in top])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_locator(_few(integer=False))
    axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g}%")


def _few(*, integer: bool) -> "MaxNLocator":
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=4, integer=integer)
