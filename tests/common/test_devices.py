"""The choice of a device, and the buffers that a GPU reads: on a machine without one, as far as that shows them."""

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from fti.common.devices import CUDA, check_providers, onnx_providers, torch_device
from fti.common.errors import ConfigError
from fti.common.onnx_backend import FEW, Buffers, Few, OnnxBackend
from tests.serve import tiny

no_gpu = pytest.mark.skipif(CUDA in ort.get_available_providers(), reason="there is a GPU here")
CPU = "CPUExecutionProvider"


@no_gpu
def test_without_a_gpu_auto_takes_the_cpu_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert OnnxBackend(tiny.softmax_graph(), "probability", device="auto").device == "cpu"
        assert torch_device("auto").type == "cpu"
    assert "ONNX Runtime has no CUDAExecutionProvider, it computes on the cpu" in caplog.text
    assert "torch computes on cpu" in caplog.text


@no_gpu
def test_without_a_gpu_cuda_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"device cuda: ONNX Runtime .* has no CUDAEx.*Allowed: auto, cpu.*onnxruntime-gpu"
    ):
        OnnxBackend(tiny.softmax_graph(), "probability", device="cuda")


@pytest.mark.parametrize("choice", ["gpu", "", "cuda:0"])
def test_other_devices_are_unknown(choice: str) -> None:
    for chosen in (lambda: torch_device(choice), lambda: onnx_providers(choice, b"")):  # type: ignore[arg-type, misc]
        with pytest.raises(ConfigError, match=rf"device '{choice}'\. Allowed: auto, cpu, cuda"):
            chosen()


def test_with_cuda_auto_takes_it_for_matrices_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    trees = b"...TreeEnsembleClassifier..."
    assert onnx_providers("auto", tiny.softmax_graph()) == [CUDA, CPU]
    assert onnx_providers("auto", trees) == [CPU]
    assert onnx_providers("cuda", trees) == [CUDA, CPU]
    assert onnx_providers("cpu", tiny.softmax_graph()) == [CPU]


def test_cuda_multiplies_in_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a package would not reproduce its own examples."""
    opened: list[tuple[str, dict[str, str]]] = []

    def session(graph: bytes, options: Any, providers: list[tuple[str, dict[str, str]]]) -> Any:
        opened.extend(providers)
        return SESSION

    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(ort, "InferenceSession", session)
    OnnxBackend(tiny.softmax_graph(), "probability", device="auto")
    assert opened == [(CUDA, {"use_tf32": "0"}), (CPU, {})]


def test_a_graph_of_doubles_runs_with_few_rows_as_with_many() -> None:
    nodes = [helper.make_node("Cast", ["numeric"], ["value"], to=TensorProto.DOUBLE)]
    given = helper.make_tensor_value_info("numeric", TensorProto.FLOAT, [None, 1])
    out = helper.make_tensor_value_info("value", TensorProto.DOUBLE, [None, 1])
    backend = OnnxBackend(tiny._graph(nodes, [given], [out], []), "value", threads=1)
    for rows in (1, FEW + 1):
        np.testing.assert_array_equal(backend.run({"numeric": np.ones((rows, 1), np.float32)}), np.ones((rows, 1)))


def test_a_gpu_that_does_not_start_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigError, match="cannot start it"):
        check_providers("cuda", [CUDA, CPU], [CPU])
    with caplog.at_level(logging.WARNING):
        check_providers("auto", [CUDA, CPU], [CPU])
        check_providers("auto", [CUDA, CPU], [CUDA, CPU])
        check_providers("auto", [CPU], [CPU])
    assert [record.levelname for record in caplog.records] == ["WARNING"]


SESSION = ort.InferenceSession(tiny.softmax_graph(), providers=[CPU])
BUFFERS = Buffers(SESSION, "probability", "cpu")
FEW_ROWS = Few(SESSION, "probability")


@given(st.lists(st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=40), min_size=1, max_size=5))
@settings(deadline=None, max_examples=50)
def test_buffers_answer_as_a_plain_run_whatever_came_before(batches: list[list[float]]) -> None:
    answers = []
    for batch in batches:
        rows = np.array(batch, dtype=np.float32)[:, None]
        answers.append((rows, BUFFERS.run(rows)))
    for rows, answer in answers:  # none has changed with the batches after it
        np.testing.assert_allclose(answer, SESSION.run(["probability"], {"numeric": rows})[0], rtol=1e-6)


@given(st.lists(st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=FEW), min_size=1, max_size=5))
@settings(deadline=None, max_examples=50)
def test_a_few_rows_are_answered_as_by_a_plain_run(batches: list[list[float]]) -> None:
    answers = []
    for batch in batches:
        rows = np.array(batch, dtype=np.float32)[:, None]
        answers.append((rows, FEW_ROWS.run(rows)))
    for rows, answer in answers:
        np.testing.assert_array_equal(answer, SESSION.run(["probability"], {"numeric": rows})[0])


def test_a_few_rows_may_be_asked_for_by_many_threads() -> None:
    backend = OnnxBackend(tiny.softmax_graph(), "probability", threads=1)
    batches = [np.full((1 + turn % (FEW + 4), 1), turn / 100, np.float32) for turn in range(400)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda rows: backend.run({"numeric": rows}), batches))
    for rows, answer in zip(batches, found, strict=True):
        np.testing.assert_array_equal(answer, SESSION.run(["probability"], {"numeric": rows})[0])


def test_buffers_are_made_once_for_each_power_of_two() -> None:
    buffers = Buffers(SESSION, "probability", "cpu")
    for rows in (1, 2, 3, 4, 5, 8, 3, 5):
        buffers.run(np.zeros((rows, 1), dtype=np.float32))
    assert sorted(buffers._sizes) == [1, 2, 4, 8]
