"""The columns of a request: which ones a model takes, and strict conversion of their values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fti.common.model_package import Signature
from fti.serve.arrange import LARGEST, Arranger
from fti.serve.forms import TEXT_KEY, WHOLE_KEY, Forms

if TYPE_CHECKING:
    import numpy as np

DATATYPES = {
    "float32": "FP32",
    "int64": "INT64",
    "bool": "BOOL",
    "string": "BYTES",
    TEXT_KEY: "BYTES",
    WHOLE_KEY: "INT64",
}

_WHOLE = {"INT8": "<i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8"}
_FLOAT = {"FP32": "<f4", "FP64": "<f8"}
# Numbers with holes travel as floats, for only they have NaN.
_ACCEPTED = {
    "float32": tuple(_FLOAT),
    "int64": (*_WHOLE, *_FLOAT),
    "bool": ("BOOL", *_FLOAT),
    "string": ("BYTES",),
    TEXT_KEY: ("BYTES",),
    WHOLE_KEY: ("INT32", "INT64"),
}
_WHOLE_MAX = 2.0**63
_LONGEST = 4000  # characters of a message: it may repeat what a caller sent, and gRPC sends it as a header


class BadRequestError(Exception):
    """A request that is not answered, and why.

    Args:
        message: Names the field, what was got and what is allowed.
        status: The HTTP status, 4xx.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message if len(message) <= _LONGEST else f"{message[:_LONGEST]}...")
        self.status = status


@dataclass(frozen=True)
class Schema:
    """The two forms that a request can have.

    Attributes:
        features: Every input of the model by name, with its dtype.
        keyed: The request's own features and the entity keys, by which the others are looked up. Empty where the
            predictor has no feature store.
        max_rows: Of one request.
        forms: What plain requests are.
        arranger: The quick way from these to the model's inputs.
    """

    features: dict[str, str]
    keyed: dict[str, str]
    max_rows: int
    forms: Forms
    arranger: Arranger

    @classmethod
    def of(cls, signature: Signature, keys: Mapping[str, str], max_rows: int = 2**31) -> "Schema":
        """The schema of a model.

        Args:
            signature: The model's.
            keys: The entity keys and the dtype of each; empty where the predictor has no feature store.
            max_rows: Of one request.
        """
        features = {feature.name: str(feature.dtype) for feature in signature.inputs}
        own = {feature.name: str(feature.dtype) for feature in signature.inputs if feature.source == "request"}
        keyed = {**own, **keys} if keys else {}
        return cls(features, keyed, max_rows, Forms(features, keyed), Arranger(signature))

    def check_rows(self, rows: int) -> None:
        """Refuses requests of too many rows.

        Raises:
            BadRequestError: There are more than `max_rows` (413).
        """
        if rows > self.max_rows:
            raise BadRequestError(f"{rows} rows. Allowed: {self.max_rows} in one request", 413)

    def form(self, names: frozenset[str], where: str) -> dict[str, str]:
        """The form that has exactly these columns.

        Args:
            names: The columns of a request, or of one row.
            where: How errors call it.

        Raises:
            BadRequestError: No form has them; names what is unknown or missing.
        """
        if names == self.features.keys():
            return self.features
        if self.keyed and names == self.keyed.keys():
            return self.keyed
        unknown = names - self.features.keys() - self.keyed.keys()
        if unknown:
            raise BadRequestError(f"{where}: unknown {_listed(unknown)}. Allowed: {self._forms()}")
        forms = [form for form in (self.features, self.keyed) if form]
        nearest = min(forms, key=lambda form: len(form.keys() ^ names))
        if missing := nearest.keys() - names:
            raise BadRequestError(f"{where}: missing {_listed(missing)} (null where unknown). Allowed: {self._forms()}")
        raise BadRequestError(f"{where}: {_listed(names - nearest.keys())} is too many. Allowed: {self._forms()}")

    def _forms(self) -> str:
        every = ", ".join(self.features)
        return f"either {', '.join(self.keyed)}; or {every}" if self.keyed else every


def from_json(name: str, datatype: str, values: list[Any]) -> "np.ndarray":
    """Converts JSON values of a V2 datatype; null becomes NaN or None.

    Returns:
        Float64 or int64 [N], or object [N] of str and None.

    Raises:
        BadRequestError: A value is not of the datatype; names the row.
    """
    import numpy as np

    allowed = _JSON_TYPES.get(datatype)
    if allowed is None:
        raise BadRequestError(f"{name}: unknown datatype {datatype!r}. Allowed: {', '.join(_JSON_TYPES)}")
    found = set(map(type, values))
    if not found <= {*allowed, type(None)}:
        row = next(i for i, value in enumerate(values) if type(value) not in {*allowed, type(None)})
        raise BadRequestError(f"{name}: row {row} is {shown(values[row])}. Allowed: {_JSON_NAMES[datatype]} or null")
    if datatype == "BYTES":
        return np.array(values, dtype=object)
    holes = type(None) in found
    if datatype in _WHOLE:
        _check_range(name, datatype, values)
        return np.array(values, dtype=np.float64 if holes else np.int64)
    return np.array(values, dtype=np.float64)


