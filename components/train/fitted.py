"""What every algorithm returns, and the proof that its graph answers as the native model does."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fti.common.errors import TrainingError
from fti.common.model_package import ONNX
from fti.common.scoring import open_backend, run_backend
from fti.train.data import Rows, TrainingData

if TYPE_CHECKING:
    import numpy as np

# Float32 sums of hundreds of trees or products differ in the last digits; a wrong branch or category differs by more.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Fitted:
    """A fitted model in both of its forms.

    Attributes:
        onnx: The serialised graph; empty where torch serves the native model.
        native: File names and contents of the native model.
        score: The native model's scores of a feed: probabilities [N, k] or values [N].
        hyperparameters: All of them, defaults included.
        notes: What fitting found out, such as the number of trees.
    """

    onnx: bytes
    native: Mapping[str, bytes]
    score: "Callable[[Mapping[str, np.ndarray]], np.ndarray]"
    hyperparameters: Mapping[str, object]
    notes: Mapping[str, object]


def graph_scores(fitted: Fitted, data: TrainingData, rows: Rows) -> "np.ndarray":
    """The scores of rows as they will be served, checked against the native model's.

    Returns:
        Probabilities [N, k] or values [N].

    Raises:
        TrainingError: They differ by more than `TOLERANCE` (of the labels' spread, for regression).
    """
    import numpy as np

    regression = data.signature.task == "regression"
    files = {ONNX: fitted.onnx} if fitted.onnx else fitted.native
    scores = run_backend(open_backend(files, data.signature.task, threads=1), rows.feed)
    if regression:
        scores = scores[:, 0]
    native = fitted.score(rows.feed)
    # Values may be far from zero in units of their spread; float32 keeps seven digits of them.
    scale = max(float(data.train.target.std()), 1e-3 * float(np.abs(native).max()), 1e-12) if regression else 1.0
    worst = float(np.abs(scores - native).max()) / scale
    if not worst <= TOLERANCE:
        raise TrainingError(
            f"what would be served differs from the native model by {worst:.2g} on the validation rows",
            allowed=f"at most {TOLERANCE:g}",
            remedy="Choose another estimator or preprocessing that ONNX reproduces",
        )
    return scores
