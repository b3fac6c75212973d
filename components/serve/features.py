"""Features looked up in the online store, for requests that carry entity keys instead."""

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from fti.common.errors import ConfigError, FeatureStoreError, OnlineStoreError
from fti.common.inputs import Inputs, Layout
from fti.common.model_package import Signature
from fti.common.online.reader import OnlineReader, open_reader
from fti.common.online.vectors import FRESH, STATUSES, Vectors
from fti.common.settings import Settings
from fti.serve.columns import BadRequestError
from fti.serve.forms import TEXT_KEY, WHOLE_KEY

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)

OnStoreFailure = Literal["refuse", "missing"]

_ON_LOOP = 64  # rows; more take so long to decode that others would wait for it, and go to a thread
_THREADS = 4  # each waits for the store most of the time, with a connection of its own
_PAUSE = 1.0  # seconds in which a store that failed is not asked again: a hung one must not hold up every request


@dataclass(slots=True)  # frozen, it takes three times as long to make
class Completed:
    """The whole input of a model.

    Attributes:
        columns: Every input, [N] each: float32 with NaN, or object with None, where a feature is missing. `Inputs`
            where it was looked up.
        vectors: What was looked up for it; None where the request carried every feature.
    """

    columns: "Mapping[str, np.ndarray]"
    vectors: Vectors | None = None

    @property
    def states(self) -> str:
        """`<view>=<status>` for all that was not fresh in some row, joined by commas: the header's value."""
        if self.vectors is None or not self.vectors.codes.any():
            return ""
        found = ((view, set(rows.tolist())) for view, rows in self.vectors.status.items())
        return ",".join(
            f"{view}={status}"
            for view, statuses in found
            if statuses != {FRESH}
            for status in STATUSES[1:]
            if status in statuses
        )


class RefusedRowError(BadRequestError):
    """A row that one of its feature views refuses, for want of a value that holds.

    Args:
        completed: What was looked up.
    """

    def __init__(self, completed: Completed) -> None:
        assert completed.vectors is not None  # noqa: S101
        view, rows = next(iter(completed.vectors.refused.items()))
        row = int(rows.argmax())
        status = completed.vectors.status[view][row]
        # 422 and no 5xx: the same request gets the same answer, and a gateway must not take the server for ill.
        super().__init__(f"row {row}: feature view {view} is {status}, and refuses to go without a value", status=422)
        self.states = completed.states


