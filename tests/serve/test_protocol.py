"""Decoding: what is right is read exactly, what is wrong is refused by name, nothing else happens."""

import json
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fti.common.model_package import Signature
from fti.common.tables import Feature
from fti.serve.answers import V1Answers, V2Answers, to_bytes
from fti.serve.columns import BadRequestError, Schema
from fti.serve.protocol import Request, decode_v1, decode_v2
from tests.serve.tiny import INPUTS, ROW

FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)
SIGNATURE = Signature("late", "binary", INPUTS, (False, True), 0.5, "late", ("origin", "tail"), "late_v1")
SCHEMA = Schema.of(SIGNATURE, {})
KEYED = Schema.of(SIGNATURE, {"origin": "text key", "tail": "whole key"})
OUTPUTS = frozenset({"prediction", "probability"})
BINARY_HEADER = {"distance": "FP32", "month": "INT64", "weekend": "BOOL", "carrier": "BYTES"}
DATATYPES = {**BINARY_HEADER, "origin_delays__mean_delay": "FP64"}

whole = {
    "distance": FLOATS,
    "month": st.integers(-(2**24), 2**24),
    "weekend": st.booleans(),
    "carrier": st.text(),
    "origin_delays__mean_delay": FLOATS,
}
rows = st.fixed_dictionaries({name: st.none() | values for name, values in whole.items()})
tables = st.lists(rows, min_size=1, max_size=5)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def v1(instances: Any) -> bytes:
    return json.dumps({"instances": instances}).encode()


