"""A client of an S3 store, as the settings describe it: address, certificates, credentials."""

import logging
import ssl
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fti.common.errors import ConfigError
from fti.common.settings import Settings

if TYPE_CHECKING:
    from minio import Minio
    from urllib3 import PoolManager

AWS = "https://s3.amazonaws.com"
_CONNECTIONS = 32  # ranges and files at once


@lru_cache(maxsize=4)
def client_of(settings: Settings) -> "Minio":
    """The client of the settings' store; connections are shared by all who ask for it.

    Raises:
        ConfigError: The address or the certificates cannot be used.
    """
    from minio import Minio

    endpoint = settings.s3_endpoint or AWS
    address = urlsplit(endpoint)
    if address.scheme not in {"http", "https"} or not address.netloc or address.path.strip("/"):
        raise ConfigError(
            f"AWS_ENDPOINT_URL is {endpoint!r}", allowed="http://host:port or https://host, without a path"
        )
    http = http_client(settings, secure=address.scheme == "https")
    client = Minio(
        endpoint=address.netloc,
        region=settings.s3_region or None,
        secure=address.scheme == "https",
        http_client=http,
        credentials=_credentials(settings),
    )
    if settings.s3_virtual_hosts:
        client.enable_virtual_style_endpoint()
    return client


def http_client(settings: Settings, *, secure: bool) -> "PoolManager":
    """Connections that end in time; what a store refuses for a moment is asked again."""
    from urllib3 import PoolManager, Retry, Timeout

    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # its warnings show signatures of URLs
    # minio's own client would try five times, with five minutes for each connection.
    return PoolManager(
        timeout=Timeout(connect=10, read=120),
        maxsize=_CONNECTIONS,
        # POST too: it only begins and ends uploads in parts.
        retries=Retry(total=4, backoff_factor=0.2, status_forcelist=[500, 502, 503, 504], allowed_methods=None),
        ssl_context=_trusted(settings.s3_ca_bundle) if secure else None,
    )


def _trusted(bundle: str) -> ssl.SSLContext:
    """Whom to trust: the bundle alone where one is given, else public authorities and SSL_CERT_FILE's."""
    import certifi

    try:
        if bundle:
            return ssl.create_default_context(cafile=bundle)
        context = ssl.create_default_context()
        context.load_verify_locations(certifi.where())
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"AWS_CA_BUNDLE is {bundle!r}, which cannot be read: {error}", allowed="a file of certificates, PEM"
        ) from error
    return context


def _credentials(settings: Settings) -> Any:
    """Keys where they are given, else those of the role that this workload has, else none.

    The role is found as Amazon's own libraries find it: a web identity (EKS), a container's endpoint (ECS, EKS pod
    identity), and for Amazon's own store the machine it runs on (EC2).
    """
    from minio.credentials import IamAwsProvider, StaticProvider
    from urllib3 import PoolManager, Retry, Timeout

    if settings.s3_access_key:
        return StaticProvider(settings.s3_access_key, settings.s3_secret_key, settings.s3_session_token or None)
    if settings.s3_role:
        sts = settings.sts_endpoint if settings.s3_role == "web_identity" else ""
        return IamAwsProvider(custom_endpoint=sts or None, http_client=http_client(settings, secure=True))
    if not settings.s3_endpoint:
        quick = PoolManager(timeout=Timeout(1), retries=Retry(total=1))
        return _RoleOrNobody(IamAwsProvider(http_client=quick))
    return None


class _RoleOrNobody:
    """The role of this machine, or nobody where it has none, as on a laptop: public buckets can be read all the same.

    Args:
        role: Asks the machine's metadata service.
    """

    def __init__(self, role: Any) -> None:
        self._role, self._absent = role, False

    def retrieve(self) -> Any:
        """The credentials, or None."""
        from urllib3.exceptions import HTTPError

        if self._absent:
            return None
        try:
            return self._role.retrieve()
        except (HTTPError, ValueError, OSError):
            self._absent = True
            return None
