"""Compiles pipelines and components to KFP's YAML, byte for byte the same each time."""

import ast
import importlib
import json
import re
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

from fti.common.files import atomic_file
from fti.kubeflow.profile import Profile
from fti.kubeflow.resources import read_compiled, with_resources

COMPONENTS = (
    "ingest",
    "validate",
    "require",
    "featurize",
    "materialize",
    "retrieve",
    "train",
    "evaluate",
    "infra_validate",
    "push",
    "rollout",
)

_OTHER_TASKS = ("train baseline",)  # of our pipelines, named otherwise than their components
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
    from fti.pipelines import PIPELINES

    components = [_compile(component_named(name), Path(folder) / "components" / f"{name}.yaml") for name in COMPONENTS]
    return compile_pipelines(folder, PIPELINES) + components


def compile_pipelines(folder: str | Path, names: Iterable[str], profile: Profile | None = None) -> list[Path]:
    """Writes `<folder>/pipelines/<name>.yaml`.

    Args:
        folder: Created where it does not exist.
        names: Of pipelines of this library.
        profile: What the steps are given on a cluster.

    Returns:
        The files written.

    Raises:
        ConfigError: The profile names a step that neither the pipeline nor this library has.
    """
    from fti.pipelines import pipeline_named

    at = Path(folder) / "pipelines"
    return [compile_pipeline(pipeline_named(name), at / f"{name}.yaml", profile) for name in names]


def compile_pipeline(pipeline: Any, path: Path, profile: Profile | None = None) -> Path:
    """Writes one pipeline, with what a profile gives its steps.

    Args:
        pipeline: A function decorated with `dsl.pipeline`: one of ours or of yours.
        path: The YAML file to write.
        profile: What the steps are given on a cluster.

    Returns:
        The file written.

    Raises:
        ConfigError: The profile names a step that neither the pipeline nor this library has.
    """
    return _compile(pipeline, path, profile)


def component_folders() -> list[Path]:
    """Rewrites the `component.yaml` beside each `component.py`.

    Returns:
        The files written.
    """
    root = Path(__file__).parent
    return [_compile(component_named(name), root / name / "component.yaml") for name in COMPONENTS]


def _compile(thing: Any, path: Path, profile: Profile | None = None) -> Path:
    from kfp.compiler import Compiler

    with atomic_file(path) as scratch:
        Compiler().compile(thing, str(scratch))
        lines = scratch.read_text(encoding="utf-8").splitlines(keepends=True)
        text = "".join(_DEFAULT.sub(_in_order, line) for line in lines)
        scratch.write_text(_with_profile(text, profile) if profile else text, encoding="utf-8")
    return path


def _with_profile(text: str, profile: Profile) -> str:
    """The YAML of a pipeline whose steps have what the profile says, under the heading that KFP wrote."""
    compiled = read_compiled(text)
    profile.require_steps({*compiled.step_names, *COMPONENTS, *_OTHER_TASKS})
    given = with_resources(compiled, profile)
    heading = "".join(takewhile(lambda line: line.startswith("#"), text.splitlines(keepends=True)))
    documents = [given.spec, given.platform] if given.platform else [given.spec]
    return heading + yaml.safe_dump_all(documents, sort_keys=True)


def _in_order(default: re.Match[str]) -> str:
    """KFP writes maps among the defaults in its heading in the random order of protobuf."""
    return f"{default[1]}{json.dumps(ast.literal_eval(default[2]), sort_keys=True)}]"
