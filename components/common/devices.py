"""Where a model computes: on the CPU or on a GPU through CUDA."""

import logging
from typing import TYPE_CHECKING, Literal, get_args

from fti.common.errors import ConfigError

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

# `auto` takes a GPU where there is one and the model can use it, and says what it took. `cuda` insists.
Device = Literal["auto", "cpu", "cuda"]
CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
# ONNX Runtime has CUDA kernels for matrices, and none for its trees, linear models and text: around those a GPU only
# adds copies. The operators' names stand in a serialised graph as they are.
_MATRICES = (b"Gemm", b"MatMul", b"Conv", b"Attention")


def torch_device(choice: Device = "auto") -> "torch.device":
    """The device on which torch computes.

    Raises:
        ConfigError: `cuda` is asked for and absent, or the choice is none.
    """
    import torch

    _check(choice)
    found = torch.cuda.is_available()
    if choice == "cuda" and not found:
        raise _absent(f"torch {torch.__version__} finds no CUDA device")
    device = torch.device("cuda" if found and choice != "cpu" else "cpu")
    if choice == "auto":
        log.info("device auto: torch computes on %s", device.type)
    return device


def onnx_providers(choice: Device, graph: bytes) -> list[str]:
    """ONNX Runtime's execution providers for a graph, best first; the CPU comes last and takes what others lack.

    Raises:
        ConfigError: `cuda` is asked for and absent, or the choice is none.
    """
    import onnxruntime as ort

    _check(choice)
    found = CUDA in ort.get_available_providers()
    if choice == "cuda" and not found:
        raise _absent(f"ONNX Runtime {ort.__version__} has no {CUDA}")
    if choice == "cpu" or not found:
        if choice == "auto":
            log.info("device auto: ONNX Runtime has no %s, it computes on the cpu", CUDA)
        return [_CPU]
    if choice == "auto" and not any(name in graph for name in _MATRICES):
        log.info("device auto: the graph multiplies no matrices, it stays on the cpu")
        return [_CPU]
    ort.preload_dlls()  # CUDA's libraries, where pip has installed them; elsewhere the system finds them
    return [CUDA, _CPU]


def check_providers(choice: Device, wanted: list[str], opened: list[str]) -> None:
    """Tells of a GPU that ONNX Runtime gave up silently, for want of a driver or a library.

    Raises:
        ConfigError: `cuda` is asked for.
    """
    if CUDA not in wanted or CUDA in opened:
        return
    if choice == "cuda":
        raise _absent(f"ONNX Runtime has {CUDA}, but cannot start it")
    log.warning("device auto: ONNX Runtime cannot start %s, it computes on the cpu", CUDA)


def _check(choice: str) -> None:
    if choice not in get_args(Device):
        raise ConfigError(f"device {choice!r}", allowed=", ".join(get_args(Device)))


def _absent(got: str) -> ConfigError:
    return ConfigError(
        f"device cuda: {got}",
        allowed="auto, cpu; cuda on a machine with an NVIDIA driver",
        remedy="Install onnxruntime-gpu in place of onnxruntime, and torch with CUDA, or take device auto",
    )
