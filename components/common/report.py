"""Self-contained HTML reports: words, tables and plots in one file that a KFP UI shows and a mail can carry."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fti.common.files import atomic_file

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

# Okabe & Ito's palette: distinguishable with every common colour vision deficiency.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#8A8F98"


@dataclass
class Report:
    """A report, built from the top down.

    Attributes:
        title: The headline.
        summary: One sentence under it.
        good: The verdict's colour: True green, False red, None neutral.
        verdict: A short word in a coloured badge, such as `blessed`.
    """

    title: str
    summary: str = ""
    verdict: str = ""
    good: bool | None = None
    sections: list["Markup"] = field(default_factory=list)

    def heading(self, text: str, note: str = "") -> None:
        """Starts a section."""
        self.sections.append(_render("heading", text=text, note=note))

    def facts(self, facts: dict[str, object]) -> None:
        """Adds a row of large figures with a caption each."""
        self.sections.append(_render("facts", facts=facts))

    def points(self, points: Iterable[str], good: bool | None = None) -> None:
        """Adds a list of sentences."""
        self.sections.append(_render("points", points=list(points), good=good))

    def table(self, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Adds a table, whose header may be empty; numbers are aligned right."""
        self.sections.append(_render("table", header=header, rows=list(rows)))

    def code(self, text: str, title: str = "") -> None:
        """Adds a listing; with a title it is folded, until somebody opens it."""
        self.sections.append(_render("code", text=text, title=title))

    def figures(self, *figures: "Figure", captions: Sequence[str] = ()) -> None:
        """Adds plots side by side, as SVG, and closes them."""
        drawn = [
            (_svg(figure), caption) for figure, caption in zip(figures, [*captions, *[""] * len(figures)], strict=False)
        ]
        self.sections.append(_render("figures", figures=drawn))

    def write(self, path: str | Path) -> None:
        """Writes the report, whole or not at all."""
        page = _render("page", report=self)
        with atomic_file(path) as scratch:
            scratch.write_text(page, encoding="utf-8")


def new_figure(width: float = 5.2, height: float = 3.4) -> "Figure":
    """An empty matplotlib figure in the reports' style, size in inches, independent of any display."""
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    rcParams.update(
        {
            "svg.hashsalt": "fti",  # the same plot gives the same bytes
            "svg.fonttype": "none",
            "text.parse_math": False,  # a $ in the data is a $
            "font.family": "sans-serif",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "#E6E8EB",
            "axes.edgecolor": "#8A8F98",
            "axes.titlesize": 11,
            "axes.labelsize": 10,
            "xtick.labelsize": 9,
            "ytick.labelsize": 9,
            "legend.frameon": False,
            "legend.fontsize": 9,
        }
    )
    return Figure(figsize=(width, height), layout="constrained")


def _svg(figure: "Figure") -> "Markup":
    from markupsafe import Markup

    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    return Markup(stream.getvalue()[stream.getvalue().index("<svg") :])  # noqa: S704 - matplotlib escapes its texts


def _render(block: str, **values: object) -> "Markup":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["figure"] = _figure_text
    return Markup(getattr(environment.get_template("report.html").module, block)(**values))  # noqa: S704 - the template escapes


def link(text: str, address: str) -> "Markup":
    """A cell of a table, or a point of a list, that leads to another page."""
    return _render("link", text=text, address=address)


def _figure_text(value: object) -> object:
    """A number as people read it: thousands separated, four significant digits after a point."""
    if hasattr(value, "__html__"):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
