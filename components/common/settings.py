"""Settings, read once from an injected environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from fti.common.errors import ConfigError

LOCAL, CLUSTER, STANDARD, KNATIVE = "local", "cluster", "standard", "knative"
_SERVING_SECONDS = 900.0  # a large image, a node that starts, a large model
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
        s3_session_token: `AWS_SESSION_TOKEN`, which belongs to keys that last for a while; never shown.
        s3_role: The role to take where no keys are given: `web_identity` (`AWS_WEB_IDENTITY_TOKEN_FILE`, EKS),
            `container` (`AWS_CONTAINER_CREDENTIALS_RELATIVE_URI` or `…_FULL_URI`), or empty.
        s3_ca_bundle: `AWS_CA_BUNDLE`: a file of the only certificate authorities to trust; empty for the usual ones.
        s3_virtual_hosts: `AWS_VIRTUAL_HOSTED_STYLE_REQUEST`: `true` for `bucket.host`, else `host/bucket`; Amazon's own
            store is always asked in its own way.
        sts_endpoint: `AWS_ENDPOINT_URL_STS`, which hands out the web identity's keys; empty for Amazon's.
        serving: `FTI_SERVING`: where InferenceServices go: `local` (the default), the folder `services`; or a cluster's
            API: `cluster` asks it how KServe splits traffic there; `standard` and `knative` say it, and ask nothing.
        kserve_namespace: `FTI_KSERVE_NAMESPACE`, default `kserve`: where KServe itself runs and has its settings.
        namespace: `FTI_NAMESPACE` of the cluster; empty means the pod's own, or that of the kubeconfig's context.
        serving_seconds: `FTI_SERVING_SECONDS`, default 900: how long a cluster may take to split traffic as asked.
        now: `FTI_NOW`, ISO 8601, UTC where it names no zone: the time against which the age of features is measured,
            for replays of the past. The clock where it is not set.
        prometheus_url: `FTI_PROMETHEUS_URL`: where rollouts read what predictors on a cluster count; never shown, for
            it may hold a password.
        inference_log_uri: `FTI_INFERENCE_LOG`: where predictors log what they predict; empty means nowhere.
        inference_log_sample: `FTI_INFERENCE_LOG_SAMPLE`, 0 to 1, default 1: the share of requests that is logged.
    """

    home: Path
    offline_uri: str
    models_uri: str
    services: Path
    s3_endpoint: str
    s3_region: str
    s3_access_key: str = field(repr=False)
    s3_secret_key: str = field(repr=False)
    s3_session_token: str = field(default="", repr=False)
    s3_role: str = ""
    s3_ca_bundle: str = ""
    s3_virtual_hosts: bool = False
    sts_endpoint: str = ""
    serving: str = LOCAL
    kserve_namespace: str = "kserve"
    namespace: str = ""
    serving_seconds: float = _SERVING_SECONDS
    now: datetime | None = None
    prometheus_url: str = field(default="", repr=False)
    inference_log_uri: str = ""
    inference_log_sample: float = 1.0

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
            s3_session_token=environ.get("AWS_SESSION_TOKEN", ""),
            s3_role=_role(environ),
            s3_ca_bundle=environ.get("AWS_CA_BUNDLE", ""),
            s3_virtual_hosts=environ.get("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "").lower() == "true",
            sts_endpoint=environ.get("AWS_ENDPOINT_URL_STS", ""),
            serving=_serving(environ.get("FTI_SERVING", "")),
            kserve_namespace=environ.get("FTI_KSERVE_NAMESPACE") or "kserve",
            namespace=environ.get("FTI_NAMESPACE", ""),
            serving_seconds=_seconds(environ.get("FTI_SERVING_SECONDS", "")),
            now=_instant(environ.get("FTI_NOW", "")),
            prometheus_url=environ.get("FTI_PROMETHEUS_URL", ""),
            inference_log_uri=_absolute(environ["FTI_INFERENCE_LOG"]) if environ.get("FTI_INFERENCE_LOG") else "",
            inference_log_sample=_share("FTI_INFERENCE_LOG_SAMPLE", environ),
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
            "AWS_SESSION_TOKEN": self.s3_session_token,
            "AWS_CA_BUNDLE": self.s3_ca_bundle,
            "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true" if self.s3_virtual_hosts else "",
            "AWS_ENDPOINT_URL_STS": self.sts_endpoint,
            "FTI_SERVING": self.serving,
            "FTI_KSERVE_NAMESPACE": self.kserve_namespace,
            "FTI_NAMESPACE": self.namespace,
            "FTI_SERVING_SECONDS": str(self.serving_seconds),
            "FTI_NOW": self.now.isoformat() if self.now else "",
            "FTI_PROMETHEUS_URL": self.prometheus_url,
            "FTI_INFERENCE_LOG": self.inference_log_uri,
            "FTI_INFERENCE_LOG_SAMPLE": str(self.inference_log_sample),
        }


def _role(environ: Mapping[str, str]) -> str:
    if environ.get("AWS_WEB_IDENTITY_TOKEN_FILE"):
        return "web_identity"
    container = ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI")
    return "container" if any(environ.get(name) for name in container) else ""


def _serving(text: str) -> str:
    if text not in {"", LOCAL, CLUSTER, STANDARD, KNATIVE}:
        raise ConfigError(f"FTI_SERVING is {text!r}", allowed=f"{LOCAL}, {CLUSTER}, {STANDARD} or {KNATIVE}")
    return text or LOCAL


def _seconds(text: str) -> float:
    try:
        seconds = float(text or _SERVING_SECONDS)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"FTI_SERVING_SECONDS is {text!r}", allowed="a number of seconds above 0")
    return seconds


def _instant(text: str) -> datetime | None:
    if not text:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"FTI_NOW is {text!r}", allowed="an instant in ISO 8601, or nothing") from None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def _share(name: str, environ: Mapping[str, str]) -> float:
    text = environ.get(name) or "1"
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ConfigError(f"{name} is {text!r}", allowed="a number from 0 to 1")
    return share


def _absolute(uri: str) -> str:
    """A path that holds from every working directory; other URIs hold as they are."""
    return uri.rstrip("/") if "://" in uri else str(Path(uri).absolute())
