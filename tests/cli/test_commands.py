"""The command as a user types it: help that teaches, and errors that explain."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fti.common.settings import Settings
from fti.compilation import COMPONENTS
from fti.pipelines import PIPELINES

ROOT = Path(__file__).parents[2]


def fti(*arguments: str, code: int = 0, stdin: str = "") -> str:
    command = [str(Path(sys.executable).parent / "fti"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, input=stdin, cwd=ROOT)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout + done.stderr


def test_help_names_every_verb_and_the_way_through() -> None:
    text = fti("--help")
    here, on_cluster = (
        ("run", "serve", "predict", "status", "promote", "rollback", "demo"),
        ("upload", "follow", "schedule"),
    )
    for verb in (*here, "compile", *on_cluster):
        assert f"\n  {verb} " in text
    assert "fti run loop" in text


def test_help_comes_without_importing_what_is_heavy() -> None:
    code = (
        "import sys; sys.argv = ['fti', '--help']\n"
        "from fti.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'kfp', 'feast', 'torch', 'sklearn', 'kserve', 'pandas', 'duckdb'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_run_lists_the_pipelines() -> None:
    text = fti("run", "--help")
    for pipeline in ("features", "training", "deployment", "loop"):
        assert pipeline in text


def test_the_options_of_a_pipeline_are_its_parameters() -> None:
    text = fti("run", "deployment", "--help")
    assert "--model-uri" in text and "[required]" in text
    assert "--canary-percent INTEGER" in text and "[default: 20" in text


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "nothing"], 2, "No such command 'nothing'"),
        (["run", "deployment"], 2, "Missing option '--model-uri'"),
        (["run", "deployment", "--canary-percent", "many"], 2, "'many' is not a valid integer"),
        (["run", "training", "--boundaries", "October"], 2, "is not JSON"),
        (["run", "training", "--hyperparameters", "[1]"], 2, 'Allowed: {"key": 1}'),
        (["serve"], 1, "no service was pushed"),
        (["predict", "late-arrival"], 1, "'late-arrival' was not pushed"),
        (["predict", "late-arrival", "--rows", "-"], 1, "is not JSON"),
    ],
)
def test_a_mistake_is_explained(settings: Settings, arguments: list[str], code: int, message: str) -> None:
    assert message in fti(*arguments, code=code)


def test_rows_must_be_a_list_of_maps(settings: Settings) -> None:
    assert "is not a list of rows" in fti("predict", "x", "--rows", "-", code=1, stdin="[1, 2]")


def test_status_of_an_empty_home(settings: Settings) -> None:
    assert "nothing was pushed" in fti("status")
    assert json.loads(fti("status", "--json"))["services"] == {}


def test_compile_writes_every_pipeline_and_component(tmp_path: Path) -> None:
    written = fti("compile", "--output", str(tmp_path)).split()
    assert len(written) == len(PIPELINES) + len(COMPONENTS)
    assert all(Path(path).is_file() for path in written)


def test_compile_writes_the_pipelines_that_are_named(tmp_path: Path) -> None:
    assert fti("compile", "features", "--output", str(tmp_path)).split() == [str(tmp_path / "pipelines/features.yaml")]
    assert "'nothing' is not one of" in fti("compile", "nothing", code=2)
    assert "the resource profile large cannot be read" in fti("compile", "--resources", "large", code=1)
