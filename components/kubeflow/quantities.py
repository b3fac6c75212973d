"""What Kubernetes writes as text: quantities, spans of time, names."""

import re

from fti.common.errors import ConfigError

_QUANTITY = re.compile(r"\d+(\.\d+)?(m|[kMGTPE]|[KMGTPE]i)?")
_SPAN = re.compile(r"(?P<count>\d+)(?P<unit>[smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST = 2**31 - 1  # Kubernetes counts seconds in an int32

NAME = re.compile(r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
LABEL = re.compile(r"([a-z0-9]([-.a-z0-9]*[a-z0-9])?/)?[A-Za-z0-9]([-._A-Za-z0-9]{0,61}[A-Za-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-._A-Za-z0-9]{0,61}[A-Za-z0-9])?)?")


def quantity(value: object, where: str) -> str:
    """An amount of CPU or memory above zero, as Kubernetes writes it: `500m`, `2`, `1.5`, `4Gi`.

    Raises:
        ConfigError: It is none.
    """
    text = str(value)
    if isinstance(value, bool) or not _QUANTITY.fullmatch(text) or not float(re.sub(r"[^\d.]", "", text)):
        raise ConfigError(f"{where} is {value!r}", allowed="an amount above zero such as 500m, 2, 1.5, 512Mi, 4Gi")
    return text


def amount(text: str) -> float:
    """A quantity as a number: cores, or bytes."""
    from kubernetes.utils.quantity import parse_quantity

    return float(parse_quantity(text))


def seconds(value: object, where: str) -> int:
    """A span of time above zero, such as `90s`, `30m`, `6h`, `7d`, in seconds.

    Raises:
        ConfigError: It is none.
    """
    match = _SPAN.fullmatch(str(value))
    span = int(match["count"]) * _SECONDS[match["unit"]] if match else 0
    if not 0 < span <= _LONGEST:
        raise ConfigError(f"{where} is {value!r}", allowed="a span of time above zero such as 90s, 30m, 6h, 7d")
    return span


def matching(pattern: re.Pattern[str], value: object, where: str, allowed: str) -> str:
    """A text of a form.

    Raises:
        ConfigError: It is no text, or of another form.
    """
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ConfigError(f"{where} is {value!r}", allowed=allowed)
    return value
