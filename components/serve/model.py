"""The model behind the protocols: a verified package on ONNX Runtime, with features looked up where needed."""

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kserve import Model

from fti.common.errors import PackageError
from fti.common.model_package import ModelPackage
from fti.common.scoring import Scorer
from fti.serve.answers import label_datatype
from fti.serve.columns import DATATYPES, BadRequestError, Schema
from fti.serve.features import Completed, FeatureLookup, RefusedRowError
from fti.serve.metrics import count_values
from fti.serve.protocol import Request

if TYPE_CHECKING:
    import numpy as np

_ROWS_IN_LOOP = 256  # more rows are scored in a thread, so that health checks are answered meanwhile


@dataclass(frozen=True)
class Answer:
    """What a model answers.

    Attributes:
        scores: As `Scorer.score` gives them.
        labels: [N].
        states: The feature views that were not fresh, as `Completed.states` writes them.
    """

    scores: "np.ndarray"
    labels: "np.ndarray"
    states: str = ""


class PackagedModel(Model):  # type: ignore[misc]  # kserve is untyped
    """A model package that KServe serves.

    Args:
        name: The name in the protocols' paths.
        revision: Comes back with every answer.
        package: A verified package.
        lookup: The feature store, or None where every request carries all features.

    Raises:
        PackageError: The package does not reproduce its own examples.
    """

    def __init__(self, name: str, revision: str, package: ModelPackage, lookup: FeatureLookup | None) -> None:
        super().__init__(name)
        self.revision, self.signature = revision, package.signature
        self.schema = Schema.of(package.signature, lookup.keys if lookup else {})
        self.scorer = Scorer(package, threads=1)  # processes, not threads, share the machine's cores
        self._lookup = lookup
        self._example = _check_examples(package, self.scorer)
        self.ready = True

    async def healthy(self) -> bool:
        """Whether the model answers: it scores an example."""
        return bool(self.ready) and len(self.scorer.score(self._example)) == 1

    async def answer(self, request: Request) -> Answer:
        """Scores a request.

        Raises:
            BadRequestError: The model gives no finite answer to one of the rows, or a feature view refuses it.
            FeatureStoreError: The store does not answer.
        """
        completed = await self.complete(request)
        if request.rows > _ROWS_IN_LOOP:
            scored = await asyncio.get_running_loop().run_in_executor(None, self._scored, completed.columns)
        else:
            scored = self._scored(completed.columns)
        return Answer(*scored, completed.states)

    async def complete(self, request: Request) -> Completed:
        """Looks up what a request lacks: the exact input of the model.

        Raises:
            BadRequestError: A feature view refuses one of the rows.
            FeatureStoreError: The store does not answer.
        """
        columns = request.columns
        if self._lookup is None or columns.keys() == self.schema.features.keys():
            return Completed(columns)
        loop = asyncio.get_running_loop()
        completed = await loop.run_in_executor(self._lookup.executor, self._lookup.complete, columns)
        if completed.vectors is not None:
            count_values(self.name, completed.vectors)
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
        outputs = [{"name": "prediction", "datatype": label_datatype(self.signature), "shape": [-1]}]
        if self.signature.task != "regression":
            outputs.append({"name": "probability", "datatype": "FP32", "shape": [-1, len(self.signature.classes)]})
        return outputs

    @property
    def outputs(self) -> frozenset[str]:
        """The names of the outputs."""
        return frozenset(output["name"] for output in self.get_output_types())

    def _scored(self, columns: "dict[str, np.ndarray]") -> "tuple[np.ndarray, np.ndarray]":
        import numpy as np

        scores = self.scorer.score(columns)
        finite = np.isfinite(scores)
        if not finite.all():
            row = int((~finite.reshape(len(scores), -1).all(axis=1)).argmax())
            raise BadRequestError(f"row {row}: its values give no finite answer", status=422)
        return scores, self.scorer.predict(scores)


def _check_examples(package: ModelPackage, scorer: Scorer) -> "dict[str, np.ndarray]":
    """Scores the package's examples, and returns the first as columns."""
    import numpy as np

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
