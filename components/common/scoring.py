"""Scoring: the one way from named columns through a model's ONNX graph to probabilities or values."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fti.common.errors import ConfigError, PackageError
from fti.common.model_package import ModelPackage, Signature

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

_ROWS_AT_ONCE = 65_536  # bounds the memory of one-hot encoded strings


class Scorer:
    """Scores rows with a model package on ONNX Runtime (CPU).

    Args:
        package: A verified package.
        threads: Threads within one call; 0 leaves it to ONNX Runtime. With 1, equal rows give equal bits.

    Raises:
        PackageError: The graph cannot be loaded, or does not take what the signature says.
    """

    def __init__(self, package: ModelPackage, threads: int = 0) -> None:
        self.signature = package.signature
        self._session = open_session(package.onnx.read_bytes(), threads)
        self._inputs = [node.name for node in self._session.get_inputs()]
        parts = {"numeric": self.signature.numeric, "categorical": self.signature.categorical}
        expected = {name: len(columns) for name, columns in parts.items() if columns}
        found = {node.name: node.shape[1] for node in self._session.get_inputs()}
        if found != expected:
            raise PackageError(
                f"the graph of {package.path} takes {found}", allowed=f"{expected}, as its signature says"
            )
        self._output = "value" if self.signature.task == "regression" else "probability"

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
        feed = graph_inputs(self.signature, columns)
        scores = run_graph(self._session, feed, self._output)
        return scores if self._output == "probability" else scores.reshape(-1)

    def predict(self, scores: "np.ndarray") -> "np.ndarray":
        """Turns scores into labels [N]: by the threshold (binary), the largest probability, or as they are."""
        import numpy as np

        if self.signature.task == "regression":
            return scores
        classes = np.array(self.signature.classes)
        if self.signature.threshold is not None:
            codes = (scores[:, 1] >= self.signature.threshold).astype(np.intp)
        else:
            codes = scores.argmax(axis=1)
        predicted: np.ndarray = classes[codes]
        return predicted


def open_session(graph: bytes, threads: int = 0) -> Any:
    """Opens an ONNX graph on the CPU.

    Raises:
        PackageError: ONNX Runtime refuses the graph.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors share no base
        raise PackageError(f"ONNX Runtime refuses the graph: {error}", remedy="Train the model again") from error


def graph_inputs(signature: Signature, columns: "Mapping[str, np.ndarray]") -> "dict[str, np.ndarray]":
    """Arranges named columns as the graph takes them: `numeric` float32 [N, n], `categorical` object [N, m].

    Raises:
        ConfigError: An input is absent, or a numeric one holds something that is no number.
    """
    import numpy as np

    absent = [feature.name for feature in signature.inputs if feature.name not in columns]
    if absent:
        raise ConfigError(
            f"the columns lack {', '.join(absent)}",
            allowed=f"all inputs of {signature.name}: {', '.join(feature.name for feature in signature.inputs)}",
        )
    feed = {}
    if signature.numeric:
        feed["numeric"] = np.column_stack([_numbers(name, columns[name]) for name in signature.numeric])
    if signature.categorical:
        feed["categorical"] = np.column_stack([_strings(columns[name]) for name in signature.categorical])
    return feed


def run_graph(session: Any, feed: "Mapping[str, np.ndarray]", output: str) -> "np.ndarray":
    """Runs a graph over all rows, some thousands at a time."""
    import numpy as np

    rows = len(next(iter(feed.values())))
    chunks = [
        session.run([output], {name: values[start : start + _ROWS_AT_ONCE] for name, values in feed.items()})[0]
        for start in range(0, max(rows, 1), _ROWS_AT_ONCE)
    ]
    return np.concatenate(chunks)


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


def _numbers(name: str, column: "np.ndarray") -> "np.ndarray":
    import numpy as np

    try:
        with np.errstate(over="ignore"):
            return np.asarray(column, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"column {name} holds something that is no number: {error}", allowed="numbers, NaN"
        ) from error


def _strings(column: "np.ndarray") -> "np.ndarray":
    import numpy as np

    return np.array(["" if value is None or _is_nan(value) else str(value) for value in column], dtype=object)


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
