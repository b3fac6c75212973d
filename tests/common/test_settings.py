"""Settings: defaults, absolute paths, and homes that cannot be used."""

from pathlib import Path

import pytest

from fti.common.errors import ConfigError
from fti.common.masking import masked
from fti.common.settings import Settings


def test_paths_hold_from_every_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings.from_env({"FTI_MODELS_URI": "models/", "FTI_OFFLINE_URI": "s3://bucket/offline/"})
    assert settings.home == tmp_path / ".fti"
    assert settings.models_uri == str(tmp_path / "models")
    assert settings.offline_uri == "s3://bucket/offline"


def test_a_child_process_reads_the_same_settings(tmp_path: Path) -> None:
    settings = Settings.from_env({"FTI_HOME": str(tmp_path), "AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "s"})
    assert Settings.from_env(settings.environ()) == settings


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    settings = Settings.from_env({"FTI_HOME": str(tmp_path), "AWS_SECRET_ACCESS_KEY": "s3cret"})
    assert "s3cret" not in repr(settings)


@pytest.mark.parametrize("home", ["/a #b", "/a: b", "/a\nb"])
def test_a_home_that_breaks_the_profile_is_refused(home: str) -> None:
    with pytest.raises(ConfigError, match="FTI_HOME"):
        Settings.from_env({"FTI_HOME": home})


def test_a_pod_needs_a_home_that_outlives_it() -> None:
    with pytest.raises(ConfigError, match="FTI_HOME is not set in a pod"):
        Settings.from_env({"KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    assert Settings.from_env({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "FTI_HOME": "/v"}).home == Path("/v")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET http://u:pw@host/x.csv?sig=1 HTTP/1.1", "GET http://***@host/x.csv?*** HTTP/1.1"),
        ('{"source": "postgresql+psycopg://u:pw@h/db"}', '{"source": "postgresql+psycopg://***@h/db"}'),
        ("http://u:p@ss@host/x and a@b", "http://***@host/x and a@b"),
        ("s3://bucket/key and mail@host", "s3://bucket/key and mail@host"),
    ],
)
def test_masking(text: str, shown: str) -> None:
    assert masked(text) == shown
