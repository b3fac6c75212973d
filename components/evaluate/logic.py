"""Evaluation: score the held-out rows with the model and its rivals, ask the gate, tell everybody."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fti.common.errors import FtiError
from fti.common.files import atomic_file, sha256_of
from fti.common.metrics import metrics_of
from fti.common.model_package import ModelPackage, Signature, as_json, load_package
from fti.common.scoring import target_of
from fti.common.settings import Settings
from fti.evaluate.compare import improvement, metric_to_compare
from fti.evaluate.curves import CONFUSION_CLASSES, confusion, predicted_codes, roc_points
from fti.evaluate.data import read_test, score_rows, scores_in_order
from fti.evaluate.gate import Check, Rival, check_floors, check_rival
from fti.evaluate.slices import Slice, slices_of

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """What evaluation found.

    Attributes:
        package: The model.
        test_digest: SHA-256 of the test table.
        metric: By which models are compared and slices judged.
        metrics: On the test rows.
        rivals: The baseline and the served model, as far as there are.
        checks: The gate's answers.
        slices: The metric by slice.
        target: [N]: codes of classes, or values.
        scores: Probabilities [N, k], or values [N].
    """

    package: ModelPackage
    test_digest: str
    metric: str
    metrics: dict[str, float]
    rivals: list[Rival]
    checks: list[Check]
    slices: list[Slice]
    target: "np.ndarray"
    scores: "np.ndarray"

    @property
    def blessed(self) -> bool:
        """Whether every check passed, and there was one."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def all_metrics(self) -> dict[str, float]:
        """The model's metrics, and its rivals' with the prefixes `baseline_` and `served_`."""
        prefixes = {"the baseline": "baseline", "the served model": "served"}
        rivals = {
            f"{prefixes[rival.role]}_{name}": value for rival in self.rivals for name, value in rival.metrics.items()
        }
        return {**self.metrics, **rivals}

    @property
    def reasons(self) -> list[str]:
        """Why the model is blessed, or what speaks against it."""
        if not self.checks:
            return ["nothing was asked of the model: no floor, no baseline, no served model"]
        return [check.reason for check in self.checks if check.passed == self.blessed]


def evaluate_model(
    model: str | Path,
    test: str | Path,
    *,
    baseline: str | Path = "",
    service: str = "",
    floor: Mapping[str, float] | None = None,
    metric: str = "auto",
    baseline_margin: float = 0.0,
    served_tolerance: float = 0.01,
    slices: Sequence[str] = (),
    settings: Settings | None = None,
) -> Evaluation:
    """Judges a model on rows that it has never seen.

    Args:
        model: Its package.
        test: The held-out table.
        baseline: The package of a model that must be beaten; empty means none.
        service: The InferenceService whose stable model must not be undercut; empty, or not there, means none.
        floor: Bounds by metric; for errors such as `log_loss`, `rmse` an upper bound.
        metric: See `metric_to_compare`.
        baseline_margin: The improvement over the baseline must be surely above it, in units of the metric.
        served_tolerance: The model may surely be worse than the served one by no more than this.
        slices: Columns of the test table.
        settings: Where services are; default from the environment.

    Raises:
        PackageError: The model or the baseline is not a whole package.
        ConfigError: A parameter or column that cannot be used.
        RejectedDataError: The test rows cannot judge anything.
    """
    package = load_package(model)
    signature = package.signature
    metric = metric_to_compare(signature.task, metric)
    frame = read_test(test, signature, slices)
    target, scores = target_of(signature, frame[signature.label]), score_rows(package, frame)
    metrics = metrics_of(signature.task, target, scores, signature.threshold)
    checks = check_floors(metrics, floor or {})
    rivals = []
    test_rows = _Test(signature, frame, metric, target, scores)
    if baseline:
        rivals.append(_rival("the baseline", load_package(baseline), test_rows))
        checks.append(check_rival(rivals[-1], metric, baseline_margin))
    served = _served(service, settings or Settings.from_env(), test_rows)
    if served:
        rivals.append(served)
        checks.append(check_rival(served, metric, -served_tolerance))
    found = slices_of(frame, slices, metric, target, scores)
    evaluation = Evaluation(package, sha256_of(test), metric, metrics, rivals, checks, found, target, scores)
    log.info("%s: %s", "blessed" if evaluation.blessed else "not blessed", "; ".join(evaluation.reasons))
    return evaluation


def write_blessing(evaluation: Evaluation, path: str | Path) -> None:
    """Writes the verdict as JSON, for `push`: whole or not at all."""
    blessing = {
        "model_digest": evaluation.package.digest,
        "test_digest": evaluation.test_digest,
        "blessed": evaluation.blessed,
        "reasons": evaluation.reasons,
        "metrics": {name: round(value, 6) for name, value in evaluation.metrics.items()},
    }
    with atomic_file(path) as scratch:
        scratch.write_bytes(as_json(blessing))


def kfp_roc(evaluation: Evaluation) -> tuple[list[float], list[float], list[float]] | None:
    """The ROC curve of a binary model for KFP's UI, else None."""
    if evaluation.package.signature.task != "binary":
        return None
    return roc_points(evaluation.target, evaluation.scores[:, 1])


def kfp_confusion(evaluation: Evaluation) -> tuple[list[str], list[list[int]]] | None:
    """Classes and counts of the confusion matrix for KFP's UI; None where there is none or it is too large."""
    signature = evaluation.package.signature
    if not 0 < len(signature.classes) <= CONFUSION_CLASSES:
        return None
    predicted = predicted_codes(evaluation.scores, signature.threshold)
    counts = confusion(evaluation.target, predicted, len(signature.classes))
    return [str(value) for value in signature.classes], counts.tolist()


@dataclass(frozen=True)
class _Test:
    """The test rows with our model's scores, to hold against another model's."""

    signature: Signature
    frame: "pl.DataFrame"
    metric: str
    target: "np.ndarray"
    scores: "np.ndarray"


def _rival(role: str, theirs: ModelPackage, test: _Test) -> Rival:
    try:
        scores = scores_in_order(theirs, test.frame, test.signature)
    except FtiError as error:
        return Rival(role, theirs.digest, {}, None, str(error))
    metrics = metrics_of(test.signature.task, test.target, scores, theirs.signature.threshold)
    return Rival(role, theirs.digest, metrics, improvement(test.metric, test.target, test.scores, scores))


def _served(service: str, settings: Settings, test: _Test) -> Rival | None:
    from fti.common.inference_service import stable_package_uri
    from fti.common.storage import local_copy

    uri = stable_package_uri(service, settings) if service else None
    if uri is None:
        return None
    role = "the served model"
    try:
        with local_copy(uri, settings) as folder:
            return _rival(role, load_package(folder), test)
    except FtiError as error:
        return Rival(role, "", {}, None, str(error))
