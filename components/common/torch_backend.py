"""Models as programs of torch operators: what has no ONNX form is served by torch, without running any of its code.

    program.json          inputs, categories and steps: each step names one of torch's own pure operators
    program.safetensors   the weights

A program is data. It holds no Python, no pickle and no expression to evaluate; a step may name only an operator of
`allowed`, none of which writes, reads files, or draws random numbers. `docs/models.md` says why neither TorchScript
nor torch.export's own files would do.
"""

import json
import math
import operator
import re
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fti.common.devices import Device, torch_device
from fti.common.errors import PackageError
from fti.common.model_package import PROGRAM

if TYPE_CHECKING:
    import numpy as np
    import torch

INPUTS = ("numeric", "codes")

_OPERATOR = re.compile(r"aten\.(_?[a-z0-9][A-Za-z0-9_]*)\.([A-Za-z0-9_]+)")
_NUMERICS = re.compile(r"_?(linalg|fft|special)_")
# Pure, and outside torch's "Core ATen" set and the families above.
_MORE = re.compile(
    "bucketize|cdist|celu|cummax|cummin|cumprod|diag_embed|digamma|erfc|erfinv|frac|hardsigmoid|hardswish|histc|hypot"
    "|igammac?|isfinite|kthvalue|lgamma|logaddexp|logcumsumexp|logit|logsumexp|median|mish|mode|mvlgamma|nan_to_num"
    "|nanmedian|polygamma|prelu|roll|searchsorted|selu|silu|softplus|std|tril|triu|unfold|var_mean"
)
_UNSAFE = frozenset(["as_strided", "empty", "empty_strided"])  # they show memory that is not the program's own
_PYTHON: dict[str, Callable[..., Any]] = {
    name: getattr(operator, name) for name in ("getitem", "add", "sub", "mul", "floordiv", "mod", "neg")
}


class TorchBackend:
    """Runs a program.

    Args:
        program: `program.json`.
        weights: `program.safetensors`.
        threads: Threads within one call; 0 leaves it to torch, whose number holds for the whole process.
        device: See `fti.common.devices`.

    Attributes:
        device: `cpu` or `cuda`: where it runs.
        widths: The number of columns of each input, as an ONNX graph would have them.

    Raises:
        PackageError: torch is not installed, or the program is damaged or names what is not allowed.
        ConfigError: `cuda` is asked for and absent.
    """

    def __init__(self, program: bytes, weights: bytes, *, threads: int = 0, device: Device = "cpu") -> None:
        try:
            import torch
            from safetensors.torch import load
        except ImportError as error:
            raise PackageError(
                f"the model is served by torch, which is not installed here: {error}",
                remedy="Install torch and safetensors, or train a model that exports to ONNX",
            ) from error
        self._torch, self._threads = torch, threads
        self._device = torch_device(device)
        self.device = self._device.type
        try:
            described = json.loads(program)
            self._codes = [{value: code for code, value in enumerate(column, 1)} for column in described["categories"]]
            self._numbers = int(described["numeric"])
            tensors = {name: tensor.to(self._device) for name, tensor in load(weights).items()}
            self._program = Program(described["steps"], described["output"], tensors, self._device)
        except PackageError:
            raise
        except Exception as error:  # whatever a damaged file leads to
            raise PackageError(f"{PROGRAM} is no program: {error}", remedy="Train the model again") from error
        widths = {"numeric": self._numbers, "categorical": len(self._codes)}
        self.widths = {name: width for name, width in widths.items() if width}
        self._pinned: dict[str, torch.Tensor] = {}
        self._pinning = threading.Lock()

    def run(self, feed: "Mapping[str, np.ndarray]") -> "np.ndarray":
        """Runs the program over rows: see `OnnxBackend.run`."""
        torch = self._torch
        if self._threads and torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        with torch.inference_mode():
            with self._pinning:  # the buffers are shared: a batch has to be through before the next goes in
                inputs = [self._moved(name, values) for name, values in zip(INPUTS, self._arrays(feed), strict=True)]
            scores: np.ndarray = self._program.run(inputs).cpu().numpy()
        return scores

    def _arrays(self, feed: "Mapping[str, np.ndarray]") -> "tuple[np.ndarray, np.ndarray]":
        import numpy as np

        rows = len(next(iter(feed.values())))
        codes = np.zeros((rows, len(self._codes)), dtype=np.int64)
        for position, known in enumerate(self._codes):
            codes[:, position] = [known.get(value, 0) for value in feed["categorical"][:, position]]
        return feed.get("numeric", np.empty((rows, 0), dtype=np.float32)), codes

    def _moved(self, name: str, values: "np.ndarray") -> "torch.Tensor":
        """The values on the device; on their way to a GPU they pass pinned memory that is kept and grows as needed."""
        given = self._torch.from_numpy(values if values.flags.writeable else values.copy())  # torch warns of the others
        if self.device == "cpu":
            return given
        held = self._pinned.get(name)
        if held is None or len(held) < len(given):
            size = 1 << (len(given) - 1).bit_length()
            held = self._pinned[name] = self._torch.empty((size, given.shape[1]), dtype=given.dtype, pin_memory=True)
        held[: len(given)].copy_(given)
        return held[: len(given)].to(self._device)


