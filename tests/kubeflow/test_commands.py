"""`fti upload`, `fti run --cluster`, `fti follow` and `fti schedule` as a user types them."""

import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from fti.cli.main import main
from tests.kubeflow.standin import Kubeflow
from tests.kubeflow.test_runs import FAILED, LOG, REFUSED, look, task

ARGUMENTS = ["--model-uri", "s3://models/m", "--blessing-uri", "s3://models/b"]


def fti(cluster: Kubeflow, *arguments: str, code: int = 0, **environ: str) -> str:
    """The command's own entry, in this process, since kfp's import is half a second."""
    said = StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(said):
        patch.setattr(sys, "argv", ["fti", *arguments])
        for name, value in {"FTI_KFP_URL": cluster.url, **environ}.items():
            patch.setenv(name, value)
        try:
            main()
            found: object = 0
        except SystemExit as end:
            found = end.code
    assert found == code, said.getvalue()
    return said.getvalue()


def test_upload_all_and_again(cluster: Kubeflow, tmp_path: Path) -> None:
    first = fti(cluster, "upload").splitlines()
    assert len(first) == 4 and all(" uploaded: http" in line for line in first)
    assert "version mine uploaded" in fti(cluster, "upload", "deployment", "--resources", "small", "--version", "mine")
    fti(cluster, "compile", "deployment", "-o", str(tmp_path))
    assert "is there already" in fti(cluster, "upload", str(tmp_path / "pipelines" / "deployment.yaml"))
    assert len(cluster.versions) == 5
    assert "platform_spec" in cluster.versions[-1]["pipeline_spec"]


def test_a_run_on_a_cluster(cluster: Kubeflow) -> None:
    cluster.script = [look("SUCCEEDED", task("push", "SUCCEEDED", "pod-1"))]
    text = fti(cluster, "run", "deployment", "--cluster", *ARGUMENTS, "--canary-percent", "5")
    run_id = cluster.runs[0]["run_id"]
    assert f"fti-deployment runs: {cluster.url}/#/runs/details/{run_id}" in text
    assert "✓ push" in text and "The run ended well" in text
    assert cluster.runs[0]["runtime_config"]["parameters"] == {
        "model_uri": "s3://models/m", "blessing_uri": "s3://models/b", "canary_percent": 5
    }  # fmt: skip


def test_kubeflow_without_profiles(cluster: Kubeflow) -> None:
    """It serves one user, refuses requests that name a namespace, and asks nobody who they are."""
    own = {"FTI_KFP_NAMESPACE": "kubeflow"}  # as a pod of Kubeflow's own namespace has it
    assert "uploaded" in fti(cluster, "upload", "deployment", **own)
    cluster.script = [look("SUCCEEDED", task("push", "SUCCEEDED", "pod-1"))]
    account = ("--service-account", "pipeline-runner")
    assert "The run ended well" in fti(cluster, "run", "deployment", "--cluster", *ARGUMENTS, *account, **own)
    assert cluster.runs[0]["service_account"] == "pipeline-runner"
    create = ("schedule", "create", "deployment", "--name", "nightly", "--cron", "0 3 * * *", *ARGUMENTS)
    assert "nightly starts fti-deployment" in fti(cluster, *create, **own)
    assert "nightly" in fti(cluster, "schedule", "list", **own)
    fti(cluster, "schedule", "delete", "nightly", **own)
    assert not cluster.recurring
    assert not any("namespace" in each for of in (cluster.pipelines, cluster.experiments) for each in of)


def test_a_run_that_fails_fails_the_command(cluster: Kubeflow) -> None:
    cluster.script, cluster.logs = [FAILED], {"pod-2": LOG}
    text = fti(cluster, "run", "deployment", "--cluster", *ARGUMENTS, "--namespace", "mine", code=1)
    assert "✗ require" in text and f"Error: the run failed: require: {REFUSED}" in text
    assert REFUSED in fti(cluster, "follow", cluster.runs[0]["run_id"], code=1)


@pytest.mark.slow
def test_ctrl_c_leaves_the_run_and_says_how_to_follow_it(cluster: Kubeflow) -> None:
    cluster.script = [look("RUNNING", task("push", "RUNNING"))]
    # A shell's background job ignores Ctrl-C, and its children with it.
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code = heeding + "from fti.cli.main import main; main()"
    command = [sys.executable, "-c", code, "run", "deployment", "--cluster", *ARGUMENTS]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "FTI_KFP_URL": cluster.url},
    )
    deadline = time.monotonic() + 60
    while not any(line.startswith("GET /apis/v2beta1/runs/") for line in cluster.seen):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=20)
    assert process.returncode == 130, text
    run_id = cluster.runs[0]["run_id"]
    assert f"The run goes on: {cluster.url}/#/runs/details/{run_id}" in text and f"fti follow {run_id}" in text
    assert not any(":terminate" in line for line in cluster.seen)


def test_a_schedule_from_its_making_to_its_end(cluster: Kubeflow) -> None:
    assert "There is no schedule." in fti(cluster, "schedule", "list")
    made = ["schedule", "create", "deployment", "--name", "weekly", "--cron", "0 3 * * 1", *ARGUMENTS]
    assert "weekly starts fti-deployment by cron 0 0 3 * * 1" in fti(cluster, *made)
    assert "there is a schedule weekly already" in fti(cluster, *made, code=1)
    fti(cluster, "schedule", "disable", "weekly")
    assert "disabled" in fti(cluster, "schedule", "list")
    fti(cluster, "schedule", "delete", "weekly")
    assert cluster.recurring == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["upload", "nothing"], 2, "nothing is neither a file nor a pipeline"),
        (["run", "loop", "--detach"], 2, "--detach means nothing on this machine. Perhaps --cluster is missing"),
        (["schedule", "create", "loop", "--name", "x"], 1, "one of a cron line and an interval"),
        (["upload", "loop"], 1, "does not know who asks (401)"),
    ],
)
def test_a_mistake_is_explained(cluster: Kubeflow, arguments: list[str], code: int, said: str) -> None:
    cluster.token = "T0KEN"
    text = fti(cluster, *arguments, code=code, FTI_KFP_TOKEN="S3CRET")
    assert said in text and "S3CRET" not in text
