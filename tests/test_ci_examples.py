"""The examples for GitHub Actions and GitLab: their commands, run as they stand in a repository of a user's."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kubeflow.standin import Kubeflow, kubeflow

pytestmark = pytest.mark.slow
EXAMPLES = Path(__file__).parent.parent / "docs" / "ci"
ELSEWHERE = re.compile(r"docker |pip |apt-get |echo \"\$REGISTRY_PASSWORD\"")
VARIABLES = {"REGISTRY": "registry.example/team", "NAMESPACE": "team", "SHA": "abc1234"}


def _github() -> dict[str, list[tuple[str, dict[str, str]]]]:
    """Job -> its commands, with their environment."""
    workflow = yaml.safe_load((EXAMPLES / "github-actions.yaml").read_text())
    jobs = {}
    for name, job in workflow["jobs"].items():
        steps = [step for step in job["steps"] if "run" in step]
        jobs[name] = [(step["run"], _filled({**job.get("env", {}), **step.get("env", {})})) for step in steps]
    return jobs


def _gitlab() -> dict[str, list[tuple[str, dict[str, str]]]]:
    pipeline = yaml.safe_load((EXAMPLES / "gitlab-ci.yaml").read_text())
    return {
        name: [(line, _filled(job.get("variables", {}))) for line in [*job.get("before_script", []), *job["script"]]]
        for name, job in pipeline.items()
        if name in pipeline["stages"]
    }


def _filled(environ: dict[str, str]) -> dict[str, str]:
    """The service's own expressions, as it would fill them in."""
    filled = {}
    for name, value in environ.items():
        value = re.sub(r"\$\{\{ vars\.(\w+) \}\}", lambda found: VARIABLES.get(found[1], ""), value)
        value = re.sub(r"\$\{\{ secrets\.(\w+) \}\}", lambda found: f"s3cr3t-{found[1]}", value)
        value = value.replace("${{ github.sha }}", VARIABLES["SHA"]).replace("$CI_COMMIT_SHA", VARIABLES["SHA"])
        value = value.replace("${{ github.workspace }}", ".").replace("$REGISTRY", VARIABLES["REGISTRY"])
        filled[name] = value.replace("$NAMESPACE", VARIABLES["NAMESPACE"])
        assert "${{" not in filled[name], f"{name} uses an expression that this test does not know"
    return filled


def _jobs(service: str) -> dict[str, list[tuple[str, dict[str, str]]]]:
    return _github() if service == "github" else _gitlab()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A user's repository, all of it committed."""
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "resources.yaml").write_text("defaults: {cpu: {request: 500m}, retries: {count: 2}}\n")
    (folder / "test_own.py").write_text("def test_own():\n    assert True\n")
    (folder / ".gitignore").write_text(".pytest_cache/\n__pycache__/\n.fti/\nkubeconfig\n")
    _run(folder, "fti compile --output compiled --resources resources.yaml && git init -q && git add -A", {})
    _run(folder, "git -c user.name=me -c user.email=me@example.com commit -qm first", {})
    return folder


def _run(folder: Path, script: str, environ: dict[str, str], code: int = 0) -> str:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FTI_")}
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script],
        cwd=folder,
        env={**inherited, "PATH": path, **environ},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == code, script + done.stdout + done.stderr
    assert "s3cr3t" not in done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("service", ["github", "gitlab"])
def test_check(service: str, repository: Path) -> None:
    commands = [(line, environ) for line, environ in _jobs(service)["check"] if not ELSEWHERE.match(line)]
    assert len(commands) >= 2
    for line, environ in commands:
        _run(repository, line, environ)
    (repository / "resources.yaml").write_text("defaults: {cpu: {request: 250m}}\n")
    script = "\n".join(line for line, _ in commands)
    assert "commit compiled/" in _run(repository, script, {}, code=1)


@pytest.mark.parametrize("service", ["github", "gitlab"])
def test_deliver(service: str, repository: Path) -> None:
    with kubeflow(token="s3cr3t-FTI_KFP_TOKEN", many_users=True) as cluster:
        reached = {"FTI_KFP_URL": cluster.url, "FTI_KFP_TOKEN": "s3cr3t-FTI_KFP_TOKEN"}
        said = []
        for line, environ in _jobs(service)["deliver"]:
            if ELSEWHERE.match(line):
                continue
            rollout = "fti rollout" in line
            local = {"FTI_SERVING": "local"} if rollout else {}
            said.append(_run(repository, line, {**environ, **reached, **local}, code=1 if rollout else 0))
        _check_delivered(cluster)
    assert "late-arrival has no canary" in said[-1]


def _check_delivered(cluster: Kubeflow) -> None:
    (run,) = cluster.runs
    (version,) = cluster.versions
    assert version["display_name"] == VARIABLES["SHA"] or version["name"] == VARIABLES["SHA"]
    assert f"{VARIABLES['REGISTRY']}/steps:{VARIABLES['SHA']}" in yaml.safe_dump(version["pipeline_spec"])
    assert run["runtime_config"]["parameters"]["canary_percent"] == 0
    assert run["pipeline_version_reference"]["pipeline_version_id"] == version["pipeline_version_id"]


@pytest.mark.parametrize("service", ["github", "gitlab"])
def test_only_what_was_merged_is_delivered(service: str) -> None:
    """A request to merge, which anybody may open, gets neither secrets nor an image."""
    name = {"github": "github-actions.yaml", "gitlab": "gitlab-ci.yaml"}[service]
    text = (EXAMPLES / name).read_text()
    whole: dict[str, Any] = yaml.safe_load(text)
    if service == "github":
        jobs = whole["jobs"]
        assert "secrets." not in yaml.safe_dump(jobs["check"])
        assert jobs["image"]["if"] == "github.event_name == 'push'"
        assert (jobs["image"]["needs"], jobs["deliver"]["needs"]) == ("check", "image")
        assert whole["permissions"] == {"contents": "read"}
    else:
        on_main = [{"if": "$CI_COMMIT_BRANCH == $CI_DEFAULT_BRANCH"}]
        assert whole["image"]["rules"] == whole["deliver"]["rules"] == on_main