class Program:
    """Steps, checked and made ready to run.

    Args:
        steps: Of each `out`, `op`, `args` and, where there are any, `kwargs`.
        output: The name of the answer [N, k].
        tensors: Weights by name.
        device: Where the tensors lie, and where new ones are made.

    Raises:
        PackageError: A step names what is not allowed, or uses what no earlier step gives.
    """

    def __init__(
        self, steps: list[dict[str, Any]], output: str, tensors: "Mapping[str, torch.Tensor]", device: "torch.device"
    ) -> None:
        self._tensors, self._output = dict(tensors), str(output)
        known = {*self._tensors, *INPUTS}
        self._steps = []
        for step in steps:
            function, made = _function(str(step["op"])), {"device": device} if _makes(str(step["op"])) else {}
            args = _read(step["args"], known)
            kwargs = {str(name): _read(value, known) for name, value in step.get("kwargs", {}).items()} | made
            known.add(str(step["out"]))
            self._steps.append((str(step["out"]), function, args, kwargs))
        if self._output not in known:
            raise PackageError(f"no step of the program gives its output {self._output!r}")
        self._last_use = self._last_uses()

    def run(self, inputs: "list[torch.Tensor]") -> "torch.Tensor":
        """Runs the steps over `numeric` float32 [N, n] and `codes` int64 [N, m]."""
        values: dict[str, Any] = {**self._tensors, **dict(zip(INPUTS, inputs, strict=True))}
        for (out, function, args, kwargs), done in zip(self._steps, self._last_use, strict=True):
            values[out] = function(
                *(_given(value, values) for value in args),
                **{name: _given(value, values) for name, value in kwargs.items()},
            )
            for name in done:
                del values[name]
        answer: torch.Tensor = values[self._output]
        return answer

    def _last_uses(self) -> list[list[str]]:
        """After each step, the names that no later one needs: their memory is free."""
        seen, done = {self._output}, []
        for out, _, args, kwargs in reversed(self._steps):
            used = {out, *_names(args), *_names(list(kwargs.values()))} - seen
            seen |= used
            done.append(sorted(used))
        return done[::-1]


class _Ref(str):
    """The name of a value."""

    __slots__ = ()


def allowed(name: str) -> bool:
    """Whether a program may name an operator, such as `aten.add.Tensor` or `getitem`.

    It may where the operator is one of torch's "Core ATen" set, of linear algebra, Fourier transforms, special
    functions or a short list, and neither writes into its arguments nor draws random numbers nor shows foreign memory.
    """
    import torch

    if name in _PYTHON:
        return True
    matched = _OPERATOR.fullmatch(name)
    found = getattr(getattr(torch.ops.aten, matched[1], None), matched[2], None) if matched else None
    if not matched or not isinstance(found, torch._ops.OpOverload) or matched[1] in _UNSAFE:
        return False
    if found._schema.is_mutable or torch.Tag.nondeterministic_seeded in found.tags:
        return False
    return torch.Tag.core in found.tags or bool(_NUMERICS.match(matched[1]) or _MORE.fullmatch(matched[1]))


def _function(name: str) -> Callable[..., Any]:
    import torch

    if not allowed(name):
        raise PackageError(
            f"the program names {name[:80]!r}", allowed="torch's pure operators; see docs/models.md", remedy="Train it"
        )
    if name in _PYTHON:
        return _PYTHON[name]
    _, operation, overload = name.split(".")
    function: Callable[..., Any] = getattr(getattr(torch.ops.aten, operation), overload)
    return function


def _makes(name: str) -> bool:
    """Whether an operator makes a tensor out of no tensor, and must be told where."""
    schema = getattr(_function(name), "_schema", None)
    arguments = [] if schema is None else schema.arguments
    return any(item.name == "device" for item in arguments) and "Tensor" not in {str(item.type) for item in arguments}


def _read(value: Any, known: set[str]) -> Any:
    """An argument as JSON has it: `{"ref": name}`, `{"dtype": name}`, `{"float": "inf"}`, a list or a plain value."""
    import torch

    if isinstance(value, list):
        return [_read(item, known) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, text),) = value.items()
    if kind == "ref" and text in known:
        return _Ref(text)
    if kind == "float":
        return float(text)
    if kind == "dtype" and isinstance(getattr(torch, text, None), torch.dtype):
        return getattr(torch, text)
    raise PackageError(f"the program uses {str(value)[:80]}", allowed="values of earlier steps, dtypes, numbers")


def written(value: Any) -> Any:
    """The JSON form of a plain argument; the reverse of `_read`."""
    import torch

    if isinstance(value, list | tuple):
        return [written(item) for item in value]
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    return value


def _given(value: Any, values: Mapping[str, Any]) -> Any:
    if type(value) is _Ref:
        return values[value]
    return [_given(item, values) for item in value] if type(value) is list else value


def _names(value: Any) -> set[str]:
    if isinstance(value, list):
        return set().union(*(_names(item) for item in value))
    return {value} if isinstance(value, _Ref) else set()
