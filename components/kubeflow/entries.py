"""Readers of the entries of a resource profile: each takes what the YAML holds and says what is wrong with it."""

import difflib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from fti.common.errors import ConfigError
from fti.kubeflow.quantities import KEY, LABEL, LABEL_VALUE, NAME, VARIABLE, amount, matching, quantity, seconds

_SECRET_NAME = re.compile(r"SECRET|PASSWORD|PASSWD|TOKEN|CREDENTIAL|(ACCESS|API|PRIVATE)_?KEY|COOKIE", re.IGNORECASE)
_IN_URL = re.compile(r"://[^/\s]*@")
_POLICIES = ("Always", "IfNotPresent", "Never")
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_TOLERATION = ("key", "operator", "value", "effect", "seconds")


@dataclass(frozen=True)
class Reference:
    """A secret or config map whose keys become variables.

    Attributes:
        name: Of the object, in the run's namespace.
        variables: The variable of each key.
        optional: Whether a step starts where the object or a key is missing.
    """

    name: str
    variables: Mapping[str, str]
    optional: bool = False


def mapping(value: Any, where: str) -> dict[str, Any]:
    """A map whose keys are texts."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ConfigError(f"{where} is {value!r}", allowed="a map, such as {key: value}")
    return value


def require_known(key: str, known: Collection[str], where: str) -> None:
    """Refuses a key that means nothing, with the nearest that does."""
    if key not in known:
        close = difflib.get_close_matches(key, known, 1)
        raise ConfigError(
            f"{where} has no {key!r}",
            allowed=", ".join(known),
            remedy=f"Perhaps {close[0]} is meant" if close else "",
        )


def bounds(value: Any, where: str) -> dict[str, str]:
    """`request` and `limit` of CPU or memory; a plain amount is both."""
    if not isinstance(value, dict):
        value = {"request": value, "limit": value}
    for key in value:
        require_known(key, ("request", "limit"), where)
    found = {key: quantity(text, f"{where}: {key}") for key, text in value.items()}
    if len(found) == 2 and amount(found["request"]) > amount(found["limit"]):
        raise ConfigError(
            f"{where}: request {found['request']} is above limit {found['limit']}", allowed="a request up to the limit"
        )
    return found


def accelerator(value: Any, where: str) -> dict[str, Any]:
    """The `type` of an extended resource, and how many."""
    content = mapping(value, where)
    for key in content:
        require_known(key, ("type", "count"), where)
    count = content.get("count", 1)
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ConfigError(f"{where}: count is {count!r}", allowed="a whole number above zero")
    kind = matching(LABEL, content.get("type"), f"{where}: type", "a resource's name such as nvidia.com/gpu")
    return {"type": kind, "count": count}


def size(value: Any, where: str) -> str:
    """An amount of memory."""
    return quantity(value, where)


def flag(value: Any, where: str) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ConfigError(f"{where} is {value!r}", allowed="true or false")
    return value


def user(value: Any, where: str) -> int:
    """A user that is not root."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 31:
        raise ConfigError(f"{where} is {value!r}", allowed="a user's number above 0, such as 65532")
    return value


def labels(value: Any, where: str) -> dict[str, str]:
    """Labels as Kubernetes allows them."""
    for key, text in mapping(value, where).items():
        matching(LABEL, key, f"{where}: a key", "a label's name such as app.kubernetes.io/part-of")
        matching(LABEL_VALUE, text, f"{where}: {key}", "a text of at most 63 letters, digits, '-', '_', '.'")
    return dict(value)


def annotations(value: Any, where: str) -> dict[str, str]:
    """Annotations: any text under a label's name."""
    for key, text in mapping(value, where).items():
        matching(LABEL, key, f"{where}: a key", "an annotation's name such as sidecar.istio.io/inject")
        if not isinstance(text, str):
            raise ConfigError(f"{where}: {key} is {text!r}", allowed='a text; write "true" with quotes')
    return dict(value)


def tolerations(value: Any, where: str) -> tuple[dict[str, Any], ...]:
    """Tolerations of taints."""
    if not isinstance(value, list):
        raise ConfigError(f"{where} is {value!r}", allowed="a list of maps")
    return tuple(_toleration(entry, f"{where}[{index}]") for index, entry in enumerate(value))


