"""Settings, read once from an injected environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from fti.common.errors import ConfigError

_BREAKS_YAML = ("\n", ": ", " #")


@dataclass(frozen=True)
class Settings:
    """Where state lives and how object stores are reached.

    Attributes:
        home: `FTI_HOME`, default `.fti`: all state on a laptop; can be deleted.
        offline_uri: `FTI_OFFLINE_URI`, default `<home>/offline`: feature tables (Feast's offline store).
        models_uri: `FTI_MODELS_URI`, default `<home>/models`: pushed model packages.
        services: `<home>/services`: InferenceService manifests of the local runner.
        s3_endpoint: `AWS_ENDPOINT_URL`, such as `http://minio:9000`; empty means AWS itself.
        s3_region: `AWS_REGION`.
        s3_access_key: `AWS_ACCESS_KEY_ID`; empty means anonymous.
        s3_secret_key: `AWS_SECRET_ACCESS_KEY`; never shown.
        now: `FTI_NOW`, ISO 8601, UTC where it names no zone: the time against which the age of features is measured,
            for replays of the past. The clock where it is not set.
    """

    home: Path
    offline_uri: str
    models_uri: str
    services: Path
    s3_endpoint: str
    s3_region: str
    s3_access_key: str = field(repr=False)
    s3_secret_key: str = field(repr=False)
    now: datetime | None = None

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> "Settings":
        """Reads the settings.

        Args:
            environ: The environment to read; tests inject their own.

        Raises:
            ConfigError: A home that Feast's profile cannot hold, or none in a pod.
        """
        if "KUBERNETES_SERVICE_HOST" in environ and not environ.get("FTI_HOME"):
            raise ConfigError(
                "FTI_HOME is not set in a pod, whose own disk is gone with it",
                allowed="a folder on a volume that the pods of all steps share",
                remedy="Mount one and set FTI_HOME to it",
            )
        home = Path(environ.get("FTI_HOME") or ".fti").absolute()
        if any(mark in str(home) for mark in _BREAKS_YAML):
            raise ConfigError(
                f"FTI_HOME is {str(home)!r}",
                allowed="a path without a line break, ': ' or ' #', which would cut Feast's YAML short",
            )
        return cls(
            home=home,
            offline_uri=_absolute(environ.get("FTI_OFFLINE_URI") or str(home / "offline")),
            models_uri=_absolute(environ.get("FTI_MODELS_URI") or str(home / "models")),
            services=home / "services",
            s3_endpoint=environ.get("AWS_ENDPOINT_URL", ""),
            s3_region=environ.get("AWS_REGION", ""),
            s3_access_key=environ.get("AWS_ACCESS_KEY_ID", ""),
            s3_secret_key=environ.get("AWS_SECRET_ACCESS_KEY", ""),
            now=_instant(environ.get("FTI_NOW", "")),
        )

    def clock(self) -> datetime:
        """What time it is for features."""
        return self.now or datetime.now(UTC)

    def environ(self) -> dict[str, str]:
        """The environment from which a child process reads these very settings. Holds secrets: never show it."""
        return {
            "FTI_HOME": str(self.home),
            "FTI_OFFLINE_URI": self.offline_uri,
            "FTI_MODELS_URI": self.models_uri,
            "AWS_ENDPOINT_URL": self.s3_endpoint,
            "AWS_REGION": self.s3_region,
            "AWS_ACCESS_KEY_ID": self.s3_access_key,
            "AWS_SECRET_ACCESS_KEY": self.s3_secret_key,
            "FTI_NOW": self.now.isoformat() if self.now else "",
        }


def _instant(text: str) -> datetime | None:
    if not text:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"FTI_NOW is {text!r}", allowed="an instant in ISO 8601, or nothing") from None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def _absolute(uri: str) -> str:
    """A path that holds from every working directory; other URIs hold as they are."""
    return uri.rstrip("/") if "://" in uri else str(Path(uri).absolute())
