"""S3 and what speaks like it (MinIO, SeaweedFS), through the `minio` client."""

import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fti.common.errors import ConfigError, StorageError
from fti.common.files import atomic_file
from fti.common.settings import Settings

if TYPE_CHECKING:
    from minio import Minio
    from urllib3 import PoolManager

_AWS = "https://s3.amazonaws.com"
_DENIED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidTokenId", "ExpiredToken"}


class S3Store:
    """Objects in S3; endpoint and keys come from the settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._endpoint = settings.s3_endpoint or _AWS

    def keys(self, bucket: str, prefix: str) -> Iterator[str]:
        """The keys that start with a prefix."""
        with self._errors(f"s3://{bucket}/{prefix}", bucket):
            for item in self._client.list_objects(bucket, prefix=prefix, recursive=True):
                yield str(item.object_name)

    def stamps(self, bucket: str, prefix: str) -> Iterator[tuple[str, str]]:
        """The keys that start with a prefix, and what changes with the content of each."""
        with self._errors(f"s3://{bucket}/{prefix}", bucket):
            for item in self._client.list_objects(bucket, prefix=prefix, recursive=True):
                yield str(item.object_name), f"{item.etag} {item.size}"

    def get(self, bucket: str, key: str, path: Path) -> None:
        """Streams an object into a file, whole or not at all."""
        with self._errors(f"s3://{bucket}/{key}", bucket), atomic_file(path) as scratch:
            self._client.fget_object(bucket, key, str(scratch))

    def put(self, path: Path, bucket: str, key: str) -> None:
        """Writes a file as an object; large ones in parts."""
        with self._errors(f"s3://{bucket}/{key}", bucket):
            self._client.fput_object(bucket, key, str(path))

    def delete(self, bucket: str, keys: Iterable[str]) -> None:
        """Removes objects, one by one: S3's bulk deletion is not spoken by every store."""
        for key in keys:
            with self._errors(f"s3://{bucket}/{key}", bucket):
                self._client.remove_object(bucket, key)

    @cached_property
    def _client(self) -> "Minio":
        from minio import Minio

        settings, address = self._settings, urlsplit(self._endpoint)
        if address.scheme not in {"http", "https"} or not address.netloc or address.path.strip("/"):
            raise ConfigError(
                f"AWS_ENDPOINT_URL is {self._endpoint!r}", allowed="http://host:port or https://host, without a path"
            )
        return Minio(
            endpoint=address.netloc,
            access_key=settings.s3_access_key or None,
            secret_key=settings.s3_secret_key or None,
            region=settings.s3_region or None,
            secure=address.scheme == "https",
            http_client=_http_client(secure=address.scheme == "https"),
        )

    @contextmanager
    def _errors(self, uri: str, bucket: str) -> Iterator[None]:
        from minio.error import InvalidResponseError, S3Error, ServerError
        from urllib3.exceptions import HTTPError

        try:
            yield
        except S3Error as error:
            raise _explained(error.code or "", uri, bucket) from error
        except (HTTPError, InvalidResponseError, ServerError) as error:
            raise StorageError(
                f"{uri} cannot be reached at {self._endpoint}: {type(error).__name__}",
                remedy="Check AWS_ENDPOINT_URL, and that the object store is up",
            ) from error
        except ValueError as error:  # the client's own checks of names and keys
            raise StorageError(f"{uri} cannot be used: {error}", remedy="Check the bucket and the key") from error


def _explained(code: str, uri: str, bucket: str) -> StorageError:
    if code == "NoSuchBucket":
        return StorageError(f"{uri}: there is no bucket {bucket!r}", remedy="Create the bucket, or correct its name")
    if code == "NoSuchKey":
        return StorageError(f"{uri} does not exist", remedy="Check the bucket and the key")
    if code in _DENIED:
        return StorageError(
            f"{uri} is denied by the object store ({code})",
            remedy="Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy",
        )
    return StorageError(f"{uri} is refused by the object store ({code})")


def _http_client(secure: bool) -> "PoolManager":
    import certifi
    from urllib3 import PoolManager, Retry, Timeout

    context = None
    if secure:
        context = ssl.create_default_context()  # honours SSL_CERT_FILE, for a company's own authority
        context.load_verify_locations(certifi.where())
    # minio's own client would try five times, with five minutes for each connection.
    return PoolManager(
        timeout=Timeout(connect=10, read=120),
        maxsize=16,
        retries=Retry(total=3, backoff_factor=0.2, status_forcelist=[500, 502, 503, 504]),
        ssl_context=context,
    )
