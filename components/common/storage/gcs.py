"""Google Cloud Storage. Credentials are found as Google's libraries find them."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from fti.common.errors import BusyError, StorageError
from fti.common.files import atomic_file

if TYPE_CHECKING:
    from google.cloud.storage import Client

_TIMEOUT = (10, 120)  # seconds to connect, and between two bytes
_CHUNK = 16 * 1024 * 1024  # bytes; one of them is in memory


class GcsStore:
    """Objects in Google Cloud Storage, or in the emulator that `STORAGE_EMULATOR_HOST` names."""

    def keys(self, bucket: str, prefix: str) -> Iterator[str]:
        """The keys that start with a prefix."""
        with _errors(f"gs://{bucket}/{prefix}", bucket):
            for blob in self._client.list_blobs(bucket, prefix=prefix, timeout=_TIMEOUT, retry=_retry()):
                yield str(blob.name)

    def stamps(self, bucket: str, prefix: str) -> Iterator[tuple[str, str]]:
        """The keys that start with a prefix, and what changes with the content of each."""
        with _errors(f"gs://{bucket}/{prefix}", bucket):
            for blob in self._client.list_blobs(bucket, prefix=prefix, timeout=_TIMEOUT, retry=_retry()):
                yield str(blob.name), f"{blob.crc32c} {blob.size}"

    def get(self, bucket: str, key: str, path: Path) -> None:
        """Streams an object into a file, its checksum verified, whole or not at all."""
        with _errors(f"gs://{bucket}/{key}", bucket), atomic_file(path) as scratch:
            blob = self._client.bucket(bucket).blob(key)
            # raw: a .csv.gz stays as it is, even where its metadata say Content-Encoding: gzip
            blob.download_to_filename(str(scratch), raw_download=True, timeout=_TIMEOUT, retry=_retry())

    def put(self, path: Path, bucket: str, key: str) -> None:
        """Writes a file as an object; a large one in chunks, so that it goes on where it was cut off."""
        self._upload(path, bucket, key)

    def version(self, bucket: str, key: str) -> str:
        """What changes whenever an object is written; empty where there is none."""
        with _errors(f"gs://{bucket}/{key}", bucket):
            blob = self._client.bucket(bucket).get_blob(key, timeout=_TIMEOUT, retry=_retry())
            return str(blob.generation) if blob else ""

    def replace(self, path: Path, bucket: str, key: str, version: str) -> str:
        """Writes a file as an object if that still has a version, and returns its new one; else it is a BusyError."""
        return self._upload(path, bucket, key, if_generation_match=int(version or 0))

    def delete(self, bucket: str, keys: Iterable[str]) -> None:
        """Removes objects; those that are absent already are no error."""
        from google.api_core.exceptions import NotFound

        for key in keys:
            with _errors(f"gs://{bucket}/{key}", bucket):
                try:
                    self._client.bucket(bucket).blob(key).delete(timeout=_TIMEOUT, retry=_retry())
                except NotFound:
                    continue

    def _upload(self, path: Path, bucket: str, key: str, **condition: int) -> str:
        large = path.stat().st_size > _CHUNK
        with _errors(f"gs://{bucket}/{key}", bucket):
            blob = self._client.bucket(bucket).blob(key, chunk_size=_CHUNK if large else None)
            blob.upload_from_filename(str(path), checksum="crc32c", timeout=_TIMEOUT, retry=_retry(), **condition)
            return str(blob.generation)

    @cached_property
    def _client(self) -> "Client":
        from google.cloud.storage import Client

        return Client()


def _retry() -> object:
    from google.cloud.storage.retry import DEFAULT_RETRY

    return DEFAULT_RETRY.with_timeout(30)  # Google's own default waits two minutes for a store that is down


@contextmanager
def _errors(uri: str, bucket: str) -> Iterator[None]:
    from google.api_core.exceptions import Forbidden, GoogleAPIError, NotFound, PreconditionFailed, Unauthorized
    from google.auth.exceptions import GoogleAuthError
    from google.cloud.storage.exceptions import DataCorruption
    from requests.exceptions import RequestException  # type: ignore[import-untyped]

    try:
        yield
    except NotFound as error:
        raise StorageError(
            f"{uri} does not exist, or there is no bucket {bucket!r}", remedy="Check the bucket and the key"
        ) from error
    except PreconditionFailed as error:
        raise BusyError(f"{uri} has just been written by another", remedy="Run it again") from error
    except (Forbidden, Unauthorized) as error:
        raise StorageError(
            f"{uri} is denied by Google Cloud Storage ({error.code})", remedy="Check the account's rights to the bucket"
        ) from error
    except GoogleAuthError as error:
        raise StorageError(
            f"{uri} needs Google credentials: {type(error).__name__}",
            remedy="Set GOOGLE_APPLICATION_CREDENTIALS, or run as a workload that has an identity",
        ) from error
    except DataCorruption as error:
        raise StorageError(f"{uri} arrived damaged: its checksum differs", remedy="Run the step again") from error
    except (GoogleAPIError, RequestException) as error:
        raise StorageError(
            f"{uri} cannot be reached: {type(error).__name__}", remedy="Check the network and STORAGE_EMULATOR_HOST"
        ) from error
