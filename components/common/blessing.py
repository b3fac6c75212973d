"""Blessings: JSON that says whether one very model package may be pushed, and why or why not."""

import json
from dataclasses import dataclass
from pathlib import Path

from fti.common.errors import UnblessedModelError


@dataclass(frozen=True)
class Blessing:
    """A verdict.

    Attributes:
        model_digest: Of the package that was judged.
        blessed: Whether it may be pushed.
        reasons: Why, or why not.
    """

    model_digest: str
    blessed: bool
    reasons: tuple[str, ...]


def read_blessing(path: str | Path, digest: str) -> Blessing:
    """Reads the verdict on a package.

    Args:
        path: The JSON file that evaluate or infra_validate wrote.
        digest: The package's digest.

    Raises:
        UnblessedModelError: The file is absent, unreadable, or about another package.
    """
    remedy = "Evaluate the model and push the blessing that belongs to it"
    try:
        raw = json.loads(Path(path).read_text(encoding="utf-8"))
        reasons = tuple(str(reason) for reason in raw.get("reasons") or [])
        blessing = Blessing(str(raw["model_digest"]), raw["blessed"] is True, reasons)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnblessedModelError(f"{path} is not a blessing: {error}", remedy=remedy) from error
    if blessing.model_digest != digest:
        raise UnblessedModelError(
            f"the blessing was given to model {blessing.model_digest[:12]}, not {digest[:12]}", remedy=remedy
        )
    return blessing