class FeatureLookup:
    """Completes a request's columns from a Feast online store.

    Args:
        feature_repo: The Feast repository.
        signature: The model's; names the feature service and the entity keys.
        settings: Where the stores lie.
        on_store_failure: What a store that does not answer means: `refuse`, an error; `missing`, that every view has
            no value, so that its own policy decides.

    Attributes:
        keys: The entity keys, and whether each is a `text key` or a `whole key`.
        clock: What time it is for features.

    Raises:
        FeatureStoreError: The store cannot be opened, or lacks the feature service or one of its features.
    """

    def __init__(
        self,
        feature_repo: str,
        signature: Signature,
        settings: Settings,
        on_store_failure: OnStoreFailure = "refuse",
    ) -> None:
        self._signature, self._on_store_failure = signature, on_store_failure
        self.clock = settings.clock
        self._stored = [feature for feature in signature.inputs if feature.source != "request"]
        self._reader = _open(feature_repo, signature.feature_service, settings)
        self.keys = self._key_kinds()
        self._check()
        self._arranger = _Arranger(signature, self._reader)
        self._asked_again_at = 0.0
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="feature-store")
        try:  # an unknown entity has no features, but shows that the store answers
            self._executor.submit(self._read, self._nobody()).result()
        except OnlineStoreError:
            if on_store_failure == "refuse":
                raise

    async def complete(self, columns: "Mapping[str, np.ndarray]", rows: int) -> Completed:
        """Looks the features of some entities up.

        Args:
            columns: Entity keys and request features, [N] each.
            rows: N.

        Raises:
            BadRequestError: A key is out of its type's range.
            FeatureStoreError: The store does not answer, or holds something else than was registered.
        """
        try:
            vectors = await self._looked_up({key: columns[key].tolist() for key in self._signature.entity_keys}, rows)
        except OnlineStoreError:
            if self._on_store_failure == "refuse":
                raise
            vectors = self._reader.unavailable(rows)
        return Completed(self._arranger.inputs(vectors, columns), vectors)

    async def _looked_up(self, keys: dict[str, list[Any]], rows: int) -> Vectors:
        if self._reader.on_loop and rows <= _ON_LOOP:
            with self._asking():
                return await self._reader.aread(keys)
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._read, keys)

    def _read(self, keys: dict[str, list[Any]]) -> Vectors:
        with self._asking():
            return self._reader.read(keys)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Around every read: a store that failed is not asked for a while."""
        if time.monotonic() < self._asked_again_at:
            raise OnlineStoreError("the online store did not answer a moment ago")
        try:
            yield
        except ConfigError as error:
            raise BadRequestError(str(error)) from error
        except OnlineStoreError as error:
            now = time.monotonic()
            if now >= self._asked_again_at:  # once a pause, not once for everybody who waited
                log.error("%s", error)
            self._asked_again_at = now + _PAUSE
            raise

    def _key_kinds(self) -> dict[str, str]:
        keys = self._signature.entity_keys
        types = self._reader.keys
        if set(types) != set(keys) or self._reader.request_data or "bytes" in types.values():
            raise FeatureStoreError(
                f"feature service {self._signature.feature_service} is asked by "
                f"{', '.join([*types, *self._reader.request_data])}",
                allowed=f"the entity keys of the model, text and whole numbers: {', '.join(keys)}",
                remedy="Apply the feature repository that the model was trained with",
            )
        return {key: TEXT_KEY if types[key] == "string" else WHOLE_KEY for key in keys}

    def _check(self) -> None:
        kinds = self._reader.kinds
        absent = [feature.name for feature in self._stored if feature.name not in kinds]
        other = [
            f.name for f in self._stored if f.name in kinds and (f.dtype == "string") != (kinds[f.name] != "number")
        ]
        if absent or other:
            problem = f"lacks {', '.join(absent)}" if absent else f"has another type of {', '.join(other)}"
            raise FeatureStoreError(
                f"feature service {self._signature.feature_service} {problem}",
                remedy="Apply the feature repository that the model was trained with",
            )

    def _nobody(self) -> dict[str, list[Any]]:
        return {key: [0 if kind == WHOLE_KEY else ""] for key, kind in self.keys.items()}


class _Arranger:
    """Arranges what was looked up, and what the request carried itself, as the model's graph takes it.

    Args:
        signature: The model's.
        reader: Where the rest is from.
    """

    def __init__(self, signature: Signature, reader: OnlineReader) -> None:
        import numpy as np

        self._layout, stored = Layout(signature), {f.name for f in signature.inputs if f.source != "request"}
        self._own = [name for name in self._layout.names if name not in stored]
        self._width, self._texts = len(self._layout.numeric), len(self._layout.categorical)
        rows = {name: at for at, name in enumerate(reader.names.numbers)}
        numbers = [name for name in self._layout.numeric if name in stored & rows.keys()]
        self._from = np.array([rows[name] for name in numbers], dtype=np.intp)
        self._to = np.array([self._layout.places[name][1] for name in numbers], dtype=np.intp)
        self._others = sorted(stored - set(numbers))

    def inputs(self, vectors: Vectors, columns: "Mapping[str, np.ndarray]") -> Inputs:
        """The inputs of N rows.

        Args:
            vectors: What was looked up.
            columns: What the request carried, [N] each; its own features among it.
        """
        import numpy as np

        rows = vectors.numbers.shape[1]
        numeric = np.empty((rows, self._width), np.float32) if self._width else None
        texts = np.empty((rows, self._texts), object) if self._texts else None
        if numeric is not None:
            numeric[:, self._to] = vectors.numbers[self._from].T
        rest = {name: columns[name] for name in self._own} | {name: vectors.others[name] for name in self._others}
        for name, column in rest.items():
            kind, at = self._layout.places[name]
            if kind == 0 and numeric is not None:
                numeric[:, at] = column
            elif texts is not None:
                texts[:, at] = [each if each is None or type(each) is str else str(each) for each in column]
        return Inputs(self._layout, numeric, texts)


def _open(feature_repo: str, service: str, settings: Settings) -> OnlineReader:
    from fti.common.feature_store import open_store

    return open_reader(open_store(feature_repo, settings, offline=False), service, settings.clock)
