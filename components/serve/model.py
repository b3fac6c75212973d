"""The model behind the protocols: a verified package on ONNX Runtime, with features looked up where needed."""

import asyncio
import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from kserve import Model

from fti.common.devices import Device
from fti.common.errors import PackageError
from fti.common.inputs import Inputs, Layout
from fti.common.model_package import ModelPackage
from fti.common.scoring import Scorer, graph_inputs
from fti.serve.admission import Admission, Limits
from fti.serve.answers import output_datatypes
from fti.serve.batching import MAX_BATCH_ROWS, Batcher, Cost, measured
from fti.serve.columns import DATATYPES, BadRequestError, Schema
from fti.serve.explain.explainer import Explainer
from fti.serve.features import Completed, FeatureLookup, RefusedRowError
from fti.serve.observe.metrics import Metrics, score_bounds
from fti.serve.observe.tracing import child
from fti.serve.protocol import Request

_PROBE_SECONDS = 1.0  # for so long a health check holds


@dataclass(slots=True)
class Answer:
    """What a model answers.

    Attributes:
        scores: As `Scorer.score` gives them.
        labels: [N].
        completed: The model's whole input, and what was looked up for it.
    """

    scores: np.ndarray
    labels: np.ndarray
    completed: Completed

    @property
    def states(self) -> str:
        """The feature views that were not fresh, as `Completed.states` writes them."""
        return self.completed.states


@dataclass(slots=True)
class Scored:
    """What the model gives for the rows of a batch.

    Attributes:
        scores: As `Scorer.score` gives them.
        labels: [N].
        finite: Whether all scores of the batch are.
    """

    scores: np.ndarray
    labels: np.ndarray
    finite: bool

    def part(self, start: int, stop: int) -> Self:
        """What it gives for some of the rows."""
        return type(self)(self.scores[start:stop], self.labels[start:stop], self.finite)


class Unloaded:
    """Stands where a scorer was."""

    def score(self, _columns: object) -> np.ndarray:
        """Refuses."""
        raise BadRequestError("the model is not loaded", 503)

    predict = score


