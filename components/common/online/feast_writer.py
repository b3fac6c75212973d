"""Writing to any other online store, through Feast's own writer for it."""

from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from fti.common.errors import FeatureStoreError, OnlineStoreError
from fti.common.masking import masked
from fti.common.online.rows import Rows, micros_of
from fti.common.online.writer import Written, ignore

if TYPE_CHECKING:
    import pyarrow as pa
    from feast import FeatureView
    from feast.repo_config import RepoConfig

_BATCH = 1_000  # keys in one request, which some stores limit


class FeastWriter:
    """Feast's own writer, asked to write only what is to be replaced.

    What Feast offers is not enough to compare and write in one step, to list keys, or to remember: a stream that writes
    the same key at the same instant may be overwritten, keys without rows stay, and every run is a whole one.
    """

    def __init__(self, config: "RepoConfig") -> None:
        from feast.infra.online_stores.helpers import get_online_store_from_config

        self._config = config
        self._store = get_online_store_from_config(config.online_store)

    def write(
        self, view: "FeatureView", rows: "pa.Table", through: datetime | None, advance: Callable[[int], None] = ignore
    ) -> Written:
        """See `OnlineWriter.write`."""
        import numpy as np

        batch, written = Rows.of(view, rows), 0
        bound = None if through is None else micros_of(through)
        for start in range(0, len(batch), _BATCH):
            part = batch.part(np.arange(start, min(start + _BATCH, len(batch))))
            written += self._write(view, part, bound)
            advance(len(part))
        return Written(written, len(batch) - written, batch.keys)

    def strays(self, view: "FeatureView", known: Set[bytes], since: datetime | None, through: datetime) -> list[bytes]:
        """See `OnlineWriter.strays`: it cannot be told."""
        return []

    def remove(self, view: "FeatureView", keys: list[bytes], through: datetime) -> int:
        """See `OnlineWriter.remove`: there never is anything to remove."""
        return 0

    def recall(self, view: "FeatureView") -> str | None:
        """See `OnlineWriter.recall`: nothing."""
        return None

    def remember(self, view: "FeatureView", text: str) -> None:
        """See `OnlineWriter.remember`: it cannot."""

    def close(self) -> None:
        """See `OnlineWriter.close`: Feast's stores have no such thing."""

    def _write(self, view: "FeatureView", batch: Rows, bound: int | None) -> int:
        converted = _converted(view, batch)
        with self._errors():
            stored = self._store.online_read(self._config, view, [key for key, *_ in converted])
            wanted = [
                row
                for row, time, (known_at, _) in zip(converted, batch.times.tolist(), stored, strict=True)
                if known_at is None or micros_of(known_at) <= (time if bound is None else bound)
            ]
            if wanted:
                self._store.online_write_batch(self._config, view, wanted, progress=None)
        return len(wanted)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from fti.common.feature_store import reason

        try:
            yield
        except Exception as error:
            raise OnlineStoreError(
                f"the online store of type {self._config.online_store.type} fails: {masked(reason(error))}",
                remedy="Start it or correct online_store in the profile, then run it again: nothing is lost",
            ) from None  # what a driver raises may show a password


def _converted(view: "FeatureView", batch: Rows) -> list[Any]:
    """Rows as Feast's writers take them: entity key, values, event time, created time."""
    import pyarrow as pa
    from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
    from feast.utils import _convert_arrow_to_proto

    types = {column.name: column.dtype.to_value_type() for column in view.entity_columns}
    table = batch.table
    if DUMMY_ENTITY_ID in types and DUMMY_ENTITY_ID not in table.column_names:
        table = table.append_column(DUMMY_ENTITY_ID, pa.array([DUMMY_ENTITY_VAL] * len(table)))
    try:
        converted: list[Any] = _convert_arrow_to_proto(table.combine_chunks(), view, types)
        return converted
    except Exception as error:
        from fti.common.feature_store import reason

        raise FeatureStoreError(
            f"rows do not fit the feature view {view.name!r}: {reason(error)}", remedy="Correct the table or the types"
        ) from error
