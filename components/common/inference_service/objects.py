"""Objects of a cluster written on what was read: whoever comes second is told, and only a status may move meanwhile."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

from fti.common.errors import BusyError
from fti.common.inference_service.service import CANARY_COLOUR, MODE, STABLE_COLOUR, STOP
from fti.common.kubernetes_api import ConflictError, KubernetesApi, merge_patch

Manifest = dict[str, Any]

_TRIES = 20
_STRICT = {"fieldValidation": "Strict"}  # else an older KServe drops what it does not know, without a word
_ASKED = (MODE, STOP, STABLE_COLOUR, CANARY_COLOUR)


def apply(
    api: KubernetesApi, path: str, base: Manifest | None, render: Callable[[Manifest | None], Manifest], where: str
) -> Manifest:
    """Makes or changes an object; where only its status has moved since it was read, that is no conflict.

    Args:
        api: Where it lies.
        path: Its own path.
        base: As it was read; None where it was not there.
        render: Makes of what it is what it shall be; only its spec, labels and annotations are written.
        where: How errors call it.

    Returns:
        It, as it is now.

    Raises:
        BusyError: Somebody else changed it since it was read.
        ServingError: The API server refuses it.
    """
    for _ in range(_TRIES):
        wanted = render(base)
        asked = merge_patch(_written(base), _written(wanted)) if base else _written(wanted)
        try:
            if base is None:
                return api.call("POST", path.rpartition("/")[0], wanted, _STRICT)
            version = {"resourceVersion": base["metadata"]["resourceVersion"]}
            return api.call("PATCH", path, {**asked, "metadata": {**asked.get("metadata", {}), **version}}, _STRICT)
        except ConflictError:
            found = api.get(path)
            if found is not None and _is_so(found, wanted, asked):
                return found  # it was written, and the answer got lost
            if found is None or base is None or version_of(found) != version_of(base):
                raise taken(where) from None
            base = found
    raise BusyError(f"{where} changes all the time", remedy="Run it again")


def _is_so(found: Manifest, wanted: Manifest, asked: Manifest) -> bool:
    """Whether a change has been made: `asked` is what of `wanted` is new."""
    if not asked or _marks(found) != _marks(wanted):
        return False
    return _holds(found["spec"], wanted["spec"], asked.get("spec", {}))


def _holds(found: object, *asked: object) -> bool:
    """Whether a spec asks for all of something; webhooks fill in what was left out, or is an empty text."""
    for each in asked:
        if isinstance(each, dict):
            if not (isinstance(found, dict) and all(_holds(found.get(key), value) for key, value in each.items())):
                return False
        elif isinstance(each, list):
            if not (isinstance(found, list) and len(found) == len(each) and all(map(_holds, found, each))):
                return False
        elif each not in (found, ""):
            return False
    return True


def _written(manifest: Manifest) -> Manifest:
    metadata = manifest["metadata"]
    return {
        "spec": manifest["spec"],
        "metadata": {key: metadata.get(key) or {} for key in ("annotations", "labels")},
    }


def version_of(*manifests: Manifest | None) -> str:
    """What manifests ask for, in short; their status does not count."""
    asked = [_asked(manifest) for manifest in manifests]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _asked(manifest: Manifest | None) -> object:
    if manifest is None:
        return None
    return [manifest["metadata"].get("uid", ""), manifest["spec"], *_marks(manifest)]


def _marks(manifest: Manifest) -> list[str]:
    annotations = manifest["metadata"].get("annotations") or {}
    return [annotations.get(name, "") for name in _ASKED]


def taken(where: str) -> BusyError:
    """The error of whoever comes second."""
    return BusyError(f"somebody else changed {where} at the same time", remedy="Look at it, then run this again")
