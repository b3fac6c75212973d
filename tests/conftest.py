"""What all tests share: a home of their own."""

from pathlib import Path

import hypothesis
import IPython.core.history  # noqa: F401 - it changes how sqlite3 reads times, as Feast does, whose way has to be the last
import pytest

from fti.common.settings import Settings

# A busy machine is slow: how long an example takes says nothing.
hypothesis.settings.register_profile("fti", deadline=None)
hypothesis.settings.load_profile("fti")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings whose home is a fresh folder, with no object store configured."""
    unset = ("FTI_PROFILE", "FTI_NOW", "FTI_OFFLINE_URI", "FTI_MODELS_URI", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID")
    for name in (*unset, "AWS_SECRET_ACCESS_KEY", "FTI_INFERENCE_LOG", "FTI_INFERENCE_LOG_SAMPLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FTI_HOME", str(tmp_path / "home"))
    return Settings.from_env()
