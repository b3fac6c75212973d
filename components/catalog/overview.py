"""A feature view with its table: how much there is, and how fresh."""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from fti.catalog.tables import Files, Table
from fti.catalog.text import duration_text, size_text, time_text
from fti.catalog.views import MISSING, View
from fti.common.settings import Settings
from fti.common.storage import shown

_INTERNAL = ("time_column", "columns", "s3_endpoint")


@dataclass(frozen=True)
class Overview:
    """A view and its table.

    Attributes:
        view: The view.
        table: Its table; None where its source is no table of files.
        now: When it was looked at, UTC.
    """

    view: View
    table: Table | None
    now: datetime

    @property
    def age(self) -> timedelta | None:
        """How long ago the latest event was; None without any."""
        return self.now - self.table.latest if self.table and self.table.latest else None

    def missing(self, feature: str) -> float | None:
        """The share of rows in which a feature has no value; None where the files do not tell."""
        column = self.view.columns[feature]
        if not self.table or not self.table.rows or column not in self.table.missing:
            return None
        return self.table.missing[column] / self.table.rows

    def as_json(self) -> dict[str, Any]:
        """For machines: times in ISO 8601, spans in seconds, sizes in bytes."""
        view = {name: value for name, value in asdict(self.view).items() if name not in _INTERNAL}
        for feature in view["features"]:
            feature["missing"] = self.missing(feature["name"])
        table = self.table
        return {
            **view,
            "ttl": self.view.ttl.total_seconds() if self.view.ttl else None,
            "online_through": _iso(self.view.online_through),
            "rows": table.rows if table else None,
            "bytes": table.size if table else None,
            "latest_event": _iso(table.latest) if table else None,
            "age": self.age.total_seconds() if self.age else None,
        }


def overview(view: View, settings: Settings) -> Overview:
    """Looks at a view's table, reading no row of it.

    Args:
        view: The view.
        settings: How object stores are reached, and against what time ages are measured.

    Raises:
        StorageError: The table cannot be read. A table that does not exist has no row.
    """
    table = None
    if view.time_column:
        table = Files(view.source, settings, view.s3_endpoint).measure(view.time_column, list(view.columns.values()))
    return Overview(view, table, settings.clock())


def facts(found: Overview) -> dict[str, str]:
    """What is to be said of a view in a few words each."""
    view, table = found.view, found.table
    said = {
        "owner": view.owner or "–",
        "keys": ", ".join(f"{key.name} ({key.description or key.type})" for key in view.keys) or "none",
        "event time": view.event_time or "not said",
        "holds": duration_text(view.ttl),
        "when missing": MISSING.get(view.on_missing, view.on_missing),
        "used by": ", ".join(view.services) or "no feature service",
        "online through": time_text(view.online_through),
        "source": shown(view.source) or "computed on demand",
    }
    if table:
        said["rows"] = f"{table.rows:,} in {table.files:,} files of {size_text(table.size)}"
        said["latest event"] = time_text(table.latest) + (f", {duration_text(found.age)} ago" if found.age else "")
    return said


def _iso(instant: datetime | None) -> str | None:
    return instant.astimezone(UTC).isoformat() if instant else None
