"""Infra validation: the exact server on the exact package, held against training.

The step starts the predictor that `fti serve` and the cluster start, as a process of its own in the step's own pod.
"""

import logging
import math
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from fti.common.blessing import Blessing, read_blessing
from fti.common.files import atomic_file, sha256_of
from fti.common.masking import masked
from fti.common.model_package import ModelPackage, as_json, load_package
from fti.common.scoring import Scorer
from fti.common.settings import Settings
from fti.infra_validate.compare import FeatureSkew, PredictionSkew, feature_skews, prediction_skew, reference
from fti.infra_validate.history import Known, known
from fti.infra_validate.limits import Limits
from fti.infra_validate.replay import KEYS, VECTORS, Replay, replay_keys, replay_vectors
from fti.infra_validate.sample import Sample, draw
from fti.infra_validate.scratch import ScratchStore
from fti.infra_validate.server import Server, ServerFailedError, serving
from fti.infra_validate.verdict import (
    Check,
    check_answers,
    check_features,
    check_latency,
    check_memory,
    check_predictions,
    check_tables,
    milliseconds,
)
from fti.serve.local.process import tail

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)


@dataclass
class Trial:
    """What infra validation found.

    Attributes:
        package: The model.
        evaluated: The verdict of evaluate.
        limits: What was asked of the server.
        test_digest: SHA-256 of the test table.
        checks: The answers; none where evaluate has refused the model, for then nothing is tried.
        sample: The rows that were replayed.
        server: The server, ended by now.
        log: The last lines of its log.
        replays: What it answered, by form of the requests.
        expected: [N, k]: what the model itself gives, as `Replay.scores`.
        predictions: Their comparison, by replay.
        features: The comparison of each looked-up feature.
    """

    package: ModelPackage
    evaluated: Blessing
    limits: Limits
    test_digest: str
    checks: list[Check] = field(default_factory=list)
    sample: Sample | None = None
    server: Server | None = None
    log: str = ""
    replays: list[Replay] = field(default_factory=list)
    expected: "np.ndarray | None" = None
    predictions: list[PredictionSkew] = field(default_factory=list)
    features: list[FeatureSkew] = field(default_factory=list)

    @property
    def blessed(self) -> bool:
        """Whether evaluate has blessed the model, and every check of the server passed."""
        return self.evaluated.blessed and bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def reasons(self) -> list[str]:
        """Why the model may be pushed, or what speaks against it."""
        if not self.evaluated.blessed:
            return list(self.evaluated.reasons)
        own = [check.reason for check in self.checks if check.passed == self.blessed]
        return [*self.evaluated.reasons, *own] if self.blessed else own

    @property
    def metrics(self) -> dict[str, float]:
        """The figures, as far as the trial came."""
        found: dict[str, float] = {}
        for replay, skew in zip(self.replays, self.predictions, strict=False):
            name = "keys" if replay.form == KEYS else "vectors"
            found |= {
                f"{name}_rows_compared": len(skew.compared),
                f"{name}_predictions_differing": len(skew.differ),
                f"{name}_prediction_largest_difference": skew.largest,
                f"{name}_latency_p50_ms": round(milliseconds(replay.seconds, 0.5), 3),
                f"{name}_latency_p99_ms": round(milliseconds(replay.seconds, 0.99), 3),
            }
        if self.features:
            found["features_compared"] = len(self.features)
            found["features_differing"] = sum(bool(skew.differ) for skew in self.features)
            found["keys_rows_left_out"] = len(self.replays[-1].left_out)
        if self.server:
            found["memory_peak_mb"] = round(self.server.peak_mb, 1)
            found["ready_after_seconds"] = round(self.server.ready_after or float("nan"), 2)
        return {name: value for name, value in found.items() if math.isfinite(value)}


