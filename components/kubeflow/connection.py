"""Where Kubeflow Pipelines is, and who asks."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fti.common.errors import ConfigError

_IN_CLUSTER = "http://ml-pipeline.kubeflow:8888"
_TOKEN_FILE = "/var/run/secrets/kubeflow/pipelines/token"  # noqa: S105 - where a pod's projected token lies
_NAMESPACE_FILE = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"


@dataclass(frozen=True)
class Connection:
    """How Kubeflow Pipelines is reached.

    Attributes:
        url: `FTI_KFP_URL`, such as `https://kubeflow.example.com/pipeline` or `http://localhost:8888`; in a pod by
            default the service of Kubeflow's own namespace.
        ui_url: `FTI_KFP_UI_URL`, where people see runs; default `url`.
        namespace: `FTI_KFP_NAMESPACE`, the profile's namespace where Kubeflow serves many users; default the pod's.
        token: `FTI_KFP_TOKEN`, sent as a bearer token; never shown.
        cookie: `FTI_KFP_COOKIE`, such as `authservice_session=…`; never shown.
        token_file: `FTI_KFP_TOKEN_FILE`, read anew for every request, for a ServiceAccount's token is replaced while it
            is in use; default where a pod has it, when neither token nor cookie is given.
        ca_file: `FTI_KFP_CA`, a PEM bundle of whom to trust beyond the system's own.
    """

    url: str
    ui_url: str
    namespace: str = ""
    token: str = field(default="", repr=False)
    cookie: str = field(default="", repr=False)
    token_file: str = ""
    ca_file: str = ""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ, namespace: str = "") -> "Connection":
        """Reads the connection.

        Args:
            environ: The environment to read; tests inject their own.
            namespace: In place of the environment's.

        Raises:
            ConfigError: No address, or one that cannot be used; a file that does not exist.
        """
        in_pod = "KUBERNETES_SERVICE_HOST" in environ
        url = (environ.get("FTI_KFP_URL") or (_IN_CLUSTER if in_pod else "")).rstrip("/")
        if not url.startswith(("http://", "https://")) or set(url) & set("@#?"):
            raise ConfigError(
                f"FTI_KFP_URL is {'not set' if not url else 'no address of Kubeflow Pipelines'}",
                allowed="http://… or https://… without user and password, and without what a browser puts behind #",
                remedy="Set it to where Kubeflow Pipelines answers, such as https://kubeflow.example.com/pipeline",
            )
        token, cookie = environ.get("FTI_KFP_TOKEN", "").strip(), environ.get("FTI_KFP_COOKIE", "").strip()
        own = Path(_TOKEN_FILE)
        return cls(
            url=url,
            ui_url=(environ.get("FTI_KFP_UI_URL") or url).rstrip("/"),
            namespace=namespace or environ.get("FTI_KFP_NAMESPACE", "") or _pods_namespace(),
            token=token,
            cookie=cookie,
            token_file=_existing("FTI_KFP_TOKEN_FILE", environ)
            or (str(own) if not token and not cookie and own.is_file() else ""),
            ca_file=_existing("FTI_KFP_CA", environ),
        )

    def headers(self) -> dict[str, str]:
        """Who asks. Holds secrets: never show it.

        Raises:
            ConfigError: The token's file cannot be read; a token or cookie that HTTP cannot send.
        """
        headers = {"cookie": self.cookie} if self.cookie else {}
        if token := self.token or self._token_of_file():
            headers["authorization"] = f"Bearer {token}"
        for name, value in headers.items():
            if not (value.isascii() and value.isprintable()):
                raise ConfigError(f"the {name} for Kubeflow holds a letter that HTTP cannot send", allowed="ASCII")
        return headers

    def _token_of_file(self) -> str:
        if not self.token_file:
            return ""
        try:
            return Path(self.token_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"the token in {self.token_file} cannot be read", allowed="a file with one token"
            ) from error

    def link(self, *path: str) -> str:
        """The page of a run, pipeline or schedule."""
        start = self.ui_url if "?" in self.ui_url else f"{self.ui_url}/"  # the dashboard's own: …/_/pipeline/?ns=team
        return f"{start}#/{'/'.join(path)}"

    def without_secrets(self, text: str) -> str:
        """The text with `***` where it holds what authenticates us: a server may repeat what it was sent."""
        secrets = [value for header in self.headers().values() for value in (header, header.removeprefix("Bearer "))]
        for secret in filter(None, [*secrets, *(part.partition("=")[2] for part in self.cookie.split(";"))]):
            text = text.replace(secret, "***")
        return text


def _existing(name: str, environ: Mapping[str, str]) -> str:
    path = environ.get(name, "")
    if path and not Path(path).is_file():
        raise ConfigError(f"{name} is {path}, which does not exist", allowed="a file")
    return path


def _pods_namespace() -> str:
    file = Path(_NAMESPACE_FILE)
    return file.read_text(encoding="utf-8").strip() if file.is_file() else ""
