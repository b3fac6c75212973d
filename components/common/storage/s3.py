"""S3 and what speaks like it (MinIO, SeaweedFS), through the `minio` client."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fti.common.errors import BusyError, FtiError, StorageError
from fti.common.files import atomic_file, sha256_of
from fti.common.settings import Settings
from fti.common.storage.ranges import RANGE, download_ranges
from fti.common.storage.s3_client import AWS, client_of, http_client

if TYPE_CHECKING:
    from minio import Minio

# The object's own metadata: the SHA-256 of the file that was written, for whoever reads it.
_SHA256 = "fti-sha256"
_PART = 16 * 1024 * 1024  # bytes; at most _PARTS_AT_ONCE + 1 of them are in memory
_PARTS_AT_ONCE = 3
_MOST_PARTS = 10_000  # S3's own limit
_KEYS = "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"
_REMEDIES = {
    "AccessDenied": f"{_KEYS} and the bucket's policy",
    "InvalidAccessKeyId": _KEYS,
    "SignatureDoesNotMatch": _KEYS,
    "InvalidTokenId": f"{_KEYS} and AWS_SESSION_TOKEN",
    "InvalidToken": f"{_KEYS} and AWS_SESSION_TOKEN",
    "ExpiredToken": "The session has ended: get new keys and a new AWS_SESSION_TOKEN",
    "RequestTimeTooSkewed": "This machine's clock is wrong: set it (NTP)",
}


class S3Store:
    """Objects in S3; endpoint and keys come from the settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._endpoint = settings.s3_endpoint or AWS

    def keys(self, bucket: str, prefix: str) -> Iterator[str]:
        """The keys that start with a prefix."""
        return (key for key, _ in self.stamps(bucket, prefix))

    def stamps(self, bucket: str, prefix: str) -> Iterator[tuple[str, str]]:
        """The keys that start with a prefix, and what changes with the content of each."""
        with self._errors(f"s3://{bucket}/{prefix}", bucket):
            for item in self._client.list_objects(bucket, prefix=prefix, recursive=True):
                yield str(item.object_name), f"{item.etag} {item.size}"

    def get(self, bucket: str, key: str, path: Path) -> None:
        """Streams an object into a file, whole or not at all; checks the SHA-256 where this library has written it."""
        uri = f"s3://{bucket}/{key}"
        with self._errors(uri, bucket), atomic_file(path) as scratch:
            expected = self._download(bucket, key, scratch)
            if expected and sha256_of(scratch) != expected:
                raise StorageError(f"{uri} arrived damaged: its SHA-256 differs", remedy="Write it again")

    def put(self, path: Path, bucket: str, key: str) -> None:
        """Writes a file as an object; a large one in parts, each of which is tried again where it breaks off."""
        with self._errors(f"s3://{bucket}/{key}", bucket):
            self._client.fput_object(
                bucket,
                key,
                str(path),
                metadata={_SHA256: sha256_of(path)},
                part_size=max(_PART, -(-path.stat().st_size // _MOST_PARTS)),
                num_parallel_uploads=_PARTS_AT_ONCE,
            )

    def version(self, bucket: str, key: str) -> str:
        """What changes whenever an object is written; empty where there is none."""
        from minio.error import S3Error

        with self._errors(f"s3://{bucket}/{key}", bucket):
            try:
                return str(self._client.stat_object(bucket, key).etag)
            except S3Error as error:
                if error.code == "NoSuchKey":
                    return ""
                raise

    def replace(self, path: Path, bucket: str, key: str, version: str) -> str:
        """Writes a small file as an object if that still has a version, and returns its new one; else a BusyError.

        The condition travels with a presigned request: `minio` has no argument for it.
        """
        condition = {"If-Match": f'"{version}"'} if version else {"If-None-Match": "*"}
        headers = {**condition, "Content-Type": "application/octet-stream"}
        uri = f"s3://{bucket}/{key}"
        with self._errors(uri, bucket):
            url = self._client.get_presigned_url("PUT", bucket, key)
            http = http_client(self._settings, secure=url.startswith("https:"))
            answer = http.request("PUT", url, body=path.read_bytes(), headers=headers)
        if answer.status != 200:
            code = _code(answer.data)
            raise _explained("PreconditionFailed" if answer.status in {409, 412} else code, uri, bucket)
        return str(answer.headers.get("ETag", "")).strip('"')

    def delete(self, bucket: str, keys: Iterable[str]) -> None:
        """Removes objects, one by one: S3's bulk deletion is not spoken by every store."""
        for key in keys:
            with self._errors(f"s3://{bucket}/{key}", bucket):
                self._client.remove_object(bucket, key)

    @property
    def _client(self) -> "Minio":
        return client_of(self._settings)

    def _download(self, bucket: str, key: str, path: Path) -> str:
        """Downloads an object, all of it of one version; returns the SHA-256 that belongs to it, if it is known."""
        from minio.error import S3Error
        from urllib3.exceptions import HTTPError

        try:  # the first range says how much there is: not asked with HEAD, whose refusals give no reason
            first = self._client.get_object(bucket, key, offset=0, length=RANGE)
        except S3Error as error:
            if error.code != "InvalidRange":
                raise
            path.touch()  # it is empty
            return ""
        opened = [first]

        @contextmanager
        def open_range(at: int, length: int) -> Iterator[Any]:
            same = {"If-Match": first.headers["ETag"]}
            if at == 0 and opened:
                answer = opened.pop()
            else:
                answer = self._client.get_object(bucket, key, at, length, request_headers=same)
            try:
                yield answer
            finally:
                answer.close()
                answer.release_conn()

        size = first.headers.get("Content-Range", "").rpartition("/")[2] or first.headers["Content-Length"]
        download_ranges(path, int(size), open_range, HTTPError)
        return str(first.headers.get(f"x-amz-meta-{_SHA256}", ""))

    @contextmanager
    def _errors(self, uri: str, bucket: str) -> Iterator[None]:
        from minio.error import InvalidResponseError, S3Error, ServerError
        from urllib3.exceptions import HTTPError, SSLError

        try:
            yield
        except S3Error as error:
            raise _explained(error.code or "", uri, bucket) from error
        except (HTTPError, InvalidResponseError, ServerError) as error:
            reason = getattr(error, "reason", None) or error
            remedy = "Check AWS_ENDPOINT_URL, and that the object store is up"
            if isinstance(reason, SSLError):
                remedy = "Its certificate is not trusted here: set AWS_CA_BUNDLE to the authority's"
            raise StorageError(
                f"{uri} cannot be reached at {self._endpoint}: {type(reason).__name__}", remedy=remedy
            ) from error
        except ValueError as error:  # the client's own checks of names and keys
            raise StorageError(f"{uri} cannot be used: {error}", remedy="Check the bucket and the key") from error


def _explained(code: str, uri: str, bucket: str) -> FtiError:
    if code == "NoSuchBucket":
        return StorageError(f"{uri}: there is no bucket {bucket!r}", remedy="Create the bucket, or correct its name")
    if code == "NoSuchKey":
        return StorageError(f"{uri} does not exist", remedy="Check the bucket and the key")
    if code in _REMEDIES:
        return StorageError(f"{uri} is denied by the object store ({code})", remedy=_REMEDIES[code])
    if code == "PreconditionFailed":
        return BusyError(f"{uri} has just been written by another", remedy="Run it again")
    return StorageError(f"{uri} is refused by the object store ({code})")


def _code(body: bytes) -> str:
    """The code in an answer of S3 that refuses."""
    found = re.search(rb"<Code>(\w+)</Code>", body)
    return found[1].decode() if found else "no reason given"
