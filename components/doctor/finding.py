"""What a check found."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from fti.common.errors import FtiError
from fti.common.kubernetes_api import ForbiddenError

OK, WARNING, MISSING, UNKNOWN = "ok", "warning", "missing", "unknown"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: What it is.
        status: `ok`; `warning`: it works, but; `missing`: something will not work; `unknown`: it could not be seen.
        text: What was found. Never holds a secret.
        remedy: What to do, and which file brings it; empty where nothing is to be done.
    """

    name: str
    status: str
    text: str
    remedy: str = ""


def checked(checks: Iterable[tuple[str, Callable[[], Iterator[Finding]]]]) -> list[Finding]:
    """Runs checks one after another; what one cannot see is `unknown`, and the others go on."""
    found: list[Finding] = []
    for name, check in checks:
        try:
            found += check()
        except ForbiddenError as error:
            remedy = "Let an administrator of the namespace run it; what is checked needs no such right"
            found.append(Finding(name, UNKNOWN, f"you may not see it: {error.got.partition(':')[0]}", remedy))
        except FtiError as error:
            found.append(Finding(name, UNKNOWN, error.got, error.remedy))
    return found
