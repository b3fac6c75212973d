"""`fti promote` and `fti rollback`, with and without somebody who serves."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from fti.cli.main import cli
from fti.common.errors import ConfigError, ServingError
from fti.common.inference_service import Revision, Service, manifest_path, read_service, write_service
from fti.common.model_package import ModelPackage
from fti.common.settings import Settings
from fti.push.traffic import promote, rollback
from fti.serve.local.runner import running
from fti.serve.local.status import read
from tests.serve import tiny
from tests.serve.conftest import publish


def fti(*arguments: str) -> str:
    done = CliRunner().invoke(cli, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.slow
@pytest.mark.parametrize(("verb", "kept"), [("promote", "canary"), ("rollback", "stable")])
def test_the_end_of_a_trial_is_served_at_once(
    settings: Settings, one_service: ModelPackage, tmp_path: Path, verb: str, kept: str
) -> None:
    canary = tiny.write_binary(tmp_path / "canary", bias=0.5)
    publish(settings, canary, "late", percent=20)
    revision = {"canary": canary, "stable": one_service}[kept].digest[:12]
    with running(settings):
        assert "and it is served so" in fti(verb, "late")
        actual = read(settings)["services"]["late"]["actual"]["revisions"]
        assert {variant: (of["revision"], of["percent"]) for variant, of in actual.items()} == {
            "stable": (revision, 100)
        }
        assert fti(verb, "late") == "late has no canary; nothing to do.\n"
    written = manifest_path("late", settings).read_bytes()
    assert "nothing to do" in fti(verb, "late")
    assert manifest_path("late", settings).read_bytes() == written


def test_without_a_runner(settings: Settings, one_service: ModelPackage, tmp_path: Path) -> None:
    publish(settings, tiny.write_binary(tmp_path / "canary", bias=0.5), "late", percent=20)
    assert "`fti serve` takes it over" in fti("rollback", "late")
    with pytest.raises(ConfigError, match=r"'early' was not pushed\. Allowed: late"):
        promote("early", settings)


@pytest.mark.slow
def test_what_cannot_be_served_is_said(settings: Settings, one_service: ModelPackage, tmp_path: Path) -> None:
    from fti.serve.local.status import wait_in_sync

    broken = tiny.write_binary(tmp_path / "broken", bias=0.5)
    with running(settings):
        publish(settings, broken, "late", percent=20)
        (Path(settings.models_uri) / "late" / broken.digest[:12] / "card.md").write_text("tampered")
        with pytest.raises(ServingError, match=r"late is not served as desired: canary: (.|\n)*card\.md"):
            wait_in_sync("late", settings)
        assert "and it is served so" in fti("rollback", "late")


@given(percent=st.integers(0, 99))
def test_promotion_and_rollback_are_idempotent(tmp_path_factory: pytest.TempPathFactory, percent: int) -> None:
    settings = Settings.from_env({"FTI_HOME": str(tmp_path_factory.mktemp("home"))})
    one, two = Revision("a" * 64, "/a"), Revision("b" * 64, "/b", "/features")
    for end, left in ((promote, two), (rollback, one)):
        write_service(Service("late", one, two, percent), settings)
        assert [end("late", settings), end("late", settings)] == [True, False]
        assert read_service("late", settings) == Service("late", left)