def _toleration(value: Any, where: str) -> dict[str, Any]:
    content = mapping(value, where)
    for key in content:
        require_known(key, _TOLERATION, where)
    operator = content.get("operator", "Equal")
    if operator not in ("Equal", "Exists") or (operator == "Exists" and "value" in content):
        raise ConfigError(f"{where} has the operator {operator!r}", allowed="Equal, or Exists without a value")
    if content.get("effect", "NoExecute") not in _EFFECTS:
        raise ConfigError(f"{where}: effect is {content['effect']!r}", allowed=", ".join(_EFFECTS))
    spans = {"seconds": seconds(content["seconds"], f"{where}: seconds")} if "seconds" in content else {}
    texts: dict[str, Any] = {key: content[key] for key in ("key", "operator", "value", "effect") if key in content}
    for key, text in texts.items():
        if not isinstance(text, str):
            raise ConfigError(f"{where}: {key} is {text!r}", allowed="a text")
    return {**texts, **spans}


def retries(value: Any, where: str) -> dict[str, Any]:
    """How often a failed step is tried again, and after what pauses."""
    content = mapping(value, where)
    for key in content:
        require_known(key, ("count", "delay", "factor", "longest"), where)
    count, factor = content.get("count"), content.get("factor", 2)
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= 20:
        raise ConfigError(f"{where}: count is {count!r}", allowed="0 to 20")
    if not isinstance(factor, int) or isinstance(factor, bool) or factor < 1:
        raise ConfigError(f"{where}: factor is {factor!r}", allowed="a whole number from 1, as Argo wants it")
    delay = seconds(content.get("delay", "10s"), f"{where}: delay")
    longest = seconds(content.get("longest", "1h"), f"{where}: longest")
    return {"count": count, "delay": delay, "factor": float(factor), "longest": longest}


def environment(value: Any, where: str) -> dict[str, str]:
    """Variables with values, which stand in the compiled YAML for all to read."""
    for name, text in mapping(value, where).items():
        matching(VARIABLE, name, f"{where}: a name", "letters, digits and _")
        if not isinstance(text, str):
            raise ConfigError(f"{where}: {name} is {text!r}", allowed='a text; write "1" with quotes')
        if _SECRET_NAME.search(name) or _IN_URL.search(text):
            raise ConfigError(
                f"{where}: {name} looks like a secret, and would stand in the compiled YAML",
                remedy="Put it into a Kubernetes secret and name that under `secrets`",
            )
    return dict(value)


def references(value: Any, where: str) -> tuple[Reference, ...]:
    """Secrets or config maps: `{name: [KEY, …]}`, `{name: {key: VARIABLE}}`, or `{name: {keys: …, optional: true}}`."""
    return tuple(_reference(name, of, f"{where}: {name}") for name, of in mapping(value, where).items())


def _reference(name: str, value: Any, where: str) -> Reference:
    matching(NAME, name, where, "the name of an object: small letters, digits, '-', '.'")
    optional = False
    if isinstance(value, dict) and "keys" in value:
        for key in value:
            require_known(key, ("keys", "optional"), where)
        value, optional = value["keys"], flag(value.get("optional", False), f"{where}: optional")
    if isinstance(value, list):
        value = {str(key): key for key in value}
    if not isinstance(value, dict) or not value:
        raise ConfigError(f"{where} is {value!r}", allowed="a list of keys, or a map of keys to variables")
    for key, variable in value.items():
        matching(KEY, key, f"{where}: a key", "letters, digits, '-', '_', '.'")
        matching(VARIABLE, variable, f"{where}: {key}", "the name of a variable: letters, digits and _")
    return Reference(name, dict(value), optional)


def require_distinct_variables(plain: Mapping[str, str], references: Collection[Reference], where: str) -> None:
    """Refuses a variable that comes from two places."""
    names = [*plain, *(variable for reference in references for variable in reference.variables.values())]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{where}: {', '.join(twice)} comes from two places", allowed="each variable from one")


def image(value: Any, where: str) -> str:
    """An image's name."""
    return matching(re.compile(r"[\w][\w./:@-]*"), value, where, "an image such as registry/kfp-fti/train-gpu:0.1.0")


def pull_policy(value: Any, where: str) -> str:
    """When an image is pulled."""
    if value not in _POLICIES:
        raise ConfigError(f"{where} is {value!r}", allowed=", ".join(_POLICIES))
    return str(value)


def names(value: Any, where: str) -> tuple[str, ...]:
    """Names of Kubernetes objects."""
    if not isinstance(value, list):
        raise ConfigError(f"{where} is {value!r}", allowed="a list of names")
    return tuple(matching(NAME, name, where, "names: small letters, digits, '-', '.'") for name in value)
