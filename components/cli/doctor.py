"""`fti doctor`: what is missing, and which file brings it."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fti.common.settings import LOCAL, Settings

if TYPE_CHECKING:
    from fti.doctor.finding import Finding

_MARKS = {"ok": ("ok", "green"), "warning": ("!", "yellow"), "missing": ("x", "red"), "unknown": ("?", "yellow")}


@click.command("doctor")
@click.option("--feature-repo", default="package://fti.feature_repo/", show_default=True, help="The Feast repository.")
@click.option("--service-account", default="fti-pipelines", show_default=True, help="The account that runs steps.")
@click.option("--json", "as_json", is_flag=True, help="One JSON list instead of lines.")
def doctor_command(feature_repo: str, service_account: str, as_json: bool) -> None:
    """Look for what is missing: on this machine, or, with FTI_SERVING=cluster, standard or knative, on the
    cluster.

    Nothing is changed. Exit codes: 0 nothing is missing; 1 something is, or the cluster does not answer.
    """
    findings = _found(feature_repo, service_account)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            mark, colour = _MARKS[finding.status]
            click.echo(f"{click.style(f'{mark:<2}', fg=colour)} {finding.name}: {finding.text}")
            if finding.remedy:
                click.echo(f"   {finding.remedy}")
    sys.exit(int(any(finding.status == "missing" for finding in findings)))


def _found(feature_repo: str, service_account: str) -> "list[Finding]":
    from fti.common.kubernetes_api import KubernetesApi
    from fti.common.storage.location import parse
    from fti.doctor.cluster import check_cluster
    from fti.doctor.local import check_local

    settings = Settings.from_env()
    if settings.serving == LOCAL:
        return check_local(settings, Path(parse(feature_repo).key), os.environ)
    return check_cluster(settings, KubernetesApi.connect(settings.namespace), service_account)
