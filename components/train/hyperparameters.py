"""Hyperparameters: a frozen dataclass per algorithm names them, their types and their defaults."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import TypeVar, get_args, get_origin

from fti.common.errors import TrainingError

P = TypeVar("P")


@dataclasses.dataclass(frozen=True)
class Logistic:
    """`C`: inverse strength of the L2 penalty."""

    C: float = 1.0
    max_iter: int = 100


@dataclasses.dataclass(frozen=True)
class Linear:
    """`alpha`: strength of the L2 penalty."""

    alpha: float = 1.0


@dataclasses.dataclass(frozen=True)
class Boosting:
    """Histogram gradient boosting.

    `max_iter` bounds the number of trees; fitting stops when `patience` more have not improved the validation rows.
    `max_depth` 0 is unbounded.
    """

    learning_rate: float = 0.1
    max_iter: int = 300
    max_leaf_nodes: int = 31
    max_depth: int = 0
    min_samples_leaf: int = 40
    l2_regularization: float = 1.0
    max_features: float = 1.0
    patience: int = 20


@dataclasses.dataclass(frozen=True)
class Forest:
    """Random forest. `max_depth` 0 is unbounded.

    `max_features` is the share of the features tried at a split, `max_samples` that of the rows a tree is grown from.
    """

    n_estimators: int = 100
    max_depth: int = 0
    min_samples_leaf: int = 40
    max_features: float = 0.3
    max_samples: float = 0.25


@dataclasses.dataclass(frozen=True)
class Mlp:
    """Multi-layer perceptron with an embedding per string feature.

    `hidden`: widths of the layers; `embedding`: largest width of an embedding; `patience`: epochs without improvement
    on the validation rows before fitting stops.
    """

    hidden: tuple[int, ...] = (128, 64)
    embedding: int = 16
    dropout: float = 0.1
    learning_rate: float = 0.002
    weight_decay: float = 0.0001
    batch_size: int = 1024
    max_epochs: int = 30
    patience: int = 4


@dataclasses.dataclass(frozen=True)
class Fitting:
    """How a torch module of the user's own is fitted; the other hyperparameters are the module's."""

    learning_rate: float = 0.002
    weight_decay: float = 0.0001
    batch_size: int = 1024
    max_epochs: int = 30
    patience: int = 4


def parse(kind: type[P], given: Mapping[str, object], algorithm: str) -> P:
    """Checks given hyperparameters against a dataclass; whole floats serve as integers, as KFP sends them.

    Args:
        kind: The dataclass.
        given: Names and values.
        algorithm: For the message.

    Raises:
        TrainingError: An unknown name, or a value of another type or a negative one.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    allowed = ", ".join(f"{name} ({_type_name(field.type)}, default {field.default})" for name, field in fields.items())
    values = {}
    for name, value in given.items():
        if name not in fields:
            close = difflib.get_close_matches(name, fields, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise TrainingError(f"{algorithm} has no hyperparameter {name!r}{hint}", allowed=allowed)
        try:
            values[name] = _coerce(fields[name].type, value)
        except (TypeError, ValueError) as error:
            raise TrainingError(f"hyperparameter {name} of {algorithm} is {value!r}", allowed=allowed) from error
    return kind(**values)


def whole_numbers(value: object) -> object:
    """Whole floats as integers, also within lists and dicts."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {name: whole_numbers(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [whole_numbers(item) for item in value]
    return value


def _coerce(kind: object, value: object) -> object:
    if get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise TypeError("not a list")
        return tuple(_coerce(get_args(kind)[0], item) for item in value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise TypeError("not a number of 0 or more")
    if kind is int and value != int(value):
        raise ValueError("not a whole number")
    return int(value) if kind is int else float(value)


def _type_name(kind: object) -> str:
    if get_origin(kind) is tuple:
        return f"list of {_type_name(get_args(kind)[0])}"
    return kind.__name__ if isinstance(kind, type) else str(kind)
