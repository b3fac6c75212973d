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
from fti.serve.arrange import Arranger
from fti.serve.columns import BadRequestError, Schema
from fti.serve.forms import TEXT_KEY, WHOLE_KEY, Forms
from fti.serve.protocol import Request, decode_v1, decode_v2
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
KINDS = {"FP32": "<f4", "FP64": "<f8", "INT8": "<i1", "INT32": "<i4", "INT64": "<i8", "BOOL": "u1"}

odd = st.sampled_from(
    [None, True, False, 0, 1, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), 3.5, 3.4e38, 3.5e38, -1e300, "x", [1], {}]
)
plain = {
    "distance": st.floats(-1e6, 1e6, width=32) | st.integers(-9, 9),
    "month": st.integers(-(2**63), 2**63 - 1),
    "weekend": st.booleans(),
    "carrier": st.text(max_size=3),
    "origin_delays__mean_delay": st.floats(-1e6, 1e6),
}

SAID: dict[str, list[Any]] = {
    "id": ["a", "", 1, None],
    "model_name": ["late", "early", None],
    "outputs": [[], [{"name": "prediction"}], [{"name": "other"}], {}, None],
    "parameters": [{}, {"binary_data_output": True}, {"sequence_id": 7}, {"binary_data_output": 1}, None],
    "more": [1],
}

OWN = ("distance", "month", "weekend", "carrier")


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


@pytest.fixture(scope="module")
def schemas(tmp_path_factory: pytest.TempPathFactory) -> tuple[Schema, Schema]:
    signature = tiny.write_binary(tmp_path_factory.mktemp("arrange") / "package").signature
    quick = Schema.of(signature, {}, max_rows=5)
    return quick, replace(quick, arranger=Never(signature), forms=Nothing(quick.features, quick.keyed))


@pytest.fixture(scope="module")
def by_keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Schema, Schema]:
    signature = tiny.write_binary(tmp_path_factory.mktemp("keyed") / "package").signature
    quick = Schema.of(signature, {"airport": TEXT_KEY, "flight": WHOLE_KEY}, max_rows=5)
    assert set(quick.keyed) == {*OWN, "airport", "flight"}
    return quick, replace(quick, arranger=Never(signature), forms=Nothing(quick.features, quick.keyed))


def both(schemas: tuple[Schema, Schema], decode: Any) -> Request | None:
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


def mostly(draw: Any, name: str, size: int) -> list[Any]:
    values = draw(st.lists(plain[name] | st.none(), min_size=size, max_size=size))
    if size and draw(st.integers(0, 9)) == 0:
        values[draw(st.integers(0, size - 1))] = draw(odd)
    return values


@st.composite
def v1(draw: Any) -> bytes:
    size = draw(st.integers(1, 6))
    columns = {name: mostly(draw, name, size) for name in plain}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if draw(st.integers(0, 9)) == 0:
        del rows[-1]["month"]
    if draw(st.integers(0, 9)) == 0:
        rows[0]["another"] = 1
    if draw(st.integers(0, 19)) == 0:
        rows.append(draw(odd))
    return orjson.dumps({"instances": rows})


@st.composite
def v2(draw: Any) -> bytes:
    size = draw(st.integers(0, 6))
    tensors = [
        {
            "name": name,
            "datatype": draw(st.sampled_from([*[DATATYPES[name]] * 9, *KINDS, "FP16"])),
            "shape": draw(st.sampled_from([[size], [size, 1]] * 4 + [[1, size], [], [size + 1], [True], [size, 1.0]])),
            "data": mostly(draw, name, size),
        }
        for name in draw(st.permutations(list(plain)))
    ]
    if draw(st.integers(0, 9)) == 0:
        tensors.append(draw(st.sampled_from(tensors)))
    if draw(st.integers(0, 9)) == 0:
        tensors[0].update(draw(st.sampled_from([{"extra": 1}, {"name": 1}, {"parameters": {}}])))
    said = draw(st.lists(st.sampled_from(list(SAID)), max_size=2, unique=True))
    return orjson.dumps({"inputs": tensors, **{name: draw(st.sampled_from(SAID[name])) for name in said}})


