"""Models as ONNX graphs, on ONNX Runtime: on the CPU, or on a GPU with buffers that are kept from call to call."""

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fti.common.devices import CUDA, Device, check_providers, onnx_providers
from fti.common.errors import PackageError

if TYPE_CHECKING:
    import numpy as np

FEW = 32  # rows
# Ampere and later would multiply with 10 bits of mantissa: then a package does not reproduce its own examples.
_OPTIONS = {CUDA: {"use_tf32": "0"}}


class OnnxBackend:
    """Runs a graph.

    Args:
        graph: The serialised graph: inputs `numeric`, `categorical` or both, output `output`.
        output: `probability` or `value`.
        threads: Threads within one call; 0 leaves it to ONNX Runtime.
        device: See `fti.common.devices`.

    Attributes:
        device: `cpu` or `cuda`: where it runs.
        widths: The number of columns of each input.

    Raises:
        PackageError: ONNX Runtime refuses the graph.
        ConfigError: `cuda` is asked for and absent.
    """

    def __init__(self, graph: bytes, output: str, *, threads: int = 0, device: Device = "cpu") -> None:
        self._session = _open(graph, threads, device)
        self._outputs = [output]
        self.widths = {node.name: node.shape[1] for node in self._session.get_inputs()}
        self.device = "cuda" if CUDA in self._session.get_providers() else "cpu"
        # ONNX Runtime binds no text.
        self._buffers = Buffers(self._session, output, "cuda") if self.device == "cuda" and self._bindable else None
        self._few = Few(self._session, output) if self.device == "cpu" and self._bindable else None

    def run(self, feed: "Mapping[str, np.ndarray]") -> "np.ndarray":
        """Runs the graph over rows.

        Args:
            feed: `numeric` float32 [N, n], `categorical` object [N, m], as far as the graph takes them.

        Returns:
            float32 [N, k].
        """
        if self._buffers is not None:
            return self._buffers.run(feed["numeric"])
        if self._few is not None and len(numeric := feed["numeric"]) <= FEW:
            return self._few.run(numeric)
        scores: np.ndarray = self._session.run(self._outputs, feed)[0]
        return scores

    @property
    def _bindable(self) -> bool:
        out = next(node for node in self._session.get_outputs() if node.name == self._outputs[0])
        fixed = len(out.shape) == 2 and isinstance(out.shape[1], int) and out.type == "tensor(float)"
        return fixed and self.widths.keys() == {"numeric"}


class Buffers:
    """Memory for a graph of numbers, made once for each batch size that is a power of two.

    A batch is copied into pinned host memory, from there to the device, and runs as a batch of the buffer's whole size:
    rows of the batch before it fill the rest, and their answers are dropped. Nothing is allocated per call but the
    answer.

    Args:
        session: Over the one input `numeric`.
        output: The name of the output [N, k].
        device: Where the input lies: `cuda`; `cpu` shows in tests that it does what `session.run` does.
    """

    def __init__(self, session: Any, output: str, device: str) -> None:
        self._session, self._output, self._device = session, output, device
        self._sizes: dict[int, tuple[Any, np.ndarray, Any, np.ndarray]] = {}
        self._lock = threading.Lock()  # one batch at a time uses a buffer

    def run(self, numeric: "np.ndarray") -> "np.ndarray":
        """Runs the graph over rows, float32 [N, n], N > 0; returns float32 [N, k]."""
        rows = len(numeric)
        with self._lock:
            binding, host, held, answers = self._of(1 << (rows - 1).bit_length())
            host[:rows] = numeric
            held.update_inplace(host)
            self._session.run_with_iobinding(binding)
            return answers[:rows].copy()

    def _of(self, size: int) -> "tuple[Any, np.ndarray, Any, np.ndarray]":
        if size not in self._sizes:
            self._sizes[size] = self._made(size)
        return self._sizes[size]

    def _made(self, size: int) -> "tuple[Any, np.ndarray, Any, np.ndarray]":
        import numpy as np
        import onnxruntime as ort

        (node,) = self._session.get_inputs()
        width = next(out.shape[1] for out in self._session.get_outputs() if out.name == self._output)
        host, answers = (pinned((size, columns), self._device) for columns in (node.shape[1], width))
        held = ort.OrtValue.ortvalue_from_shape_and_type(host.shape, np.float32, self._device, 0)
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(node.name, held)
        binding.bind_output(self._output, "cpu", 0, np.float32, answers.shape, answers.ctypes.data)
        return binding, host, held, answers


class Few:
    """Memory for a few rows of numbers on the CPU, bound to a graph once for each number of rows.

    A plain run describes its arrays to ONNX Runtime anew each time, which takes as long as a small model itself.

    Args:
        session: Over the one input `numeric`.
        output: The name of the output [N, k].
    """

    def __init__(self, session: Any, output: str) -> None:
        self._session, self._output = session, output
        self._bound: list[tuple[Any, np.ndarray, np.ndarray] | None] = [None] * (FEW + 1)
        self._lock = threading.Lock()

    def run(self, numeric: "np.ndarray") -> "np.ndarray":
        """Runs the graph over rows, float32 [N, n], 0 < N <= `FEW`; returns float32 [N, k]."""
        rows = len(numeric)
        with self._lock:
            binding, taken, answers = self._bound[rows] or self._bind(rows)
            taken[:] = numeric
            self._session.run_with_iobinding(binding)
            return answers.copy()

    def _bind(self, rows: int) -> "tuple[Any, np.ndarray, np.ndarray]":
        import numpy as np

        (node,) = self._session.get_inputs()
        width = next(out.shape[1] for out in self._session.get_outputs() if out.name == self._output)
        taken, answers = (np.zeros((rows, columns), np.float32) for columns in (node.shape[1], width))
        binding = self._session.io_binding()
        binding.bind_input(node.name, "cpu", 0, np.float32, taken.shape, taken.ctypes.data)
        binding.bind_output(self._output, "cpu", 0, np.float32, answers.shape, answers.ctypes.data)
        self._bound[rows] = bound = binding, taken, answers
        return bound


def pinned(shape: tuple[int, int], device: str) -> "np.ndarray":
    """Zeros, float32, which a GPU can read without a copy in between where torch is there to pin them."""
    import numpy as np

    if device == "cuda":
        try:
            import torch
        except ImportError:
            return np.zeros(shape, dtype=np.float32)
        if torch.cuda.is_available():
            held: np.ndarray = torch.zeros(shape, pin_memory=True).numpy()
            return held
    return np.zeros(shape, dtype=np.float32)


def _open(graph: bytes, threads: int, device: Device) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    providers = onnx_providers(device, graph)
    try:
        session = ort.InferenceSession(graph, options, providers=[(each, _OPTIONS.get(each, {})) for each in providers])
    except Exception as error:  # ONNX Runtime's errors share no base
        raise PackageError(f"ONNX Runtime refuses the graph: {error}", remedy="Train the model again") from error
    check_providers(device, providers, session.get_providers())
    return session
