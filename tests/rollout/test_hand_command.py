"""To be added as tests/rollout/test_hand_command.py with serving.patch."""

import pytest
from click.testing import CliRunner

from fti.cli.serving import promote_command, rollback_command
from fti.common.model_package import ModelPackage
from fti.common.settings import Settings
from fti.rollout.archive import folder_of
from fti.rollout.journal import user
from tests.rollout.test_controller import canary, stable
from tests.rollout.test_endings import held, kept, last

__all__ = ["canary"]


def test_promoted_by_hand_it_is_signed(
    settings: Settings, canary: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Settings, "from_env", lambda: settings)
    held(settings)
    said = CliRunner().invoke(promote_command, ["late"], catch_exceptions=False).output.splitlines()
    page = folder_of("late", settings) / f"{kept(settings).name}.html"
    assert said == [
        "late: the canary is stable now, `fti serve` takes it over.",
        f"Its rollout says so: {page}",
    ]
    assert last(kept(settings)) == ("promoted", "by hand", "promoted by hand", user())
    again = CliRunner().invoke(rollback_command, ["late"], catch_exceptions=False)
    assert (again.exit_code, again.output) == (0, "late has no canary; nothing to do.\n")


def test_a_damaged_record_fails_no_rollback(
    settings: Settings, canary: ModelPackage, one_service: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Settings, "from_env", lambda: settings)
    held(settings)
    (path,) = folder_of("late", settings).glob("*.json")
    path.write_text("{")
    result = CliRunner().invoke(rollback_command, ["late"], catch_exceptions=False)
    assert result.exit_code == 0 and stable(settings) == one_service.digest
    assert "\nIf a rollout was open, its record does not say so: " in result.output