def from_bytes(name: str, datatype: str, rows: int, raw: bytes) -> "np.ndarray":
    """Converts the raw little-endian bytes of a V2 tensor.

    Raises:
        BadRequestError: There are more or fewer bytes than `rows` values take, or text is not UTF-8.
    """
    import numpy as np

    if datatype == "BYTES":
        return np.array(_texts(name, rows, raw), dtype=object)
    kind = {**_WHOLE, **_FLOAT, "BOOL": "u1"}.get(datatype)
    if kind is None:
        raise BadRequestError(f"{name}: unknown datatype {datatype!r}. Allowed: {', '.join(_JSON_TYPES)}")
    size = np.dtype(kind).itemsize * rows
    if len(raw) != size:
        raise BadRequestError(f"{name}: {len(raw)} bytes. Allowed: {size} for {rows} values of {datatype}")
    values = np.frombuffer(raw, dtype=kind)
    if datatype == "BOOL" and values.max() > 1:
        raise BadRequestError(f"{name}: a BOOL is the byte {values.max()}. Allowed: 0 and 1")
    return values


def fit(name: str, dtype: str, datatype: str, values: "np.ndarray") -> "np.ndarray":
    """Fits a column to what the model takes.

    Args:
        name: The column's name.
        dtype: The input's dtype, or that of an entity key.
        datatype: The V2 datatype that the values came as.
        values: [N], as `from_json` or `from_bytes` give them.

    Returns:
        Float32 [N] with NaN where missing; object [N] for strings and keys.

    Raises:
        BadRequestError: The datatype does not suit the input, or a value is out of its range; names the row.
    """
    import numpy as np

    if datatype not in _ACCEPTED[dtype]:
        raise BadRequestError(f"{name}: datatype {datatype}. Allowed: {', '.join(_ACCEPTED[dtype])}")
    if dtype in {TEXT_KEY, WHOLE_KEY}:
        return _keys(name, dtype, values)
    if dtype == "string":
        return values
    numbers = values.astype(np.float64)
    if dtype == "float32":
        bad, allowed = np.abs(numbers) > LARGEST, "finite numbers within float32"
    elif dtype == "bool":
        bad, allowed = ~np.isnan(numbers) & (numbers != 0) & (numbers != 1), "true, false; as floats 1, 0, NaN"
    else:
        whole = (np.abs(numbers) <= _WHOLE_MAX) & (np.floor(numbers) == numbers)
        bad, allowed = ~np.isnan(numbers) & ~whole, "whole numbers within INT64"
    if bad.any():
        row = int(bad.argmax())
        raise BadRequestError(f"{name}: row {row} is {shown(numbers[row].item())}. Allowed: {allowed}")
    return numbers.astype(np.float32)


def _keys(name: str, dtype: str, values: "np.ndarray") -> "np.ndarray":
    import numpy as np

    keys = np.array(values.tolist(), dtype=object)
    for row, key in enumerate(keys):
        if key is None or isinstance(key, float):  # whole numbers with holes come as floats
            allowed = 'text, "" where unknown' if dtype == TEXT_KEY else "whole numbers"
            raise BadRequestError(f"{name}: row {row} is null. Allowed: {allowed}")
    return keys


def _texts(name: str, rows: int, raw: bytes) -> list[str]:
    texts: list[str] = []
    at = 0
    while at < len(raw) and len(texts) <= rows:
        size = int.from_bytes(raw[at : at + 4], "little")
        if at + 4 + size > len(raw):
            break
        try:
            texts.append(raw[at + 4 : at + 4 + size].decode())
        except UnicodeDecodeError as error:
            raise BadRequestError(f"{name}: row {len(texts)} is not UTF-8") from error
        at += 4 + size
    if at != len(raw) or len(texts) != rows:
        raise BadRequestError(
            f"{name}: its bytes do not hold {rows} texts. Allowed: a 4-byte little-endian length before each text"
        )
    return texts


def _check_range(name: str, datatype: str, values: list[Any]) -> None:
    bound = 2 ** (int(datatype[3:]) - 1)
    for row, value in enumerate(values):
        if value is not None and not -bound <= value < bound:
            raise BadRequestError(f"{name}: row {row} is {value}. Allowed: numbers within {datatype}")


def _listed(names: frozenset[str] | set[str]) -> str:
    few = sorted(names)
    more = f" and {len(few) - 8} more" if len(few) > 8 else ""
    return ", ".join(shown(name) for name in few[:8]) + more


def shown(value: object) -> str:
    """A value of a request as an error shows it; of lists and objects no more than that they are such."""
    if isinstance(value, (list, dict)):  # `repr` of a deeply nested one fails
        return "a list" if isinstance(value, list) else "an object"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


_JSON_TYPES: dict[str, tuple[type, ...]] = {
    "BOOL": (bool,),
    **dict.fromkeys(_WHOLE, (int,)),
    **dict.fromkeys(_FLOAT, (int, float)),
    "BYTES": (str,),
}
_JSON_NAMES = {
    "BOOL": "true, false",
    **dict.fromkeys(_WHOLE, "whole numbers"),
    **dict.fromkeys(_FLOAT, "numbers"),
    "BYTES": "text",
}
