"""From YAML to a contract; every error names the file and the key."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import NoReturn, TypeVar

import yaml

from fti.common.errors import ContractError
from fti.common.settings import Settings
from fti.common.storage import read_text, shown
from fti.validate.contract import ORDERED, TYPES, UNDECLARED, Check, Column, Contract, Freshness, Value

T = TypeVar("T")

DURATION = "a number with m, h, d or w, such as 36h"

_AGE = re.compile(r"(\d+)\s*(m|h|d|w)")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_COLUMN_KEYS = ("type", "nullable", "min", "max", "allowed", "pattern", "unique", "description")
_KEYS = ("description", "columns", "unique", "checks", "rows", "freshness", "undeclared", "max_reject_share")


def duration(value: object) -> timedelta | None:
    """A span of time as `DURATION` says, or None where it is none."""
    match = _AGE.fullmatch(str(value).strip())
    return timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else None


def read_contract(uri: str, settings: Settings) -> Contract:
    """Reads a contract from a path or URI.

    Raises:
        StorageError: It cannot be read.
        ContractError: It is no valid contract.
    """
    return parse_contract(read_text(uri, settings), shown(uri))


def parse_contract(text: str, uri: str) -> Contract:
    """Reads a contract from text; `uri` is what errors call it."""
    try:
        document = yaml.load(text, _StrictLoader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise ContractError(f"{uri} is not valid YAML: {' '.join(str(error).split())}") from error
    return _contract(_Node(uri, "", document))


class _StrictLoader(yaml.SafeLoader):
    """A safe loader that refuses a key which stands twice: YAML itself would drop the first in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


class _Node:
    """A value together with the path that leads to it."""

    def __init__(self, uri: str, path: str, value: object) -> None:
        self.uri, self.path, self.value = uri, path, value

    def fail(self, got: str, allowed: str = "", remedy: str = "") -> NoReturn:
        where = f"{self.uri}: {self.path}" if self.path else self.uri
        raise ContractError(f"{where} {got}", allowed=allowed, remedy=remedy)

    def at(self, key: object, value: object) -> "_Node":
        path = f"{self.path}[{key}]" if isinstance(key, int) else f"{self.path}.{key}".lstrip(".")
        return _Node(self.uri, path, value)

    def mapping(self, keys: Iterable[str] = (), required: Iterable[str] = ()) -> dict[str, "_Node"]:
        if not isinstance(self.value, Mapping):
            self.fail(f"is {_kind(self.value)}", allowed="a mapping of keys to values")
        allowed = tuple(keys)
        for key in self.value:
            if not isinstance(key, str):
                self.fail(f"has the key {key!r}, which YAML reads as {_kind(key)}", remedy="Put it in quotes")
            if allowed and key not in allowed:
                close = difflib.get_close_matches(key, allowed, n=1)
                self.at(key, None).fail(
                    "is an unknown key", allowed=", ".join(allowed), remedy=f"Did you mean {close[0]}" if close else ""
                )
        for key in required:
            if key not in self.value:
                self.fail(f"lacks the key {key!r}")
        return {key: self.at(key, value) for key, value in self.value.items()}

    def items(self) -> list["_Node"]:
        if not isinstance(self.value, list):
            self.fail(f"is {_kind(self.value)}", allowed="a list")
        return [self.at(index, value) for index, value in enumerate(self.value)]

    def text(self) -> str:
        if not isinstance(self.value, str) or not self.value.strip():
            self.fail(f"is {_kind(self.value)}", allowed="a text", remedy="Put it in quotes")
        return self.value

    def flag(self) -> bool:
        if not isinstance(self.value, bool):
            self.fail(f"is {_kind(self.value)}", allowed="true or false")
        return self.value

    def whole(self) -> int:
        if not isinstance(self.value, int) or isinstance(self.value, bool) or self.value < 0:
            self.fail(f"is {self.value!r}", allowed="a whole number, 0 or more")
        return self.value

    def choice(self, allowed: Iterable[str]) -> str:
        if self.value not in tuple(allowed):
            self.fail(f"is {self.value!r}", allowed=", ".join(allowed))
        return str(self.value)


def _kind(value: object) -> str:
    names = {"dict": "a mapping", "list": "a list", "str": "a text", "NoneType": "empty", "bool": f"{value!r}".lower()}
    return names.get(type(value).__name__, f"{value!r}")


def _optional(keys: Mapping[str, _Node], key: str, read: Callable[[_Node], T], default: T) -> T:
    return read(keys[key]) if key in keys else default


