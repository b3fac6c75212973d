"""Scoring: the one way from named columns through a model to probabilities or values."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from fti.common.devices import Device
from fti.common.errors import ConfigError, PackageError
from fti.common.inputs import Inputs
from fti.common.model_package import ONNX, PROGRAM, WEIGHTS, ModelPackage, Signature, Task
from fti.common.onnx_backend import OnnxBackend
from fti.common.torch_backend import TorchBackend

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import polars as pl

_ROWS_AT_ONCE = 65_536  # bounds the memory of one-hot encoded strings


class Backend(Protocol):
    """What runs a model: ONNX Runtime or torch. Safe to use from many threads.

    Attributes:
        device: `cpu` or `cuda`.
        widths: The number of columns of each input, `numeric` and `categorical`.
    """

    device: str
    widths: dict[str, int]

    def run(self, feed: "Mapping[str, np.ndarray]") -> "np.ndarray":
        """Scores rows, `numeric` float32 [N, n] and `categorical` object [N, m], as float32 [N, k]."""


class Scorer:
    """Scores rows with a model package, on ONNX Runtime or, where the package says so, on torch.

    Args:
        package: A verified package.
        threads: Threads within one call; 0 leaves it to the runtime. With 1, equal rows give equal bits.
        device: See `fti.common.devices`.

    Raises:
        PackageError: The model cannot be loaded, or does not take what the signature says.
        ConfigError: `cuda` is asked for and absent.
    """

    def __init__(self, package: ModelPackage, threads: int = 0, device: Device = "cpu") -> None:
        import numpy as np

        self.signature = package.signature
        files = {name: (package.path / name).read_bytes() for name in package.served}
        self._backend = open_backend(files, self.signature.task, threads, device)
        parts = {"numeric": self.signature.numeric, "categorical": self.signature.categorical}
        expected = {name: len(columns) for name, columns in parts.items() if columns}
        if self._backend.widths != expected:
            raise PackageError(
                f"the graph of {package.path} takes {self._backend.widths}",
                allowed=f"{expected}, as its signature says",
            )
        self._classes, self._regression = np.array(self.signature.classes), self.signature.task == "regression"

    @property
    def device(self) -> str:
        """Where the model computes: `cpu` or `cuda`."""
        return self._backend.device

    def score(self, columns: "Mapping[str, np.ndarray]") -> "np.ndarray":
        """Scores rows.

        Args:
            columns: Every input by name, each of shape [N]. Missing: NaN or None.

        Returns:
            Classification: probabilities, float32 [N, k], in the order of the signature's classes.
            Regression: values, float32 [N].

        Raises:
            ConfigError: An input is absent, or a numeric one holds something that is no number.
        """
        scores = self.score_inputs(graph_inputs(self.signature, columns))
        return scores.reshape(-1) if self._regression else scores

    def score_inputs(self, inputs: "Mapping[str, np.ndarray]") -> "np.ndarray":
        """Scores rows as `graph_inputs` arranges them: float32 [N, k], for regression [N, 1]."""
        return run_backend(self._backend, inputs)

    def predict(self, scores: "np.ndarray") -> "np.ndarray":
        """Turns scores into labels [N]: by the threshold (binary), the largest probability, or as they are."""
        if self._regression:
            return scores
        if self.signature.threshold is not None:
            codes = (scores[:, 1] >= self.signature.threshold).astype(int)
        else:
            codes = scores.argmax(axis=1)
        predicted: np.ndarray = self._classes.take(codes)
        return predicted


def open_backend(files: Mapping[str, bytes], task: Task, threads: int = 0, device: Device = "cpu") -> Backend:
    """Opens what a package serves.

    Args:
        files: Names and contents: `model.onnx`, or `program.json` and `program.safetensors`.
        task: The model's.
        threads: See `Scorer`.
        device: See `fti.common.devices`.

    Raises:
        PackageError: The runtime refuses it.
        ConfigError: `cuda` is asked for and absent.
    """
    if ONNX in files:
        output = "value" if task == "regression" else "probability"
        return OnnxBackend(files[ONNX], output, threads=threads, device=device)
    return TorchBackend(files[PROGRAM], files[WEIGHTS], threads=threads, device=device)


def run_backend(backend: Backend, feed: "Mapping[str, np.ndarray]") -> "np.ndarray":
    """Scores all rows, some thousands at a time: float32 [N, k]."""
    rows = len(next(iter(feed.values())))
    if rows <= _ROWS_AT_ONCE:
        return backend.run(feed)
    import numpy as np

    starts = range(0, rows, _ROWS_AT_ONCE)
    parts = ({name: part[start : start + _ROWS_AT_ONCE] for name, part in feed.items()} for start in starts)
    return np.concatenate([backend.run(part) for part in parts])


def graph_inputs(signature: Signature, columns: "Mapping[str, np.ndarray]") -> "dict[str, np.ndarray]":
    """Arranges named columns as models take them: `numeric` float32 [N, n], `categorical` object [N, m].

    Raises:
        ConfigError: An input is absent, or a numeric one holds something that is no number.
    """
    if isinstance(columns, Inputs):
        return columns.feed
    feed = {}
    try:
        if signature.numeric:
            feed["numeric"] = _numbers(signature.numeric, columns)
        if signature.categorical:
            feed["categorical"] = _strings(signature.categorical, columns)
    except KeyError as error:
        absent = [feature.name for feature in signature.inputs if feature.name not in columns]
        raise ConfigError(
            f"the columns lack {', '.join(absent)}",
            allowed=f"all inputs of {signature.name}: {', '.join(feature.name for feature in signature.inputs)}",
        ) from error
    return feed


def as_frame(signature: Signature, inputs: "Mapping[str, np.ndarray]") -> "pd.DataFrame":
    """Rows as scikit-learn takes them: numeric columns first, then text, under their names."""
    import pandas as pd

    names = {"numeric": signature.numeric, "categorical": signature.categorical}
    return pd.concat(
        [pd.DataFrame(inputs[part], columns=list(names[part])) for part in names if part in inputs], axis=1
    )


def columns_of(frame: "pl.DataFrame", names: Sequence[str]) -> "dict[str, np.ndarray]":
    """Columns of a frame as arrays: numbers and booleans as float32 with NaN, anything else as str or None.

    Raises:
        ConfigError: A column is absent.
    """
    import polars as pl

    absent = [name for name in names if name not in frame.columns]
    if absent:
        raise ConfigError(f"the table lacks {', '.join(absent)}", allowed=f"columns such as {', '.join(frame.columns)}")
    arrays = {}
    for name in names:
        column = frame[name]
        number = column.dtype.is_numeric() or column.dtype == pl.Boolean
        arrays[name] = column.cast(pl.Float32 if number else pl.String).to_numpy()
    return arrays


def target_of(signature: Signature, labels: "pl.Series") -> "np.ndarray":
    """Labels as models learn them: int64 [N], the codes of the classes; or float64 [N], the values.

    Raises:
        ConfigError: A label is none of the classes.
    """
    import numpy as np
    import polars as pl

    if signature.task == "regression":
        return labels.cast(pl.Float64).to_numpy()
    codes = {value: code for code, value in enumerate(signature.classes)}
    unknown = [value for value in labels.unique().to_list() if value not in codes]
    if unknown:
        raise ConfigError(
            f"label {signature.label} holds {', '.join(map(repr, unknown[:5]))}",
            allowed=f"the classes of {signature.name}: {', '.join(map(repr, signature.classes[:20]))}",
        )
    return np.array([codes[value] for value in labels.to_list()], dtype=np.int64)


def _numbers(names: Sequence[str], columns: "Mapping[str, np.ndarray]") -> "np.ndarray":
    import numpy as np

    # One copy into one block: `column_stack` takes twice as long for a row.
    parts = [columns[name] for name in names]
    matrix = np.empty((len(parts), len(parts[0])), dtype=np.float32)
    try:
        with np.errstate(over="ignore"):
            np.concatenate(parts, out=matrix.reshape(-1), casting="unsafe")
    except (TypeError, ValueError):
        for name in names:
            _number(name, columns[name])
        raise
    return np.ascontiguousarray(matrix.T)


def _number(name: str, column: "np.ndarray") -> None:
    import numpy as np

    try:
        np.asarray(column).astype(np.float32)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"column {name} holds something that is no number: {error}", allowed="numbers, NaN"
        ) from error


def _strings(names: Sequence[str], columns: "Mapping[str, np.ndarray]") -> "np.ndarray":
    import numpy as np

    matrix = np.empty((len(columns[names[0]]), len(names)), dtype=object)
    for position, name in enumerate(names):
        matrix[:, position] = [value if type(value) is str else _text(value) for value in columns[name]]
    return matrix


def _text(value: object) -> str:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)
