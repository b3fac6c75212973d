"""What a feature view promises about old and absent values; read from Feast's own tags, for training and serving.

`FeatureView(tags={"on_missing": "null" | "default" | "refuse"})` says what happens to a row for which the view has no
value, or only one past its TTL. A view has no value where all of the features asked for are null. With `default`
every field needs `tags={"default": ...}`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, cast, get_args

from fti.common.errors import FeatureStoreError

if TYPE_CHECKING:
    from feast import FeatureView, Field

OnMissing = Literal["null", "default", "refuse"]
Scalar = bool | int | float | str

ON_MISSING, DEFAULT = "on_missing", "default"  # the tags


@dataclass(frozen=True)
class Policy:
    """How long a view's values hold, and what takes their place.

    Attributes:
        ttl: Values older than this are stale; exactly this old is fresh. None: they hold forever.
        on_missing: What happens to a row without a value that holds.
        defaults: With `default`, the value of every feature.
    """

    ttl: timedelta | None = None
    on_missing: OnMissing = "null"
    defaults: Mapping[str, Scalar] = field(default_factory=dict)

    @classmethod
    def of(cls, view: "FeatureView") -> "Policy":
        """Reads and checks the policy of a feature view.

        Raises:
            FeatureStoreError: Its tags say something else than is allowed, or a default is absent.
        """
        said = (view.tags or {}).get(ON_MISSING, "null")
        if said not in get_args(OnMissing):
            raise FeatureStoreError(
                f"feature view {view.name}: the tag {ON_MISSING} is {said!r}", allowed=", ".join(get_args(OnMissing))
            )
        defaults = {field.name: _default(view.name, field) for field in view.features} if said == "default" else {}
        return cls(view.ttl or None, cast("OnMissing", said), defaults)


def _default(view: str, field: "Field") -> Scalar:
    dtype, text = field.dtype.to_value_type().name, (field.tags or {}).get(DEFAULT)
    where = f"feature {field.name} of view {view}"
    if text is None:
        raise FeatureStoreError(
            f"{where} has no default, but the view says {ON_MISSING}: default",
            remedy=f'Give the field tags={{"{DEFAULT}": "..."}}',
        )
    parse = _PARSERS.get(dtype)
    if parse is None:
        raise FeatureStoreError(f"{where} is of type {dtype}, which can have no default", allowed=", ".join(_PARSERS))
    try:
        return parse(text)
    except ValueError:
        raise FeatureStoreError(f"{where}: its default is {text!r}", allowed=f"a value of type {dtype}") from None


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _yes_or_no(text: str) -> bool:
    if text not in {"true", "false"}:
        raise ValueError(text)
    return text == "true"


_PARSERS: dict[str, Callable[[str], Scalar]] = {
    "FLOAT": _number,
    "DOUBLE": _number,
    "INT32": int,
    "INT64": int,
    "BOOL": _yes_or_no,
    "STRING": str,
}
