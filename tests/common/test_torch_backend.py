"""Programs of torch operators: they compute what torch does, and whatever else stands in the file is refused."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from fti.common.errors import ConfigError, PackageError
from fti.common.model_package import Signature, load_package, write_package
from fti.common.scoring import Scorer
from fti.common.tables import Feature
from fti.common.torch_backend import TorchBackend, allowed

SIGNATURE = Signature(
    name="tiny",
    task="regression",
    inputs=(Feature("x", "float32"), Feature("y", "float32"), Feature("color", "string")),
    label="z",
)
# w · |(x, y)| + shade of the color + infinity·0
PROGRAM: dict[str, Any] = {
    "numeric": 2,
    "categories": [["red", "blue"]],
    "steps": [
        {"out": "a", "op": "aten.nan_to_num.default", "args": [{"ref": "numeric"}, 0.0, None, None]},
        {"out": "n", "op": "aten.linalg_vector_norm.default", "args": [{"ref": "a"}, 2, [1], True]},
        {"out": "m", "op": "aten.mul.Tensor", "args": [{"ref": "n"}, {"ref": "w"}]},
        {"out": "s", "op": "aten.embedding.default", "args": [{"ref": "shades"}, {"ref": "codes"}]},
        {"out": "t", "op": "aten.squeeze.dims", "args": [{"ref": "s"}, [2]]},
        {"out": "rows", "op": "aten.sym_size.int", "args": [{"ref": "numeric"}, 0]},
        {
            "out": "k",
            "op": "aten.full.default",
            "args": [[{"ref": "rows"}, 1], {"float": "inf"}],
            "kwargs": {"dtype": {"dtype": "float32"}},
        },
        {"out": "c", "op": "aten.clamp.default", "args": [{"ref": "k"}, None, 0.0]},
        {"out": "u", "op": "aten.add.Tensor", "args": [{"ref": "m"}, {"ref": "t"}]},
        {"out": "v", "op": "aten.add.Tensor", "args": [{"ref": "u"}, {"ref": "c"}]},
    ],
    "output": "v",
}
WEIGHTS = {"w": torch.tensor([2.0]), "shades": torch.tensor([[0.0], [10.0], [20.0]])}


def opened(**changes: Any) -> TorchBackend:
    return TorchBackend(json.dumps({**PROGRAM, **changes}).encode(), save(WEIGHTS), threads=1)


def feed(rows: list[tuple[float, float, str]]) -> dict[str, np.ndarray]:
    numbers = np.array([row[:2] for row in rows], dtype=np.float32)
    return {"numeric": numbers, "categorical": np.array([[row[2]] for row in rows], dtype=object)}


def test_a_program_computes_what_its_steps_say() -> None:
    backend = opened()
    assert (backend.device, backend.widths) == ("cpu", {"numeric": 2, "categorical": 1})
    rows = [(3.0, 4.0, "red"), (float("nan"), 1.0, "never seen"), (0.0, 0.0, "blue")]
    scores = backend.run(feed(rows))
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, [[20.0], [2.0], [20.0]])
    np.testing.assert_allclose(backend.run(feed(rows[:1])), [[20.0]])


def test_no_value_is_kept_that_no_later_step_needs() -> None:
    program = opened()._program
    kept = {"w", "shades", "numeric", "codes"}
    for (out, *_), done in zip(program._steps, program._last_use, strict=True):
        kept = kept - set(done) | ({out} - set(done))
    assert kept == {"v"}


@pytest.mark.parametrize(
    "name",
    [
        "aten.from_file.default",  # reads a file
        "aten.set_.source_Storage",
        "aten.add_.Tensor",  # writes
        "aten.add.out",
        "aten.resize_.default",
        "aten.rand.default",  # another answer each time
        "aten.bernoulli.default",
        "aten.native_dropout.default",
        "aten.empty.memory_format",  # whatever the memory holds
        "aten.as_strided.default",
        "aten.__class__.default",
        "aten.add.__class__",
        "aten.add",
        "aten.no_such.default",
        "prim.print.default",
        "quantized.add.default",
        "system",
        "__import__",
        "eval",
        "os.system",
        "",
    ],
)
def test_nothing_but_pure_operators_may_be_named(name: str) -> None:
    assert not allowed(name)
    with pytest.raises(PackageError, match="the program names"):
        opened(steps=[{"out": "v", "op": name, "args": [{"ref": "numeric"}]}])


def test_no_operator_that_may_be_named_reads_a_file_or_writes() -> None:
    named = set()
    for full in torch._C._dispatch_get_all_op_names():
        if full.startswith("aten::"):
            operation, _, overload = full.removeprefix("aten::").partition(".")
            if allowed(f"aten.{operation}.{overload or 'default'}"):
                named.add(operation)
    assert len(named) > 200
    assert not {
        name for name in named if "file" in name or "storage" in name.removeprefix("sym_storage") or "print" in name
    }
    assert not {name for name in named if name.endswith("_")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": "aten.add.Tensor"}, "is no program"),
        ({"steps": [{"op": "aten.abs.default", "args": []}]}, "is no program"),
        ({"output": "nowhere"}, "no step of the program gives its output 'nowhere'"),
        ({"numeric": "many"}, "is no program"),
        ({"categories": None}, "is no program"),
    ],
)
def test_a_damaged_program_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(PackageError, match=message):
        opened(**change)


@pytest.mark.parametrize(
    "argument",
    [{"ref": "later"}, {"ref": "v"}, {"dtype": "nn"}, {"dtype": "load"}, {"eval": "1"}, {"ref": "w", "dtype": "x"}],
)
def test_an_argument_that_is_no_value_is_refused(argument: Any) -> None:
    steps = copy.deepcopy(PROGRAM["steps"])
    steps[0]["args"][1] = argument
    with pytest.raises(PackageError, match=r"the program uses|is no program"):
        opened(steps=steps)


@pytest.mark.parametrize("weights", [b"", b"PK\x03\x04", b"\x80\x04\x95", b"\xff" * 100])
def test_weights_that_are_no_safetensors_are_refused(weights: bytes) -> None:
    with pytest.raises(PackageError, match="is no program"):
        TorchBackend(json.dumps(PROGRAM).encode(), weights)


def write(path: Path, **changes: bytes) -> Any:
    files = {"program.json": json.dumps(PROGRAM).encode(), "program.safetensors": save(WEIGHTS)}
    return write_package(
        path,
        signature=SIGNATURE,
        native={**files, **changes},
        examples={"inputs": [{"x": 3.0, "y": 4.0, "color": "red"}], "outputs": [20.0]},
        provenance={},
        card="",
        background={"x": [1.0], "y": [None], "color": ["red"]},
    )


def test_a_package_without_onnx_is_scored_by_torch(tmp_path: Path) -> None:
    package = write(tmp_path / "p")
    assert load_package(tmp_path / "p") == package
    assert package.served == ("program.json", "program.safetensors")
    assert package.background() == {"x": [1.0], "y": [None], "color": ["red"]}
    columns = {"x": np.array([3.0]), "y": np.array([None], dtype=object), "color": np.array([None], dtype=object)}
    np.testing.assert_allclose(Scorer(package, threads=1).score(columns), [6.0])


@pytest.mark.parametrize("name", ["program.json", "program.safetensors"])
def test_a_missing_part_of_the_program_is_named(tmp_path: Path, name: str) -> None:
    write(tmp_path / "p")
    (tmp_path / "p" / name).unlink()
    with pytest.raises(PackageError, match=f"^{name} is missing"):
        load_package(tmp_path / "p")


def test_a_package_serves_one_thing(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"holds both model.onnx and program.json"):
        write(tmp_path / "p", **{"model.onnx": b"x"})


def test_a_program_of_other_columns_than_the_signature_is_refused(tmp_path: Path) -> None:
    other = json.dumps({**PROGRAM, "categories": [["red"], ["large"]]}).encode()
    with pytest.raises(PackageError, match="as its signature says"):
        Scorer(write(tmp_path / "p", **{"program.json": other}))


def test_torch_is_imported_by_programs_alone(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from fti.common.model_package import load_package; from fti.common.scoring import Scorer;"
        "Scorer(load_package(sys.argv[1])); print('torch' in sys.modules)"
    )
    from tests.serve import tiny

    paths = [tiny.write_other(tmp_path / "onnx", "regression").path, write(tmp_path / "program").path]
    found = [
        subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True).stdout.strip()
        for path in paths
    ]
    assert found == ["False", "True"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_cuda_that_is_absent_is_an_error_that_says_so() -> None:
    with pytest.raises(ConfigError, match=r"device cuda: torch .* finds no CUDA device\. Allowed: auto, cpu"):
        TorchBackend(json.dumps(PROGRAM).encode(), save(WEIGHTS), device="cuda")
    assert TorchBackend(json.dumps(PROGRAM).encode(), save(WEIGHTS), device="auto").device == "cpu"
