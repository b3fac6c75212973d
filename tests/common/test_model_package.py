"""Model packages: whole or refused, equal content equal digest."""

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from fti.common.errors import ConfigError, PackageError
from fti.common.model_package import Signature, load_package, write_package
from fti.common.scoring import Scorer, graph_inputs
from fti.common.tables import Feature

SIGNATURE = Signature(
    name="tiny",
    task="binary",
    inputs=(Feature("origin", "string"), Feature("wind", "float32"), Feature("weekend", "bool")),
    classes=(False, True),
    threshold=0.5,
    label="late",
    entity_keys=("origin",),
)


def graph(columns: int = 2) -> bytes:
    """Softmax of the two numbers."""
    inputs = [
        helper.make_tensor_value_info("numeric", TensorProto.FLOAT, [None, columns]),
        helper.make_tensor_value_info("categorical", TensorProto.STRING, [None, 1]),
    ]
    output = helper.make_tensor_value_info("probability", TensorProto.FLOAT, [None, columns])
    nodes = [helper.make_node("Softmax", ["numeric"], ["probability"], axis=1)]
    opsets = [helper.make_opsetid("", 18)]
    made = helper.make_graph(nodes, "tiny", inputs, [output])
    return bytes(helper.make_model(made, opset_imports=opsets, ir_version=9).SerializeToString())


def write(path: Path, onnx: bytes = b"", **changes: object):
    parts: dict = {
        "signature": SIGNATURE,
        "onnx": onnx or graph(),
        "native": {"model.skops": b"native"},
        "examples": {"inputs": [{"origin": "JFK", "wind": 1.0, "weekend": True}], "outputs": [[0.5, 0.5]]},
        "provenance": {"algorithm": "by hand", "seed": 1},
        "card": "# tiny\n",
    }
    return write_package(path, **parts | changes)


def test_what_is_written_is_read(tmp_path):
    package = write(tmp_path / "p")
    assert package.signature == SIGNATURE
    assert package.provenance["seed"] == 1
    assert package.signature.numeric == ("wind", "weekend")
    assert package.signature.categorical == ("origin",)
    assert load_package(tmp_path / "p") == package


def test_equal_content_has_an_equal_digest_wherever_it_is(tmp_path):
    first, second = write(tmp_path / "a"), write(tmp_path / "b" / "c")
    assert first.digest == second.digest
    assert write(tmp_path / "d", card="# other\n").digest != first.digest


FILES = [
    "model.onnx", "model.skops", "signature.json", "examples.json", "provenance.json", "card.md",
]  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_named(tmp_path, name):
    write(tmp_path / "p")
    file = tmp_path / "p" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(PackageError, match=f"^{name} of the model package .* differs from its checksum"):
        load_package(tmp_path / "p")


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(tmp_path, name):
    write(tmp_path / "p")
    (tmp_path / "p" / name).unlink()
    with pytest.raises(PackageError, match=f"^{name} is missing"):
        load_package(tmp_path / "p")


@pytest.mark.parametrize("name", ["evil.pkl", "sub/evil.py"])
def test_an_extra_file_is_named(tmp_path, name):
    write(tmp_path / "p")
    (tmp_path / "p" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "p" / name).write_bytes(b"import os")
    with pytest.raises(PackageError, match=f"^{name} does not belong"):
        load_package(tmp_path / "p")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not JSON"),
        (b"[]", "holds a JSON list"),
        (b'{"../secret": "00"}', "names '../secret'"),
        (b"{}", "is missing|does not belong"),
        (b"\xff", "is not JSON"),
    ],
)
def test_checksums_that_are_no_checksums_are_refused(tmp_path, content, message):
    write(tmp_path / "p")
    (tmp_path / "p" / "checksums.json").write_bytes(content)
    with pytest.raises(PackageError, match=message):
        load_package(tmp_path / "p")


def test_a_file_that_is_listed_under_no_checksum_is_refused(tmp_path):
    write(tmp_path / "p")
    file = tmp_path / "p" / "checksums.json"
    sums = json.loads(file.read_text())
    del sums["model.onnx"]
    file.write_text(json.dumps(sums))
    with pytest.raises(PackageError, match=r"model.onnx does not belong"):
        load_package(tmp_path / "p")


@pytest.mark.parametrize("path", ["nothing", "."])
def test_what_is_no_package_is_refused(tmp_path, path):
    with pytest.raises(PackageError, match="is not a model package"):
        load_package(tmp_path / path)


def test_scores_and_labels(tmp_path):
    scorer = Scorer(write(tmp_path / "p"))
    columns = {
        "wind": np.array([0, 3], dtype=np.float32),
        "weekend": np.array([True, False]),
        "origin": np.array(["JFK", None], dtype=object),
    }
    scores = scorer.score(columns)
    np.testing.assert_allclose(scores[:, 1], [1 / (1 + np.exp(-1)), 1 / (1 + np.exp(3))], rtol=1e-5)
    assert scorer.predict(scores).tolist() == [True, False]


def test_the_kinds_of_missing_all_mean_missing():
    columns = {
        "wind": np.array([None, float("nan"), 2], dtype=object),
        "weekend": np.array([None, True, False], dtype=object),
        "origin": np.array([None, float("nan"), "EWR"], dtype=object),
    }
    feed = graph_inputs(SIGNATURE, columns)
    assert feed["categorical"].tolist() == [[""], [""], ["EWR"]]
    np.testing.assert_array_equal(feed["numeric"], np.float32([[np.nan, np.nan], [np.nan, 1], [2, 0]]))


def test_columns_that_do_not_fit_are_refused(tmp_path):
    scorer = Scorer(write(tmp_path / "p"))
    with pytest.raises(ConfigError, match="lack origin, weekend"):
        scorer.score({"wind": np.zeros(1)})
    text = {"wind": np.array(["strong"]), "weekend": np.zeros(1), "origin": np.array(["JFK"])}
    with pytest.raises(ConfigError, match="wind holds something that is no number"):
        scorer.score(text)


def test_a_graph_that_is_not_what_the_signature_says_is_refused(tmp_path):
    with pytest.raises(PackageError, match="as its signature says"):
        Scorer(write(tmp_path / "p", onnx=graph(columns=3)))
    with pytest.raises(PackageError, match="refuses the graph"):
        Scorer(write(tmp_path / "q", onnx=b"no graph"))
