"""Compiles pipelines and components to KFP's YAML, byte for byte the same each time."""

import ast
import importlib
import json
import re
from pathlib import Path
from typing import Any

from fti.common.files import atomic_file

COMPONENTS = (
    "ingest",
    "validate",
    "featurize",
    "materialize",
    "retrieve",
    "train",
    "evaluate",
    "infra_validate",
    "push",
)

_DEFAULT = re.compile(r"^(#.* \[Default: )([\[{].*[\]}])\]$")


def component_named(name: str) -> Any:
    """The KFP component of a step."""
    return getattr(importlib.import_module(f"fti.{name}.component"), name)


def compile_all(folder: str | Path) -> list[Path]:
    """Writes `<folder>/pipelines/*.yaml` and `<folder>/components/*.yaml`.

    Args:
        folder: Created where it does not exist.

    Returns:
        The files written.
    """
    from fti.pipelines import PIPELINES, pipeline_named

    pipelines = [_compile(pipeline_named(name), Path(folder) / "pipelines" / f"{name}.yaml") for name in PIPELINES]
    components = [_compile(component_named(name), Path(folder) / "components" / f"{name}.yaml") for name in COMPONENTS]
    return pipelines + components


def component_folders() -> list[Path]:
    """Rewrites the `component.yaml` beside each `component.py`.

    Returns:
        The files written.
    """
    root = Path(__file__).parent
    return [_compile(component_named(name), root / name / "component.yaml") for name in COMPONENTS]


def _compile(thing: Any, path: Path) -> Path:
    from kfp.compiler import Compiler

    with atomic_file(path) as scratch:
        Compiler().compile(thing, str(scratch))
        lines = scratch.read_text(encoding="utf-8").splitlines(keepends=True)
        scratch.write_text("".join(_DEFAULT.sub(_in_order, line) for line in lines), encoding="utf-8")
    return path


def _in_order(default: re.Match[str]) -> str:
    """KFP writes maps among the defaults in its heading in the random order of protobuf."""
    return f"{default[1]}{json.dumps(ast.literal_eval(default[2]), sort_keys=True)}]"