@st.composite
def v2_binary(draw: Any) -> tuple[bytes, int]:
    size, tensors, blobs = draw(st.integers(1, 6)), [], []
    for name in draw(st.permutations([name for name in plain if name != "carrier"])):
        kind = draw(st.sampled_from([*[DATATYPES[name]] * 9, *KINDS]))
        raw = draw(st.binary(min_size=8 * size, max_size=8 * size))[: np.dtype(KINDS[kind]).itemsize * size]
        if kind == "BOOL" and draw(st.integers(0, 9)):
            raw = bytes(value & 1 for value in raw)
        blobs.append(raw[: draw(st.sampled_from([None] * 19 + [-1]))])
        said = len(blobs[-1]) + draw(st.sampled_from([0] * 19 + [1, -1]))
        tensors.append({"name": name, "datatype": kind, "shape": [size], "parameters": {"binary_data_size": said}})
    texts = [text.encode() for text in draw(st.lists(st.text(max_size=3), min_size=size, max_size=size))]
    blobs.append(b"".join(len(text).to_bytes(4, "little") + text for text in texts))
    size_of = {"binary_data_size": len(blobs[-1])}
    tensors.append({"name": "carrier", "datatype": "BYTES", "shape": [size], "parameters": size_of})
    head = orjson.dumps({"inputs": tensors})
    return head + b"".join(blobs), len(head)


@given(v1())
@hypothesis_settings(deadline=None, max_examples=300)
def test_instances(schemas: tuple[Schema, Schema], body: bytes) -> None:
    both(schemas, lambda schema: decode_v1(body, schema))


@st.composite
def keyed(draw: Any) -> bytes:
    rows = []
    for _ in range(draw(st.integers(1, 6))):
        row = {name: mostly(draw, name, 1)[0] for name in OWN}
        row["airport"] = draw(st.text(max_size=3) | st.sampled_from([None, 1, True, "", "\x00", "é"]))
        row["flight"] = draw(
            st.integers(-(2**64), 2**64 - 1) | st.sampled_from([None, True, 1.0, "1", 2**63 - 1, 2**63])
        )
        if draw(st.integers(0, 9)) == 0:
            del row[draw(st.sampled_from([*row]))]
        if draw(st.integers(0, 19)) == 0:
            row["another"] = 1
        rows.append(row)
    return json.dumps({"instances": rows}).encode()


@given(keyed())
@hypothesis_settings(deadline=None, max_examples=300)
def test_instances_by_entity_keys(by_keys: tuple[Schema, Schema], body: bytes) -> None:
    both(by_keys, lambda schema: decode_v1(body, schema))


def test_an_instance_by_entity_keys_goes_the_quick_way(by_keys: tuple[Schema, Schema]) -> None:
    row = {**{name: tiny.ROW[name] for name in OWN}, "airport": "JFK", "flight": 2**63 - 1}
    request = both(by_keys, lambda schema: decode_v1(orjson.dumps({"instances": [row, row]}), schema))
    assert request and request.columns["flight"].tolist() == [2**63 - 1] * 2
    assert by_keys[0].forms.keyed_rows(orjson.dumps({"instances": [row]})), "or both ways were the strict one"


@given(v2())
@hypothesis_settings(deadline=None, max_examples=300)
def test_tensors(schemas: tuple[Schema, Schema], body: bytes) -> None:
    both(schemas, lambda schema: decode_v2(body, schema, OUTPUTS, model="late"))


@given(v2_binary())
@hypothesis_settings(deadline=None, max_examples=300)
def test_binary_tensors(schemas: tuple[Schema, Schema], given: tuple[bytes, int]) -> None:
    both(schemas, lambda schema: decode_v2(given[0], schema, OUTPUTS, given[1]))


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
