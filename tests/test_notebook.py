"""The notebook: committed as a reader gets it, and executed from top to bottom."""

import ast
import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell

from fti.common.settings import Settings
from fti.pipelines import reference
from fti.rollout.archive import folder_of
from fti.rollout.record import PROMOTED, read
from fti.serve.local.status import read_state

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "notebooks" / "loop.ipynb"
SECONDS = 900  # of a cell, on a busy machine
ALLOWED = {"fti", "httpx", "matplotlib", "polars"} | sys.stdlib_module_names  # what the extra `local` installs

Outputs = Mapping[str, list[Any]]


def committed() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def execute(notebook: Any, folder: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("FTI_", "AWS_"))}
    client = NotebookClient(
        notebook, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute(env=environ)


def settings_of(folder: Path) -> Settings:
    return Settings.from_env({"FTI_HOME": str(folder / ".fti-notebook")})


def nothing_runs(folder: Path) -> bool:
    """Whether every process that worked in a folder ends, soon."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        lines = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
        if not any(str(folder) in line for line in lines):
            return True
        time.sleep(0.1)
    return False


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("notebook")


@pytest.fixture(scope="module")
def outputs(folder: Path) -> Outputs:
    """Cell id -> its outputs, of a run that began with nothing."""
    notebook = committed()
    execute(notebook, folder)
    return {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}


def printed(outputs: Outputs, cell: str) -> str:
    return "".join(output["text"] for output in outputs[cell] if output["output_type"] == "stream")


def test_it_is_committed_clean() -> None:
    notebook = committed()
    nbformat.validate(notebook)
    assert notebook.metadata.keys() == {"kernelspec", "language_info"}
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    for cell in notebook.cells:
        assert re.fullmatch(r"[a-z-]+", cell.id), "an id of our own stays the same when the notebook is saved again"
        assert not cell.metadata and not cell.get("outputs") and cell.get("execution_count") is None
        assert max(map(len, cell.source.splitlines())) <= 120
    text = NOTEBOOK.read_text()
    assert str(ROOT) not in text and str(Path.home()) not in text and not re.search(r"[\"' ]/(tmp|home|root)\b", text)


def test_it_imports_what_the_local_extra_installs() -> None:
    for cell in committed().cells:
        if cell.cell_type == "code":
            for node in ast.walk(ast.parse(re.sub(r"^%.*$", "", cell.source, flags=re.MULTILINE))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                assert {name.partition(".")[0] for name in names} <= ALLOWED


@pytest.mark.slow
@pytest.mark.timeout(2 * SECONDS)
def test_it_runs_from_top_to_bottom(outputs: Outputs, folder: Path) -> None:
    complaints = {
        cell: output["text"]
        for cell, of in outputs.items()
        for output in of
        if output["output_type"] == "stream" and output["name"] == "stderr"
    }
    assert not complaints
    assert read_state(settings_of(folder)) is None and nothing_runs(folder)
    pictures = [cell for cell, of in outputs.items() if any("image/png" in output.get("data", {}) for output in of)]
    assert pictures == ["offline", "evaluate", "explain", "traffic"]


@pytest.mark.slow
def test_its_models_are_good_and_the_second_is_better(outputs: Outputs) -> None:
    first, second = map(float, re.findall(r": AUC (0\.\d+)", printed(outputs, "evaluate")))
    assert reference.FLOOR["roc_auc"] < first < second < 0.9
    assert "\nblessed:" in printed(outputs, "evaluate")
    assert "0 of 33 features differ" in printed(outputs, "artifacts")


@pytest.mark.slow
def test_its_join_sees_no_future(outputs: Outputs) -> None:
    counts = re.findall(r": (\d+) of (\d+) flights changed", printed(outputs, "future"))
    (morning, of_morning), (afternoon, of_afternoon) = [tuple(map(int, each)) for each in counts]
    assert morning == 0 and of_morning > 50
    assert afternoon > 0.9 * of_afternoon > 50


@pytest.mark.slow
def test_both_models_answer_and_the_canary_is_promoted(outputs: Outputs, folder: Path) -> None:
    settings = settings_of(folder)
    (path,) = folder_of(reference.SERVICE, settings).glob("*.json")
    record = read(path)
    assert record.phase == PROMOTED and [each["decision"] for each in record.decisions][-1] == PROMOTED
    revisions = {record.stable[:12], record.canary[:12]}
    asked = dict(re.findall(r"(stable|canary): \{'revision': '(\w+)'", printed(outputs, "ask")))
    assert asked == {"stable": record.stable[:12], "canary": record.canary[:12]}
    count, failed = re.search(r"([\d,]+) requests, (\d+) failed", printed(outputs, "traffic")).groups()  # type: ignore[union-attr]
    assert int(count.replace(",", "")) > 1000 and failed == "0"
    assert set(re.findall(r"'(\w{12})':", printed(outputs, "traffic"))) == revisions
    assert f"Stable: {record.canary[:12]}" in printed(outputs, "record")
    assert (folder / re.search(r"Report: (\S+)", printed(outputs, "record"))[1]).is_file()  # type: ignore[index]


@pytest.mark.slow
def test_a_cell_that_fails_leaves_nothing_running(outputs: Outputs, folder: Path) -> None:
    del outputs  # what it pushed is served again
    notebook = committed()
    home, serve = (cell for cell in notebook.cells if cell.id in {"home", "serve"})
    home.source = re.sub(r"^shutil\.rmtree.*$", "", home.source, flags=re.MULTILINE)
    notebook.cells = [home, serve, new_code_cell("print(url)\nraise RuntimeError('a slip')")]
    with pytest.raises(CellExecutionError, match="a slip"):
        execute(notebook, folder)
    assert "http://" in notebook.cells[-1].outputs[0]["text"], "it was served before the cell failed"
    assert nothing_runs(folder) and read_state(settings_of(folder)) is None
