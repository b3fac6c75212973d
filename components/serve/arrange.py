"""The quick way from a plain request to the matrices that a graph takes.

Whole matrices are converted and checked at once. Whatever is not plain, and so all that is wrong, is left to the strict
way in `columns.py`, column by column, which says what is wrong with it. Both give the same columns.
"""

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np

from fti.common.inputs import Inputs, Layout
from fti.common.model_package import Signature
from fti.serve.forms import DATATYPES, TEXT_KEY, WHOLE_KEY

# The largest float64 that is rounded to a finite float32 (IEEE 754-2019, 4.3.1).
LARGEST = float(np.nextafter(2.0**128 - 2.0**103, 0))
_CODES = {"FP32": "<f4", "FP64": "<f8", "INT8": "<i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "BOOL": "u1"}
_KINDS = {name: np.dtype(code) for name, code in _CODES.items()}
_NONE = type(None)
_TYPES = {
    "float32": frozenset({float, int, _NONE}),
    "int64": frozenset({int, _NONE}),
    "bool": frozenset({bool, _NONE}),
    "string": frozenset({str, _NONE}),
}
_OBJECTS = frozenset({"string", TEXT_KEY, WHOLE_KEY})
_PLANS = 64  # callers order and type their tensors in few ways; a hostile one shall not fill the memory


@dataclass(frozen=True)
class _Group:
    """Inputs of one dtype.

    Attributes:
        dtype: Theirs.
        places: Where they stand in their matrix.
        all: Whether they are all of their matrix, in its order.
        pick: Takes their values out of what holds all of a request's columns, as a tuple.
        bound: How large a number may be; for JSON alone.
    """

    dtype: str
    places: np.ndarray
    all: bool
    pick: Callable[[Any], tuple[Any, ...]]
    kind: str = ""
    bound: float = 0.0


class Arranger:
    """Arranges the requests of one model.

    Args:
        signature: The model's.
    """

    def __init__(self, signature: Signature) -> None:
        self._layout = Layout(signature)
        self._dtypes = {feature.name: str(feature.dtype) for feature in signature.inputs}
        self._width, self._strings = len(signature.numeric), len(signature.categorical)
        columns = enumerate(self._dtypes.items())
        self._by_place = self._groups([(name, dtype, at, "", _bound(dtype, "INT64")) for at, (name, dtype) in columns])
        self._plans: dict[tuple[tuple[str | None, ...], tuple[str, ...]], list[_Group]] = {}

    def rows(self, instances: list[tuple[Any, ...]]) -> Inputs | None:
        """Arranges the instances of a V1 request, as `Forms.rows` gives them; None where a number is too large."""
        groups = self._by_place
        picked = [instances] if len(groups) == 1 else [map(group.pick, instances) for group in groups]
        return self._arranged(groups, picked, len(instances), _from_rows)

    def typed(
        self, names: tuple[str | None, ...], datatypes: tuple[str, ...], rows: int, values: Sequence[Any]
    ) -> Inputs | None:
        """Arranges tensors as `Forms.tensors` gives them; None where they are not plain."""
        plan = self._plan(names, datatypes)
        if plan is None or set(map(len, values)) != {rows}:
            return None
        return self._arranged(plan, [group.pick(values) for group in plan], rows, _from_columns)

    def tensors(
        self, names: Sequence[str], datatypes: Sequence[str], rows: int, values: Sequence[Any]
    ) -> Inputs | None:
        """Arranges the tensors of a V2 request; None where they are not plain.

        Args:
            names: The columns.
            datatypes: Of each.
            rows: N.
            values: Of each: a list, or bytes.
        """
        plan = self._plan(tuple(names), tuple(datatypes))
        kinds = set(map(type, values))
        if plan is None or len(kinds) != 1:  # some tensors in lists, some in bytes
            return None
        picked = [group.pick(values) for group in plan]
        if kinds == {bytes}:
            return self._arranged(plan, picked, rows, _from_bytes)
        if kinds != {list} or set(map(len, values)) != {rows}:
            return None
        if not all(
            _TYPES[group.dtype].issuperset(map(type, chain.from_iterable(part)))
            for group, part in zip(plan, picked, strict=True)
        ):
            return None
        return self._arranged(plan, picked, rows, _from_lists)

    def _plan(self, names: tuple[str | None, ...], datatypes: tuple[str, ...]) -> list[_Group] | None:
        plan = self._plans.get((names, datatypes))
        if plan is None:
            known = [name for name in names if name in self._dtypes]
            if len(known) != len(names) or len(known) != len(self._dtypes) or len(set(known)) != len(known):
                return None
            dtypes = [self._dtypes[name] for name in known]
            if not all(kind in DATATYPES[dtype] for dtype, kind in zip(dtypes, datatypes, strict=True)):
                return None
            bounds = map(_bound, dtypes, datatypes)
            plan = self._groups(list(zip(known, dtypes, range(len(known)), datatypes, bounds, strict=True)))
            if len(self._plans) < _PLANS:
                self._plans[names, datatypes] = plan
        return plan

    def _groups(self, columns: list[tuple[str, str, Any, str, float]]) -> list[_Group]:
        """Groups columns (name, dtype, what to pick them by, V2 datatype, bound) by dtype and datatype."""
        found: dict[tuple[str, str, float], list[tuple[str, Any]]] = {}
        for name, dtype, key, kind, bound in columns:
            found.setdefault((dtype, kind, bound), []).append((name, key))
        return [
            _Group(
                dtype,
                places := np.array([self._layout.places[name][1] for name, _ in members], dtype=np.intp),
                places.tolist() == list(range(self._strings if dtype == "string" else self._width)),
                _picker([key for _, key in members]),
                kind,
                bound,
            )
            for (dtype, kind, bound), members in found.items()
        ]

    def _arranged(
        self,
        groups: list[_Group],
        picked: list[Any],
        rows: int,
        convert: Callable[[_Group, Any, int], np.ndarray | None],
    ) -> Inputs | None:
        if len(groups) == 1 and groups[0].all:
            matrix = convert(groups[0], picked[0], rows)
            if matrix is None or groups[0].dtype != "string":
                return None if matrix is None else Inputs(self._layout, matrix)
            return Inputs(self._layout, None, matrix)
        numeric: np.ndarray | None = None
        strings: np.ndarray | None = None
        for group, values in zip(groups, picked, strict=True):
            matrix = convert(group, values, rows)
            if matrix is None:
                return None
            if group.dtype == "string":
                strings = _placed(group, matrix, strings, self._strings, object)
            else:
                numeric = _placed(group, matrix, numeric, self._width, np.float32)
        return Inputs(self._layout, numeric, strings)


def _placed(group: _Group, matrix: np.ndarray, target: np.ndarray | None, width: int, dtype: type) -> np.ndarray:
    """The matrix of a graph's input with the columns of a group in it; a new one where there is none yet."""
    if group.all:
        return matrix
    if target is None:
        target = np.empty((len(matrix), width), dtype)
    target[:, group.places] = matrix
    return target


def _bound(dtype: str, datatype: str) -> float:
    """How large a JSON number may be: for whole numbers less than what their datatype holds, which is no float64."""
    return float(np.nextafter(2.0 ** (int(datatype[3:]) - 1), 0)) if dtype == "int64" else LARGEST


def _picker(keys: list[Any]) -> Callable[[Any], tuple[Any, ...]]:
    if len(keys) > 1:
        return itemgetter(*keys)
    (key,) = keys
    return lambda holder: (holder[key],)


def keyed_columns(dtypes: Mapping[str, str], rows: list[tuple[Any, ...]]) -> dict[str, np.ndarray] | None:
    """The columns of a request by entity keys; None where a number is out of its range.

    Args:
        dtypes: Of each column, in the order of the rows' values.
        rows: As `Forms.keyed_rows` gives them.
    """
    columns = {}
    for (name, dtype), values in zip(dtypes.items(), zip(*rows, strict=True), strict=True):
        if dtype == WHOLE_KEY and not -(2**63) <= min(values) <= max(values) < 2**63:
            return None
        column = _flat(dtype, _bound(dtype, "INT64"), list(values))
        if column is None:
            return None
        columns[name] = column
    return columns


def _from_rows(group: _Group, instances: Iterable[Sequence[Any]], rows: int) -> np.ndarray | None:
    flat = _flat(group.dtype, group.bound, list(chain.from_iterable(instances)))
    return None if flat is None else flat.reshape(rows, -1)


def _from_columns(group: _Group, columns: Sequence[list[Any]], rows: int) -> np.ndarray | None:
    flat = _flat(group.dtype, group.bound, list(chain.from_iterable(columns)))
    if flat is None or rows == 1:
        return None if flat is None else flat.reshape(1, -1)
    return np.ascontiguousarray(flat.reshape(-1, rows).T)


def _from_lists(group: _Group, columns: Sequence[list[Any]], rows: int) -> np.ndarray | None:
    matrix = _from_columns(group, columns, rows)
    # Unlike JSON, gRPC has infinite numbers, and NaN.
    return matrix if matrix is None or matrix.dtype == object or _within(matrix, LARGEST) else None


def _flat(dtype: str, bound: float, values: list[Any]) -> np.ndarray | None:
    """Values of one dtype as an array [N]; None where a number is out of its range."""
    if dtype in _OBJECTS:
        objects = np.empty(len(values), object)
        objects[:] = values
        return objects
    if dtype != "int64":
        try:
            return np.frombuffer(struct.pack(f"<{len(values)}f", *values), "<f4")
        except OverflowError:
            return None
        except struct.error:
            pass  # some are null
    try:
        wide = np.array(values, np.float64)
    except OverflowError:  # a whole number of hundreds of digits
        return None
    return wide.astype(np.float32) if _within(wide, bound) else None


def _within(numbers: np.ndarray, bound: float) -> bool:
    """Whether all numbers are within +-bound, or NaN."""
    # The largest and the smallest, each found without a copy; where there is a NaN, both are that.
    if numbers.item(numbers.argmax()) <= bound and numbers.item(numbers.argmin()) >= -bound:
        return True
    return not (np.abs(numbers) > bound).any()


def _from_bytes(group: _Group, values: Sequence[bytes], rows: int) -> np.ndarray | None:
    if group.kind == "BYTES":
        return _texts(values, rows)
    kind = _KINDS[group.kind]
    if set(map(len, values)) != {rows * kind.itemsize}:
        return None
    numbers = np.frombuffer(b"".join(values), kind)
    if group.kind == "BOOL" and numbers.max() > 1:
        return None
    if group.dtype == "float32":
        if not _within(numbers, LARGEST):
            return None
    else:
        numbers = numbers.astype(np.float64)  # as all others, so that whole numbers are rounded alike
    return np.ascontiguousarray(numbers.reshape(-1, rows).T, np.float32)


def _texts(values: Sequence[bytes], rows: int) -> np.ndarray | None:
    from fti.serve.columns import BadRequestError, from_bytes

    try:
        return np.stack([from_bytes("", "BYTES", rows, raw) for raw in values], axis=1)
    except BadRequestError:
        return None