def _contract(node: _Node) -> Contract:
    keys = node.mapping(_KEYS, required=["columns"])
    columns = tuple(_column(name, column) for name, column in keys["columns"].mapping().items())
    if not columns:
        keys["columns"].fail("names no column")
    known = {column.name: column for column in columns}
    minimum, maximum = _rows(keys["rows"]) if "rows" in keys else (1, None)
    return Contract(
        uri=node.uri,
        columns=columns,
        unique=_optional(keys, "unique", lambda n: tuple(_key(item, known) for item in n.items()), ()),
        checks=_optional(keys, "checks", _checks, ()),
        min_rows=minimum,
        max_rows=maximum,
        freshness=_optional(keys, "freshness", lambda n: _freshness(n, known), None),
        undeclared=_optional(keys, "undeclared", lambda n: n.choice(UNDECLARED), "forbid"),
        max_reject_share=_optional(keys, "max_reject_share", _share, 0.0),
        description=_optional(keys, "description", _Node.text, ""),
    )


def _column(name: str, node: _Node) -> Column:
    keys = node.mapping(_COLUMN_KEYS, required=["type"])
    kind = keys["type"].choice(TYPES)
    for bound in ("min", "max"):
        if bound in keys and kind not in ORDERED:
            keys[bound].fail(f"does not apply to {kind}", allowed=f"min and max for {', '.join(ORDERED)}")
    if "pattern" in keys and kind != "string":
        keys["pattern"].fail(f"does not apply to {kind}", allowed="a pattern for string")
    column = Column(
        name=name,
        type=kind,
        nullable=_optional(keys, "nullable", _Node.flag, False),
        min=_optional(keys, "min", lambda n: _value(n, kind), None),
        max=_optional(keys, "max", lambda n: _value(n, kind), None),
        allowed=_optional(keys, "allowed", lambda n: tuple(_value(item, kind) for item in n.items()), ()),
        pattern=_optional(keys, "pattern", _Node.text, ""),
        unique=_optional(keys, "unique", _Node.flag, False),
        description=_optional(keys, "description", _Node.text, ""),
    )
    if column.min is not None and column.max is not None and column.min > column.max:  # type: ignore[operator]
        node.fail(f"has min {column.min}, which is above max {column.max}")
    if "allowed" in keys and not column.allowed:
        keys["allowed"].fail("is empty, which would reject every row")
    return column


def _value(node: _Node, kind: str) -> Value:
    """A bound or allowed value, in the column's own type."""
    value = node.value
    if kind == "timestamp" and isinstance(value, date):
        moment = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    fits = {
        "bool": isinstance(value, bool),
        "int64": isinstance(value, int) and not isinstance(value, bool),
        "float64": isinstance(value, int | float) and not isinstance(value, bool),
        "string": isinstance(value, str),
        "date": isinstance(value, date) and not isinstance(value, datetime),
    }
    if not fits.get(kind, False):
        hint = "Put it in quotes" if kind == "string" else ""
        node.fail(f"is {_kind(value)} but the column is of type {kind}", allowed=f"a value of type {kind}", remedy=hint)
    return value  # type: ignore[return-value]


def _key(node: _Node, known: Mapping[str, Column]) -> tuple[str, ...]:
    names = node.items() if isinstance(node.value, list) else [node]
    if not names:
        node.fail("is empty", allowed="the columns of a key")
    return tuple(_known(name, known).name for name in names)


def _known(node: _Node, known: Mapping[str, Column]) -> Column:
    name = node.text()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        node.fail(
            f"names the unknown column {name!r}",
            allowed=", ".join(known),
            remedy=f"Did you mean {close[0]}" if close else "Declare it under columns",
        )
    return known[name]


def _checks(node: _Node) -> tuple[Check, ...]:
    checks: list[Check] = []
    for item in node.items():
        keys = item.mapping(("name", "sql", "message"), required=("name", "sql", "message"))
        check = Check(keys["name"].text(), keys["sql"].text(), keys["message"].text())
        if check.name in {other.name for other in checks}:
            keys["name"].fail(f"is {check.name!r}, the name of another check")
        checks.append(check)
    return tuple(checks)


def _rows(node: _Node) -> tuple[int, int | None]:
    keys = node.mapping(("min", "max"))
    minimum = _optional(keys, "min", _Node.whole, 1)
    maximum = keys["max"].whole() if "max" in keys else None
    if maximum is not None and minimum > maximum:
        node.fail(f"has min {minimum}, which is above max {maximum}")
    return minimum, maximum


def _freshness(node: _Node, known: Mapping[str, Column]) -> Freshness:
    keys = node.mapping(("column", "max_age"), required=("column", "max_age"))
    column = _known(keys["column"], known)
    if column.type not in {"date", "timestamp"}:
        keys["column"].fail(f"is {column.name!r} of type {column.type}", allowed="a column of type date or timestamp")
    max_age = duration(keys["max_age"].value)
    if max_age is None:
        keys["max_age"].fail(f"is {keys['max_age'].value!r}", allowed=DURATION)
    return Freshness(column.name, max_age)


def _share(node: _Node) -> float:
    if not isinstance(node.value, int | float) or isinstance(node.value, bool) or not 0 <= node.value <= 1:
        node.fail(f"is {node.value!r}", allowed="a share from 0 to 1")
    return float(node.value)
