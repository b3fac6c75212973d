"""A model package for NVIDIA's Triton: its graph in a model repository, and requests of tensors.

Triton runs `model.onnx` and nothing else of a package: see docs/manifests.md for what that leaves out.
Layout: Triton's "Model Repository"; `config.pbtxt`: its "Model Configuration"; requests: KServe's V2 protocol with
its extension for binary tensors, because JSON has no NaN, which is what a missing number is.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fti.common.errors import ConfigError
from fti.common.model_package import ONNX, ModelPackage, Signature
from fti.common.settings import Settings
from fti.common.storage import publish_dir

_LARGEST_BATCH = 1024  # rows that Triton puts together from requests that wait, and the most of one request


def check_servable(package: ModelPackage, feature_repo: str) -> None:
    """Refuses what Triton cannot serve of a package.

    Raises:
        ConfigError: It has no ONNX graph, or features shall be looked up.
    """
    if not package.onnx.is_file():
        raise ConfigError(
            f"{package.signature.name} is a torch program, and Triton serves its package's {ONNX}",
            remedy="Push it with the runtime fti or fti-gpu",
        )
    if feature_repo:
        raise ConfigError(
            "Triton looks no features up, and feature_repo is given",
            remedy="Push it with the runtime fti or fti-gpu, or without feature_repo: clients then send all features",
        )


def publish_repository(package: ModelPackage, service: str, uri: str, settings: Settings) -> None:
    """Publishes a package's graph as a model repository: `<service>/config.pbtxt` and `<service>/1/model.onnx`.

    Args:
        package: The model package.
        service: The model's name in the protocol.
        uri: Where; running it again changes nothing.
        settings: How the store is reached.

    Raises:
        StorageError: It cannot be written there.
    """
    with TemporaryDirectory() as scratch:
        version = Path(scratch) / service / "1"
        version.mkdir(parents=True)
        (version / ONNX).write_bytes(package.onnx.read_bytes())
        (version.parent / "config.pbtxt").write_text(config(package.signature, service), encoding="utf-8")
        publish_dir(scratch, uri, settings)


def config(signature: Signature, service: str) -> str:
    """Triton's configuration of a package's graph; dims are those of one row.

    Args:
        signature: The package's.
        service: The model's name in the protocol.
    """
    widths = {"numeric": ("TYPE_FP32", signature.numeric), "categorical": ("TYPE_STRING", signature.categorical)}
    inputs = ",\n".join(
        f'  {{ name: "{name}", data_type: {kind}, dims: [ {len(columns)} ] }}'
        for name, (kind, columns) in widths.items()
        if columns
    )
    output = f'  {{ name: "{output_of(signature)}", data_type: TYPE_FP32, dims: [ {len(signature.classes) or 1} ] }}'
    return (
        f'name: "{service}"\nbackend: "onnxruntime"\nmax_batch_size: {_LARGEST_BATCH}\n'
        f"input [\n{inputs}\n]\noutput [\n{output}\n]\ndynamic_batching {{ }}\n"
    )


def output_of(signature: Signature) -> str:
    """The name of a graph's output."""
    return "value" if signature.task == "regression" else "probability"


def request(signature: Signature, rows: list[dict[str, Any]]) -> tuple[bytes, dict[str, str]]:
    """Rows as a V2 request of the graph's tensors: its body and its headers.

    Args:
        signature: The package's.
        rows: Each with all features.
    """
    import numpy as np

    tensors: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    if signature.numeric:
        numbers = [[np.nan if row[name] is None else row[name] for name in signature.numeric] for row in rows]
        tensors.append({"name": "numeric", "datatype": "FP32", "shape": [len(rows), len(signature.numeric)]})
        blobs.append(np.asarray(numbers, dtype="<f4").tobytes())
    if signature.categorical:
        cells = [row[name] for row in rows for name in signature.categorical]
        texts = [b"" if cell is None else str(cell).encode() for cell in cells]
        tensors.append({"name": "categorical", "datatype": "BYTES", "shape": [len(rows), len(signature.categorical)]})
        blobs.append(b"".join(len(text).to_bytes(4, "little") + text for text in texts))
    for tensor, blob in zip(tensors, blobs, strict=True):
        tensor["parameters"] = {"binary_data_size": len(blob)}
    outputs = [{"name": output_of(signature), "parameters": {"binary_data": False}}]
    head = json.dumps({"inputs": tensors, "outputs": outputs}).encode()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return head + b"".join(blobs), headers


def scores(signature: Signature, answer: dict[str, Any]) -> list[list[float]]:
    """The scores of each row in a V2 answer.

    Raises:
        KeyError, TypeError, ValueError: It is not such an answer.
    """
    import numpy as np

    (output,) = (each for each in answer["outputs"] if each["name"] == output_of(signature))
    matrix = np.asarray(output["data"], dtype=np.float64).reshape(output["shape"])
    found: list[list[float]] = matrix.reshape(len(matrix), -1).tolist()
    return found
