"""`fti promote` and `fti rollback` say what a cluster has done."""

import pytest
from click.testing import CliRunner

from fti.cli.serving import promote_command, rollback_command
from fti.common.model_package import ModelPackage
from tests.push.conftest import Cluster
from tests.push.test_push_to_cluster import models, pushing, short

__all__ = ["models"]
pytestmark = pytest.mark.slow


def test_on_a_cluster(cluster: Cluster, models: list[ModelPackage], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTI_HOME", str(cluster.settings.home))
    monkeypatch.setenv("FTI_SERVING", cluster.settings.serving)
    pushing(models[0], cluster.settings)
    pushing(models[1], cluster.settings, 20)
    result = CliRunner().invoke(promote_command, ["late"], catch_exceptions=False)
    assert result.output == "late: the canary is stable now, and it is served so.\n"
    assert cluster.kserve.history[-1] == {short(models[1]): 100}
    assert CliRunner().invoke(rollback_command, ["late"]).output == "late has no canary; nothing to do.\n"
