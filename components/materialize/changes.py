"""What of a view's table has changed since it was last materialized: its columns, and the days of its partitions."""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fti.common.files import atomic_file, digest_of
from fti.common.settings import Settings

if TYPE_CHECKING:
    from feast import FeatureView

_DAY = "event_date="
ALL = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Fingerprint:
    """A table as it stands.

    Attributes:
        schema: The view's columns and types.
        days: Day of each partition, ISO 8601 -> digest of its files; empty where they cannot be told, as in an
            object store.
    """

    schema: str
    days: dict[str, str]

    @classmethod
    def of(cls, view: "FeatureView") -> "Fingerprint":
        """Reads the table of a view."""
        schema = ", ".join(f"{column.name} {column.dtype}" for column in [*view.entity_columns, *view.features])
        path = str(view.batch_source.path)
        folders = Path(path).glob(f"{_DAY}*") if "://" not in path else ()
        return cls(schema, {folder.name.removeprefix(_DAY): digest_of(folder) for folder in sorted(folders)})

    def changed_since(self, before: "Fingerprint | None") -> datetime | None:
        """The first instant whose rows may have changed: `ALL` where that is unknown, None where nothing has."""
        if before is None or not self.days or before.schema != self.schema:
            return ALL
        days = [day for day in self.days.keys() | before.days.keys() if self.days.get(day) != before.days.get(day)]
        return datetime.fromisoformat(min(days)).replace(tzinfo=UTC) if days else None


def read(view: str, settings: Settings) -> Fingerprint | None:
    """The fingerprint of the table that was last materialized, or None."""
    try:
        return Fingerprint(**json.loads(_path(view, settings).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def write(view: str, fingerprint: Fingerprint, settings: Settings) -> None:
    """Remembers what was materialized."""
    with atomic_file(_path(view, settings)) as scratch:
        scratch.write_text(json.dumps(asdict(fingerprint)), encoding="utf-8")


def _path(view: str, settings: Settings) -> Path:
    return settings.home / "materialized" / f"{view}.json"
