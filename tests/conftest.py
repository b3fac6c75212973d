"""What all tests share: a home of their own."""

from pathlib import Path

import pytest

from fti.common.settings import Settings


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings whose home is a fresh folder, with no object store configured."""
    unset = ("FTI_PROFILE", "FTI_OFFLINE_URI", "FTI_MODELS_URI", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID")
    for name in (*unset, "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FTI_HOME", str(tmp_path / "home"))
    return Settings.from_env()