def v2(table: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    inputs = [
        {"name": name, "datatype": datatype, "shape": [len(table)], "data": [row[name] for row in table]}
        for name, datatype in DATATYPES.items()
    ]
    return {"id": "7", "inputs": inputs, **changes}


def binary(table: list[dict[str, Any]]) -> tuple[bytes, int]:
    message, blob = v2(table), b""
    for tensor in message["inputs"]:
        values = np.array(tensor.pop("data"), dtype=object if tensor["datatype"] == "BYTES" else None)
        raw = to_bytes(tensor["datatype"], values)
        tensor["parameters"] = {"binary_data_size": len(raw)}
        blob += raw
    header = json.dumps(message).encode()
    return header + blob, len(header)


def assert_columns(request: Request, table: list[dict[str, Any]]) -> None:
    assert request.rows == len(table)
    for name, column in request.columns.items():
        values = [row[name] for row in table]
        if name == "carrier":
            assert column.tolist() == values
        else:
            assert column.dtype == np.float32
            np.testing.assert_array_equal(column, np.array(values, dtype=np.float64).astype(np.float32))


@given(tables)
def test_v1_is_read_exactly(table: list[dict[str, Any]]) -> None:
    assert_columns(decode_v1(v1(table), SCHEMA), table)


@given(tables)
def test_v2_is_read_exactly(table: list[dict[str, Any]]) -> None:
    request = decode_v2(json.dumps(v2(table)).encode(), SCHEMA, OUTPUTS)
    assert request.id == "7"
    assert_columns(request, table)


@given(tables)
def test_v2_of_shape_n_1_is_the_same(table: list[dict[str, Any]]) -> None:
    message = v2(table)
    for place, tensor in enumerate(message["inputs"]):
        tensor["shape"] = [len(table), 1]
        if place % 2:
            tensor["data"] = [[value] for value in tensor["data"]]
    assert_columns(decode_v2(json.dumps(message).encode(), SCHEMA, OUTPUTS), table)


@given(st.lists(st.fixed_dictionaries(whole), min_size=1, max_size=5))
def test_v2_binary_is_read_exactly(table: list[dict[str, Any]]) -> None:
    body, json_length = binary(table)
    assert_columns(decode_v2(body, SCHEMA, OUTPUTS, json_length), table)


@given(st.binary(max_size=200) | anything.map(lambda value: json.dumps(value).encode()) | anything.map(v1))
def test_whatever_comes_is_read_or_refused(body: bytes) -> None:
    for decode in (lambda: decode_v1(body, SCHEMA), lambda: decode_v2(body, SCHEMA, OUTPUTS)):
        with pytest.raises(BadRequestError) as refusal:
            decode()
        assert 400 <= refusal.value.status < 500


def test_what_clients_of_triton_and_kserve_add_changes_nothing() -> None:
    parameters = {"sequence_id": 3, "sequence_start": True, "sequence_end": False, "priority": 1, "timeout": 10**6}
    body = json.dumps(v2([ROW], parameters={**parameters, "binary_data_output": True}, model_name="late")).encode()
    request = decode_v2(body, SCHEMA, OUTPUTS, model="late")
    assert request.binary and request.rows == 1 and request.outputs == {}


@given(st.sampled_from(["shape", "datatype", "data", "name", "parameters"]), anything, st.integers(0, 4))
def test_whatever_a_tensor_holds_is_read_or_refused(field: str, value: Any, place: int) -> None:
    message = v2([ROW])
    message["inputs"][place][field] = value
    try:
        request = decode_v2(json.dumps(message).encode(), SCHEMA, OUTPUTS)
    except BadRequestError as error:
        assert str(error)
    else:
        assert request.rows == 1


@given(st.data())
def test_binary_data_cut_or_changed_anywhere_are_read_or_refused(data: st.DataObject) -> None:
    body, json_length = binary([ROW])
    at = data.draw(st.integers(0, len(body) - 1))
    changed = data.draw(st.sampled_from([body[:at], body[:at] + b"\xff" + body[at + 1 :], body + b"\x00"]))
    try:
        decode_v2(changed, SCHEMA, OUTPUTS, data.draw(st.sampled_from([json_length, at])))
    except BadRequestError as error:
        assert str(error)


BAD_V1: list[tuple[Any, str]] = [
    (b"", "not JSON"),
    (b"{", "not JSON"),
    (b'{"instances": [{"distance": NaN}]}', "not JSON"),
    (b"[]", "JSON list"),
    (b"{}", "instances: missing"),
    ({"instances": []}, "instances: missing or empty"),
    ({"instances": {}}, "instances: missing"),
    ({"instances": [ROW], "signature_name": "x"}, "signature_name"),
    ({"instances": [[1, 2]]}, r"instances\[0\]: a list"),
    ({"instances": [ROW, 3]}, r"instances\[1\]: a number"),
    ({"instances": [{}]}, "missing 'carrier', 'distance'"),
    ({"instances": [{**ROW, "speed": 1}]}, "unknown 'speed'"),
    ({"instances": [ROW, {k: v for k, v in ROW.items() if k != "month"}]}, r"instances\[1\]: missing 'month'"),
    ({"instances": [{**ROW, "distance": "far"}]}, "distance: row 0 is 'far'"),
    ({"instances": [ROW, {**ROW, "distance": [1.0]}]}, "distance: row 1 is a list"),
    ({"instances": [{**ROW, "distance": True}]}, "distance: row 0 is True"),
    ({"instances": [{**ROW, "distance": 1e300}]}, "distance: row 0 is 1e\\+300.*finite"),
    ({"instances": [{**ROW, "month": 7.5}]}, "month: row 0 is 7.5"),
    ({"instances": [{**ROW, "month": 2**63}]}, "month: row 0 is 9223372036854775808"),
    ({"instances": [{**ROW, "month": True}]}, "month: row 0 is True"),
    ({"instances": [{**ROW, "weekend": 1}]}, "weekend: row 0 is 1"),
    ({"instances": [{**ROW, "carrier": 7}]}, "carrier: row 0 is 7"),
    (b'{"instances": [{"carrier": "\\ud800"}]}', "not JSON"),
]


@pytest.mark.parametrize(("body", "message"), BAD_V1)
def test_bad_v1_is_refused_by_name(body: Any, message: str) -> None:
    with pytest.raises(BadRequestError, match=message):
        decode_v1(body if isinstance(body, bytes) else json.dumps(body).encode(), SCHEMA)


def changed(place: int, **changes: Any) -> dict[str, Any]:
    message = v2([ROW, ROW])
    message["inputs"][place].update(changes)
    return message


def without(field: str) -> dict[str, Any]:
    message = v2([ROW])
    del message["inputs"][0][field]
    return message


BAD_V2: list[tuple[Any, str]] = [
    ({}, "inputs: missing"),
    ({"inputs": []}, "inputs: missing or empty"),
    (v2([ROW], instances=[]), "unknown field 'instances'"),
    (v2([ROW], id=7), "id: a number"),
    (v2([ROW], parameters={"classification": 1}), "unknown field 'classification'"),
    (v2([ROW], parameters={"priority": [1]}), "priority: a list"),
    (v2([ROW], model_name="early"), "model_name: allowed is"),
    (v2([ROW], parameters=[]), "parameters: a list"),
    (v2([ROW], parameters={"binary_data_output": "yes"}), "binary_data_output: a text"),
    (v2([ROW], outputs=[{"name": "score"}]), "'score'. Allowed: each once of prediction, probability"),
    (v2([ROW], outputs=[{"name": "prediction"}] * 2), "each once"),
    (v2([ROW], outputs={}), "outputs: a object"),
    ({"inputs": v2([ROW])["inputs"] + v2([ROW])["inputs"][:1]}, "'distance' comes twice"),
    ({"inputs": v2([ROW])["inputs"][1:]}, "missing 'distance'"),
    (without("name"), "no name"),
    (without("datatype"), "no datatype"),
    (without("shape"), "shape is missing"),
    (without("data"), "either data, or binary_data_size"),
    (changed(0, name="speed"), "unknown 'speed'"),
    (changed(0, shape=[3]), "distance: data holds 2 values. Allowed: a list of 3"),
    (changed(0, shape=[2, 2]), "shape"),
    (changed(1, shape=[-1]), r"month: shape \[-1\]"),
    (changed(1, shape=[]), r"month: shape \[\]"),
    (changed(1, shape=[0]), r"month: shape \[0\]"),
    (changed(1, shape=[2.0]), "shape is missing or not"),
    (changed(0, data=[1.0]), "distance: data holds 1 values. Allowed: a list of 2"),
    (changed(0, data="ab"), "distance: data holds a text"),
    (changed(0, data=[[1.0], [2.0]]), "nested otherwise"),
    (changed(0, datatype="FP16"), "unknown datatype 'FP16'"),
    (changed(0, datatype="BYTES", data=["a", "b"]), "distance: datatype BYTES. Allowed: FP32, FP64"),
    (changed(0, data=[1e39, 1.0]), "distance: row 0"),
    (changed(1, datatype="INT32", data=[1.5, 2]), "month: row 0 is 1.5"),
    (changed(1, datatype="INT8", data=[1, 200]), "month: row 1 is 200. Allowed: numbers within INT8"),
    (changed(1, datatype="FP64", data=[1.5, 2]), "month: row 0 is 1.5. Allowed: whole numbers"),
    (changed(2, datatype="FP32", data=[0.5, 1]), "weekend: row 0 is 0.5"),
    (changed(0, parameters={"binary_data_size": 8}), "either data, or"),
    (changed(0, extra=1), "unknown field 'extra'"),
]


@pytest.mark.parametrize(("message", "reason"), BAD_V2)
def test_bad_v2_is_refused_by_name(message: Any, reason: str) -> None:
    with pytest.raises(BadRequestError, match=reason):
        decode_v2(json.dumps(message).encode(), SCHEMA, OUTPUTS)


def test_nan_and_infinity_in_binary_tensors() -> None:
    body, length = binary([{**ROW, "distance": float("nan")}])
    assert np.isnan(decode_v2(body, SCHEMA, OUTPUTS, length).columns["distance"][0])
    body, length = binary([{**ROW, "distance": float("inf")}])
    with pytest.raises(BadRequestError, match="distance: row 0 is inf"):
        decode_v2(body, SCHEMA, OUTPUTS, length)


def test_entity_keys_stand_for_stored_features() -> None:
    keyed = {name: ROW[name] for name in ("distance", "month", "weekend", "carrier")} | {"origin": "JFK", "tail": 17}
    request = decode_v1(v1([keyed, keyed]), KEYED)
    assert request.columns["origin"].tolist() == ["JFK", "JFK"]
    assert request.columns["tail"].tolist() == [17, 17]
    assert decode_v1(v1([ROW]), KEYED).columns.keys() == ROW.keys()
    for wrong, message in [
        ({**keyed, "origin": None}, "origin: row 0 is null"),
        ({**keyed, "origin": 1.5}, "origin: row 0 is 1.5"),
        ({**keyed, "tail": True}, "tail: row 0 is True"),
        ({**keyed, "tail": "17"}, "tail: row 0 is '17'"),
        ({**keyed, "tail": None}, "tail: row 0 is null"),
        ({**ROW, "origin": "JFK"}, "too many|missing"),
        ({"origin": "JFK", "tail": 17}, "missing 'carrier', 'distance', 'month', 'weekend'"),
    ]:
        with pytest.raises(BadRequestError, match=message):
            decode_v1(v1([wrong]), KEYED)
    with pytest.raises(BadRequestError, match="other columns than"):
        decode_v1(v1([ROW, keyed]), KEYED)
    with pytest.raises(BadRequestError, match="unknown 'origin'"):
        decode_v1(v1([keyed]), SCHEMA)


SCORES = np.array([[0.25, 0.75], [0.5, 0.5]], dtype=np.float32)


@pytest.mark.parametrize(
    ("classes", "datatype", "labels"),
    [
        ((False, True), "BOOL", [True, False]),
        ((0, 1), "INT64", [1, 0]),
        (("on time", "late é"), "BYTES", ["late é", "on time"]),
        ((0.0, 1.0), "FP64", [1.0, 0.0]),
    ],
)
def test_labels_keep_their_types(classes: Any, datatype: str, labels: list[Any]) -> None:
    signature = Signature("m", "binary", (Feature("x", "float32"),), classes, 0.6)
    array = np.array(labels)
    predictions = [{"prediction": labels[0], "probability": 0.75}, {"prediction": labels[1], "probability": 0.5}]
    assert json.loads(V1Answers(signature).encode(SCORES, array)) == {"predictions": predictions}
    body, binary_at = V2Answers(signature, "m", "r1").encode(Request({}, 2, "7"), SCORES, array)
    assert binary_at is None
    assert json.loads(body) == {
        "model_name": "m",
        "model_version": "r1",
        "id": "7",
        "outputs": [
            {"name": "prediction", "datatype": datatype, "shape": [2], "data": labels},
            {"name": "probability", "datatype": "FP32", "shape": [2, 2], "data": [0.25, 0.75, 0.5, 0.5]},
        ],
    }


def test_binary_outputs_chosen_one_by_one() -> None:
    signature = Signature("m", "binary", (Feature("x", "float32"),), ("no", "yes"), 0.6)
    request = Request({}, 2, outputs={"probability": True, "prediction": False})
    body, at = V2Answers(signature, "m", "r1").encode(request, SCORES, np.array(["yes", "no"]))
    assert at is not None
    described = json.loads(body[:at])["outputs"]
    assert described[0]["parameters"] == {"binary_data_size": 16} and "data" not in described[0]
    assert described[1]["data"] == ["yes", "no"]
    np.testing.assert_array_equal(np.frombuffer(body[at:], "<f4").reshape(2, 2), SCORES)


def test_multiclass_and_regression_in_v1() -> None:
    signature = Signature("m", "multiclass", (Feature("x", "float32"),), ("a", "b"))
    answer = json.loads(V1Answers(signature).encode(SCORES, np.array(["b", "a"])))
    assert answer["predictions"][0] == {"prediction": "b", "probabilities": {"a": 0.25, "b": 0.75}}
    signature = Signature("m", "regression", (Feature("x", "float32"),))
    values = np.array([1.5, -2.0], dtype=np.float32)
    assert json.loads(V1Answers(signature).encode(values, values)) == {
        "predictions": [{"prediction": 1.5}, {"prediction": -2.0}]
    }
    (output,) = json.loads(V2Answers(signature, "m", "r1").encode(Request({}, 2), values, values)[0])["outputs"]
    assert output == {"name": "prediction", "datatype": "FP32", "shape": [2], "data": [1.5, -2.0]}


def test_a_head_that_is_known_is_read_with_its_own_data() -> None:
    body, length = binary([ROW])
    again, _ = binary([{**ROW, "distance": 7.5}])
    assert again[:length] == body[:length] and again != body
    for content, distance in ((body, ROW["distance"]), (again, 7.5), (body, ROW["distance"])):
        assert decode_v2(content, SCHEMA, OUTPUTS, length).columns["distance"].tolist() == [distance]
    for wrong, said in ((body[:-1], "origin_delays__mean_delay: the body ends"), (body + b"x", "belong to no input")):
        with pytest.raises(BadRequestError, match=said):
            decode_v2(wrong, SCHEMA, OUTPUTS, length)
    head = body[: length - 1] + b', "model_name": "late"}'
    for _ in range(2):
        decode_v2(head + body[length:], SCHEMA, OUTPUTS, len(head), "late")
        with pytest.raises(BadRequestError, match="model_name"):
            decode_v2(head + body[length:], SCHEMA, OUTPUTS, len(head), "other")


names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)


@given(st.lists(names, min_size=2, max_size=4, unique=True), st.data())
def test_v1_answers_are_the_json_of_their_rows(classes: list[str], data: st.DataObject) -> None:
    signature = Signature("m", "multiclass", (Feature("x", "float32"),), tuple(classes))
    numbers = st.lists(st.floats(0, 1, width=32), min_size=len(classes), max_size=len(classes))
    scores = np.array(data.draw(st.lists(numbers, min_size=1, max_size=5)), np.float32)
    labels = np.array(classes)[scores.argmax(axis=1)]
    rows = [
        {"prediction": label, "probabilities": dict(zip(classes, row, strict=True))}
        for label, row in zip(labels.tolist(), scores, strict=True)
    ]
    expected = orjson.dumps({"predictions": rows}, option=orjson.OPT_SERIALIZE_NUMPY)
    assert V1Answers(signature).encode(scores, labels) == expected
