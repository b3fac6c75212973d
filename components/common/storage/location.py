"""What a URI means: which store, which bucket, which key."""

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

from fti.common.errors import StorageError
from fti.common.masking import masked

_SCHEMES = ("s3", "gs", "http", "https")
SCHEMES = frozenset({"file", "package", *_SCHEMES})
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Location:
    """A parsed URI.

    Attributes:
        scheme: `file`, `s3`, `gs`, `http` or `https`.
        bucket: The bucket; empty for files and the web.
        key: The path, the object's key, or the whole address on the web.
    """

    scheme: str
    bucket: str
    key: str

    @property
    def is_local(self) -> bool:
        """Whether it is a file or folder of this machine."""
        return self.scheme == "file"

    @property
    def is_web(self) -> bool:
        """Whether it is an address on the web, which is read-only and has no folders."""
        return self.scheme in {"http", "https"}

    @property
    def path(self) -> Path:
        """The path of a local file or folder."""
        return Path(self.key)

    @property
    def is_glob(self) -> bool:
        """Whether the key holds wildcards. An address on the web never does: its `?` starts a query."""
        return not self.is_web and bool(_GLOB.search(self.key))

    @property
    def file_name(self) -> str:
        """The last part of the path, such as `flights.csv.zip`."""
        key = unquote(urlsplit(self.key).path) if self.is_web else self.key
        return Path(key.rstrip("/")).name or "index"

    def uri_of(self, key: str) -> str:
        """The URI of another key in the same bucket."""
        return f"{self.scheme}://{self.bucket}/{key}"


def parse(uri: str | Path) -> Location:
    """Reads a plain path, `file://`, `package://`, `s3://`, `gs://` or `http(s)://`.

    Raises:
        StorageError: An unknown scheme, a URI without a bucket, or a package that is not installed.
    """
    text = str(uri)
    scheme, separator, rest = text.partition("://")
    if not text.strip():
        raise StorageError(
            "an empty URI", allowed="a path, or a URI that starts with s3://, gs://, http:// or https://"
        )
    if not separator:
        return Location("file", "", text)
    if scheme == "file":
        return Location("file", "", unquote(rest.removeprefix("localhost")))
    if scheme == "package":
        return Location("file", "", _in_package(rest))
    if scheme not in _SCHEMES:
        raise StorageError(
            f"{shown(text)} starts with the unknown scheme {scheme}://",
            allowed="a path, or a URI that starts with file://, package://, s3://, gs://, http:// or https://",
        )
    if scheme in {"http", "https"}:
        return Location(scheme, "", text)
    bucket, _, key = rest.partition("/")
    if not bucket:
        raise StorageError(f"{text} names no bucket", allowed=f"{scheme}://bucket/key")
    return Location(scheme, bucket, key)


def _in_package(rest: str) -> str:
    """`<python package>/<path>`: a file that an installed package carries, wherever that is, without importing it."""
    package, _, path = rest.partition("/")
    try:
        spec = find_spec(package)
    except (ModuleNotFoundError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise StorageError(
            f"the Python package {package!r} is not installed", remedy=f"Install it: pip install {package}"
        )
    return str(Path(spec.submodule_search_locations[0]) / path)


def shown(uri: str | Path) -> str:
    """A URI as it may stand in a message."""
    return masked(str(uri))


def fixed_prefix(key: str) -> str:
    """The part of a glob before its first wildcard."""
    return _GLOB.split(key, maxsplit=1)[0]


def glob_regex(pattern: str) -> re.Pattern[str]:
    """A glob as a regular expression: `*` and `?` stay within a folder, `**` goes through folders."""
    wildcards = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^]]+])", pattern)  # every second part is a wildcard or a [set]
    return re.compile("".join(wildcards.get(p, p) if i % 2 else re.escape(p) for i, p in enumerate(parts)))
