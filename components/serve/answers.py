"""KServe's V1 and V2 inference protocols, and the features behind a prediction: encoding of answers."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fti.common.model_package import Signature
from fti.serve.protocol import Request

if TYPE_CHECKING:
    import numpy as np

    from fti.common.online.reader import Vectors


def answers(signature: Signature, scores: "np.ndarray", labels: "np.ndarray") -> "dict[str, tuple[str, np.ndarray]]":
    """The outputs of a model by name: V2 datatype and values.

    `prediction` [N] holds labels or values; for classification `probability` [N, k] follows the order of the classes.
    """
    prediction = (label_datatype(signature), labels)
    if signature.task == "regression":
        return {"prediction": prediction}
    return {"prediction": prediction, "probability": ("FP32", scores)}


def label_datatype(signature: Signature) -> str:
    """The V2 datatype of a model's prediction."""
    if signature.task == "regression":
        return "FP32"
    return {bool: "BOOL", int: "INT64", float: "FP64"}.get(type(signature.classes[0]), "BYTES")


def encode_v1(signature: Signature, scores: "np.ndarray", labels: "np.ndarray") -> bytes:
    """Encodes `{"predictions": [...]}`.

    Each prediction is an object: `prediction`; for binary `probability`, that of the second class; for multiclass
    `probabilities` by class.
    """
    import orjson

    rows: list[dict[str, object]]
    if signature.task == "regression":
        rows = [{"prediction": value} for value in _short(labels)]
    elif signature.task == "binary":
        found = zip(labels.tolist(), _short(scores[:, 1]), strict=True)
        rows = [{"prediction": label, "probability": score} for label, score in found]
    else:
        names, each = [str(label) for label in signature.classes], zip(labels.tolist(), _short(scores), strict=True)
        rows = [{"prediction": label, "probabilities": dict(zip(names, row, strict=True))} for label, row in each]
    return orjson.dumps({"predictions": rows})


def _short(values: "np.ndarray") -> list[Any]:
    """The numbers that a float32 is written as, which has fewer digits than its float64."""
    import numpy as np
    import orjson

    # Through text and back is faster than to take the numbers out of NumPy one by one.
    short: list[Any] = orjson.loads(orjson.dumps(np.ascontiguousarray(values), option=orjson.OPT_SERIALIZE_NUMPY))
    return short


def encode_v2(
    model: str, revision: str, request: Request, outputs: "Mapping[str, tuple[str, np.ndarray]]"
) -> tuple[bytes, int | None]:
    """Encodes an inference response.

    Returns:
        The body, and where its binary data begin, or None where it has none.
    """
    import numpy as np
    import orjson

    described, blobs = [], []
    for name, binary in (request.outputs or dict.fromkeys(outputs, request.binary)).items():
        datatype, values = outputs[name]
        tensor: dict[str, object] = {"name": name, "datatype": datatype, "shape": values.shape}
        if binary:
            blobs.append(to_bytes(datatype, values))
            tensor["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            flat = values.ravel()
            tensor["data"] = flat.tolist() if datatype == "BYTES" else np.ascontiguousarray(flat)
        described.append(tensor)
    message = {"model_name": model, "model_version": revision, "id": request.id, "outputs": described}
    body = orjson.dumps(message, option=orjson.OPT_SERIALIZE_NUMPY)
    return (body + b"".join(blobs), len(body)) if blobs else (body, None)


def encode_features(
    signature: Signature, columns: "Mapping[str, np.ndarray]", rows: int, vectors: "Vectors | None"
) -> bytes:
    """Encodes `{"features": [...], "views": [...]}`: what the model is given, and how fresh each feature view was.

    Each row of features may be sent as an instance of a prediction.
    """
    import numpy as np
    import orjson

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


def _plain(column: "np.ndarray", dtype: str) -> list[Any]:
    """A model's input as JSON knows it: whole numbers without a point, null where missing."""
    import numpy as np

    if dtype == "string":
        values: list[Any] = column.tolist()
        return values
    # A float32 is written shortly only as what it is.
    convert = {"int64": int, "bool": bool}.get(dtype, np.float32)
    return [None if np.isnan(value) else convert(value) for value in column]


def to_bytes(datatype: str, values: "np.ndarray") -> bytes:
    """The raw little-endian bytes of a V2 tensor."""
    if datatype != "BYTES":
        kind = {"FP32": "<f4", "FP64": "<f8", "INT64": "<i8", "BOOL": "?"}[datatype]
        return bytes(values.astype(kind).tobytes())
    texts = [str(text).encode() for text in values.ravel()]
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)
