"""Whether a model on a cluster answers as it did when it was packed."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fti.common.errors import ServingError
from fti.common.inference_service.runtimes import FTI, RUNTIMES
from fti.common.model_package import ModelPackage
from fti.push import triton

log = logging.getLogger(__name__)

_TOLERANCE = 1e-4  # float32 on another processor; as infra_validate's default
_PATIENCE = 20.0  # seconds in which the cluster's own names and routes may lag behind
_PAUSE = 0.5

Scores = list[list[float]]


@dataclass(frozen=True)
class _Question:
    """A package's examples in the protocol of its server.

    Attributes:
        url: Where they are sent.
        content: The keyword arguments of the request.
        scores: Reads the scores of each row out of the answer; raises KeyError, TypeError or ValueError.
        wanted: Those that were recorded.
    """

    url: str
    content: dict[str, Any]
    scores: Callable[[dict[str, Any]], Scores]
    wanted: Scores


def try_examples(
    package: ModelPackage, service: str, address: str, runtime: str = FTI, patience: float = _PATIENCE
) -> None:
    """Sends a package's examples to its predictor, and compares the answers with those that it recorded.

    Args:
        package: The model package.
        service: The model's name in the protocols.
        address: Of the very revision, such as `http://late-canary-predictor.flights.svc.cluster.local`.
        runtime: What serves it: named features go to ours, tensors to Triton.
        patience: Seconds for which an address that does not answer is asked again.

    Raises:
        ServingError: It does not answer, refuses the examples, or answers otherwise.
    """
    question = (_of_tensors if RUNTIMES[runtime].tensors else _of_features)(package, service, address)
    answers = _asked(question, service, patience)
    if len(answers) != len(question.wanted):
        raise ServingError(
            f"{service} gives {len(answers)} answers to {len(question.wanted)} of its package's examples"
        )
    for row, (got, wanted) in enumerate(zip(answers, question.wanted, strict=True)):
        if len(got) != len(wanted) or not all(map(_close, got, wanted)):
            raise ServingError(
                f"{service} answers {got} to example {row} of its package, which recorded {wanted}",
                remedy="The predictor's image may differ from what the model was packed with",
            )
    log.info("%s: %d examples answered as recorded", service, len(answers))


def _of_features(package: ModelPackage, service: str, address: str) -> _Question:
    def scores(answer: dict[str, Any]) -> Scores:
        return [_scores(package, prediction) for prediction in answer["predictions"]]

    binary = package.signature.task == "binary"
    wanted = [_recorded(output)[1 if binary else 0 :] for output in package.examples["outputs"]]
    content = {"json": {"instances": package.examples["inputs"]}}
    return _Question(f"{address}/v1/models/{service}:predict", content, scores, wanted)


def _of_tensors(package: ModelPackage, service: str, address: str) -> _Question:
    def scores(answer: dict[str, Any]) -> Scores:
        return triton.scores(package.signature, answer)

    body, headers = triton.request(package.signature, package.examples["inputs"])
    wanted = [_recorded(output) for output in package.examples["outputs"]]
    return _Question(f"{address}/v2/models/{service}/infer", {"content": body, "headers": headers}, scores, wanted)


def _asked(question: _Question, service: str, patience: float) -> Scores:
    import httpx

    deadline = time.monotonic() + patience
    while True:
        try:
            response = httpx.post(question.url, **question.content, timeout=30)
            if response.is_success:
                return question.scores(response.json())
            problem = f"{response.status_code}: {response.text[:300]}"
            if response.is_client_error and response.status_code != 404:  # a gateway that has yet to know the name
                break
        except httpx.HTTPError as error:
            problem = str(error) or type(error).__name__
        except (ValueError, KeyError, TypeError):
            problem = "no predictions"
            break
        if time.monotonic() > deadline:
            break
        time.sleep(_PAUSE)
    raise ServingError(f"{service} does not answer its package's examples at {question.url}: {problem}")


def _scores(package: ModelPackage, prediction: dict[str, Any]) -> list[float]:
    signature = package.signature
    try:
        if signature.task == "regression":
            return [float(prediction["prediction"])]
        if signature.task == "binary":
            return [float(prediction["probability"])]
        return [float(prediction["probabilities"][str(label)]) for label in signature.classes]
    except (KeyError, TypeError, ValueError):
        raise ServingError(f"{signature.name} answers with no scores", allowed="the answers of our predictor") from None


def _close(got: float, wanted: float) -> bool:
    return math.isclose(got, wanted, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)


def _recorded(output: Any) -> list[float]:
    return [float(value) for value in output] if isinstance(output, list) else [float(output)]
