"""KServe's V1 and V2 inference protocols, and the features behind a prediction: encoding of answers."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from fti.common.model_package import Signature
from fti.serve.protocol import Request

if TYPE_CHECKING:
    from fti.common.online.vectors import Vectors


_HOLE = b"\0"  # JSON has none
_FEW = 64  # rows of the answers that are kept prepared
_LABELS = {bool: "BOOL", int: "INT64", float: "FP64"}
_KINDS = {"FP32": "<f4", "FP64": "<f8", "INT64": "<i8", "BOOL": "?"}


def output_datatypes(signature: Signature) -> dict[str, str]:
    """The outputs of a model by name, with the V2 datatype of each.

    `prediction` [N] holds labels or values; for classification `probability` [N, k] follows the order of the classes.
    """
    prediction = {"prediction": label_datatype(signature)}
    return prediction if signature.task == "regression" else {**prediction, "probability": "FP32"}


def label_datatype(signature: Signature) -> str:
    """The V2 datatype of a model's prediction."""
    if signature.task == "regression":
        return "FP32"
    return _LABELS.get(type(signature.classes[0]), "BYTES")


class V1Answers:
    """Encodes a model's answers of the V1 protocol.

    All but the labels and the numbers is the same in every row, and written once, here; the numbers are written all
    at once, each as shortly as its float32 is. For 32 rows of 3 classes that takes a third of the time of a dictionary
    for each.

    Args:
        signature: The model's.
    """

    def __init__(self, signature: Signature) -> None:
        self._task = signature.task
        self._labels = {label: orjson.dumps(label) for label in np.array(signature.classes).tolist()}
        by_class = b",".join(orjson.dumps(str(label)) + b":" + _HOLE for label in signature.classes)
        more = {
            "regression": b"",
            "binary": b',"probability":' + _HOLE,
            "multiclass": b',"probabilities":{' + by_class + b"}",
        }
        first, *others = (b',{"prediction":' + _HOLE + more[self._task] + b"}").split(_HOLE)
        self._row = [first, *(piece for other in others for piece in (b"", other))]  # every second is a hole
        self._prepared: dict[int, list[bytes]] = {}

    def encode(self, scores: np.ndarray, labels: np.ndarray) -> bytes:
        """Encodes `{"predictions": [...]}`.

        Each prediction is an object: `prediction`; for binary `probability`, that of the second class; for multiclass
        `probabilities` by class.

        Args:
            scores: As `Scorer.score` gives them, N > 0 and all finite.
            labels: [N], of the classes; for regression the values.
        """
        rows, step = len(labels), len(self._row)
        parts = (self._prepared.get(rows) or self._prepare(rows)).copy()
        if self._task == "regression":
            parts[1::step] = _numbers(labels)
        else:
            parts[1::step] = map(self._labels.__getitem__, labels.tolist())
            if self._task == "binary":
                scores = scores[:, 1:].copy()
            numbers, width = _numbers(scores), scores.shape[1]
            for place in range(width):
                parts[3 + 2 * place :: step] = numbers[place::width]
        return b"".join(parts)

    def _prepare(self, rows: int) -> list[bytes]:
        """The pieces of an answer of so many rows."""
        parts = [*self._row * rows, b"]}"]
        parts[0] = b'{"predictions":[' + parts[0][1:]
        if rows <= _FEW:
            self._prepared[rows] = parts
        return parts


def _numbers(values: np.ndarray) -> list[bytes]:
    """Finite numbers as JSON."""
    return orjson.dumps(values.reshape(-1), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")


class V2Answers:
    """Encodes a model's answers of the V2 protocol, in JSON or with binary data.

    Args:
        signature: The model's.
        model: Its name in the protocols' paths.
        revision: Its revision.
    """

    def __init__(self, signature: Signature, model: str, revision: str) -> None:
        self._datatypes = output_datatypes(signature)
        self._asked = [dict.fromkeys(self._datatypes, binary) for binary in (False, True)]
        served = orjson.dumps({"model_name": model, "model_version": revision})[:-1].replace(b"%", b"%%")
        self._answer = served + b',"id":%b,"outputs":[%b]}'
        shapes = {"prediction": b"[%d]", "probability": b"[%%d,%d]" % len(signature.classes)}
        self._tensors = {
            name: orjson.dumps({"name": name, "datatype": datatype})[:-1] + b',"shape":' + shapes[name] + b",%b}"
            for name, datatype in self._datatypes.items()
        }

    def encode(self, request: Request, scores: np.ndarray, labels: np.ndarray) -> tuple[bytes, int | None]:
        """Encodes an inference response.

        Args:
            request: Says which outputs, and how.
            scores: As `Scorer.score` gives them, N > 0 and all finite.
            labels: [N], of the classes; for regression the values.

        Returns:
            The body, and where its binary data begin, or None where it has none.
        """
        rows, tensors, blobs = len(labels), list[bytes](), list[bytes]()
        for name, binary in (request.outputs or self._asked[request.binary]).items():
            values, datatype = labels if name == "prediction" else scores, self._datatypes[name]
            if binary:
                blobs.append(to_bytes(datatype, values))
                data = b'"parameters":{"binary_data_size":%d}' % len(blobs[-1])
            else:
                flat = values.tolist() if datatype == "BYTES" else values.reshape(-1)
                data = b'"data":' + orjson.dumps(flat, option=orjson.OPT_SERIALIZE_NUMPY)
            tensors.append(self._tensors[name] % (rows, data))
        body = self._answer % (orjson.dumps(request.id), b",".join(tensors))
        return (body + b"".join(blobs), len(body)) if blobs else (body, None)


def encode_features(
    signature: Signature, columns: Mapping[str, np.ndarray], rows: int, vectors: "Vectors | None"
) -> bytes:
    """Encodes `{"features": [...], "views": [...]}`: what the model is given, and how fresh each feature view was.

    Each row of features may be sent as an instance of a prediction.
    """
    names = [feature.name for feature in signature.inputs]
    values = [_plain(columns[feature.name], str(feature.dtype)) for feature in signature.inputs]
    views: list[dict[str, object]] = [{} for _ in range(rows)]
    if vectors is not None:
        for view, statuses in vectors.status.items():
            times = np.datetime_as_string(vectors.known_at[view], timezone="UTC").tolist()
            for row, status, time in zip(views, statuses.tolist(), times, strict=True):
                row[view] = {"status": status, "event_timestamp": None if time == "NaT" else time}
    features = [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]
    return orjson.dumps({"features": features, "views": views}, option=orjson.OPT_SERIALIZE_NUMPY)


def _plain(column: np.ndarray, dtype: str) -> list[Any]:
    """A model's input as JSON knows it: whole numbers without a point, null where missing."""
    if dtype == "string":
        values: list[Any] = column.tolist()
        return values
    # A float32 is written shortly only as what it is.
    convert = {"int64": int, "bool": bool}.get(dtype, np.float32)
    return [None if np.isnan(value) else convert(value) for value in column]


def to_bytes(datatype: str, values: np.ndarray) -> bytes:
    """The raw little-endian bytes of a V2 tensor."""
    if datatype != "BYTES":
        return values.astype(_KINDS[datatype], copy=False).tobytes()
    texts = [str(text).encode() for text in values.ravel()]
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)
