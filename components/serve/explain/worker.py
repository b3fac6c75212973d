"""The process in which explanations are computed: one line of JSON for each request, and one for each answer.

It stands apart from the predictor, so that no explanation takes the event loop's time, and it yields to predictions
where cores are scarce. `python -m fti.serve.explain.worker` reads its package from the first line.
"""

import contextlib
import os
import signal
import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fti.common.errors import FtiError, PackageError
from fti.common.model_package import ModelPackage, load_package
from fti.common.scoring import Scorer, graph_inputs
from fti.common.settings import Settings
from fti.common.storage import local_copy
from fti.serve.explain.exact import Exact, Native, load_native, open_exact
from fti.serve.explain.sampled import OverBudgetError, Sampler
from fti.serve.explain.space import Explanation, Space, served_from

if TYPE_CHECKING:
    import numpy as np

_ROWS_AT_ONCE = 16  # explained exactly, between two looks at the clock
_TOLERANCE = 1e-4  # between the native model and the served one: as `train` allows
_NICENESS = 5
_DIFFERS = "the native model scores these rows otherwise than the served one"


class PackageExplainer:
    """Explains the scores of one model package: exactly where its form allows, else by sampling.

    Args:
        package: A verified package.

    Attributes:
        signature: The model's.
        rows: Of the background.

    Raises:
        PackageError: The package has no background.
    """

    def __init__(self, package: ModelPackage) -> None:
        self.signature = package.signature
        self._scorer = Scorer(package, threads=1)
        background = graph_inputs(self.signature, _columns(self.signature.inputs, package.background()))
        self._note, self._seconds = "", 0.0
        native = self._native(package)
        plain: Space = "value" if self.signature.task == "regression" else "probability"
        self._sampler = Sampler(self._scorer, background, native.space if native else plain)
        self.rows = len(next(iter(background.values())))
        self._exact: Exact | None = None
        if native is not None:
            try:
                self._exact = open_exact(native, self.signature, background)
                self._seconds = _seconds(self._exact, background)
            except ImportError:
                self._note = "shap is not installed (extra `explain`)"

    def _native(self, package: ModelPackage) -> "Native | None":
        try:
            return load_native(package)
        except ImportError as error:  # a predictor's image holds no training libraries
            self._note = f"{error.name} is not installed (extra `explain`)"
            return None

    def explain(self, inputs: "Mapping[str, np.ndarray]", seconds: float) -> Explanation:
        """Explains rows.

        Args:
            inputs: The rows, as `graph_inputs` gives them.
            seconds: How long it may take.

        Raises:
            OverBudgetError: Not even the least is possible in that time.
        """
        deadline = time.perf_counter() + seconds
        if self._exact is not None:
            found = self._explained(self._exact, inputs, seconds)
            if self._agrees(found, inputs):
                return found
        return replace(self._sampler.explain(inputs, deadline), note=self._note or (_DIFFERS if self._exact else ""))

    def _explained(self, exact: Exact, inputs: "Mapping[str, np.ndarray]", seconds: float) -> Explanation:
        import numpy as np

        rows, start = len(next(iter(inputs.values()))), time.perf_counter()
        if rows * self._seconds > seconds:
            raise OverBudgetError(rows, self._seconds, seconds)
        parts = []
        for at in range(0, rows, _ROWS_AT_ONCE):
            if time.perf_counter() - start > seconds:
                raise OverBudgetError(rows, (time.perf_counter() - start) / at, seconds)
            parts.append(exact.explain({name: part[at : at + _ROWS_AT_ONCE] for name, part in inputs.items()}))
        first, scores = parts[0], np.concatenate([part.scores for part in parts])
        return Explanation(first.space, first.base, scores, np.concatenate([part.contributions for part in parts]))

    def _agrees(self, found: Explanation, inputs: "Mapping[str, np.ndarray]") -> bool:
        """Whether the native model scores as the served one: of two classes, the second is looked at."""
        import numpy as np

        served = self._scorer.score_inputs(inputs)
        served = served[:, -found.scores.shape[1] :]
        scale = float(np.abs(served - found.base).max()) if found.space == "value" else 1.0
        worst = float(np.abs(served_from(found.space, found.scores) - served).max())
        return worst <= _TOLERANCE * max(scale, 1e-12)


def main() -> None:
    """Answers requests until the standard input ends."""
    import orjson

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the predictor decides
    with contextlib.suppress(OSError):  # where memory is short, this process is to go, not the predictor
        Path("/proc/self/oom_score_adj").write_text("1000")
    source, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # whatever a library prints is no answer
    warnings.simplefilter("ignore")  # of scikit-learn's versions: whether a model scores alike is checked
    explainer = _opened(orjson.loads(source.readline()), answers)
    os.nice(_NICENESS)  # not before: whoever asks first waits for the start
    for line in source:
        request = orjson.loads(line)
        answers.write(orjson.dumps(_answer(explainer, request)) + b"\n")
        answers.flush()


def _opened(task: dict[str, str], answers: Any) -> PackageExplainer:
    """The explainer of a package, after the word that it is ready, or why it is not."""
    import orjson

    try:
        with local_copy(task["package"], Settings.from_env()) as folder:
            package, digest = load_package(folder), task["digest"]
            if package.digest != digest:
                raise PackageError(f"the package is model {package.digest[:12]} now", allowed=f"model {digest[:12]}")
            explainer = PackageExplainer(package)
    except FtiError as error:
        answers.write(orjson.dumps({"error": str(error)}) + b"\n")
        answers.flush()
        sys.exit(1)
    answers.write(b"{}\n")
    answers.flush()
    return explainer


def _answer(explainer: PackageExplainer, request: dict[str, Any]) -> dict[str, object]:
    signature = explainer.signature
    inputs = graph_inputs(signature, _columns(signature.inputs, request["columns"]))
    try:
        found = explainer.explain(inputs, request["seconds"])
    except OverBudgetError as error:
        return {"error": str(error)}
    return {
        "method": "exact" if found.error is None else "sampled",
        "note": found.note,
        "space": found.space,
        "background_rows": explainer.rows,
        "samples": found.samples,
        "base": found.base.tolist(),
        "scores": found.scores.tolist(),
        "contributions": found.contributions.tolist(),
        "errors": None if found.error is None else found.error.tolist(),
    }


def _seconds(exact: Exact, background: "Mapping[str, np.ndarray]") -> float:
    """What a row takes; the first one pays for what is made once."""
    one = {name: part[:1] for name, part in background.items()}
    exact.explain(one)
    start = time.perf_counter()
    exact.explain(one)
    return time.perf_counter() - start


def _columns(features: Any, columns: Mapping[str, list[Any]]) -> "dict[str, np.ndarray]":
    import numpy as np

    kinds = {feature.name: object if feature.dtype == "string" else np.float32 for feature in features}
    return {name: np.array(values, dtype=kinds[name]) for name, values in columns.items()}


if __name__ == "__main__":
    main()
