"""The models that `serving.py` serves, and how each kind of server is asked for a prediction."""

import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent / "contenders")]

from iris import NAMES, fitted  # noqa: E402

from fti.common.model_package import Signature, load_package, write_package  # noqa: E402
from fti.common.tables import Feature  # noqa: E402
from fti.train.export import to_onnx  # noqa: E402
from tests.serve.http_load import http_request  # noqa: E402


def write_iris(path: Path) -> tuple[str, ...]:
    model, data = fitted()
    return write(path, model, data[::50], NAMES)


def write_wide(path: Path) -> tuple[str, ...]:
    from sklearn.linear_model import LogisticRegression

    data = np.random.default_rng(0).normal(size=(1000, 40))
    model = LogisticRegression().fit(data, (data.sum(axis=1) > 0).astype(np.int64))
    names = tuple(f"feature_view__{n}" for n in range(40))
    return write(path, model, data[:3], names)


def write(path: Path, model: Any, rows: np.ndarray, names: tuple[str, ...]) -> tuple[str, ...]:
    """A package of a fitted classifier; returns the names of its inputs."""
    inputs = tuple(Feature(name, "float32") for name in names)
    task: Any = "binary" if len(model.classes_) == 2 else "multiclass"
    classes, threshold = tuple(model.classes_.tolist()), 0.5 if task == "binary" else None
    signature = Signature(name="bench", task=task, inputs=inputs, classes=classes, threshold=threshold, label="y")
    examples = {
        "inputs": [dict(zip(names, map(float, row), strict=True)) for row in rows],
        "outputs": model.predict_proba(rows).tolist(),
    }
    write_package(
        path,
        signature=signature,
        onnx=to_onnx(model, signature),
        native={},
        examples=examples,
        provenance={},
        card="# Bench\n",
    )
    return names


def v1(model: str, names: Sequence[str], path: str = "") -> Callable[[np.ndarray], bytes]:
    def ask(rows: np.ndarray) -> bytes:
        instances = [dict(zip(names, row, strict=True)) for row in rows.tolist()]
        return http_request(path or f"/v1/models/{model}:predict", json.dumps({"instances": instances}).encode())

    return ask


def lists(path: str) -> Callable[[np.ndarray], bytes]:
    return lambda rows: http_request(path, json.dumps({"instances": rows.tolist()}).encode())


def v2(model: str, names: Sequence[str]) -> Callable[[np.ndarray], bytes]:
    def ask(rows: np.ndarray) -> bytes:
        shape = {"shape": [len(rows)], "datatype": "FP32"}
        inputs = [{"name": name, **shape, "data": column.tolist()} for name, column in zip(names, rows.T, strict=True)]
        return http_request(f"/v2/models/{model}/infer", json.dumps({"inputs": inputs}).encode())

    return ask


def v2_binary(model: str, names: Sequence[str]) -> Callable[[np.ndarray], bytes]:
    def ask(rows: np.ndarray) -> bytes:
        shape = {"shape": [len(rows)], "datatype": "FP32", "parameters": {"binary_data_size": 4 * len(rows)}}
        message = {"inputs": [{"name": name, **shape} for name in names], "parameters": {"binary_data_output": True}}
        head = json.dumps(message).encode()
        body, path = head + rows.T.astype("<f4").tobytes(), f"/v2/models/{model}/infer"
        return http_request(path, body, "application/octet-stream", inference_header_content_length=str(len(head)))

    return ask


def answer_sizes(package: Path, batches: Sequence[int]) -> list[int]:
    """The bytes that the predictor answers over V1, for each size of batch."""
    from fti.serve.answers import V1Answers
    from fti.serve.model import PackagedModel
    from fti.serve.protocol import decode_v1

    model = PackagedModel("sizes", "-", load_package(package), None)

    async def size(rows: np.ndarray) -> int:
        request = decode_v1(v1("", NAMES)(rows).partition(b"\r\n\r\n")[2], model.schema)
        answer = await model.answer(request)
        return len(V1Answers(model.signature).encode(answer.scores, answer.labels))

    return [asyncio.run(size(sample(4, batch))) for batch in batches]


def sample(width: int, rows: int) -> np.ndarray:
    return np.random.default_rng(1).normal(3, 1, size=(rows, width)).astype(np.float32).round(2)