class PackagedModel(Model):  # type: ignore[misc]  # kserve is untyped
    """A model package that KServe serves.

    Args:
        name: The name in the protocols' paths.
        revision: Comes back with every answer.
        package: A verified package.
        lookup: The feature store, or None where every request carries all features.
        limits: What it takes on.
        device: Where it is scored: see `fti.common.devices`.

    Attributes:
        admission: Takes requests on, for all protocols.
        outputs: The names of what it gives.
        explainer: Explains its predictions, if anything does.

    Raises:
        PackageError: The package does not reproduce its own examples.
    """

    def __init__(
        self,
        name: str,
        revision: str,
        package: ModelPackage,
        lookup: FeatureLookup | None,
        *,
        limits: Limits = Limits(),  # noqa: B008  # it is frozen
        device: Device = "cpu",
    ) -> None:
        super().__init__(name)
        self.explainer: Explainer | None = None
        self._device = device
        self.revision, self.signature = revision, package.signature
        self.schema = Schema.of(package.signature, lookup.keys if lookup else {}, limits.max_rows)
        self.admission, self._layout = Admission(limits), Layout(package.signature)
        self._lookup = lookup
        self.outputs = frozenset(output["name"] for output in self.get_output_types())
        self.load_package(package)
        self.metrics = Metrics(name, revision, package.signature, score_bounds(package))
        self.metrics.queue.set_function(lambda: self.admission.waiting)
        delay = limits.max_batch_delay_ms / 1000
        self._batcher: Batcher[Scored] = Batcher(self._scored, self._cost(), delay, self.metrics.batched)

    def load_package(self, package: ModelPackage) -> None:
        """Makes the model answer: with the package that it was made with, verified again.

        Raises:
            PackageError: The package does not reproduce its own examples.
        """
        scorer = Scorer(package, threads=1, device=self._device)  # processes, not threads, share the machine's cores
        self._example = _check_examples(package, scorer)
        self._probe: asyncio.Future[np.ndarray] | None = None
        self._probe_until = 0.0
        self.scorer: Scorer | Unloaded = scorer
        self.ready = True

    def unload(self) -> None:
        """Lets go of the model; requests are answered 503 from here on."""
        self.ready, self.scorer, self._probe = False, Unloaded(), None

    async def healthy(self) -> bool:
        """Whether the model answers: it scores an example, in a thread, once a second however many ask."""
        if not self.ready:
            return False
        loop = asyncio.get_running_loop()
        probe = self._probe
        if probe is None or probe.get_loop() is not loop or (probe.done() and loop.time() > self._probe_until):
            probe = self._probe = loop.run_in_executor(None, self.scorer.score, self._example)
            self._probe_until = loop.time() + _PROBE_SECONDS
        return len(await asyncio.shield(probe)) == 1

    async def answer(self, request: Request, deadline: float = math.inf) -> Answer:
        """Scores a request, together with those that came at the same time.

        Args:
            request: The request.
            deadline: By the event loop's clock; what is past it is not scored.

        Raises:
            OverloadedError: The queue is full.
            DeadlineError: The deadline has passed.
            BadRequestError: The model gives no finite answer to one of the rows, or a feature view refuses it.
            FeatureStoreError: The store does not answer.
        """
        if self._has_all(request) and self._batcher.quick(request.rows):
            completed = Completed(request.columns)
            with child("score", rows=request.rows):
                scored = self._batcher.score_now(self._arranged(completed), request.rows, deadline)
        else:
            with self.admission:
                async with self.admission.until(deadline):
                    completed = await self._completed(request)
                    with child("score", rows=request.rows):
                        scored = await self._batcher.score(self._arranged(completed), request.rows, deadline)
        if not scored.finite:
            _check_finite(scored.scores)
        return Answer(scored.scores, scored.labels, completed)

    async def complete(self, request: Request, deadline: float = math.inf) -> Completed:
        """Looks up what a request lacks: the exact input of the model.

        Args:
            request: The request.
            deadline: By the event loop's clock.

        Raises:
            OverloadedError: The queue is full.
            DeadlineError: The deadline has passed.
            BadRequestError: A feature view refuses one of the rows.
            FeatureStoreError: The store does not answer.
        """
        with self.admission:
            async with self.admission.until(deadline):
                return await self._completed(request)

    def _has_all(self, request: Request) -> bool:
        """Whether nothing has to be looked up for a request."""
        columns = request.columns
        return self._lookup is None or isinstance(columns, Inputs) or columns.keys() == self.schema.features.keys()

    async def _completed(self, request: Request) -> Completed:
        columns = request.columns
        if self._lookup is None or self._has_all(request):
            return Completed(columns)
        with child("lookup", rows=request.rows):
            completed = await self._lookup.complete(columns, request.rows)
        if completed.vectors is not None:
            self.metrics.looked_up(completed.vectors, self._lookup.clock(), asked=request.asked)
            if completed.vectors.refused:
                raise RefusedRowError(completed)
        return completed

    def get_input_types(self) -> list[dict[str, Any]]:
        """The inputs, as V2 metadata lists them."""
        return [
            {"name": feature.name, "datatype": DATATYPES[feature.dtype], "shape": [-1]}
            for feature in self.signature.inputs
        ]

    def get_output_types(self) -> list[dict[str, Any]]:
        """The outputs, as V2 metadata lists them."""
        shapes = {"prediction": [-1], "probability": [-1, len(self.signature.classes)]}
        datatypes = output_datatypes(self.signature)
        return [{"name": name, "datatype": datatype, "shape": shapes[name]} for name, datatype in datatypes.items()]

    def _cost(self) -> Cost:
        def inputs(rows: int) -> Inputs:
            return self._arranged(Completed({name: column.repeat(rows) for name, column in self._example.items()}))

        ready = {rows: inputs(rows) for rows in (1, MAX_BATCH_ROWS)}
        return measured(lambda rows: self._scored(ready[rows]))

    def _arranged(self, completed: Completed) -> Inputs:
        if isinstance(completed.columns, Inputs):
            return completed.columns
        feed = graph_inputs(self.signature, completed.columns)
        return Inputs(self._layout, feed.get("numeric"), feed.get("categorical"), holes=False)

    def _scored(self, inputs: Inputs) -> "Scored":
        scores = self.scorer.score(inputs)
        return Scored(scores, self.scorer.predict(scores), _finite(scores))


def _finite(scores: np.ndarray) -> bool:
    """Whether all scores are finite."""
    # The smallest and the largest, each found without a copy; where there is a NaN, both are that.
    smallest: float = scores.item(scores.argmin())
    largest: float = scores.item(scores.argmax())
    return -math.inf < smallest and largest < math.inf


def _check_finite(scores: np.ndarray) -> None:
    finite = np.isfinite(scores).reshape(len(scores), -1).all(axis=1)
    if not finite.all():
        raise BadRequestError(f"row {int((~finite).argmax())}: its values give no finite answer", status=422)


def _check_examples(package: ModelPackage, scorer: Scorer) -> dict[str, np.ndarray]:
    """Scores the package's examples, and returns the first as columns."""
    rows, expected = package.examples.get("inputs"), package.examples.get("outputs")
    if not rows or not expected:
        raise PackageError(f"{package.path} has no examples", remedy="Train the model again")
    columns = {
        feature.name: np.array(
            [row[feature.name] for row in rows], dtype=object if feature.dtype == "string" else np.float32
        )
        for feature in package.signature.inputs
    }
    scores, wanted = scorer.score(columns), np.array(expected, dtype=np.float32)
    if scores.shape != wanted.shape or not np.allclose(scores, wanted, rtol=1e-3, atol=1e-4):
        raise PackageError(
            f"{package.path} does not reproduce its own examples on this machine",
            remedy="Use the versions of ONNX Runtime in its provenance, or train the model again",
        )
    return {name: column[:1] for name, column in columns.items()}