def infra_validate(
    model: str | Path,
    test: str | Path,
    blessing: str | Path,
    *,
    feature_repo: str,
    settings: Settings,
    limits: Limits | None = None,
) -> Trial:
    """Starts the server on a model package and replays test rows.

    Args:
        model: The folder of the model package.
        test: The held-out table that retrieve made.
        blessing: The verdict of evaluate on this package; where it is a refusal nothing is tried.
        feature_repo: The Feast repository; empty: rows are replayed with full feature vectors only.
        settings: Where the registry and the offline store are.
        limits: What is asked of the server.

    Raises:
        PackageError: The package is incomplete or tampered with.
        UnblessedModelError: The blessing is unreadable, or was given to another model.
        ConfigError: The test table does not suit the model, or the feature repository cannot be used.
        RejectedDataError: The test table has no row.
        FeatureStoreError: The registry or a feature table cannot be read.
    """
    package = load_package(model)
    limits = limits or Limits()
    trial = Trial(package, read_blessing(blessing, package.digest), limits, sha256_of(test))
    if not trial.evaluated.blessed:
        log.info("not tried: evaluate has not blessed the model")
        return trial
    keyed = bool(feature_repo and any(feature.source != "request" for feature in package.signature.inputs))
    trial.sample = draw(test, package.signature, keyed=keyed, size=limits.sample, seed=limits.seed)
    with TemporaryDirectory(prefix="fti-infra-validate-") as folder:
        service = package.signature.feature_service
        scratch = ScratchStore(feature_repo, service, Path(folder), settings) if keyed else None
        with closing(scratch) if scratch else nullcontext():
            _try(trial, trial.sample, scratch, Path(folder), settings)
    log.info("%s: %s", "blessed" if trial.blessed else "not blessed", "; ".join(trial.reasons))
    return trial


def write_infra_blessing(trial: Trial, path: str | Path) -> None:
    """Writes the verdict as JSON, for `push`: whole or not at all."""
    verdict = {
        "model_digest": trial.package.digest,
        "test_digest": trial.test_digest,
        "blessed": trial.blessed,
        "reasons": trial.reasons,
        "metrics": trial.metrics,
        "limits": asdict(trial.limits),
    }
    with atomic_file(path) as scratch:
        scratch.write_bytes(as_json(verdict))


def _try(trial: Trial, sample: Sample, scratch: ScratchStore | None, folder: Path, settings: Settings) -> None:
    limits, log_file, histories = trial.limits, folder / "predictor.log", []
    trial.replays = [Replay.empty(form, sample) for form in ([VECTORS, KEYS] if scratch else [VECTORS])]
    with serving(trial.package, scratch, settings, log_file, limits.memory_limit_mb) as server:
        trial.server = server
        try:
            if scratch:  # the tables are read while the server starts
                histories = [known(scratch.store, lookup, sample.frame, sample.time) for lookup in scratch.lookups]
            server.wait_ready(limits.ready_within_s)
            replay_vectors(server, sample, trial.replays[0])
            if scratch:
                replay_keys(server, sample, scratch, histories, trial.replays[1])
        except ServerFailedError as error:
            trial.checks.append(Check(False, str(error)))
        trial.log = masked(tail(log_file, 20))
    if server.ready_after is not None:
        _judge(trial, server, sample, histories)


def _judge(trial: Trial, server: Server, sample: Sample, histories: Sequence[Known]) -> None:
    scorer = Scorer(trial.package, threads=1)
    limits, expected = trial.limits, reference(scorer, sample)
    trial.expected = expected
    trial.predictions = [
        prediction_skew(replay, expected, scorer, limits.prediction_tolerance) for replay in trial.replays
    ]
    if histories:
        trial.features = feature_skews(trial.replays[-1], sample, histories, limits.feature_tolerance)
        trial.checks += check_tables(histories) + check_features(trial.features, sample, limits)
    for replay, skew in zip(trial.replays, trial.predictions, strict=True):
        if not replay.seconds:  # the server has failed before
            continue
        trial.checks += check_answers(replay, sample) + check_predictions(skew, sample, limits)
        trial.checks += check_latency(replay, limits)
    if server.peak_mb <= limits.memory_limit_mb:  # else the replay has ended with these very words
        trial.checks.append(check_memory(server, limits))
