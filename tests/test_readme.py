"""What a user types: the demo, then every command and every piece of Python of the README, as they stand there."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
TEST_SET = 54_065  # labelled flights in November and December


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands(block: str) -> list[str]:
    return [line.split("#")[0].strip() for line in block.splitlines() if line.split("#")[0].strip()]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to work in, such as a user's, whose state is its own."""
    return tmp_path_factory.mktemp("work")


def run(command: str, work: Path, **options: object) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "NO_COLOR": "1"}
    environ.pop("FTI_HOME", None)
    environ |= dict(re.findall(r"^export (\w+)=(\S+)", README, re.MULTILINE))
    done = subprocess.run(
        shlex.split(command), cwd=work, env=environ, capture_output=True, text=True, timeout=600, **options
    )  # type: ignore[call-overload]
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def demo(work: Path) -> str:
    return run("fti demo", work).stdout


@pytest.fixture(scope="module")
def served(demo: str, work: Path) -> Iterator[str]:
    """`fti serve` as the README starts it; ended by Ctrl-C."""
    del demo
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environ.pop("FTI_HOME", None)
    environ |= dict(re.findall(r"^export (\w+)=(\S+)", README, re.MULTILINE))
    with (work / "serve.txt").open("w+") as output:
        server = subprocess.Popen(
            ["fti", "serve", "--port", "0"], cwd=work, env=environ, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            deadline = time.monotonic() + 120
            while "Ready." not in (text := (work / "serve.txt").read_text()):
                assert server.poll() is None and time.monotonic() < deadline, text
                time.sleep(0.1)
            yield re.search(r"http://127\.0\.0\.1:\d+", text)[0]  # type: ignore[index]
        finally:
            server.send_signal(2)
            assert server.wait(60) == 0


def test_the_demo_leaves_figures_that_hold(demo: str, work: Path) -> None:
    figures = json.loads((work / ".fti/demo.json").read_text())
    assert figures["rows_ingested"] == 336_776
    assert figures["rows_rejected"] == figures["rows_against_contract"] + figures["rows_without_label"] == 4 + 9_430
    assert figures["auc_test"] >= 0.811
    assert figures["auc_schedule_only"] < 0.65
    assert figures["blessed"] is True
    assert figures["rows_replayed"] > 150
    assert figures["features_compared"] == 33
    assert figures["features_differing"] == 0
    assert figures["requests"] == 1000
    assert figures["failed_requests"] == 0
    assert figures["canary_percent_asked"] == 20
    assert abs(figures["canary_percent_seen"] - 20) < 6.3  # five standard deviations of 1,000 draws
    assert figures["seconds"] > 1
    assert not (work / ".fti/serving.json").exists(), "the demo stops what it started"


def test_the_demo_tells_what_matters(demo: str, work: Path) -> None:
    for piece in (
        "336,776 flights in",
        "schedule alone",
        "canary 20 % asked",
        "curl -s http://127.0.0.1:8080",
        "Next ",
    ):
        assert piece in demo
    folders = re.search(r"Reports +(\S+) +(\S+)", demo)
    assert folders
    names = {page.name.split("-", 1)[1] for folder in folders.groups() for page in (work / folder).glob("*.html")}
    tables = ("flights", "weather", "planes", "airports")
    assert names == {"evaluate.html", "infra-validate.html", *(f"validate-{table}.html" for table in tables)}


def test_the_curl_line_of_the_demo_works(demo: str, served: str, work: Path) -> None:
    line = re.search(r"curl -s .*", demo)
    assert line
    answer = json.loads(run(line[0].replace("http://127.0.0.1:8080", served), work).stdout)
    assert 0 <= answer["predictions"][0]["probability"] <= 1


def test_the_commands_after_the_demo_work(demo: str, served: str, work: Path) -> None:
    told = commands(blocks("bash")[1])
    assert ". .venv/bin/activate" in told and "fti serve" in told
    for command in told:
        if command not in (". .venv/bin/activate", "fti serve") and not command.startswith("export "):
            run(command, work)
    assert len(list((work / "compiled").rglob("*.yaml"))) == 15
    assert "canary   20 %" in run("fti status", work).stdout


def test_the_make_targets_of_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`?make ([a-z]+)`?", README + (ROOT / "CONTRIBUTING.md").read_text()))
    assert named <= targets


def test_the_python_of_the_readme_works(tmp_path: Path) -> None:
    own, running, loading = blocks("python")
    (tmp_path / "own.py").write_text(own)
    (tmp_path / "flights.csv").write_text("origin,delay\nEWR,3\nJFK,\n")
    (tmp_path / "contract.yaml").write_text("columns: {origin: {type: string}, delay: {type: int64, nullable: true}}")
    (tmp_path / "run.py").write_text(running)
    run(f"{sys.executable} run.py", tmp_path)
    run(f"{sys.executable} -c '{loading}'", ROOT)


def test_the_page_on_your_own_problem_works(tmp_path: Path) -> None:
    page = (ROOT / "docs/your-own-problem.md").read_text()
    for name, content in re.findall(r"```\w+ title=(\S+)\n(.*?)```", page, re.DOTALL):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    block = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)[0].replace("\\\n", " ")
    told = [run(command, tmp_path).stdout for command in block.splitlines() if command.strip()]
    assert "Blessed: " in told[-1]
    assert (tmp_path / ".fti/services/will-order.yaml").is_file()


def test_the_links_of_the_documents_lead_somewhere() -> None:
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    broken = [
        f"{document.name}: {link}"
        for document in documents
        for link in re.findall(r"\]\(([^)#:]+)\)", document.read_text())
        if not (document.parent / link).exists()
    ]
    assert broken == []
