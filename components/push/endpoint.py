"""Whether a model on a cluster answers as it did when it was packed."""

import logging
import math
import time
from typing import Any

from fti.common.errors import ServingError
from fti.common.model_package import ModelPackage

log = logging.getLogger(__name__)

_TOLERANCE = 1e-4  # float32 on another processor; as infra_validate's default
_PATIENCE = 20.0  # seconds in which the cluster's own names and routes may lag behind
_PAUSE = 0.5


def try_examples(package: ModelPackage, service: str, address: str, patience: float = _PATIENCE) -> None:
    """Sends a package's examples to its predictor, and compares the answers with those that it recorded.

    Args:
        package: The model package.
        service: The model's name in the protocols.
        address: Of the very revision, such as `http://late-canary-predictor.flights.svc.cluster.local`.
        patience: Seconds for which an address that does not answer is asked again.

    Raises:
        ServingError: It does not answer, refuses the examples, or answers otherwise.
    """
    inputs, outputs = package.examples["inputs"], package.examples["outputs"]
    predictions = _asked(f"{address}/v1/models/{service}:predict", inputs, service, patience)
    if len(predictions) != len(outputs):
        raise ServingError(f"{service} gives {len(predictions)} answers to {len(outputs)} of its package's examples")
    for row, (prediction, recorded) in enumerate(zip(predictions, outputs, strict=True)):
        got, wanted = _scores(package, prediction), _recorded(package, recorded)
        if len(got) != len(wanted) or not all(map(_close, got, wanted)):
            raise ServingError(
                f"{service} answers {got} to example {row} of its package, which recorded {wanted}",
                remedy="The predictor's image may differ from what the model was packed with",
            )
    log.info("%s: %d examples answered as recorded", service, len(outputs))


def _asked(url: str, rows: list[dict[str, Any]], service: str, patience: float) -> list[dict[str, Any]]:
    import httpx

    deadline = time.monotonic() + patience
    while True:
        try:
            response = httpx.post(url, json={"instances": rows}, timeout=30)
            if response.is_success:
                predictions: list[dict[str, Any]] = response.json()["predictions"]
                return predictions
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
    raise ServingError(f"{service} does not answer its package's examples at {url}: {problem}")


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


def _recorded(package: ModelPackage, output: Any) -> list[float]:
    values = [float(value) for value in output] if isinstance(output, list) else [float(output)]
    return values[1:] if package.signature.task == "binary" else values
