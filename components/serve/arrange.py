"""The quick way from a plain request to the matrices that a graph takes.

Whole matrices are converted and checked at once. Whatever is not plain, and so all that is wrong, is left to the strict
way in `columns.py`, column by column, which says what is wrong with it. Both give the same columns.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np

from fti.common.inputs import Inputs, Layout
from fti.common.model_package import Signature

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_CODES = {"FP32": "<f4", "FP64": "<f8", "INT8": "<i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "BOOL": "u1"}
_KINDS = {name: np.dtype(code) for name, code in _CODES.items()}
_WHOLE = frozenset({"INT8", "INT16", "INT32", "INT64"})
# What is plain, by dtype: V2 datatypes, and the types of JSON values. Numbers with holes that come as floats are not.
_DATATYPES = {
    "float32": frozenset({"FP32", "FP64"}),
    "int64": _WHOLE,
    "bool": frozenset({"BOOL"}),
    "string": frozenset({"BYTES"}),
}
_NONE = type(None)
_TYPES = {
    "float32": frozenset({float, int, _NONE}),
    "int64": frozenset({int, _NONE}),
    "bool": frozenset({bool, _NONE}),
    "string": frozenset({str, _NONE}),
}
_PLANS = 64  # callers order and type their tensors in few ways; a hostile one shall not fill the memory


@dataclass(frozen=True)
class _Group:
    """Inputs of one dtype.

    Attributes:
        dtype: Theirs.
        places: Where they stand in their matrix.
        all: Whether they are all of their matrix, in its order.
        pick: Takes their values out of what holds all of a request's columns, as a tuple.
        bound: How large a whole number may be; for JSON alone.
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
        self._by_name = self._groups([(name, dtype, name, "", 2.0**63) for name, dtype in self._dtypes.items()])
        self._plans: dict[tuple[tuple[str, ...], tuple[str, ...]], list[_Group]] = {}

    def rows(self, instances: Sequence[Any]) -> Inputs | None:
        """Arranges the instances of a V1 request; None where they are not plain."""
        try:
            if set(map(len, instances)) != {len(self._dtypes)}:
                return None
            picked = [list(map(group.pick, instances)) for group in self._by_name]
        except (KeyError, TypeError, IndexError):
            return None
        return self._arranged(self._by_name, picked, len(instances), _rows_of_json)

    def tensors(
        self, names: Sequence[str], datatypes: Sequence[str], rows: int, values: Sequence[Any]
    ) -> Inputs | None:
        """Arranges the tensors of a V2 request; None where they are not plain.

        Args:
            names: The columns.
            datatypes: Of each.
            rows: N.
            values: Of each: lists of JSON values, or all bytes.
        """
        plan = self._plan(tuple(names), tuple(datatypes))
        if plan is None:
            return None
        kinds = {type(each) is bytes for each in values}
        if len(kinds) != 1:  # some tensors in JSON, some binary
            return None
        convert = _columns_of_bytes if kinds == {True} else _columns_of_json
        return self._arranged(plan, [group.pick(values) for group in plan], rows, convert)

    def _plan(self, names: tuple[str, ...], datatypes: tuple[str, ...]) -> list[_Group] | None:
        plan = self._plans.get((names, datatypes))
        if plan is None:
            if len(names) != len(self._dtypes) or set(names) != self._dtypes.keys():
                return None
            if not all(kind in _DATATYPES[self._dtypes[name]] for name, kind in zip(names, datatypes, strict=True)):
                return None
            bounds = (2.0 ** (int(kind[3:]) - 1) if kind in _WHOLE else 0.0 for kind in datatypes)
            rows = zip(names, map(self._dtypes.__getitem__, names), range(len(names)), datatypes, bounds, strict=True)
            plan = self._groups(list(rows))
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
        return np.ascontiguousarray(matrix, dtype)
    if target is None:
        target = np.empty((len(matrix), width), dtype)
    target[:, group.places] = matrix
    return target


def _picker(keys: list[Any]) -> Callable[[Any], tuple[Any, ...]]:
    if len(keys) > 1:
        return itemgetter(*keys)
    (key,) = keys
    return lambda holder: (holder[key],)


def _rows_of_json(group: _Group, values: list[tuple[Any, ...]], rows: int) -> np.ndarray | None:
    flat = _from_json(group, values, rows * len(group.places))
    return None if flat is None else flat.reshape(rows, -1)


def _columns_of_json(group: _Group, values: Sequence[Any], rows: int) -> np.ndarray | None:
    if set(map(type, values)) != {list} or set(map(len, values)) != {rows}:
        return None
    flat = _from_json(group, values, rows * len(group.places))
    return None if flat is None else flat.reshape(-1, rows).T


def _from_json(group: _Group, parts: Iterable[Sequence[Any]], count: int) -> np.ndarray | None:
    """The values of one dtype, one after the other; None where one is not plain."""
    values = list(chain.from_iterable(parts))
    types = set(map(type, values))
    if not types <= _TYPES[group.dtype]:
        return None
    if group.dtype == "string":
        texts = np.empty(count, object)
        texts[:] = values
        return texts
    numbers = np.array(values, np.float64)
    if group.dtype == "float32":
        return numbers if _within(numbers, _FLOAT32_MAX) else None
    if group.dtype == "int64":
        return numbers if _within(numbers, np.nextafter(group.bound, 0)) else None
    return numbers


def _within(numbers: np.ndarray, bound: float) -> bool:
    """Whether all numbers are within +-bound, or NaN."""
    # The largest and the smallest, each found without a copy; where there is a NaN, both are that.
    if numbers.item(numbers.argmax()) <= bound and numbers.item(numbers.argmin()) >= -bound:
        return True
    return not (np.abs(numbers) > bound).any()


def _columns_of_bytes(group: _Group, values: Sequence[bytes], rows: int) -> np.ndarray | None:
    if group.kind == "BYTES":
        return _texts(values, rows)
    kind = _KINDS[group.kind]
    if set(map(len, values)) != {rows * kind.itemsize}:
        return None
    numbers = np.frombuffer(b"".join(values), kind)
    if group.kind == "BOOL" and numbers.max() > 1:
        return None
    if group.dtype == "float32":
        if not _within(numbers, _FLOAT32_MAX):
            return None
    else:
        numbers = numbers.astype(np.float64)
    return numbers.reshape(-1, rows).T


def _texts(values: Sequence[bytes], rows: int) -> np.ndarray | None:
    from fti.serve.columns import BadRequestError, from_bytes

    try:
        return np.stack([from_bytes("", "BYTES", rows, raw) for raw in values], axis=1)
    except BadRequestError:
        return None
