"""Each test has a shop of its own."""

from pathlib import Path

import pytest

from fti.common.settings import Settings
from tests.infra_validate.shop import Shop, open_shop


@pytest.fixture
def shop(settings: Settings, tmp_path: Path) -> Shop:
    return open_shop(settings, tmp_path)
