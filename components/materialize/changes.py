"""What of a view's table has changed since it was last materialized: its columns, and the days of its partitions."""

import json
import logging
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fti.common.errors import StorageError
from fti.common.settings import Settings
from fti.common.storage import stamps

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView

logger = logging.getLogger(__name__)

_HIDDEN = re.compile(r"(?:^|/)[._]")
_DAY = re.compile(r"(?:^|/)event_date=(\d{4}-\d\d-\d\d)/")


@dataclass(frozen=True)
class Table:
    """A table as it stands.

    Attributes:
        schema: The view's columns and types.
        files: Name of each file -> what changes with its content; empty where they cannot be listed.
    """

    schema: str = ""
    files: dict[str, str] | None = None

    @property
    def first_day(self) -> datetime | None:
        """When its first day begins; None where its files do not tell."""
        return min(_days(self.files or {}), default=None)

    @classmethod
    def of(cls, store: "FeatureStore", view: "FeatureView", settings: Settings) -> "Table":
        """Reads what a table consists of, not its rows."""
        schema = ", ".join(f"{column.name} {column.dtype}" for column in [*view.entity_columns, *view.features])
        return cls(schema, _files(store, view, settings))


@dataclass(frozen=True)
class Done:
    """What the online store holds of a view; remembered there, so that it is never believed of an empty one.

    Attributes:
        table: What the table was.
        through: The latest event that was materialized.
        whole: Whether the table had none after it.
        reached: The latest event that may have been written, by a run that was killed too.
    """

    table: Table = Table()
    through: datetime | None = None
    whole: bool = False
    reached: datetime | None = None

    @classmethod
    def read(cls, text: str | None) -> "Done":
        """What was remembered; nothing, if that is not understood."""
        try:
            said = json.loads(text or "{}")
            times = (datetime.fromisoformat(said[name]) if said[name] else None for name in ("through", "reached"))
            through, reached = times
            return cls(Table(**said["table"]), through, bool(said["whole"]), reached)
        except (ValueError, TypeError, KeyError):
            return cls()

    def text(self) -> str:
        """As `read` takes it."""
        return json.dumps(asdict(self), default=datetime.isoformat)

    def reaching(self, instant: datetime) -> "Done":
        """The same, with rows until an instant about to be written."""
        return replace(self, reached=max(instant, self.reached or instant))


@dataclass(frozen=True)
class Span:
    """What of a table has to be read.

    Attributes:
        since: From this event on; None: from the first.
        only_added: Whether nothing that was materialized can be gone from it.
    """

    since: datetime | None
    only_added: bool


def to_do(done: Done, table: Table, until: datetime | None) -> Span | None:
    """Compares a table with what was materialized.

    Args:
        done: What was materialized.
        table: The table now.
        until: The latest event wanted; None: all.

    Returns:
        None where there is nothing to do.
    """
    before, now = done.table.files, table.files
    if done.through is None or before is None or now is None or done.table.schema != table.schema:
        return Span(None, only_added=False)
    changed = [name for name in before.keys() | now.keys() if before.get(name) != now.get(name)]
    since = _days(changed)
    if len(since) < len(changed):
        return Span(None, only_added=False)
    if not done.whole and (until is None or until > done.through):
        since.append(done.through)
    if not since:
        return None
    return Span(min(since), only_added=all(now.get(name) == stamp for name, stamp in before.items()))


def _days(names: Iterable[str]) -> list[datetime]:
    """When the days of files begin, of those that are in the folder of one."""
    days = [match[1] for match in map(_DAY.search, names) if match]
    return [datetime.fromisoformat(day).replace(tzinfo=UTC) for day in days]


def _files(store: "FeatureStore", view: "FeatureView", settings: Settings) -> dict[str, str] | None:
    from feast import FileSource

    source = view.batch_source
    if not isinstance(source, FileSource):
        return None
    uri = FileSource.get_uri_for_file_path(store.config.repo_path, source.path)
    reached = replace(settings, s3_endpoint=source.s3_endpoint_override or settings.s3_endpoint)
    try:
        found = stamps(uri, reached)
    except StorageError as error:
        logger.warning("%s is read from its first event, because its files cannot be told: %s", view.name, error)
        return None
    # Hidden ones are on their way to be published, and read by nobody.
    return {name: each for name, each in found.items() if not _HIDDEN.search(name)} or None
