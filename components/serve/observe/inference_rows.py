"""From answered requests to rows of the inference log, a column at a time."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from fti.common.inference_log import KEY
from fti.common.inputs import Inputs
from fti.common.model_package import Signature
from fti.common.online.vectors import FRESH

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from fti.serve.model import Answer
    from fti.serve.protocol import Request

_OF_ENTRY, _OF_ROW = 1_000, 150  # bytes of what is around the values: objects, ids, names, statuses


class Entry(NamedTuple):
    """An answered request.

    Attributes:
        request_id: Its id.
        time: When it was answered, seconds since 1970.
        unit: Whom it was for; may be empty.
        protocol: The protocol.
        asked: Whether the caller asked for this variant.
        request: The request, decoded.
        answer: What the model answered.
        score: [N]; see `fti.common.inference_log.score_of`.
    """

    request_id: str
    time: float
    unit: str
    protocol: str
    asked: bool
    request: "Request"
    answer: "Answer"
    score: "np.ndarray"


def size_of(entry: Entry) -> int:
    """About how many bytes of memory an entry takes while it waits, as it is or as rows."""
    answer = entry.answer
    given, completed = entry.request.columns, answer.completed.columns
    arrays = [entry.score, answer.scores, answer.labels, *_arrays(given)]
    if completed is not given:
        arrays += _arrays(completed)
    if (vectors := answer.completed.vectors) is not None:
        arrays += [vectors.codes, vectors.times, vectors.numbers, *vectors.others.values()]
    return _OF_ENTRY + _OF_ROW * entry.request.rows + sum(map(_size, arrays))


def _arrays(columns: "Mapping[str, np.ndarray]") -> "list[np.ndarray]":
    if isinstance(columns, Inputs):
        return [matrix for matrix in (columns.numeric, columns.categorical) if matrix is not None]
    return [*columns.values()]


def _size(array: "np.ndarray") -> int:
    size: int = array.nbytes
    if array.dtype.hasobject:  # texts, of any length
        size += sum(map(sys.getsizeof, array.ravel().tolist()))
    return size


class Rows:
    """Makes rows of a model's log.

    Args:
        model: The model's name in the protocols' paths.
        revision: Its revision.
        signature: Its signature.
        schema: Of the log.
    """

    def __init__(self, model: str, revision: str, signature: Signature, schema: "pa.Schema") -> None:
        self._names = (model, revision)
        self._signature, self._schema = signature, schema

    def batch(self, entries: Sequence[Entry]) -> "pa.RecordBatch":
        """The rows of some requests.

        Other threads get their turn after every column: who answers requests must not wait for a whole batch.
        """
        import pyarrow as pa

        arrays = []
        for field, values in zip(self._schema, self._columns(entries), strict=True):
            arrays.append(values if isinstance(values, pa.Array) else pa.array(values, field.type))
            time.sleep(0)
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def _columns(self, entries: Sequence[Entry]) -> "Iterator[pa.Array | list[Any] | np.ndarray]":
        import numpy as np

        model, revision = self._names
        sizes = [entry.request.rows for entry in entries]
        rows = sum(sizes)
        yield _repeated([entry.request_id for entry in entries], sizes)
        yield np.concatenate([np.arange(size, dtype=np.int32) for size in sizes])
        yield np.repeat(np.array([round(entry.time * 1e6) for entry in entries], dtype=np.int64), sizes)
        yield [model] * rows
        yield [revision] * rows
        yield _repeated([entry.unit or None for entry in entries], sizes)
        yield _repeated([entry.protocol for entry in entries], sizes)
        yield _repeated([entry.asked for entry in entries], sizes)
        for name in self._schema.names:
            if name.startswith(KEY):
                yield _keys(entries, name.removeprefix(KEY))
        inputs = _inputs([entry.answer.completed.columns for entry in entries])
        for feature in self._signature.inputs:
            yield _feature(inputs(feature.name), str(feature.dtype))
        labels = [entry.answer.labels for entry in entries]
        yield np.concatenate(labels) if self._signature.task == "regression" else _listed(labels)
        yield np.concatenate([entry.score for entry in entries]).astype(np.float32)
        if self._signature.task == "multiclass":
            yield _scores(entries)
        yield list(chain.from_iterable(_views(entry) for entry in entries))


def _repeated(values: list[Any], sizes: list[int]) -> list[Any]:
    if len(values) == sum(sizes):
        return values
    return [value for value, size in zip(values, sizes, strict=True) for _ in range(size)]


def _listed(columns: "Sequence[np.ndarray]") -> list[Any]:
    return list(chain.from_iterable(column.tolist() for column in columns))


def _keys(entries: Sequence[Entry], name: str) -> list[Any]:
    found: list[Any] = []
    for entry in entries:
        column = entry.request.columns.get(name)
        found += [None] * entry.request.rows if column is None else column.tolist()
    return found


def _inputs(parts: "Sequence[Mapping[str, np.ndarray]]") -> "Callable[[str], np.ndarray]":
    """What gives a column of the inputs of all requests, one after the other."""
    import numpy as np

    arranged = [part for part in parts if isinstance(part, Inputs)]
    if len(arranged) == len(parts):
        return Inputs.joined(arranged).__getitem__
    return lambda name: np.concatenate([part[name] for part in parts])


def _feature(values: "np.ndarray", dtype: str) -> "pa.Array | list[Any]":
    import numpy as np
    import pyarrow as pa

    if dtype == "string":
        texts: list[Any] = values.tolist()
        return texts
    missing = np.isnan(values)
    if dtype == "bool":
        values = values == 1
    return pa.array(values, mask=missing if missing.any() else None)


def _scores(entries: Sequence[Entry]) -> "pa.Array":
    import numpy as np
    import pyarrow as pa

    scores = np.concatenate([entry.answer.scores for entry in entries]).astype(np.float32)
    rows, width = scores.shape
    offsets = np.arange(0, rows * width + 1, width, dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(scores.ravel()))


def _views(entry: Entry) -> list[str | None]:
    vectors = entry.answer.completed.vectors
    if vectors is None:
        return [None] * entry.request.rows
    stale = _not_fresh(vectors.status)
    return [
        ",".join(f"{view}={rows[row]}" for view, rows in stale if rows[row] != FRESH)
        for row in range(entry.request.rows)
    ]


def _not_fresh(status: "Mapping[str, np.ndarray]") -> list[tuple[str, list[str]]]:
    listed = ((view, rows.tolist()) for view, rows in status.items())
    return [(view, rows) for view, rows in listed if set(rows) != {FRESH}]
