"""The quick way from a request to the model's inputs takes what the strict way takes, and to the same columns."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from fti.common.inputs import Inputs
from fti.common.model_package import Signature
from fti.common.tables import Feature
from fti.serve.arrange import Arranger
from fti.serve.columns import BadRequestError, Schema
from fti.serve.forms import TEXT_KEY, WHOLE_KEY, Forms
from fti.serve.protocol import Request, Tensor, columns_of, decode_v1, decode_v2
from tests.serve import tiny
from tests.serve.test_protocol import SCHEMA, binary

OUTPUTS = frozenset({"prediction", "probability"})
DATATYPES = {
    "distance": "FP32",
    "month": "INT64",
    "weekend": "BOOL",
    "carrier": "BYTES",
    "origin_delays__mean_delay": "FP64",
}
OF_DTYPE = {"float32": ["FP32", "FP64"], "int64": ["INT64"], "bool": ["BOOL"], "string": ["BYTES"]}
KINDS = {"FP32": "<f4", "FP64": "<f8", "INT8": "<i1", "INT32": "<i4", "INT64": "<i8", "BOOL": "u1"}

HUGE = 10**400
odd = st.sampled_from(
    [None, True, False, 0, 1, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), 3.5, 3.4e38, 3.5e38, -1e300, HUGE, "x", [1], {}]
)
plain = {
    "float32": st.floats(-1e6, 1e6, width=32) | st.floats(-1e6, 1e6) | st.integers(-9, 9),
    "int64": st.integers(-(2**63), 2**63 - 1) | st.integers(-9, 9),
    "bool": st.booleans(),
    "string": st.text(max_size=3),
}

SAID: dict[str, list[Any]] = {
    "id": ["a", "", 1, None],
    "model_name": ["late", "early", None],
    "outputs": [[], [{"name": "prediction"}], [{"name": "other"}], {}, None],
    "parameters": [{}, {"binary_data_output": True}, {"sequence_id": 7}, {"binary_data_output": 1}, None],
    "more": [1],
}

MODELS = {
    "of all dtypes": {each.name: str(each.dtype) for each in tiny.INPUTS},
    "numbers": dict.fromkeys("abc", "float32"),
    "whole numbers": dict.fromkeys("abc", "int64"),
    "texts": dict.fromkeys("abc", "string"),
    "switches": dict.fromkeys("ab", "bool"),
    "one number": {"x": "float32"},
    "odd names": {"": "float32", "%b": "int64", "name": "string", "data": "float32", "é": "bool"},
    "names that JSON escapes": {'height "in"': "float32", "a\\b": "int64", "\n": "string"},
}
OWN = ("distance", "month", "weekend", "carrier")
Both = tuple[Schema, Schema]


class Nothing(Forms):
    """Finds no request plain."""

    def rows(self, _: bytes) -> list[Any]:
        return []

    keyed_rows = rows

    def tensors(self, _: bytes) -> None:
        return None


class Never(Arranger):
    """Leaves everything to the strict way."""

    def tensors(self, *_: Any) -> None:
        return None


def quick_and_strict(signature: Signature, keys: dict[str, str]) -> Both:
    quick = Schema.of(signature, keys, max_rows=5)
    return quick, replace(quick, arranger=Never(signature), forms=Nothing(quick.features, quick.keyed))


def of_dtypes(dtypes: dict[str, Any]) -> Both:
    features = tuple(Feature(name, dtype) for name, dtype in dtypes.items())
    return quick_and_strict(Signature(name="m", task="regression", inputs=features, label="y"), {})


SCHEMAS = {model: of_dtypes(dtypes) for model, dtypes in MODELS.items()}
models = st.sampled_from([*MODELS])


@pytest.fixture(scope="module")
def schemas() -> Both:
    return SCHEMAS["of all dtypes"]


@pytest.fixture(scope="module")
def by_keys(tmp_path_factory: pytest.TempPathFactory) -> Both:
    signature = tiny.write_binary(tmp_path_factory.mktemp("keyed") / "package").signature
    found = quick_and_strict(signature, {"airport": TEXT_KEY, "flight": WHOLE_KEY})
    assert set(found[0].keyed) == {*OWN, "airport", "flight"}
    return found


def both(schemas: Both, decode: Any) -> Request | None:
    """Decodes both ways, which must agree."""
    found: list[Request | str] = []
    for schema in schemas:
        try:
            found.append(decode(schema))
        except BadRequestError as error:
            found.append(f"{error.status} {error}")
    quick, strict = found
    if isinstance(quick, str) or isinstance(strict, str):
        assert quick == strict
        return None
    assert (quick.id, quick.outputs, quick.binary) == (strict.id, strict.outputs, strict.binary)
    assert quick.rows == strict.rows and set(quick.columns) == set(strict.columns)
    for name, column in strict.columns.items():
        assert quick.columns[name].dtype == column.dtype
        np.testing.assert_array_equal(quick.columns[name], column)
    return quick


def mostly(draw: Any, dtype: str, size: int) -> list[Any]:
    values = draw(st.lists(plain[dtype] | st.none(), min_size=size, max_size=size))
    if size and draw(st.integers(0, 9)) == 0:
        values[draw(st.integers(0, size - 1))] = draw(odd)
    return values


@st.composite
def v1(draw: Any) -> tuple[str, bytes]:
    size, model = draw(st.integers(1, 6)), draw(models)
    names = draw(st.permutations([*MODELS[model]]))
    columns = {name: mostly(draw, MODELS[model][name], size) for name in names}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if draw(st.integers(0, 9)) == 0:
        del rows[-1][names[0]]
    if draw(st.integers(0, 9)) == 0:
        rows[0]["another"] = 1
    if draw(st.integers(0, 19)) == 0:
        rows.append(draw(odd))
    return model, json.dumps({"instances": rows}).encode()


@st.composite
def v2(draw: Any) -> tuple[str, bytes]:
    size, model = draw(st.integers(0, 6)), draw(models)
    tensors = [
        {
            "name": name,
            "datatype": draw(st.sampled_from([*OF_DTYPE[MODELS[model][name]] * 9, *KINDS, "FP16"])),
            "shape": draw(st.sampled_from([[size], [size, 1]] * 4 + [[1, size], [], [size + 1], [True], [size, 1.0]])),
            "data": mostly(draw, MODELS[model][name], size),
        }
        for name in draw(st.permutations([*MODELS[model]]))
    ]
    if draw(st.integers(0, 9)) == 0:
        tensors.append(draw(st.sampled_from(tensors)))
    if draw(st.integers(0, 9)) == 0:
        tensors[0].update(draw(st.sampled_from([{"extra": 1}, {"name": 1}, {"name": "x?"}, {"parameters": {}}])))
    if draw(st.integers(0, 9)) == 0:
        del tensors[-1][draw(st.sampled_from([*tensors[-1]]))]
    said = draw(st.lists(st.sampled_from(list(SAID)), max_size=2, unique=True))
    return model, json.dumps({"inputs": tensors, **{name: draw(st.sampled_from(SAID[name])) for name in said}}).encode()


@st.composite
def v2_binary(draw: Any) -> tuple[str, bytes, int]:
    size, model, tensors, blobs = draw(st.integers(1, 6)), draw(models), [], []
    for name in draw(st.permutations([*MODELS[model]])):
        dtype = MODELS[model][name]
        kind = draw(st.sampled_from([*OF_DTYPE[dtype] * 9, *([] if dtype == "string" else KINDS)]))
        if kind == "BYTES":
            texts = [text.encode() for text in draw(st.lists(plain["string"], min_size=size, max_size=size))]
            raw = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
        else:
            raw = draw(st.binary(min_size=8 * size, max_size=8 * size))[: np.dtype(KINDS[kind]).itemsize * size]
        if kind == "BOOL" and draw(st.integers(0, 9)):
            raw = bytes(value & 1 for value in raw)
        blobs.append(raw[: draw(st.sampled_from([None] * 19 + [-1]))])
        said = len(blobs[-1]) + draw(st.sampled_from([0] * 19 + [1, -1]))
        tensors.append({"name": name, "datatype": kind, "shape": [size], "parameters": {"binary_data_size": said}})
    head = orjson.dumps({"inputs": tensors})
    return model, head + b"".join(blobs), len(head)


@st.composite
def contents(draw: Any) -> tuple[str, list[Tensor]]:
    """As gRPC has them: typed, with what JSON has not."""
    size, model = draw(st.integers(1, 6)), draw(models)
    values = plain | {"float32": st.floats(width=32) | st.floats()}
    return model, [
        Tensor(
            name,
            draw(st.sampled_from(OF_DTYPE[MODELS[model][name]])),
            [size],
            draw(st.lists(values[MODELS[model][name]], min_size=size, max_size=size)),
        )
        for name in draw(st.permutations([*MODELS[model]]))
    ]


@given(v1())
@hypothesis_settings(deadline=None, max_examples=500)
def test_instances(given: tuple[str, bytes]) -> None:
    both(SCHEMAS[given[0]], lambda schema: decode_v1(given[1], schema))


@st.composite
def keyed(draw: Any) -> bytes:
    rows = []
    for _ in range(draw(st.integers(1, 6))):
        row = {name: mostly(draw, MODELS["of all dtypes"][name], 1)[0] for name in OWN}
        row["airport"] = draw(st.text(max_size=3) | st.sampled_from([None, 1, True, "", "\x00", "é"]))
        row["flight"] = draw(
            st.integers(-(2**64), 2**64 - 1) | st.sampled_from([None, True, 1.0, "1", 2**63 - 1, 2**63, HUGE])
        )
        if draw(st.integers(0, 9)) == 0:
            del row[draw(st.sampled_from([*row]))]
        if draw(st.integers(0, 19)) == 0:
            row["another"] = 1
        rows.append(row)
    return json.dumps({"instances": rows}).encode()


@given(keyed())
@hypothesis_settings(deadline=None, max_examples=300)
def test_instances_by_entity_keys(by_keys: Both, body: bytes) -> None:
    both(by_keys, lambda schema: decode_v1(body, schema))


def test_an_instance_by_entity_keys_goes_the_quick_way(by_keys: Both) -> None:
    row = {**{name: tiny.ROW[name] for name in OWN}, "airport": "JFK", "flight": 2**63 - 1}
    request = both(by_keys, lambda schema: decode_v1(orjson.dumps({"instances": [row, row]}), schema))
    assert request and request.columns["flight"].tolist() == [2**63 - 1] * 2
    assert by_keys[0].forms.keyed_rows(orjson.dumps({"instances": [row]})), "or both ways were the strict one"


@given(v2())
@hypothesis_settings(deadline=None, max_examples=500)
def test_tensors(given: tuple[str, bytes]) -> None:
    both(SCHEMAS[given[0]], lambda schema: decode_v2(given[1], schema, OUTPUTS, model="late"))


@given(v2_binary())
@hypothesis_settings(deadline=None, max_examples=500)
def test_binary_tensors(given: tuple[str, bytes, int]) -> None:
    both(SCHEMAS[given[0]], lambda schema: decode_v2(given[1], schema, OUTPUTS, given[2]))


@given(contents())
@hypothesis_settings(deadline=None, max_examples=500)
def test_contents_of_grpc(given: tuple[str, list[Tensor]]) -> None:
    both(SCHEMAS[given[0]], lambda schema: Request(*columns_of(given[1], schema)))


@pytest.mark.parametrize("order", ["abc", "cba", "bca"])
def test_tensors_go_to_their_columns_in_whatever_order_they_come(order: str) -> None:
    values, size = {"a": 1.0, "b": 2.0, "c": 3.0}, {"parameters": {"binary_data_size": 4}}
    tensors = [{"name": name, "datatype": "FP32", "shape": [1]} for name in order]
    in_json = orjson.dumps({"inputs": [{**each, "data": [values[each["name"]]]} for each in tensors]})
    head = orjson.dumps({"inputs": [each | size for each in tensors]})
    blob = np.array([values[name] for name in order], "<f4").tobytes()
    for body, length in ((in_json, None), (head + blob, len(head))):
        request = decode_v2(body, SCHEMAS["numbers"][0], OUTPUTS, length)
        assert isinstance(request.columns, Inputs) and request.columns.feed["numeric"].tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("number", [HUGE, -HUGE, 2**63, 2**64, 10**30])
def test_a_whole_number_of_any_length_is_refused(schemas: Both, by_keys: Both, number: int) -> None:
    row = {**tiny.ROW, "month": number}
    assert both(schemas, lambda schema: decode_v1(json.dumps({"instances": [row]}).encode(), schema)) is None
    own = {**{name: row[name] for name in OWN}, "airport": "JFK", "flight": 1}
    assert both(by_keys, lambda schema: decode_v1(json.dumps({"instances": [own]}).encode(), schema)) is None
    tensor = {"name": "a", "datatype": "INT64", "shape": [1], "data": [number]}
    body = json.dumps({"inputs": [tensor, {**tensor, "name": "b"}, {**tensor, "name": "c"}]}).encode()
    assert both(SCHEMAS["whole numbers"], lambda schema: decode_v2(body, schema, OUTPUTS)) is None


def test_a_tensor_without_a_name_is_refused_where_there_is_one_column_too() -> None:
    body = orjson.dumps({"inputs": [{"datatype": "FP32", "shape": [1], "data": [5]}]})
    assert both(SCHEMAS["one number"], lambda schema: decode_v2(body, schema, OUTPUTS)) is None


def test_whole_numbers_are_rounded_alike_however_they_come() -> None:
    number = 2**62 + 2**38 + 1  # by float64 to float32, and straight, are not the same
    tensors = [{"name": name, "datatype": "INT64", "shape": [1]} for name in "abc"]
    in_json = orjson.dumps({"inputs": [{**each, "data": [number]} for each in tensors]})
    head = orjson.dumps({"inputs": [{**each, "parameters": {"binary_data_size": 8}} for each in tensors]})
    blob = np.array([number] * 3, "<i8").tobytes()
    schema = SCHEMAS["whole numbers"][0]
    found = {
        decode_v1(orjson.dumps({"instances": [dict.fromkeys("abc", number)]}), schema).columns["a"].item(),
        decode_v2(in_json, schema, OUTPUTS).columns["a"].item(),
        decode_v2(head + blob, schema, OUTPUTS, len(head)).columns["a"].item(),
    }
    assert found == {float(np.float32(np.float64(number)))}


@pytest.mark.parametrize("depth", [900, 1000, 1020, 2000, 100_000])
@pytest.mark.parametrize("place", ["values", "outputs", "parameters", "id"])
def test_however_deep_it_is_nested(schemas: Both, depth: int, place: str) -> None:
    deep = b"[" * depth + b"]" * depth
    rows = orjson.dumps({"instances": [{**tiny.ROW, "distance": "HERE"}]}).replace(b'"HERE"', deep)
    tensor = {"name": "distance", "datatype": "FP32", "shape": [1], "data": "HERE" if place == "values" else [1]}
    body = orjson.dumps({"inputs": [tensor], **({} if place == "values" else {place: "HERE"})})
    with pytest.raises(BadRequestError):
        decode_v1(rows, schemas[0])
    with pytest.raises(BadRequestError):
        decode_v2(body.replace(b'"HERE"', deep), schemas[0], OUTPUTS)


def test_a_name_that_comes_twice_among_thousands_is_found_at_once(schemas: Both) -> None:
    tensor = {"datatype": "FP32", "shape": [1], "data": [1]}
    inputs = [{"name": str(at), **tensor} for at in range(40_000)] + [{"name": "0", **tensor}]
    with pytest.raises(BadRequestError, match="'0' comes twice"):
        decode_v2(orjson.dumps({"inputs": inputs}), schemas[0], OUTPUTS)


def test_the_usual_request_goes_the_quick_way(schemas: tuple[Schema, Schema]) -> None:
    request = both(schemas, lambda schema: decode_v1(orjson.dumps({"instances": [tiny.ROW] * 2}), schema))
    assert request and isinstance(request.columns, Inputs)
    assert request.columns.feed["numeric"].flags["C_CONTIGUOUS"], "as the graph takes it: not copied again"


@pytest.mark.parametrize("said", [{}, {"id": "a", "model_name": "late", "outputs": [{"name": "prediction"}]}])
def test_so_does_the_usual_request_of_tensors(schemas: tuple[Schema, Schema], said: dict[str, Any]) -> None:
    inputs = [
        {"name": name, "datatype": DATATYPES[name], "shape": [2], "data": [tiny.ROW[name], None]} for name in DATATYPES
    ]
    body = orjson.dumps({"inputs": inputs, **said})
    request = both(schemas, lambda schema: decode_v2(body, schema, OUTPUTS, model="late"))
    assert request and isinstance(request.columns, Inputs)
    assert request.columns.feed["numeric"].flags["C_CONTIGUOUS"], "as the graph takes it: not copied again"


def test_a_missing_text_is_empty_for_the_graph_and_none_for_others(schemas: tuple[Schema, Schema]) -> None:
    body = orjson.dumps({"instances": [{**tiny.ROW, "carrier": None}]})
    request = both(schemas, lambda schema: decode_v1(body, schema))
    assert request and isinstance(request.columns, Inputs)
    assert (request.columns["carrier"].tolist(), request.columns.feed["categorical"].tolist()) == ([None], [[""]])


def test_the_ways_that_callers_order_tensors_do_not_fill_the_memory(tmp_path: Path) -> None:
    from itertools import permutations

    from fti.serve.arrange import _PLANS

    arranger = Arranger(tiny.write_binary(tmp_path / "package").signature)
    for names in permutations(DATATYPES):
        found = arranger.tensors(names, [DATATYPES[name] for name in names], 1, [[tiny.ROW[name]] for name in names])
        assert found is not None and found["month"].tolist() == [7]
    assert len(arranger._plans) == _PLANS


def test_binary_and_json_tensors_in_one_request() -> None:
    """As tritonclient sends them where only numbers are binary."""
    body, length = binary([tiny.ROW, tiny.ROW])
    message = json.loads(body[:length])
    blob, at = b"", length
    for tensor in message["inputs"]:
        size = tensor["parameters"]["binary_data_size"]
        if tensor["name"] == "carrier":
            tensor["data"] = [tiny.ROW["carrier"]] * 2
            del tensor["parameters"]
        else:
            blob += body[at : at + size]
        at += size
    head = json.dumps(message).encode()
    request = decode_v2(head + blob, SCHEMA, OUTPUTS, len(head))
    assert request.rows == 2 and list(request.columns["carrier"]) == ["UA", "UA"]
    assert request.columns["distance"].tolist() == [tiny.ROW["distance"]] * 2
