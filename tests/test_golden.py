"""Compiled YAML is committed, is what the code compiles to, and is the same each time."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fti.compilation import COMPONENTS, compile_all

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compiled")
    compile_all(folder)
    return folder


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.glob("*/*.yaml"))}


def test_the_golden_files_are_what_the_code_compiles_to(compiled: Path) -> None:
    assert files(compiled) == files(GOLDEN), "run `make golden` and look at the difference"


@pytest.mark.parametrize("name", COMPONENTS)
def test_each_component_carries_its_yaml(compiled: Path, name: str) -> None:
    committed = ROOT / "components" / name / "component.yaml"
    assert committed.read_text() == (compiled / "components" / f"{name}.yaml").read_text(), "run `make golden`"


def test_another_process_with_another_hash_seed_compiles_to_the_same_bytes(compiled: Path, tmp_path: Path) -> None:
    code = "import sys; from fti.compilation import compile_all; compile_all(sys.argv[1])"
    environ = {"PYTHONHASHSEED": "4711", "PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environ, check=True, cwd=ROOT)
    assert files(tmp_path) == files(compiled)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_input_is_described_for_the_ui(path: Path) -> None:
    spec = yaml.safe_load(path.read_text())
    root = spec["root"].get("inputDefinitions", {})
    inputs = {**root.get("parameters", {}), **root.get("artifacts", {})}
    assert [name for name, of in inputs.items() if not of.get("description")] == []
    assert "pip install" not in path.read_text()
    for executor in spec["deploymentSpec"]["executors"].values():
        if "container" in executor:
            assert executor["container"]["image"].startswith(("kfp-fti/steps:", "kfp-fti/train:"))


def test_only_pure_steps_are_cached() -> None:
    """KFP keys its cache on names: a step that changes something, or reads a store, must run each time."""
    pure = {"comp-train", "comp-train-2", "comp-importer", "comp-importer-2"}
    for path in (GOLDEN / "pipelines").glob("*.yaml"):
        spec = yaml.safe_load(path.read_text())
        dags = [spec["root"], *spec["components"].values()]
        tasks = [task for dag in dags for task in dag.get("dag", {}).get("tasks", {}).values() if "taskInfo" in task]
        cached = {task["componentRef"]["name"] for task in tasks if task.get("cachingOptions", {}).get("enableCache")}
        assert {name for name in cached if "dag" not in spec["components"][name]} <= pure, path
